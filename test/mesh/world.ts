/** Clusters for tests: objects with all fields filled in, and random ones. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { parseIp, parsePodUid, parsePort, parseTrustDomain } from '../../daemon/mesh/ids.ts';
import type { Ip, PodUid, Port } from '../../daemon/mesh/ids.ts';
import type {
  Delta,
  Endpoint,
  EndpointSlice,
  MeshLabel,
  MeshSettings,
  NamespaceInfo,
  NodeInfo,
  PublishedState,
  Service,
  Workload,
} from '../../daemon/mesh/model.ts';
import { parseAuthorizationPolicy } from '../../daemon/mesh/policy/parse.ts';
import { parsePeerAuthentication } from '../../daemon/mesh/policy/peer.ts';
import { MeshState } from '../../daemon/mesh/state.ts';

export function ip(text: string): Ip {
  const parsed = parseIp(text);
  assert.ok(parsed !== undefined, `${text} is no address`);
  return parsed;
}

export function port(value: number): Port {
  const parsed = parsePort(value);
  assert.ok(parsed !== undefined, `${value} is no port`);
  return parsed;
}

export function uid(text: string): PodUid {
  const parsed = parsePodUid(text);
  assert.ok(parsed !== undefined, `${text} is no UID`);
  return parsed;
}

export function settings(over: Partial<MeshSettings> = {}): MeshSettings {
  const trustDomain = parseTrustDomain('cluster.local');
  assert.ok(trustDomain !== undefined);
  return {
    trustDomain,
    defaultMode: 'permissive',
    rootNamespace: 'istio-system',
    trustDomainAliases: [],
    pathNormalization: 'BASE',
    meshCidrs: [],
    nodeName: 'node-a',
    ...over,
  };
}

export function pod(name: string, address: string, over: Partial<Workload> = {}): Workload {
  return {
    uid: uid(`uid-${name}`),
    name,
    namespace: 'shop',
    serviceAccount: name,
    node: 'node-b',
    ips: [ip(address)],
    labels: {},
    hostNetwork: false,
    phase: 'Running',
    meshLabel: undefined,
    otherMesh: undefined,
    foreignRuntime: undefined,
    os: 'linux',
    containerPorts: [],
    excludeOutboundCidrs: [],
    cutExisting: false,
    allowNestedNetns: false,
    terminating: false,
    ready: true,
    createdMs: 1,
    owner: undefined,
    ...over,
  };
}

export function service(name: string, clusterIp: string, over: Partial<Service> = {}): Service {
  return {
    name,
    namespace: 'shop',
    type: 'ClusterIP',
    clusterIps: [ip(clusterIp)],
    externalIps: [],
    ports: [{ name: 'http', port: port(80), nodePort: undefined }],
    hasSelector: true,
    sessionAffinity: 'None',
    affinityTimeoutMs: 10_800_000,
    internalTrafficPolicy: 'Cluster',
    trafficDistribution: undefined,
    publishNotReadyAddresses: false,
    ...over,
  };
}

export function endpoint(of: Workload | string, over: Partial<Endpoint> = {}): Endpoint {
  const isPod = typeof of !== 'string';
  const address = isPod ? of.ips[0] : ip(of);
  assert.ok(address !== undefined);
  return {
    ip: address,
    podUid: isPod ? of.uid : undefined,
    node: isPod ? of.node : undefined,
    zone: undefined,
    ready: true,
    serving: true,
    terminating: false,
    ...over,
  };
}

export function slice(
  name: string,
  serviceName: string,
  endpoints: readonly Endpoint[],
  over: Partial<EndpointSlice> = {},
): EndpointSlice {
  return {
    name,
    namespace: 'shop',
    serviceName,
    family: 'IPv4',
    ports: { http: port(8080) },
    endpoints,
    ...over,
  };
}

export function namespace(name: string, meshLabel: MeshLabel | undefined): NamespaceInfo {
  return { name, meshLabel, labels: {} };
}

export function node(name: string, over: Partial<NodeInfo> = {}): NodeInfo {
  return { name, podCidrs: [], addresses: [], zone: undefined, kubeletPort: undefined, ...over };
}

/** Deltas for objects, told apart by their fields. */
export const told = {
  pod: (value: Workload): Delta => ({ kind: 'workload', key: value.uid, value }),
  noPod: (value: Workload): Delta => ({ kind: 'workload', key: value.uid, value: undefined }),
  namespace: (name: string, label: MeshLabel | undefined): Delta => ({
    kind: 'namespace',
    key: name,
    value: namespace(name, label),
  }),
  node: (value: NodeInfo): Delta => ({ kind: 'node', key: value.name, value }),
  service: (value: Service): Delta => ({ kind: 'service', key: `${value.namespace}/${value.name}`, value }),
  slice: (value: EndpointSlice): Delta => ({
    kind: 'slice',
    key: `${value.namespace}/${value.name}`,
    value,
  }),
  /** An AuthorizationPolicy as people write it; without a spec it is gone. */
  policy: (namespace: string, name: string, spec?: unknown, annotations = {}): Delta => {
    const parsed = parseAuthorizationPolicy({ metadata: { namespace, name, annotations }, spec });
    const value = spec === undefined ? undefined : parsed?.policy;
    return { kind: 'policy', key: `${namespace}/${name}`, value };
  },
  /** A PeerAuthentication likewise. */
  peerAuthentication: (namespace: string, name: string, spec?: unknown): Delta => {
    const parsed = parsePeerAuthentication({ metadata: { namespace, name }, spec });
    const value = spec === undefined ? undefined : parsed?.peer;
    return { kind: 'peer-authentication', key: `${namespace}/${name}`, value };
  },
  published: (of: Workload, state: PublishedState['state'] | undefined): Delta => ({
    kind: 'published',
    key: of.uid,
    value: state && { uid: of.uid, state, sinceMs: 1 },
  }),
};

