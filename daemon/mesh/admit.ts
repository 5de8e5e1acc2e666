/**
 * The inbound decision: whether a connection that reached one of our pods may go to the app. Total, like `route`.
 * Address, header and label of the peer decide nothing (DESIGN.md rule 2): only its proven identity does, and where a
 * policy names addresses, the one that the connection comes from.
 */
import { authorize, authorizeUnread, isWithoutPolicy } from './authorize.ts';
import type { Authorization, Content } from './authorize.ts';
import { HBONE_PORT, hostPort, splitSpiffeId } from './ids.ts';
import type { Ip, PodUid, Port, SpiffeId } from './ids.ts';
import { decideMode, whose } from './mode.ts';
import type { PodState, Workload } from './model.ts';
import { peerOf } from './policy/compile.ts';
import type { PolicyRequest, RuleRef } from './policy/model.ts';
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
  /** Where it comes from: of a tunnel, the address of its socket, which stands in the client's own network. */
  readonly sourceIp: Ip;
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
  /** What it carries has to be looked into, and `admitContent` asked: nothing may reach the app before. */
  readonly needsLook?: true;
  /** The policy that decided, and what dry-run policies would have made of it. */
  readonly by?: RuleRef | undefined;
  readonly dryRun?: Authorization['dryRun'];
}

/** Whether the connection may go to the app. */
export function admit(state: MeshState, request: AdmitRequest): AdmitVerdict {
  const passed = admitUnauthorized(state, request);
  if (passed.workload === undefined) return passed.verdict;
  const { verdict, workload } = passed;
  const policies = state.policies.policiesOf(workload);
  if (isWithoutPolicy(policies)) return verdict;
  const said = authorizeUnread(policies, policyRequest(request));
  return said.verdict === 'look' ? { ...verdict, needsLook: true } : withPolicies(verdict, said);
}

/**
 * Whether what an admitted connection carries may go to the app: each request, or bytes that are not HTTP. Everything
 * that `admit` asks is asked again, for the state may have changed.
 */
export function admitContent(state: MeshState, request: AdmitRequest, content: Content): AdmitVerdict {
  const passed = admitUnauthorized(state, request);
  if (passed.workload === undefined) return passed.verdict;
  const policies = state.policies.policiesOf(passed.workload);
  if (isWithoutPolicy(policies)) return passed.verdict;
  return withPolicies(passed.verdict, authorize(policies, { ...policyRequest(request), ...content }));
}

/** All but the AuthorizationPolicies; these are asked next when there is a workload that they are for. */
type Passed =
  | { readonly verdict: AdmitVerdict; readonly workload: undefined }
  | { readonly verdict: AdmitVerdict & { readonly kind: 'allow' }; readonly workload: Workload };

function admitUnauthorized(state: MeshState, request: AdmitRequest): Passed {
  const early = whyNotAtAll(request) ?? byState(request);
  if (early !== undefined) return { verdict: early, workload: undefined };
  return request.viaHbone ? admitPeer(state, request) : admitPlaintext(state, request);
}

function whyNotAtAll({ targetIp, targetPort, pod, ownPorts }: AdmitRequest): AdmitVerdict | undefined {
  const target = hostPort(targetIp, targetPort);
  // 15008 is steered to our listener even from inside the pod: dialling it would lead back to us.
  if (targetPort === HBONE_PORT || ownPorts.includes(targetPort))
    return { kind: 'refuse', reason: 'OWN_LISTENER', rule: `${target} is one of our own listeners` };
  if (pod.ips.includes(targetIp)) return undefined;
  return {
    kind: 'refuse',
    reason: 'CONNECT_TARGET_MISMATCH',
    rule: `${targetIp} is not an address of this pod`,
  };
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

function admitPeer(state: MeshState, { peer, pod }: AdmitRequest): Passed {
  const parts = peer === undefined ? undefined : splitSpiffeId(peer);
  if (parts === undefined) return refused('PEER_CERTIFICATE_INVALID', 'a tunnel without a proven identity');
  const { trustDomain } = state.settings;
  if (parts.trustDomain !== trustDomain)
    return refused(
      'PEER_TRUST_DOMAIN',
      `the peer is of trust domain ${parts.trustDomain}, the mesh is ${trustDomain}`,
    );
  const workload = state.workload(pod.uid);
  if (workload === undefined) return held("the pod's policies are not known yet in this worker");
  return { verdict: { kind: 'allow', reason: 'OK', rule: 'the peer proved its identity' }, workload };
}

/**
 * A pod that joins takes plaintext as it did a second before, and one that leaves as it will a second later: whatever
 * its mode and its policies say (DESIGN.md 3a).
 */
function admitPlaintext(state: MeshState, { pod, podState, targetPort }: AdmitRequest): Passed {
  if (podState === 'joining') return untouched('PLAINTEXT_JOINING', 'joining');
  if (podState === 'leaving') return untouched('PLAINTEXT_ACCEPTED', 'leaving');
  const workload = state.workload(pod.uid);
  if (workload === undefined) return held("the pod's mode is not known yet in this worker");
  const decided = decideMode(state, workload, targetPort);
  const rule = `port ${targetPort} is ${decided.mode.toUpperCase()} by ${whose(decided)}`;
  if (decided.mode === 'strict')
    return refused(
      'PLAINTEXT_DENIED',
      `${rule}, and the client came without mTLS (also NodePort, hostPort and ingress traffic does)`,
      decided.by,
    );
  return { verdict: { kind: 'allow', reason: 'PLAINTEXT_ACCEPTED', rule }, workload };
}

function untouched(reason: Reason, state: string): Passed {
  const rule = `a ${state} pod takes plaintext whatever its mode and policies`;
  return { verdict: { kind: 'allow', reason, rule }, workload: undefined };
}

function held(rule: string): Passed {
  return { verdict: { kind: 'hold', reason: 'POD_NOT_READY', rule }, workload: undefined };
}

function refused(reason: Reason, rule: string, by?: RuleRef): Passed {
  return { verdict: { kind: 'refuse', reason, rule, by }, workload: undefined };
}

function withPolicies(passed: AdmitVerdict, { verdict, by, text, dryRun }: Authorization): AdmitVerdict {
  if (verdict === 'deny') return { kind: 'refuse', reason: 'POLICY_DENIED', rule: text, by, dryRun };
  return { ...passed, rule: `${passed.rule}; ${text}`, by, dryRun };
}

/** Bytes that nothing is known of. */
function policyRequest({ peer, viaHbone, sourceIp, targetIp, targetPort }: AdmitRequest): PolicyRequest {
  return {
    peer: viaHbone && peer !== undefined ? peerOf(peer) : undefined,
    sourceIp,
    destinationIp: targetIp,
    destinationPort: targetPort,
    sni: undefined,
    http: undefined,
  };
}
