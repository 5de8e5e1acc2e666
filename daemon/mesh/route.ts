/**
 * The outbound decision: where a connection of one of our pods goes. Total: any state and any address give a
 * verdict. Read `route` for the order of questions, `toPod` for the rules about one pod (DESIGN.md 3a, 5, 9).
 */
import { HBONE_PORT, hostPort, isIpv6, parseSpiffeId } from './ids.ts';
import type { Ip, Port } from './ids.ts';
import { whyNotEnrollable } from './enrollable.ts';
import { decideMode, mode, whose } from './mode.ts';
import type { Service, Workload } from './model.ts';
import { isInside } from './ranges.ts';
import { resolve } from './services.ts';
import type { Candidate, Resolution } from './services.ts';
import type { MeshState } from './state.ts';
import { clear, refuse } from './verdict.ts';
import type {
  ClearTarget,
  PassthroughVerdict,
  RouteSource,
  RouteVerdict,
  TunnelTarget,
  TunnelVerdict,
} from './verdict.ts';
export type { RouteSource, RouteVerdict } from './verdict.ts';

const MAX_ALTERNATES = 3;

/** Where a connection of `source` to `ip:port` goes. `random` (from 0 up to 1) chooses among endpoints. */
export function route(
  state: MeshState,
  source: RouteSource,
  ip: Ip,
  port: Port,
  random: () => number,
): RouteVerdict {
  if (source.ips.includes(ip)) return toSelf(source, ip, port, undefined);
  const workload = state.workloadByIp(ip);
  if (workload !== undefined) return toPod(state, source, { ip, port, workload }, undefined);
  const service = state.serviceByClusterIp(ip);
  if (service !== undefined) return toService(state, source, { service, ip, port }, random);
  if (state.isHostAddress(ip)) return toHost(state, ip, port);
  if (state.isInMeshRanges(ip)) return toUnknown(state, source, ip, port);
  return toOutside(state, ip, port);
}

/** Rule 7. Our listeners in the pod, and the steered port, are no app of the pod (rule 10). */
function toSelf(source: RouteSource, address: Ip, port: Port, service: Service | undefined): RouteVerdict {
  if (port === HBONE_PORT || source.ownPorts?.includes(port) === true)
    return refuse('OWN_LISTENER', `${hostPort(address, port)} is ours in this pod`, service);
  const rule = service
    ? `Service ${nameOf(service)} led back to the pod itself`
    : "the destination is the pod's own address";
  return { kind: 'self', reason: 'SELF', rule, service, address, port };
}

interface PodTarget {
  readonly ip: Ip;
  readonly port: Port;
  readonly workload: Workload;
}

/**
 * The rules about one pod, in order: what its daemon has published decides; once seen enrolled, never in the
 * clear while the label stands; STRICT, never in the clear; everyone else takes plaintext.
 */
function toPod(
  state: MeshState,
  source: RouteSource,
  { ip, port, workload }: PodTarget,
  service: Service | undefined,
): RouteVerdict {
  if (workload.uid === source.uid) return toSelf(source, ip, port, service);
  // Not knowing is no 'no': only a label that was read as absent lets a pod be dialled as one outside the mesh.
  const labelled = state.labelling(workload) !== 'absent';
  const tunnel = whyTunnel(state, workload, labelled);
  const pod = `pod ${workload.namespace}/${workload.name}`;
  // Inbound 15008 of a meshed pod is the tunnel's own port: carried inside one it would come back to us.
  if (port === HBONE_PORT && (labelled || tunnel !== undefined))
    return refuse('OWN_LISTENER', `port ${HBONE_PORT} of ${pod} takes tunnels only`, service, workload);
  if (tunnel !== undefined) return toTunnel(state, { ip, port, workload }, `${pod} ${tunnel}`, service);
  if (!labelled)
    return clear(
      'PASSTHROUGH_NOT_ENROLLED',
      `${pod} is not labelled`,
      { workload, address: ip, port },
      service,
    );
  if (state.wasEnrolled(workload.uid)) {
    const why = state.wasWithdrawn(workload.uid)
      ? `the daemon of node ${workload.node} has let it go (is culvert uninstalled there?)`
      : "can't be now";
    const rule = `${pod} was enrolled, ${why}, and its label stands`;
    return { kind: 'hold', reason: 'DESTINATION_WAS_ENROLLED', rule, service, workload };
  }
  if (mode(state, workload, port) === 'strict') return toStrict(state, { workload, port }, service);
  return clear(
    'PASSTHROUGH_NOT_ENROLLED',
    `${pod} is ${state.isLabelled(workload) ? 'labelled' : 'of a namespace not read yet'} and takes plaintext, and is not enrolled (${stateOf(state, workload)})`,
    { workload, address: ip, port },
    service,
  );
}

