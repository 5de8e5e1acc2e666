/** Command-line flags made from the table of knobs (config.ts). */
import { Option } from 'commander';
import type { Command } from 'commander';
import { KNOBS, envOf, flagOf } from '../config.ts';
import type { KnobName } from '../config.ts';

/** Titles of the knobs' groups, in the order of help and LIMITS.md. */
export const GROUPS = {
  node: 'Node',
  capture: 'Capture',
  enrolment: 'Enrolment',
  proxy: 'Proxy',
  limits: 'Limits',
  identity: 'Identity',
  observe: 'Records, metrics, admin',
} as const satisfies Record<(typeof KNOBS)[KnobName]['group'], string>;

/** Adds one flag for each knob, under its group's heading. */
export function addKnobs(command: Command, names: readonly KnobName[]): void {
  for (const name of names) {
    const { unit, group, doc, fallback } = KNOBS[name];
    const value = fallback === '' ? 'none' : fallback;
    const option = new Option(
      `${flagOf(name)} <${unit === '' ? 'value' : unit}>`,
      `${doc} (default: ${value}, env: ${envOf(name)})`,
    );
    command.addOption(option.helpGroup(`${GROUPS[group]}:`));
  }
}

/** The knobs among the flags that commander has parsed: it names `--hold-timeout` as we do, `holdTimeout`. */
export function knobsGiven(
  flags: Readonly<Record<string, unknown>>,
  names: readonly KnobName[],
): Partial<Record<KnobName, string>> {
  const given: Partial<Record<KnobName, string>> = {};
  for (const name of names) {
    const value = flags[name];
    if (typeof value === 'string') given[name] = value;
  }
  return given;
}
