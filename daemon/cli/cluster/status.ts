/** `culvert status` over a cluster: nodes, labelled pods, and why a pod is not enrolled. */
import type { KubeApi } from '../../kube/seams.ts';
import type { ExitCode, Io } from '../io.ts';
import { printable, span, table } from '../table.ts';
import type { Cell } from '../table.ts';
import { readCluster } from './read.ts';
import { clusterStatus } from './view.ts';
import type { ClusterNode, ClusterPod, ClusterStatus } from './view.ts';

export interface ClusterStatusOptions {
  readonly systemNamespace: string;
  readonly namespace?: string;
  readonly json?: true;
}

/** Prints the cluster's status. @returns 1 when a labelled pod is not enrolled. @throws KubeError */
export async function showClusterStatus(
  io: Io,
  api: KubeApi,
  options: ClusterStatusOptions,
): Promise<ExitCode> {
  const status = clusterStatus(await readCluster(api, options.systemNamespace, options.namespace));
  io.out(options.json === true ? `${JSON.stringify(status, undefined, 2)}\n` : clusterStatusText(status, io));
  return status.pods.some(({ state }) => state !== 'enrolled' && state !== 'leaving') ? 1 : 0;
}

/** The page that a person reads. */
export function clusterStatusText({ nodes, pods }: ClusterStatus, io: Pick<Io, 'now' | 'colour'>): string {
  const reasons = pods.flatMap(({ namespace, name, reason }) =>
    reason === undefined ? [] : [`${printable(`${namespace}/${name}: ${reason}`)}\n`],
  );
  const parts = [nodeTable(nodes, io), podTable(pods, io)];
  if (reasons.length > 0) parts.push(reasons.join(''));
  return parts.join('\n');
}

function nodeTable(nodes: readonly ClusterNode[], io: Pick<Io, 'now' | 'colour'>): string {
  if (nodes.length === 0) return 'the cluster has no node\n';
  const rows = nodes.map((node) => [
    node.node,
    node.ready ? 'Ready' : { text: 'NotReady', colour: 'red' as const },
    daemonCell(node),
    node.version ?? '-',
    `${node.enrolled}/${node.labelled}`,
    String(node.certificates.length + node.more),
    firstEnd(node, io.now()),
    node.bundle?.slice(0, 12) ?? '-',
  ]);
  const headings = ['NODE', 'STATUS', 'DAEMON', 'VERSION', 'ENROLLED', 'CERTS', 'FIRST-END', 'BUNDLE'];
  return table(headings, rows, io.colour);
}

function daemonCell({ daemonPod, daemonReady }: ClusterNode): Cell {
  if (daemonPod === undefined) return { text: 'none', colour: 'red' };
  return daemonReady
    ? { text: daemonPod, colour: 'green' }
    : { text: `${daemonPod} (not ready)`, colour: 'red' };
}

function firstEnd({ certificates }: ClusterNode, nowMs: number): string {
  const ends = certificates
    .map(({ notAfter }) => Date.parse(notAfter ?? ''))
    .filter((ms) => !Number.isNaN(ms));
  return ends.length === 0 ? '-' : span(Math.min(...ends) - nowMs);
}

function podTable(pods: readonly ClusterPod[], io: Pick<Io, 'now' | 'colour'>): string {
  if (pods.length === 0) return 'no pod is labelled: kubectl label namespace NAME culvert.dev/mesh=enabled\n';
  const rows = pods.map((pod) => [
    pod.namespace,
    pod.name,
    pod.node,
    stateCell(pod.state),
    age(pod.since, io.now()),
    /^[A-Z][A-Z0-9_]+/.exec(pod.reason ?? '')?.[0] ?? '-',
  ]);
  return table(['NAMESPACE', 'POD', 'NODE', 'STATE', 'FOR', 'REASON'], rows, io.colour);
}

function stateCell(state: string): Cell {
  return {
    text: state,
    colour: state === 'enrolled' ? 'green' : state === 'unenrollable' ? 'red' : 'yellow',
  };
}

function age(since: string | undefined, nowMs: number): string {
  const ms = Date.parse(since ?? '');
  return Number.isNaN(ms) ? '-' : span(nowMs - ms);
}
