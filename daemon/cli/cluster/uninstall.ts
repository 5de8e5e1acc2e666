/** `culvert uninstall` over a cluster: leave every pod first, then take the objects away, in an order that loses nothing. */
import { z } from 'zod';
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi } from '../../kube/seams.ts';
import type { ExitCode, Io } from '../io.ts';
import {
  deleteOptional,
  getOptional,
  isTrue,
  listAll,
  namespaceSchema,
  nodeSchema,
  podSchema,
} from './objects.ts';
import type { NodeObject, PodObject } from './objects.ts';
import { patientApi } from './patient.ts';
import { STATE_ANNOTATION, publishedNode, publishedState } from './published.ts';
import { listDaemons, podsPath } from './read.ts';
import { secondsOf } from './certs.ts';
import { MESH_LABEL } from './view.ts';

export interface ClusterUninstallOptions {
  readonly systemNamespace: string;
  readonly timeout: string;
  readonly dryRun?: true;
}

const POLL_MS = 2_000;
const OURS = { labelSelector: 'app.kubernetes.io/name=culvert' };
/**
 * Collections of manifests/ that have more than what goes with our namespace; a Role of cert-manager's is one (overlay
 * cert-manager). The policy CRDs are the user's: never here.
 */
const COLLECTIONS = [
  '/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings',
  '/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies',
  '/apis/rbac.authorization.k8s.io/v1/clusterrolebindings',
  '/apis/rbac.authorization.k8s.io/v1/clusterroles',
  '/apis/rbac.authorization.k8s.io/v1/rolebindings',
  '/apis/rbac.authorization.k8s.io/v1/roles',
] as const;
const TRUST_BUNDLE = 'culvert.dev:workload:bundle';
const BUNDLE_VERSIONS = ['v1', 'v1beta1', 'v1alpha1'] as const;

const anySchema = z.looseObject({
  metadata: z.looseObject({ name: z.string(), namespace: z.string().nullish() }),
});

/**
 * Unlabels, waits until no pod says that it takes tunnels, ends the daemons, deletes the objects. Nothing is waited for
 * on a node without a Ready daemon: nobody would do it there. @returns 1 when something is left, which is then named.
 * @throws KubeError
 */
export async function uninstallCluster(
  io: Io,
  given: KubeApi,
  options: ClusterUninstallOptions,
): Promise<ExitCode> {
  const deadlineMs = io.now() + secondsOf(options.timeout) * 1_000;
  const system = options.systemNamespace;
  if (options.dryRun === true) return plan(io, given, system);
  const api = patientApi(io, given, deadlineMs);
  await unlabel(io, api);
  const isEmpty = await waitFor(io, deadlineMs, () => leaving(api, system), 'pods to leave');
  if (!isEmpty) return stuck(io, await leaving(api, system), options.timeout);
  const nodes = await listAll(api, '/api/v1/nodes', nodeSchema);
  const uncleared = await withoutDaemon(api, system, nodes);
  if (await deleteOptional(api, `/apis/apps/v1/namespaces/${system}/daemonsets/culvert`))
    io.out('DaemonSet culvert: deleted; each daemon removes its programs and pins\n');
  const ending = async (): Promise<PodObject[]> =>
    (await listDaemons(api, system)).filter((pod) => isOnReady(pod, nodes));
  const haveEnded = await waitFor(io, deadlineMs, ending, 'daemons to end');
  if (!haveEnded) return stuck(io, await ending(), options.timeout);
  await withdraw(io, api);
  await deleteObjects(io, api, system);
  // A pod on a dead node ends with its node, and the namespace after it.
  const endMs = (await listDaemons(api, system)).length > 0 ? io.now() : deadlineMs;
  const isGone = await waitFor(io, endMs, () => namespaceLeft(api, system), 'namespace to go');
  return summary(io, system, isGone, uncleared);
}

function summary(io: Io, system: string, isGone: boolean, uncleared: readonly NodeObject[]): ExitCode {
  const what = uncleared.length === 0 ? 'nothing' : 'no object';
  io.out(
    isGone ? `${what} of culvert is left in the cluster\n` : `namespace ${system} is still terminating\n`,
  );
  if (uncleared.length > 0) {
    const names = uncleared.map(({ metadata }) => metadata.name);
    const dead = uncleared.filter((node) => !isReady(node)).map(({ metadata }) => metadata.name);
    io.err(
      [
        'culvert uninstall: these nodes had no daemon that was Ready, so programs and pins may be left there, which',
        'keep their pods closed. On each of them:',
        ...names.map((name) => `  culvert cleanup --node ${name}`),
        ...(dead.length > 0 ? [`If it does not come back: kubectl delete node ${dead.join(' ')}`] : []),
        '',
      ].join('\n'),
    );
  }
  return isGone && uncleared.length === 0 ? 0 : 1;
}

