/** Which of the things that happen deserve an Event on a pod, and in which words (DESIGN.md section 9). Pure. */
import { reasonInfo } from '../errors.ts';
import type { Reason } from '../errors.ts';
import type { PodUid } from '../mesh/ids.ts';
import type { ConnectionRecord, PodStatus } from '../mesh/wiring.ts';

export type EventReason =
  | 'EnrollFailed'
  | 'CertificateFailed'
  | 'PlaintextDenied'
  | 'UnknownDestination'
  | 'NetworkPolicyHint';

/** The pod that an Event is about. */
export interface EventPod {
  readonly uid: PodUid;
  readonly name: string;
  readonly namespace: string;
}

export interface PodEvent {
  readonly pod: EventPod;
  readonly reason: EventReason;
  /** What happened and what a person can do about it. */
  readonly note: string;
}

const OF_CONNECTIONS: Partial<Readonly<Record<Reason, EventReason>>> = {
  PLAINTEXT_DENIED: 'PlaintextDenied',
  UNKNOWN_DESTINATION: 'UnknownDestination',
  TUNNEL_CONNECT_FAILED: 'NetworkPolicyHint',
};

/** A pod that starts is pending and opening for a moment: only what lasts has failed. */
const LASTING_MS = 30_000;

/** The Event that a connection's end deserves, on the pod of our side of it. */
export function eventOfConnection(record: ConnectionRecord): PodEvent | undefined {
  const reason = OF_CONNECTIONS[record.reason];
  if (reason === undefined || record.podUid === undefined) return undefined;
  const isOutbound = record.direction === 'outbound';
  const name = isOutbound ? record.srcWorkload : record.dstWorkload;
  const namespace = isOutbound ? record.srcNamespace : record.dstNamespace;
  if (name === undefined || namespace === undefined) return undefined;
  const other = isOutbound
    ? `to ${record.dstService ?? record.dstHboneAddr ?? record.dstAddr}`
    : `from ${clientOf(record)} to ${record.dstAddr}`;
  const hint = reason === 'NetworkPolicyHint' ? "; 'culvert check' names the policies" : '';
  return {
    pod: { uid: record.podUid, name, namespace },
    reason,
    note: `${record.reason}: ${other}: ${reasonInfo(record.reason).text}${hint}`,
  };
}

/** The Event that a pod's status deserves now; the caller tells each only once. */
export function eventOfStatus(
  { uid, name, namespace, state, reason, sinceMs }: PodStatus,
  nowMs: number,
): PodEvent | undefined {
  // A pod that has ended needs no protection.
  if (reason === undefined || reason.startsWith('FINISHED')) return undefined;
  const event = (kind: EventReason): PodEvent => ({
    pod: { uid, name, namespace },
    reason: kind,
    note: `${state}: ${reason}`,
  });
  if (state === 'unenrollable') return event('EnrollFailed');
  if (nowMs - sinceMs < LASTING_MS) return undefined;
  if (state === 'joining') return event('CertificateFailed');
  return state === 'pending' || state === 'opening' ? event('EnrollFailed') : undefined;
}

/** A client's port differs each time: it is no part of what is told. */
function clientOf(record: ConnectionRecord): string {
  const { srcNamespace, srcWorkload, srcAddr } = record;
  return srcNamespace !== undefined && srcWorkload !== undefined
    ? `${srcNamespace}/${srcWorkload}`
    : srcAddr.replace(/:\d+$/, '');
}
