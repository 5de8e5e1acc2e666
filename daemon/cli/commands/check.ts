/** `culvert check`: whether this node has what the daemon needs, before anything is attached. */
import type { Command } from 'commander';
import { parseConfig } from '../../config.ts';
import type { Context, ExitCode, Finding, Io } from '../io.ts';
import { addKnobs, knobsGiven } from '../knob-flags.ts';
import { paint, printable } from '../table.ts';

const NODE_KNOBS = ['procRoot', 'cgroupRoot', 'kubepods', 'bpffs'] as const;

export function addCheck(program: Command, { io, finish }: Context): void {
  const command = program
    .command('check')
    .description('check the kernel, cgroups, BPF file system, capabilities, libbpf and limits of this node')
    .option('--json', 'print JSON')
    .addHelpText('after', '\nExits with 1 when something that the daemon needs is missing.');
  addKnobs(command, NODE_KNOBS);
  command.action(async (flags: Readonly<Record<string, unknown>>) => finish(await check(io, flags)));
}

async function check(io: Io, flags: Readonly<Record<string, unknown>>): Promise<ExitCode> {
  // The node's name decides nothing here, but a configuration has one.
  const config = parseConfig({ nodeName: 'check', ...knobsGiven(flags, NODE_KNOBS) }, io.env);
  const findings = await io.entryPoints.preflight(config);
  io.out(
    flags['json'] === true ? `${JSON.stringify(findings, undefined, 2)}\n` : checkText(findings, io.colour),
  );
  return findings.some(({ ok }) => ok === false) ? 1 : 0;
}

/** A line for each finding, what to do below those that are not well, and the sum. */
export function checkText(findings: readonly Finding[], colour: boolean): string {
  const lines = findings.flatMap((finding) => findingLines(finding, colour));
  const failed = findings.filter(({ ok }) => ok === false).length;
  const warned = findings.filter(({ ok }) => ok === 'warn').length;
  const sum = `${findings.length} checks, ${failed} failed, ${warned} ${warned === 1 ? 'warning' : 'warnings'}`;
  return `${[...lines, '', sum].join('\n')}\n`;
}

function findingLines({ id, ok, what, detail, fix }: Finding, colour: boolean): readonly string[] {
  const mark =
    ok === true
      ? paint('ok  ', colour ? 'green' : undefined)
      : ok === 'warn'
        ? paint('warn', colour ? 'yellow' : undefined)
        : paint('FAIL', colour ? 'red' : undefined);
  const line = `${mark}  ${printable(what)}${detail === '' ? '' : `: ${printable(detail)}`}`;
  return ok === true || fix === '' ? [line] : [line, `      ${id}: ${printable(fix)}`];
}