/** Why the pod is tunnelled to, or undefined when it can't be counted on. */
function whyTunnel(state: MeshState, workload: Workload, labelled: boolean): string | undefined {
  const published = state.published(workload.uid)?.state;
  if (published === 'enrolled') return 'is enrolled';
  if (!labelled || published === 'unenrollable') return undefined;
  // We hear of the label and of the published state on different ways: 15008 answers until both have gone.
  if (published === 'leaving') return 'is leaving, and its label stands as far as we know';
  // Nobody answers on 15008 of such a pod, until its daemon says something again.
  if (state.wasWithdrawn(workload.uid)) return undefined;
  return state.wasEnrolled(workload.uid) ? 'was enrolled, and its label stands' : undefined;
}

function toTunnel(
  state: MeshState,
  { ip, port, workload }: PodTarget,
  rule: string,
  service: Service | undefined,
): RouteVerdict {
  const { trustDomain } = state.settings;
  const identity = parseSpiffeId(
    `spiffe://${trustDomain}/ns/${workload.namespace}/sa/${workload.serviceAccount}`,
  );
  if (identity === undefined)
    return refuse(
      'INTERNAL',
      `${rule}, but no identity can be made of its service account`,
      service,
      workload,
    );
  return {
    kind: 'tunnel',
    reason: 'OK',
    rule,
    service,
    workload,
    identity,
    address: ip,
    port,
    alternates: [],
  };
}

/** Held while it may still be enrolled; at once when it never will be. */
function toStrict(
  state: MeshState,
  { workload, port }: Pick<PodTarget, 'workload' | 'port'>,
  service: Service | undefined,
): RouteVerdict {
  const never = whyNotEnrollable(workload, state.namespace(workload.namespace));
  const isRefused = never !== undefined || state.published(workload.uid)?.state === 'unenrollable';
  const why = never?.text ?? `it is not enrolled (${stateOf(state, workload)})`;
  return {
    kind: isRefused ? 'refuse' : 'hold',
    reason: 'DESTINATION_STRICT_NOT_ENROLLED',
    rule: `pod ${workload.namespace}/${workload.name} is STRICT by ${whose(decideMode(state, workload, port))}, and ${why}`,
    service,
    workload,
  };
}

interface ServiceTarget {
  readonly service: Service;
  readonly ip: Ip;
  readonly port: Port;
}

function toService(
  state: MeshState,
  source: RouteSource,
  target: ServiceTarget,
  random: () => number,
): RouteVerdict {
  const { service, ip, port } = target;
  const family = isIpv6(ip) ? 'IPv6' : 'IPv4';
  const sourceNode = state.workload(source.uid)?.node ?? state.settings.nodeName;
  const resolution = resolve(state, service, port, {
    family,
    sourceNode,
    sourceZone: state.node(sourceNode)?.zone,
    sourceIp: source.ips.find((own) => isIpv6(own) === isIpv6(ip)) ?? source.ips[0],
    random,
  });
  switch (resolution.kind) {
    case 'none':
      return refuse(resolution.reason, resolution.detail, service);
    case 'unmanaged':
      return toUnmanaged(state, target, resolution);
    case 'endpoints':
      return toFirstUsable(toCandidates(state, source, resolution.candidates, service));
  }
}

/** As dialled, so that kube-proxy's choice stays its own; not when one of the backends demands mTLS. */
function toUnmanaged(
  state: MeshState,
  { service, ip, port }: ServiceTarget,
  resolution: Extract<Resolution, { kind: 'unmanaged' }>,
): RouteVerdict {
  for (const candidate of resolution.candidates) {
    if (
      candidate.kind === 'host' &&
      candidate.workload &&
      demandsMtls(state, candidate.workload, candidate.port)
    )
      return toStrict(state, { workload: candidate.workload, port: candidate.port }, service);
  }
  const asDialled = { workload: undefined, address: ip, port };
  return clear('PASSTHROUGH_UNMANAGED_SERVICE', resolution.rule, asDialled, service);
}

function demandsMtls(state: MeshState, workload: Workload, port: Port): boolean {
  return mode(state, workload, port) === 'strict';
}

function* toCandidates(
  state: MeshState,
  source: RouteSource,
  candidates: Iterable<Candidate>,
  service: Service,
): Generator<RouteVerdict> {
  for (const candidate of candidates) yield toCandidate(state, source, candidate, service);
}

