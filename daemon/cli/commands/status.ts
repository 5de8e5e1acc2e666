/** `culvert status`: what became of each labelled pod, of a cluster or of one node. */
import type { Command } from 'commander';
import { statusSchema } from '../answers.ts';
import type { PodAnswer, StatusAnswer } from '../answers.ts';
import { ask } from '../client.ts';
import { adminOf, reachCluster, withReach } from '../cluster/reach.ts';
import type { Reach } from '../cluster/reach.ts';
import { showClusterStatus } from '../cluster/status.ts';
import type { Context, ExitCode, Io } from '../io.ts';
import { printable, span, table } from '../table.ts';
import type { Cell, Colour } from '../table.ts';

interface StatusOptions extends Reach {
  readonly namespace?: string;
  readonly json?: true;
}

export function addStatus(program: Command, { io, finish }: Context): void {
  withReach(program.command('status'))
    .description(
      'each labelled pod: state and reason; of one daemon also older connections, identity, last refusals, problems',
    )
    .option('-n, --namespace <name>', 'only pods of this namespace')
    .option('--json', 'print JSON')
    .addHelpText('after', '\nExits with 1 when a labelled pod is not enrolled.')
    .action(async (options: StatusOptions) => finish(await status(io, options)));
}

async function status(io: Io, options: StatusOptions): Promise<ExitCode> {
  const api = await reachCluster(io, options);
  if (api !== undefined) return showClusterStatus(io, api, options);
  const answer = only(options.namespace, await ask(adminOf(options), '/status', statusSchema));
  io.out(options.json === true ? `${JSON.stringify(answer, undefined, 2)}\n` : statusText(answer, io));
  return answer.pods.some(isAmiss) ? 1 : 0;
}

function only(namespace: string | undefined, answer: StatusAnswer): StatusAnswer {
  if (namespace === undefined) return answer;
  const pods = answer.pods.filter((pod) => pod.namespace === namespace);
  const uids = new Set(pods.map((pod) => pod.uid));
  return { ...answer, pods, refusals: answer.refusals.filter((refusal) => uids.has(refusal.podUid)) };
}

/** Labelled, and not under the whole promise. A leaving pod has lost its label. */
function isAmiss(pod: PodAnswer): boolean {
  return pod.state !== 'enrolled' && pod.state !== 'leaving' && pod.state !== 'none';
}

/** The page that a person reads. */
export function statusText(answer: StatusAnswer, io: Pick<Io, 'now' | 'colour'>): string {
  const pods = answer.pods.toSorted((a, b) => compare(a.namespace, b.namespace) || compare(a.name, b.name));
  const parts = [headline(answer, io.now()), podTable(pods, io.colour)];
  const reasons = pods.filter((pod) => pod.reason !== undefined);
  if (reasons.length > 0)
    parts.push(
      reasons.map((pod) => printable(`${pod.namespace}/${pod.name}: ${pod.reason ?? ''}`)).join('\n') + '\n',
    );
  if (answer.refusals.length > 0) parts.push(refusalText(answer, io));
  if (answer.problems.length > 0) parts.push(problemText(answer));
  return parts.join('\n');
}

function headline(answer: StatusAnswer, nowMs: number): string {
  const ready = answer.notReady.length === 0 ? 'ready' : `not ready: ${answer.notReady.join('; ')}`;
  const leaving = { no: '', leaving: ', leaving every pod', done: ', uninstalled' }[answer.uninstall];
  return printable(
    `node ${answer.node}, culvert ${answer.version}, up ${span(nowMs - answer.startedMs)}, ${ready}${leaving}`,
  ).concat('\n');
}

function podTable(pods: readonly PodAnswer[], colour: boolean): string {
  if (pods.length === 0)
    return 'no pod of this node is labelled (culvert.dev/mesh=enabled on it or its namespace)\n';
  const rows = pods.map((pod) => [
    pod.namespace,
    pod.name,
    stateCell(pod),
    codeOf(pod.reason),
    String(pod.olderConnections),
    pod.id ?? '-',
  ]);
  return table(['NAMESPACE', 'POD', 'STATE', 'REASON', 'OLDER', 'IDENTITY'], rows, colour);
}

function stateCell(pod: PodAnswer): Cell {
  const colour: Colour = pod.state === 'enrolled' ? 'green' : pod.state === 'unenrollable' ? 'red' : 'yellow';
  return { text: pod.state, colour };
}

/** The code before the sentence: the table keeps its width, the sentence stands below it. */
function codeOf(reason: string | undefined): string {
  return reason === undefined ? '-' : (/^[A-Z][A-Z0-9_]+/.exec(reason)?.[0] ?? 'see below');
}

function refusalText(answer: StatusAnswer, io: Pick<Io, 'now' | 'colour'>): string {
  const names = new Map(answer.pods.map((pod) => [pod.uid, `${pod.namespace}/${pod.name}`]));
  const rows = answer.refusals.map((refusal) => [
    names.get(refusal.podUid) ?? '(gone)',
    refusal.direction,
    refusal.reason,
    String(refusal.count),
    `${span(io.now() - refusal.lastMs)} ago`,
    refusal.source,
    refusal.destination,
    refusal.detail ?? '-',
  ]);
  const meanings = new Map(answer.refusals.map(({ reason, text }) => [reason, text]));
  const headings = ['POD', 'DIRECTION', 'REASON', 'COUNT', 'LAST', 'SOURCE', 'DESTINATION', 'DETAIL'];
  const legend = [...meanings].map(([reason, text]) => printable(`${reason}: ${text}`)).join('\n');
  return `Last refusals\n${table(headings, rows, io.colour)}${legend}\n`;
}

function problemText({ problems }: StatusAnswer): string {
  const lines = problems.map(({ where, line, reason }) =>
    printable(`${where}${line === undefined ? '' : `:${line}`}: ${reason}`),
  );
  return `Problems of the cluster state (the last good state is in use)\n${lines.join('\n')}\n`;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