export function stateOf(deltas: readonly Delta[], over: Partial<MeshSettings> = {}): MeshState {
  const state = new MeshState(settings(over));
  state.apply(deltas);
  return state;
}

// ---- random clusters: few names and addresses, so that they meet ----

const UIDS = ['u1', 'u2', 'u3', 'u4'].map(uid);
export const ADDRESSES = [
  ...[1, 2, 3, 4].map((i) => `10.244.1.${i}`),
  '10.96.0.1',
  '10.96.0.2',
  '192.168.7.7',
  '93.184.216.34',
  'fd00:1::1',
  'fd00:96::1',
].map(ip);
export const RANGES = ['10.244.0.0/16', 'fd00:1::/64', '10.244.1.0/24', '10.244.1.2/32'];
export const PORTS = [80, 8080, 15_008, 61_001, 30_080].map(port);
const NAMES = ['a', 'b'];
const NAMESPACES = ['shop', 'bank'];
const NODES = ['node-a', 'node-b'];

const anyIp = fc.constantFrom(...ADDRESSES);
const anyPort = fc.constantFrom(...PORTS);
const anyLabel = fc.constantFrom<MeshLabel | undefined>('enabled', 'disabled', undefined);
const some = <T>(item: fc.Arbitrary<T>, maxLength = 3): fc.Arbitrary<T[]> =>
  fc.uniqueArray(item, { maxLength });

const anyPod: fc.Arbitrary<Workload> = fc
  .record({
    uid: fc.constantFrom(...UIDS),
    namespace: fc.constantFrom(...NAMESPACES),
    serviceAccount: fc.constantFrom('web', 'db', ''),
    labels: fc.constantFrom({}, { app: 'web' }),
    node: fc.constantFrom(...NODES, ''),
    ips: some(anyIp, 2),
    hostNetwork: fc.boolean(),
    phase: fc.constantFrom<Workload['phase']>('Pending', 'Running', 'Succeeded', 'Failed', 'Unknown'),
    meshLabel: anyLabel,
    otherMesh: fc.constantFrom(undefined, 'container istio-proxy'),
    terminating: fc.boolean(),
    createdMs: fc.integer({ min: 0, max: 3 }),
    excludeOutboundCidrs: fc.constantFrom<readonly string[]>([], ['10.244.1.3/32']),
  })
  .map((fields) => pod(fields.uid, '10.244.1.1', fields));

const anyEndpoint: fc.Arbitrary<Endpoint> = fc.record({
  ip: anyIp,
  podUid: fc.constantFrom(...UIDS, undefined),
  node: fc.constantFrom(...NODES, undefined),
  zone: fc.constantFrom('z1', undefined),
  ready: fc.boolean(),
  serving: fc.boolean(),
  terminating: fc.boolean(),
});

const anyService: fc.Arbitrary<Service> = fc
  .record({
    name: fc.constantFrom(...NAMES),
    namespace: fc.constantFrom(...NAMESPACES),
    type: fc.constantFrom<Service['type']>('ClusterIP', 'NodePort', 'ExternalName'),
    clusterIps: some(anyIp, 2),
    externalIps: some(anyIp, 1),
    ports: some(anyPort, 2).map((ports) =>
      ports.map((value, i) => ({ name: i === 0 ? 'http' : '__proto__', port: value, nodePort: value })),
    ),
    hasSelector: fc.boolean(),
    sessionAffinity: fc.constantFrom<Service['sessionAffinity']>('None', 'ClientIP'),
    internalTrafficPolicy: fc.constantFrom<Service['internalTrafficPolicy']>('Cluster', 'Local'),
    trafficDistribution: fc.constantFrom<Service['trafficDistribution']>(
      'PreferSameNode',
      'PreferSameZone',
      undefined,
    ),
    publishNotReadyAddresses: fc.boolean(),
  })
  .map((fields) => service(fields.name, '10.96.0.1', fields));

