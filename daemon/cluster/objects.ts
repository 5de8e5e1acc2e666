/**
 * From Kubernetes objects, as kubectl prints and takes them, to the mesh's model. Pure; whatever comes in, nothing
 * is thrown: an object that is wrong gives problems with their paths.
 */
import type { z } from 'zod';
import type { Delta, NamespaceInfo, NodeInfo } from '../mesh/model.ts';
import { parsePort } from '../mesh/ids.ts';
import { cidrAt, ipAt, meshLabel } from './fields.ts';
import type { JsonPath, Note, ObjectProblem } from './fields.ts';
import { podToWorkload } from './pods.ts';
import { POLICY_GROUP, POLICY_VERSIONS, toPeerAuthentication, toPolicy } from './policies.ts';
import { toService, toSlice } from './services.ts';
import {
  headSchema,
  identitySchema,
  listSchema,
  namespaceSchema,
  nodeSchema,
  podSchema,
  policyHeadSchema,
  serviceAccountSchema,
  serviceSchema,
  sliceSchema,
} from './schemas.ts';

export type Translation =
  /** `id` is the same for all versions of one object; `delta` is undefined for kinds that only need to be valid. */
  | {
      readonly kind: 'object';
      readonly id: string;
      readonly title: string;
      readonly delta: Delta | undefined;
      readonly notes: readonly ObjectProblem[];
    }
  /** `id` is undefined when not even that can be told. */
  | {
      readonly kind: 'invalid';
      readonly id: string | undefined;
      readonly title: string;
      readonly problems: readonly ObjectProblem[];
    }
  /** An object of a kind that we don't use. */
  | { readonly kind: 'foreign' };

const CORE = ['v1'];
const POLICY = POLICY_VERSIONS.map((version) => `${POLICY_GROUP}/${version}`);
/** The kinds we read, in these versions. */
const API_VERSIONS: ReadonlyMap<string, readonly string[]> = new Map([
  ['Namespace', CORE],
  ['Node', CORE],
  ['Pod', CORE],
  ['Service', CORE],
  ['ServiceAccount', CORE],
  ['EndpointSlice', ['discovery.k8s.io/v1']],
  ['AuthorizationPolicy', POLICY],
  ['PeerAuthentication', POLICY],
]);
const CLUSTER_SCOPED = new Set(['Namespace', 'Node']);
/** Problems told of one object; the others come when these are mended. */
const MAX_PROBLEMS = 5;

/**
 * The objects in one document: itself, or the items of a List (also a typed one such as PodList, whose items need
 * no kind), each with its path. An empty document has none.
 */
export function objectsIn(document: unknown): { readonly path: JsonPath; readonly value: unknown }[] {
  if (document === null || document === undefined) return [];
  const head = headSchema.safeParse(document);
  if (!head.success || !head.data.kind.endsWith('List')) return [{ path: [], value: document }];
  const parsed = listSchema.safeParse(document);
  if (!parsed.success) return [{ path: [], value: document }];
  const itemKind = head.data.kind.slice(0, -'List'.length);
  const inherited = itemKind === '' ? {} : { apiVersion: head.data.apiVersion, kind: itemKind };
  return (parsed.data.items ?? []).map((item, i) => ({
    path: ['items', i],
    value: isTable(item) ? { ...inherited, ...item } : item,
  }));
}

/** What one object means. */
export function translate(value: unknown): Translation {
  const head = headSchema.safeParse(value);
  if (!head.success)
    return { kind: 'invalid', id: undefined, title: 'object', problems: problemsOf(head.error) };
  const { kind, apiVersion } = head.data;
  const expected = API_VERSIONS.get(kind);
  if (expected === undefined) return { kind: 'foreign' };
  if (expected.includes(apiVersion)) return byKind(kind, value);
  // Knative's Service is not ours, nor is Linkerd's AuthorizationPolicy; but a Pod of v2 is a mistake.
  const isForeign =
    expected === CORE ? apiVersion.includes('/') : apiVersion.startsWith('policy.linkerd.io/');
  if (isForeign) return { kind: 'foreign' };
  const reason = `must be ${expected.join(' or ')} for kind ${kind}`;
  return invalid(kind, value, [{ path: ['apiVersion'], reason }]);
}