async function plan(io: Io, api: KubeApi, system: string): Promise<ExitCode> {
  for (const { metadata } of await labelledNamespaces(api))
    io.out(`would unlabel namespace ${metadata.name}\n`);
  for (const pod of await labelledPods(api)) io.out(`would unlabel pod ${nameOf(pod)}\n`);
  const pods = await leaving(api, system);
  io.out(`would wait for ${pods.length} enrolled pods to leave\n`);
  const nodes = await listAll(api, '/api/v1/nodes', nodeSchema);
  for (const { metadata } of await withoutDaemon(api, system, nodes))
    io.out(
      `would leave node ${metadata.name} to 'culvert cleanup --node ${metadata.name}': it has no daemon that is Ready\n`,
    );
  io.out(`would delete DaemonSet ${system}/culvert and wait for its pods\n`);
  for (const { title } of await ourObjects(api, system)) io.out(`would delete ${title}\n`);
  io.out(`would delete namespace ${system} with all in it, the CA's Secret included\n`);
  return 0;
}

const labelledNamespaces = (api: KubeApi): Promise<z.infer<typeof namespaceSchema>[]> =>
  listAll(api, '/api/v1/namespaces', namespaceSchema, { labelSelector: MESH_LABEL });

const labelledPods = (api: KubeApi): Promise<PodObject[]> =>
  listAll(api, podsPath(), podSchema, { labelSelector: MESH_LABEL });

async function unlabel(io: Io, api: KubeApi): Promise<void> {
  const body = { metadata: { labels: { [MESH_LABEL]: null } } };
  for (const { metadata } of await labelledNamespaces(api)) {
    if (await patchOptional(api, `/api/v1/namespaces/${metadata.name}`, body))
      io.out(`namespace ${metadata.name}: label ${MESH_LABEL} removed\n`);
  }
  for (const pod of await labelledPods(api)) {
    if (await patchOptional(api, `${podsPath(pod.metadata.namespace)}/${pod.metadata.name}`, body))
      io.out(`pod ${nameOf(pod)}: label ${MESH_LABEL} removed\n`);
  }
}

/** Pods that still say that they take tunnels, on nodes whose daemon is Ready: it takes them out. */
async function leaving(api: KubeApi, system: string): Promise<PodObject[]> {
  const [pods, daemons] = await Promise.all([enrolled(api), listDaemons(api, system)]);
  const served = servedNodes(daemons);
  return pods.filter(({ spec }) => served.has(spec.nodeName ?? ''));
}

/** Nodes of which nobody can say that they are clean: of pods as above, or of a daemon that has run, without a Ready one. */
async function withoutDaemon(
  api: KubeApi,
  system: string,
  nodes: readonly NodeObject[],
): Promise<NodeObject[]> {
  const [pods, daemons] = await Promise.all([enrolled(api), listDaemons(api, system)]);
  const served = servedNodes(daemons);
  // One that never ran has pinned nothing; one that was told to leave its node has said when that was done.
  const ran = daemons.filter((pod) => pod.status?.phase === 'Running' && publishedNode(pod)?.left !== true);
  const marked = new Set([...pods, ...ran].map(({ spec }) => spec.nodeName ?? ''));
  return nodes.filter(({ metadata: { name } }) => marked.has(name) && !served.has(name));
}

async function enrolled(api: KubeApi): Promise<PodObject[]> {
  const pods = await listAll(api, podsPath(), podSchema);
  return pods.filter((pod) => {
    const state = publishedState(pod)?.state;
    const hasEnded = pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed';
    return state !== undefined && state !== 'unenrollable' && !hasEnded;
  });
}

function servedNodes(daemons: readonly PodObject[]): ReadonlySet<string> {
  return new Set(daemons.filter(isReady).map(({ spec }) => spec.nodeName ?? ''));
}

function isReady({ status }: PodObject | NodeObject): boolean {
  return isTrue(status?.conditions, 'Ready');
}