const anySlice: fc.Arbitrary<EndpointSlice> = fc
  .record({
    name: fc.constantFrom('s1', 's2', 's3'),
    namespace: fc.constantFrom(...NAMESPACES),
    serviceName: fc.constantFrom(...NAMES),
    family: fc.constantFrom<EndpointSlice['family']>('IPv4', 'IPv6'),
    ports: fc
      .option(anyPort, { nil: undefined })
      .map((value) => (value === undefined ? {} : { http: value })),
    endpoints: fc.array(anyEndpoint, { maxLength: 4 }),
  })
  .map((fields) => slice(fields.name, fields.serviceName, fields.endpoints, fields));

const anyNode: fc.Arbitrary<NodeInfo> = fc
  .record({
    name: fc.constantFrom(...NODES),
    podCidrs: some(fc.constantFrom(...RANGES), 2),
    addresses: some(anyIp, 1),
    zone: fc.constantFrom('z1', undefined),
  })
  .map((fields) => node(fields.name, fields));

const anyPublished: fc.Arbitrary<Delta> = fc
  .record({
    key: fc.constantFrom(...UIDS),
    uid: fc.constantFrom(...UIDS),
    isOwn: fc.integer({ min: 0, max: 9 }).map((roll) => roll > 0),
    state: fc.constantFrom<PublishedState['state'] | undefined>(
      'joining',
      'enrolled',
      'enrolled',
      'leaving',
      'unenrollable',
      undefined,
    ),
  })
  .map(({ key, uid: other, isOwn, state }) => ({
    kind: 'published',
    key,
    value: state && { uid: isOwn ? key : other, state, sinceMs: 1 },
  }));

const anyPeerAuthentication = fc
  .record({
    namespace: fc.constantFrom(...NAMESPACES, 'istio-system'),
    name: fc.constantFrom(...NAMES),
    mode: fc.constantFrom('STRICT', 'PERMISSIVE', 'UNSET'),
    selector: fc.constantFrom(undefined, { matchLabels: { app: 'web' } }),
  })
  .map(({ namespace, name, mode, selector }) =>
    told.peerAuthentication(namespace, name, {
      mtls: { mode },
      ...(selector && { selector, portLevelMtls: { 80: { mode: 'PERMISSIVE' } } }),
    }),
  );

const anyPolicy = fc
  .record({
    namespace: fc.constantFrom(...NAMESPACES, 'istio-system'),
    name: fc.constantFrom(...NAMES),
    action: fc.constantFrom('ALLOW', 'DENY'),
    ports: fc.constantFrom(['80'], ['8080']),
  })
  .map(({ namespace, name, action, ports }) =>
    told.policy(namespace, name, { action, rules: [{ to: [{ operation: { ports } }] }] }),
  );

function orGone(delta: Delta, isGone: boolean): Delta {
  if (!isGone) return delta;
  return delta.kind === 'workload' || delta.kind === 'published'
    ? { kind: delta.kind, key: delta.key, value: undefined }
    : { kind: delta.kind, key: delta.key, value: undefined };
}

/** One random change of a random object. */
export const anyDelta: fc.Arbitrary<Delta> = fc
  .tuple(
    fc.oneof(
      anyPod.map(told.pod),
      anyPod.map(told.pod),
      anyNode.map(told.node),
      anyService.map(told.service),
      anySlice.map(told.slice),
      anyPublished,
      anyPeerAuthentication,
      anyPolicy,
      fc.tuple(fc.constantFrom(...NAMESPACES), anyLabel).map(([name, label]) => told.namespace(name, label)),
    ),
    fc.integer({ min: 0, max: 4 }),
  )
  .map(([delta, roll]) => orGone(delta, roll === 0));

export const anyDeltas: fc.Arbitrary<Delta[]> = fc.array(anyDelta, {
  maxLength: 60,
  // The default keeps to about ten: too few for objects to meet.
  size: 'max',
});

/** Four pods behind a Service, half of them enrolled: from here random edits lead to the cases that matter. */
const POPULATED: readonly Delta[] = [
  told.namespace('shop', 'enabled'),
  ...UIDS.flatMap((key, i) => {
    const member = pod(key, `10.244.1.${i + 1}`, {
      uid: key,
      serviceAccount: 'web',
      node: NODES[i % 2] ?? '',
    });
    return [told.pod(member), told.published(member, i < 2 ? 'enrolled' : undefined)];
  }),
  told.service(service('a', '10.96.0.1')),
  told.slice(
    slice(
      's1',
      'a',
      UIDS.map((key, i) => endpoint(pod(key, `10.244.1.${i + 1}`, { uid: key }))),
    ),
  ),
];

/** Random edits, half of the time of a cluster with something in it. */
export const anyHistory: fc.Arbitrary<Delta[]> = fc
  .tuple(fc.integer({ min: 0, max: 3 }), anyDeltas)
  .map(([roll, edits]) => (roll === 0 ? edits : [...POPULATED, ...edits.slice(0, 8)]));
export const anyTarget = fc.record({ ip: anyIp, port: anyPort });
export const anyPodUid = fc.constantFrom(...UIDS);
export const anyRandom = fc.double({ min: 0, max: 0.999_999, noNaN: true });
export const ALL_UIDS = UIDS;
export { NAMES, NAMESPACES, NODES };