function byKind(kind: string, value: unknown): Translation {
  switch (kind) {
    case 'Namespace':
      return read(kind, namespaceSchema, value, (object, note) => {
        const info = toNamespace(object, note);
        return { kind: 'namespace', key: info.name, value: info };
      });
    case 'Node':
      return read(kind, nodeSchema, value, (object, note) => {
        const info = toNode(object, note);
        return { kind: 'node', key: info.name, value: info };
      });
    case 'Pod':
      return read(kind, podSchema, value, (object, note) => {
        const workload = podToWorkload(object, note);
        return workload && { kind: 'workload', key: workload.uid, value: workload };
      });
    case 'Service':
      return read(kind, serviceSchema, value, (object, note) => {
        const service = toService(object, note);
        return { kind: 'service', key: `${service.namespace}/${service.name}`, value: service };
      });
    case 'EndpointSlice':
      return read(kind, sliceSchema, value, (object, note) => {
        const slice = toSlice(object, note);
        return slice && { kind: 'slice', key: `${slice.namespace}/${slice.name}`, value: slice };
      });
    case 'AuthorizationPolicy':
      return read(kind, policyHeadSchema, value, toPolicy);
    case 'PeerAuthentication':
      return read(kind, policyHeadSchema, value, toPeerAuthentication);
    default:
      return read(kind, serviceAccountSchema, value, () => undefined);
  }
}

function read<T>(
  kind: string,
  schema: z.ZodType<T>,
  value: unknown,
  toDelta: (object: T, note: Note) => Delta | undefined,
): Translation {
  const parsed = schema.safeParse(value);
  if (!parsed.success) return invalid(kind, value, problemsOf(parsed.error));
  const notes: ObjectProblem[] = [];
  const delta = toDelta(parsed.data, (path, reason) => {
    if (notes.length < MAX_PROBLEMS) notes.push({ path, reason });
  });
  const { id, title } = identify(kind, value);
  return id === undefined
    ? { kind: 'invalid', id, title, problems: [{ path: ['metadata'], reason: 'has no name' }] }
    : { kind: 'object', id, title, delta, notes };
}

function invalid(kind: string, value: unknown, problems: readonly ObjectProblem[]): Translation {
  return { kind: 'invalid', ...identify(kind, value), problems };
}

/** Pods are told apart by UID, all else by name. */
function identify(kind: string, value: unknown): { id: string | undefined; title: string } {
  const parsed = identitySchema.safeParse(value);
  if (!parsed.success) return { id: undefined, title: kind };
  const { name, namespace, uid } = parsed.data.metadata;
  const fullName = CLUSTER_SCOPED.has(kind) ? name : `${namespace ?? 'default'}/${name}`;
  const title = `${kind} ${fullName}`;
  if (kind !== 'Pod') return { id: title, title };
  return { id: typeof uid === 'string' ? `Pod ${uid}` : undefined, title };
}

function problemsOf(error: z.ZodError): ObjectProblem[] {
  return error.issues.slice(0, MAX_PROBLEMS).map((issue) => ({
    path: issue.path.map((step) => (typeof step === 'symbol' ? String(step) : step)),
    reason: issue.message,
  }));
}

function toNamespace({ metadata }: z.infer<typeof namespaceSchema>, note: Note): NamespaceInfo {
  const labels = metadata.labels ?? {};
  return { name: metadata.name, meshLabel: meshLabel(labels, note), labels };
}

function toNode({ metadata, spec, status }: z.infer<typeof nodeSchema>, note: Note): NodeInfo {
  const list = (spec?.podCIDRs ?? []).map((text, i) => ({ text, path: ['spec', 'podCIDRs', i] }));
  const single = spec?.podCIDR ?? '';
  if (list.length === 0 && single !== '') list.push({ text: single, path: ['spec', 'podCIDR'] });
  const addresses = (status?.addresses ?? []).flatMap(({ type, address }, i) =>
    type === 'InternalIP' || type === 'ExternalIP'
      ? ipAt(address, ['status', 'addresses', i, 'address'], note)
      : [],
  );
  return {
    name: metadata.name,
    podCidrs: list.flatMap(({ text, path }) => cidrAt(text, path, note)),
    addresses,
    zone: metadata.labels?.['topology.kubernetes.io/zone'],
    kubeletPort: parsePort(status?.daemonEndpoints?.kubeletEndpoint?.Port ?? 0),
  };
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
