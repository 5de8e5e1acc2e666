/** `culvert lint`: policies in files, before anybody applies them. */
import type { Command } from 'commander';
import { parseConfig } from '../../config.ts';
import type { KnobName } from '../../config.ts';
import type { Context, ExitCode, Io } from '../io.ts';
import { addKnobs, knobsGiven } from '../knob-flags.ts';
import type { Finding, Severity } from '../policy/finding.ts';
import { readFiles } from '../policy/input.ts';
import { lint } from '../policy/lint.ts';
import type { Lint } from '../policy/lint.ts';
import { paint, printable } from '../table.ts';
import type { Colour } from '../table.ts';

/** What the mesh is that the policies are for. */
export const MESH_KNOBS = [
  'rootNamespace',
  'trustDomain',
  'trustDomainAliases',
  'pathNormalization',
  'defaultMode',
] as const satisfies readonly KnobName[];

/** Findings printed; the rest is a number. */
const MAX_FINDINGS = 2_000;

type Flags = Readonly<Record<string, unknown>> & { readonly json?: true };

export function addLint(program: Command, { io, finish }: Context): void {
  const command = program
    .command('lint')
    .description(
      'look at PeerAuthentications and AuthorizationPolicies in files: are they accepted, and what do they do',
    )
    .argument('<file...>', 'YAML or JSON files, folders of them, or - for standard input')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Pods, Deployments and the like, Services and Namespaces among the files are what the policies are held against.
Errors: it would be refused, or enforced otherwise than written. Warnings: it does not do what it seems to.
Exits with 0 when all are accepted (warnings or not), with 1 when one is not.`,
    );
  addKnobs(command, MESH_KNOBS);
  command.action(async (files: readonly string[], flags: Flags) => finish(await lintFiles(io, files, flags)));
}

async function lintFiles(io: Io, files: readonly string[], flags: Flags): Promise<ExitCode> {
  const mesh = parseConfig({ nodeName: 'lint', ...knobsGiven(flags, MESH_KNOBS) }, io.env);
  const result = lint(await readFiles(io, files), mesh);
  const ok = result.findings.every(({ severity }) => severity !== 'error');
  io.out(flags.json === true ? lintJson(result, ok) : lintText(result, io.colour));
  return ok ? 0 : 1;
}

function lintJson({ objects, findings }: Lint, ok: boolean): string {
  const shown = findings.slice(0, MAX_FINDINGS).map((one) => ({ ...one, line: one.line ?? null }));
  const more = Math.max(0, findings.length - MAX_FINDINGS);
  return `${JSON.stringify({ ok, objects, findings: shown, more }, undefined, 2)}\n`;
}

const COLOURS: Readonly<Record<Severity, Colour>> = { error: 'red', warning: 'yellow', note: 'green' };

/** A line for each finding, as compilers write them, and the sum. */
export function lintText({ objects, findings }: Lint, colour: boolean): string {
  const lines = findings.slice(0, MAX_FINDINGS).map((one) => lineOf(one, colour));
  if (findings.length > MAX_FINDINGS) lines.push(`and ${findings.length - MAX_FINDINGS} more`);
  const count = (severity: Severity): string => {
    const number = findings.filter((one) => one.severity === severity).length;
    return `${number} ${severity}${number === 1 ? '' : 's'}`;
  };
  const what = objects === 0 ? 'no policy was found' : objects === 1 ? '1 policy' : `${objects} policies`;
  return `${[...lines, `${what}: ${count('error')}, ${count('warning')}, ${count('note')}`].join('\n')}\n`;
}

function lineOf({ file, line, severity, object, path, message }: Finding, colour: boolean): string {
  const where = printable(line === undefined ? file : `${file}:${line}`);
  const what = printable([object, path, message].filter((part) => part !== '').join(': '));
  return `${where}: ${paint(severity, colour ? COLOURS[severity] : undefined)}: ${what}`;
}
