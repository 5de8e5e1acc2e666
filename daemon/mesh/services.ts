/**
 * From a Service's address to the endpoints that a connection may go to, as kube-proxy would choose
 * (DESIGN.md section 9; kubernetes pkg/proxy/topology.go). Decides nothing about the mesh: see route.ts.
 */
import type { Ip, Port } from './ids.ts';
import { isIpv6 } from './ids.ts';
import type { Endpoint, EndpointSlice, Service, ServicePort, Workload } from './model.ts';
import type { MeshState } from './state.ts';

/** Who asks, and where it runs. */
export interface ResolveContext {
  readonly family: 'IPv4' | 'IPv6';
  readonly sourceNode: string;
  readonly sourceZone: string | undefined;
  /** The client's address: the key of session affinity. */
  readonly sourceIp: Ip | undefined;
  /** From 0 up to 1, as Math.random. */
  readonly random: () => number;
}

/** An endpoint that the Service would send this connection to. */
export type Candidate =
  /** A pod with an address of its own. */
  | { readonly kind: 'pod'; readonly ip: Ip; readonly port: Port; readonly workload: Workload }
  /** A node, or a pod in a node's network. */
  | { readonly kind: 'host'; readonly ip: Ip; readonly port: Port; readonly workload: Workload | undefined }
  /** Outside the cluster. */
  | { readonly kind: 'outside'; readonly ip: Ip; readonly port: Port }
  /** A pod, says the slice or the address, that is not known (yet). */
  | { readonly kind: 'unknown'; readonly ip: Ip; readonly port: Port };

export type Resolution =
  /** At least one is a pod, known or not. In the order in which to try them; made as they are asked for, once. */
  | { readonly kind: 'endpoints'; readonly candidates: Iterable<Candidate> }
  /** None is a pod with an address of its own: what the app dialled is left as it is. */
  | { readonly kind: 'unmanaged'; readonly rule: string; readonly candidates: readonly Candidate[] }
  | { readonly kind: 'none'; readonly reason: 'NO_ENDPOINTS' | 'NO_SERVICE_PORT'; readonly detail: string };

interface Target {
  readonly endpoint: Endpoint;
  readonly port: Port;
  /** Of address and port, for session affinity. */
  readonly hash: number;
}

/** A list of slices never changes (a change makes another list): what was made of it once holds. */
const TARGETS = new WeakMap<readonly EndpointSlice[], Map<string, readonly Target[]>>();

/** The order in which to try the endpoints of `service` for its port `port`. */
export function resolve(state: MeshState, service: Service, port: Port, context: ResolveContext): Resolution {
  const name = `${service.namespace}/${service.name}`;
  if (service.type === 'ExternalName')
    return { kind: 'unmanaged', rule: `Service ${name} is an ExternalName`, candidates: [] };
  const servicePort = service.ports.find((candidate) => candidate.port === port);
  if (servicePort === undefined)
    return { kind: 'none', reason: 'NO_SERVICE_PORT', detail: `Service ${name} has no TCP port ${port}` };

  const targets = targetsOf(state.slicesOf(service), servicePort, context.family);
  if (targets.length === 0 && !service.hasSelector)
    return { kind: 'unmanaged', rule: `Service ${name} has no selector and no endpoint`, candidates: [] };
  const usable = usableTargets(service, targets, context);
  if (usable.length === 0)
    return { kind: 'none', reason: 'NO_ENDPOINTS', detail: whyNone(name, service, targets) };

  const order = inOrder(service, usable, context);
  // In most Services the first endpoint is a pod: only the few that are not look at all of them.
  if (order.some((target) => isPod(classify(state, target))))
    return { kind: 'endpoints', candidates: classified(state, order) };
  const candidates = [...classified(state, order)];
  if (candidates.length === 0)
    return {
      kind: 'none',
      reason: 'NO_ENDPOINTS',
      detail: `the endpoints of Service ${name} are pods that ended`,
    };
  const rule = `the endpoints of Service ${name} are nodes or outside the cluster`;
  return { kind: 'unmanaged', rule, candidates };
}

function isPod(candidate: Candidate | undefined): boolean {
  return candidate?.kind === 'pod' || candidate?.kind === 'unknown';
}

function* classified(state: MeshState, targets: readonly Target[]): Generator<Candidate> {
  for (const target of targets) {
    const candidate = classify(state, target);
    if (candidate !== undefined) yield candidate;
  }
}

/** All endpoints that serve this port in this family; the target port of a name may differ from slice to slice. */
function targetsOf(
  slices: readonly EndpointSlice[],
  { name }: ServicePort,
  family: ResolveContext['family'],
): readonly Target[] {
  const made = TARGETS.get(slices) ?? new Map<string, readonly Target[]>();
  TARGETS.set(slices, made);
  const key = `${family} ${name}`;
  const targets = made.get(key) ?? collectTargets(slices, name, family);
  made.set(key, targets);
  return targets;
}

