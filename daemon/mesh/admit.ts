/**
 * The inbound decision: whether a connection that reached one of our pods may go to the app. Total, like `route`.
 * Address, header and label of the peer decide nothing (DESIGN.md rule 2): only its proven identity does.
 */
import { HBONE_PORT, hostPort, splitSpiffeId } from './ids.ts';
import type { Ip, PodUid, Port, SpiffeId } from './ids.ts';
import { mode } from './mode.ts';
import type { PodState } from './model.ts';
import type { MeshState } from './state.ts';
import type { Reason } from '../errors.ts';

export interface AdmitRequest {
  /** The pod that was reached: known by the network namespace of the listener. */
  readonly pod: { readonly uid: PodUid; readonly ips: readonly Ip[] };
  readonly podState: PodState;
  readonly ownPorts: readonly Port[];
  /** Where the connection wants to go inside the pod: the CONNECT's authority, or what plaintext dialled. */
  readonly targetIp: Ip;
  readonly targetPort: Port;
  /** Proven by the tunnel's handshake; looked at only when `viaHbone`. */
  readonly peer: SpiffeId | undefined;
  readonly viaHbone: boolean;
}

export interface AdmitVerdict {
  /** `hold`: ask again when the pod or the state has changed; after `holdTimeout` refuse with `reason`. */
  readonly kind: 'allow' | 'hold' | 'refuse';
  readonly reason: Reason;
  /** Which rule decided, for records and `culvert why`. */
  readonly rule: string;
}

/** Whether the connection may go to the app. */
export function admit(state: MeshState, request: AdmitRequest): AdmitVerdict {
  const { targetIp, targetPort, pod } = request;
  const target = hostPort(targetIp, targetPort);
  // 15008 is steered to our listener even from inside the pod: dialling it would lead back to us.
  if (targetPort === HBONE_PORT || request.ownPorts.includes(targetPort))
    return { kind: 'refuse', reason: 'OWN_LISTENER', rule: `${target} is one of our own listeners` };
  if (!pod.ips.includes(targetIp))
    return {
      kind: 'refuse',
      reason: 'CONNECT_TARGET_MISMATCH',
      rule: `${targetIp} is not an address of this pod`,
    };
  return byState(request) ?? (request.viaHbone ? admitPeer(state, request) : admitPlaintext(state, request));
}

/** The states in which nothing can be decided yet, or any more. */
function byState({ podState }: AdmitRequest): AdmitVerdict | undefined {
  switch (podState) {
    case 'pending':
    case 'opening':
      return { kind: 'hold', reason: 'POD_NOT_READY', rule: `the pod is ${podState}` };
    case 'none':
    case 'unenrollable':
      return { kind: 'refuse', reason: 'POD_GONE', rule: `the pod is not ours (${podState})` };
    case 'joining':
    case 'enrolled':
    case 'leaving':
      return undefined;
  }
}

function admitPeer(state: MeshState, { peer }: AdmitRequest): AdmitVerdict {
  const parts = peer === undefined ? undefined : splitSpiffeId(peer);
  if (parts === undefined)
    return { kind: 'refuse', reason: 'PEER_CERTIFICATE_INVALID', rule: 'a tunnel without a proven identity' };
  if (parts.trustDomain !== state.settings.trustDomain)
    return {
      kind: 'refuse',
      reason: 'PEER_TRUST_DOMAIN',
      rule: `the peer is of trust domain ${parts.trustDomain}, the mesh is ${state.settings.trustDomain}`,
    };
  return { kind: 'allow', reason: 'OK', rule: 'the peer proved its identity and no policy objects' };
}

function admitPlaintext(state: MeshState, { pod, podState, targetPort }: AdmitRequest): AdmitVerdict {
  if (podState === 'joining')
    return {
      kind: 'allow',
      reason: 'PLAINTEXT_JOINING',
      rule: 'a joining pod takes plaintext whatever its mode',
    };
  if (podState === 'leaving')
    return {
      kind: 'allow',
      reason: 'PLAINTEXT_ACCEPTED',
      rule: 'a leaving pod takes plaintext whatever its mode',
    };
  const workload = state.workload(pod.uid);
  if (workload === undefined)
    return { kind: 'hold', reason: 'POD_NOT_READY', rule: "the pod's mode is not known yet in this worker" };
  if (mode(state, workload, targetPort) === 'strict')
    return {
      kind: 'refuse',
      reason: 'PLAINTEXT_DENIED',
      rule: `port ${targetPort} is STRICT and the client came without mTLS (also NodePort, hostPort and ingress traffic does)`,
    };
  return { kind: 'allow', reason: 'PLAINTEXT_ACCEPTED', rule: `port ${targetPort} is PERMISSIVE` };
}