/** One endpoint of a Service that has pods. Never 'as dialled': kube-proxy could then choose another one. */
function toCandidate(
  state: MeshState,
  source: RouteSource,
  candidate: Candidate,
  service: Service,
): RouteVerdict {
  const { ip, port } = candidate;
  switch (candidate.kind) {
    case 'pod':
      return toPod(state, source, candidate, service);
    case 'unknown':
      return unknownDestination(ip, service);
    case 'host':
      if (candidate.workload && demandsMtls(state, candidate.workload, port))
        return toStrict(state, { workload: candidate.workload, port }, service);
      break;
    case 'outside':
      break;
  }
  const workload = candidate.kind === 'host' ? candidate.workload : undefined;
  const rule = `the endpoint ${hostPort(ip, port)} of Service ${nameOf(service)} is no pod of the mesh`;
  return clear('PASSTHROUGH_UNMANAGED_SERVICE', rule, { workload, address: ip, port }, service);
}

/**
 * The first endpoint that can be dialled now, with others of its kind to fall back on; else the first that can be
 * waited for; else the first refusal.
 */
function toFirstUsable(verdicts: Iterable<RouteVerdict>): RouteVerdict {
  let first: TunnelVerdict | PassthroughVerdict | undefined;
  let held: RouteVerdict | undefined;
  const others: (TunnelVerdict | PassthroughVerdict)[] = [];
  for (const verdict of verdicts) {
    if (verdict.kind === 'self' && first === undefined) return verdict;
    if (verdict.kind === 'tunnel' || verdict.kind === 'passthrough') {
      if (first === undefined) first = verdict;
      else if (verdict.kind === first.kind) others.push(verdict);
      if (others.length === MAX_ALTERNATES) break;
    } else if (verdict.kind === 'hold' && held?.kind !== 'hold') held = verdict;
    else held ??= verdict;
  }
  if (first?.kind === 'tunnel')
    return { ...first, alternates: others.filter((other) => other.kind === 'tunnel').map(tunnelTarget) };
  if (first !== undefined)
    return { ...first, alternates: others.filter((other) => other.kind === 'passthrough').map(clearTarget) };
  return held ?? refuse('NO_ENDPOINTS', 'the Service has no endpoint', undefined);
}

/** Nodes, and pods in their network, have no listener of ours; a NodePort is kube-proxy's. */
function toHost(state: MeshState, ip: Ip, port: Port): RouteVerdict {
  const target = { workload: undefined, address: ip, port };
  const service = state.serviceByNodePort(port);
  if (service === undefined)
    return clear('PASSTHROUGH_OUTSIDE_MESH', `${ip} is a node's address`, target, undefined);
  return clear('PASSTHROUGH_KUBE_PROXY', `NodePort ${port} of Service ${nameOf(service)}`, target, service);
}

/** Rule 9. The pod may have appeared a moment ago; ranges that its owner takes out are not the mesh's for it. */
function toUnknown(state: MeshState, source: RouteSource, ip: Ip, port: Port): RouteVerdict {
  const excluded = state.workload(source.uid)?.excludeOutboundCidrs ?? [];
  if (!isInside(ip, excluded)) return unknownDestination(ip, undefined);
  const rule = `the pod's annotation culvert.dev/exclude-outbound-cidrs takes ${ip} out`;
  return clear('PASSTHROUGH_OUTSIDE_MESH', rule, { workload: undefined, address: ip, port }, undefined);
}

function unknownDestination(ip: Ip, service: Service | undefined): RouteVerdict {
  const rule = service
    ? `the endpoint ${ip} of Service ${nameOf(service)} is a pod that is not known`
    : `${ip} is in the mesh's ranges and no known pod has it`;
  return { kind: 'hold', reason: 'UNKNOWN_DESTINATION', rule, service, workload: undefined };
}

/** Asked after the mesh's ranges: whoever writes a Service's externalIPs must not open a way to unknown pods. */
function toOutside(state: MeshState, ip: Ip, port: Port): RouteVerdict {
  const target = { workload: undefined, address: ip, port };
  const service = state.serviceByExternalIp(ip);
  if (service === undefined)
    return clear('PASSTHROUGH_OUTSIDE_MESH', `${ip} is outside the mesh's ranges`, target, undefined);
  const rule = `${ip} is an external or load balancer address of Service ${nameOf(service)}`;
  return clear('PASSTHROUGH_KUBE_PROXY', rule, target, service);
}

function tunnelTarget({ workload, identity, address, port }: TunnelTarget): TunnelTarget {
  return { workload, identity, address, port };
}

function clearTarget({ workload, address, port }: ClearTarget): ClearTarget {
  return { workload, address, port };
}

function stateOf(state: MeshState, workload: Workload): string {
  const published = state.published(workload.uid)?.state;
  return published === undefined
    ? 'its daemon has published no state'
    : `its published state is ${published}`;
}

function nameOf(service: Service): string {
  return `${service.namespace}/${service.name}`;
}