function collectTargets(
  slices: readonly EndpointSlice[],
  name: string,
  family: ResolveContext['family'],
): readonly Target[] {
  const targets = new Map<string, Target>();
  for (const slice of slices) {
    const port = Object.hasOwn(slice.ports, name) ? slice.ports[name] : undefined;
    if (slice.family !== family || port === undefined) continue;
    for (const endpoint of slice.endpoints) {
      if (isIpv6(endpoint.ip) !== (family === 'IPv6')) continue;
      // One endpoint may be in two slices while the controller moves it: the ready one counts.
      const key = `${endpoint.ip} ${port}`;
      if (targets.get(key)?.endpoint.ready !== true) targets.set(key, { endpoint, port, hash: hash(key) });
    }
  }
  return [...targets.values()];
}

/** Ready ones; when there is none, those that are shutting down but still serve. */
function usableTargets(service: Service, all: readonly Target[], context: ResolveContext): readonly Target[] {
  const allowed =
    service.internalTrafficPolicy === 'Local'
      ? all.filter(({ endpoint }) => endpoint.node === context.sourceNode)
      : all;
  if (service.publishNotReadyAddresses) return nearest(service, allowed, context);
  const ready = allowed.filter(({ endpoint }) => endpoint.ready);
  if (ready.length > 0) return nearest(service, ready, context);
  return allowed.filter(({ endpoint }) => endpoint.serving && endpoint.terminating);
}

/** trafficDistribution: the same node, then the same zone, then anywhere. A preference, never a refusal. */
function nearest(service: Service, targets: readonly Target[], context: ResolveContext): readonly Target[] {
  if (service.trafficDistribution === undefined) return targets;
  const zone = context.sourceZone;
  const onNode =
    service.trafficDistribution === 'PreferSameNode'
      ? targets.filter(({ endpoint }) => endpoint.node === context.sourceNode)
      : [];
  if (onNode.length > 0) return onNode;
  const inZone = zone === undefined ? [] : targets.filter(({ endpoint }) => endpoint.zone === zone);
  return inZone.length > 0 ? inZone : targets;
}

/** How many endpoints are put in order: a connection tries a few, never a thousand. */
const ORDERED = 16;

/**
 * Random order; with session affinity the order of a rendezvous hash of client and endpoint. That needs no table
 * and is the same in every worker and after a restart: a client moves only when its endpoint goes or a better one
 * comes. The affinity's timeout has no meaning then: the affinity never ends. Beyond the first 16, as they come.
 */
function inOrder(service: Service, targets: readonly Target[], context: ResolveContext): readonly Target[] {
  const { random, sourceIp } = context;
  const isSticky = service.sessionAffinity === 'ClientIP' && sourceIp !== undefined;
  const client = isSticky ? hash(sourceIp) : undefined;
  const order = [...targets];
  for (let i = 0; i < Math.min(ORDERED, order.length - 1); i++) {
    const rest = order.length - i;
    const j =
      i +
      (client === undefined ? Math.min(rest - 1, Math.floor(random() * rest)) : heaviest(order, i, client));
    const [a, b] = [order[i], order[j]];
    if (a === undefined || b === undefined) continue;
    order[i] = b;
    order[j] = a;
  }
  return order;
}

/** How far after `from` the endpoint stands that weighs most for this client. */
function heaviest(targets: readonly Target[], from: number, client: number): number {
  let best = -1;
  let offset = 0;
  for (let i = from; i < targets.length; i++) {
    const weight = mix((targets[i]?.hash ?? 0) ^ client);
    if (weight <= best) continue;
    best = weight;
    offset = i - from;
  }
  return offset;
}

/** What an endpoint is, or undefined when the slice is behind: its pod has ended, or has that address no more. */
function classify(state: MeshState, { endpoint, port }: Target): Candidate | undefined {
  const { ip, podUid } = endpoint;
  const named = podUid === undefined ? undefined : state.workload(podUid);
  const owner = state.workloadByIp(ip);
  // A slice's word alone does not make an address a node's: the pod must have it, and no pod with a network of its own.
  if (named?.hostNetwork === true)
    return owner === undefined && named.ips.includes(ip)
      ? { kind: 'host', ip, port, workload: named }
      : undefined;
  if (owner !== undefined)
    return podUid === undefined || podUid === owner.uid
      ? { kind: 'pod', ip, port, workload: owner }
      : undefined;
  if (named !== undefined) return undefined;
  if (podUid !== undefined) return { kind: 'unknown', ip, port };
  if (state.isHostAddress(ip)) return { kind: 'host', ip, port, workload: undefined };
  return state.isInMeshRanges(ip) ? { kind: 'unknown', ip, port } : { kind: 'outside', ip, port };
}

function whyNone(name: string, service: Service, targets: readonly Target[]): string {
  if (targets.length === 0) return `Service ${name} has no endpoint`;
  const local =
    service.internalTrafficPolicy === 'Local' ? ' on this node (internalTrafficPolicy Local)' : '';
  return `none of the ${targets.length} endpoints of Service ${name} is ready${local}`;
}

/** FNV-1a. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h;
}

/** murmur3's finaliser: even over addresses that differ in one digit. */
function mix(value: number): number {
  let h = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
