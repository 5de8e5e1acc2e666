/** `culvert check`: whether a cluster, or this node, has what the mesh needs; nothing is changed. */
import type { Command } from 'commander';
import { parseConfig } from '../../config.ts';
import { MeshError } from '../../errors.ts';
import { checkCluster } from '../cluster/check.ts';
import { reachCluster, withCluster } from '../cluster/reach.ts';
import type { Reach } from '../cluster/reach.ts';
import type { Context, ExitCode, Finding, Io } from '../io.ts';
import { addKnobs, knobsGiven } from '../knob-flags.ts';
import { paint, printable } from '../table.ts';

const NODE_KNOBS = ['procRoot', 'cgroupRoot', 'kubepods', 'bpffs'] as const;

export function addCheck(program: Command, { io, finish }: Context): void {
  const command = withCluster(program.command('check'))
    .description(
      'check a cluster (versions, rights, nodes, NetworkPolicies, CA), or without a kubeconfig this node (kernel, cgroups, BPF file system, capabilities, libbpf, limits)',
    )
    .option('--pre', 'before anything of ours is applied to the cluster')
    .option('--node', 'check this node, whatever kubeconfig there is')
    .option('--json', 'print JSON')
    .addHelpText('after', '\nExits with 1 when something that is needed is missing.');
  addKnobs(command, NODE_KNOBS);
  command.action(async (flags: CheckFlags) => finish(await check(io, flags)));
}

interface CheckFlags extends Omit<Reach, 'admin'>, Readonly<Record<string, unknown>> {
  readonly pre?: true;
  readonly node?: true;
}

async function check(io: Io, flags: CheckFlags): Promise<ExitCode> {
  const api = flags.node === true ? undefined : await reachCluster(io, flags);
  if (api === undefined && flags.pre === true)
    throw new MeshError('CONFIG_INVALID', '--pre: needs a cluster; give --kubeconfig PATH');
  const findings = api === undefined ? await node(io, flags) : await checkCluster(api, flags, io.now());
  const isJson = flags['json'] === true;
  io.out(isJson ? `${JSON.stringify(findings, undefined, 2)}\n` : checkText(findings, io.colour));
  return findings.some(({ ok }) => ok === false) ? 1 : 0;
}

function node(io: Io, flags: CheckFlags): Promise<readonly Finding[]> {
  // The node's name decides nothing here, but a configuration has one.
  return io.entryPoints.preflight(
    parseConfig({ nodeName: 'check', ...knobsGiven(flags, NODE_KNOBS) }, io.env),
  );
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
