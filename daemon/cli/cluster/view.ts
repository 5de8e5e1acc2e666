/** The mesh of a whole cluster, from its objects alone: no daemon is asked. Pure. */
import { isTrue, labelsOf } from './objects.ts';
import type { NamespaceObject, NodeObject, PodObject } from './objects.ts';
import { publishedNode, publishedState } from './published.ts';
import type { PublishedCertificate } from './published.ts';

export const MESH_LABEL = 'culvert.dev/mesh';
/** Labels of our own pods (manifests/base). */
export const DAEMON_SELECTOR = 'app.kubernetes.io/name=culvert,app.kubernetes.io/component=daemon';

export interface ClusterObjects {
  readonly namespaces: readonly NamespaceObject[];
  readonly nodes: readonly NodeObject[];
  readonly pods: readonly PodObject[];
  /** The daemons' own pods. */
  readonly daemons: readonly PodObject[];
}

export interface ClusterPod {
  readonly namespace: string;
  readonly name: string;
  readonly node: string;
  readonly state: string;
  /** `CODE: sentence`, when it isn't simply enrolled. */
  readonly reason: string | undefined;
  /** RFC 3339. */
  readonly since: string | undefined;
}

export interface ClusterNode {
  readonly node: string;
  readonly ready: boolean;
  readonly daemonPod: string | undefined;
  readonly daemonReady: boolean;
  readonly version: string | undefined;
  /** Hash of the trust bundle in use there. */
  readonly bundle: string | undefined;
  readonly certificates: readonly PublishedCertificate[];
  /** Certificates that the daemon had no room to list. */
  readonly more: number;
  readonly enrolled: number;
  readonly labelled: number;
}

export interface ClusterStatus {
  readonly nodes: readonly ClusterNode[];
  readonly pods: readonly ClusterPod[];
}

/** What each labelled pod and each node is now. */
export function clusterStatus(objects: ClusterObjects): ClusterStatus {
  const labels = new Map(objects.namespaces.map((one) => [one.metadata.name, labelsOf(one)[MESH_LABEL]]));
  const daemons = new Map<string, PodObject>();
  // During an upgrade a node has two: the one that has said something, then the Ready one, counts.
  for (const pod of [...objects.daemons].sort((a, b) => rank(a) - rank(b)))
    daemons.set(pod.spec.nodeName ?? '', pod);
  const pods = objects.pods
    .filter((pod) => isShown(pod, labels.get(pod.metadata.namespace ?? '')))
    .map((pod) => describe(pod, daemons.get(pod.spec.nodeName ?? '')))
    .sort((a, b) => compare(a.namespace, b.namespace) || compare(a.name, b.name));
  const nodes = objects.nodes
    .map((node) => nodeStatus(node, daemons.get(node.metadata.name), pods))
    .sort((a, b) => compare(a.node, b.node));
  return { nodes, pods };
}

/** Whether the labels of a pod and its namespace ask for the mesh; the pod's own wins. */
export function isLabelled(pod: PodObject, namespaceLabel: string | undefined): boolean {
  const own = labelsOf(pod)[MESH_LABEL];
  return own === 'enabled' || (own !== 'disabled' && namespaceLabel === 'enabled');
}

function isShown(pod: PodObject, namespaceLabel: string | undefined): boolean {
  const hasEnded = pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed';
  return !hasEnded && (isLabelled(pod, namespaceLabel) || publishedState(pod) !== undefined);
}

function rank(daemon: PodObject): number {
  return (publishedNode(daemon) === undefined ? 0 : 2) + (isReady(daemon) ? 1 : 0);
}

function isReady(pod: PodObject): boolean {
  return isTrue(pod.status?.conditions, 'Ready');
}

function describe(pod: PodObject, daemon: PodObject | undefined): ClusterPod {
  const { name, namespace = '' } = pod.metadata;
  const node = pod.spec.nodeName ?? '';
  const said = publishedState(pod);
  const common = { namespace, name, node, since: said?.since };
  if (said !== undefined) return { ...common, state: said.state, reason: said.reason };
  return { ...common, state: 'pending', reason: whyPending(pod, node, daemon) };
}

function whyPending(pod: PodObject, node: string, daemon: PodObject | undefined): string {
  if (node === '') return 'NOT_SCHEDULED: the pod has no node yet';
  if (pod.spec.hostNetwork === true) return "HOST_NETWORK: the pod uses its node's network";
  if (daemon === undefined) return `NO_DAEMON: no culvert pod runs on node ${node}`;
  if (!isReady(daemon))
    return `DAEMON_NOT_READY: ${daemon.metadata.name} on node ${node} is not ready; kubectl -n ${daemon.metadata.namespace ?? ''} logs ${daemon.metadata.name}`;
  return `NOT_PUBLISHED: ${daemon.metadata.name} on node ${node} has not enrolled it yet`;
}

function nodeStatus(
  node: NodeObject,
  daemon: PodObject | undefined,
  pods: readonly ClusterPod[],
): ClusterNode {
  const { name } = node.metadata;
  const said = daemon && publishedNode(daemon);
  const here = pods.filter((pod) => pod.node === name);
  return {
    node: name,
    ready: isTrue(node.status?.conditions, 'Ready'),
    daemonPod: daemon?.metadata.name,
    daemonReady: daemon !== undefined && isReady(daemon),
    version: said?.version,
    bundle: said?.bundle ?? undefined,
    certificates: said?.certificates ?? [],
    more: said?.more ?? 0,
    enrolled: here.filter(({ state }) => state === 'enrolled').length,
    labelled: here.length,
  };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