/** Whether its kubelet can end it. */
function isOnReady({ spec }: PodObject, nodes: readonly NodeObject[]): boolean {
  return nodes.some((node) => node.metadata.name === spec.nodeName && isReady(node));
}

/** What daemons that are dead, or had their rights taken away first, have not withdrawn. */
async function withdraw(io: Io, api: KubeApi): Promise<void> {
  const body = { metadata: { annotations: { [STATE_ANNOTATION]: null } } };
  for (const pod of await listAll(api, podsPath(), podSchema)) {
    if (pod.metadata.annotations?.[STATE_ANNOTATION] === undefined) continue;
    if (await patchOptional(api, `${podsPath(pod.metadata.namespace)}/${pod.metadata.name}`, body))
      io.out(`pod ${nameOf(pod)}: annotation ${STATE_ANNOTATION} removed\n`);
  }
}

async function deleteObjects(io: Io, api: KubeApi, system: string): Promise<void> {
  for (const { title, path } of await ourObjects(api, system)) {
    await deleteOptional(api, path);
    io.out(`${title}: deleted\n`);
  }
  for (const version of BUNDLE_VERSIONS) {
    const path = `/apis/certificates.k8s.io/${version}/clustertrustbundles/${TRUST_BUNDLE}`;
    if (!(await deleteOptional(api, path))) continue;
    io.out(`clustertrustbundles/${TRUST_BUNDLE}: deleted\n`);
    break;
  }
  if (await deleteOptional(api, `/api/v1/namespaces/${system}`))
    io.out(`namespace ${system}: deleted, the CA's Secret with it\n`);
}

/** What of the collections is ours, but for what goes with our namespace. */
async function ourObjects(api: KubeApi, system: string): Promise<{ title: string; path: string }[]> {
  const found = await Promise.all(
    COLLECTIONS.map(async (collection) => {
      const objects = await listAll(api, collection, anySchema, OURS);
      return objects
        .filter(({ metadata }) => metadata.namespace !== system)
        .map(({ metadata: { name, namespace } }) => {
          const split = collection.lastIndexOf('/');
          const [group, kind] = [collection.slice(0, split), collection.slice(split + 1)];
          const where = namespace ? `/namespaces/${namespace}` : '';
          const title = namespace ? `${kind}/${name} of namespace ${namespace}` : `${kind}/${name}`;
          return { title, path: `${group}${where}/${kind}/${encodeURIComponent(name)}` };
        });
    }),
  );
  return found.flat();
}

async function namespaceLeft(api: KubeApi, system: string): Promise<readonly unknown[]> {
  const left = await getOptional(api, `/api/v1/namespaces/${system}`, namespaceSchema);
  return left === undefined ? [] : [left];
}

/** Asks until nothing is left or the time is over; a line whenever the number changes. */
async function waitFor(
  io: Io,
  deadlineMs: number,
  left: () => Promise<readonly unknown[]>,
  what: string,
): Promise<boolean> {
  let shown = 0;
  for (;;) {
    const { length } = await left();
    if (length === 0) return true;
    if (length !== shown) io.out(`waiting for ${length} ${what}\n`);
    shown = length;
    if (io.now() >= deadlineMs) return false;
    await io.sleep(POLL_MS);
  }
}

function stuck(io: Io, pods: readonly PodObject[], timeout: string): ExitCode {
  const names = pods.map(
    (pod) =>
      `  ${nameOf(pod)} on node ${pod.spec.nodeName ?? '?'}: ${publishedState(pod)?.state ?? 'still there'}`,
  );
  io.err(
    [
      `culvert uninstall: not done after ${timeout} s; still there:`,
      ...names,
      "It goes on by itself: run this again to wait on. Why it takes so long: the log of that node's daemon.",
      '',
    ].join('\n'),
  );
  return 1;
}

function nameOf({ metadata }: PodObject): string {
  return `${metadata.namespace ?? ''}/${metadata.name}`;
}

/** What has ended meanwhile needs no change. @returns whether it was there */
async function patchOptional(api: KubeApi, path: string, body: unknown): Promise<boolean> {
  try {
    await api.request({ method: 'PATCH', path, patch: 'application/merge-patch+json', body });
    return true;
  } catch (error) {
    if (error instanceof KubeError && error.status === 404) return false;
    throw error;
  }
}
