/**
 * What the threads say to each other (ARCHITECTURE.md, threads). Plain data only: every message crosses by
 * structured clone; file descriptors are numbers that all threads of the process share.
 */
import type { MessagePort } from 'node:worker_threads';
import type { Ip, PodUid, Port, SpiffeId } from './ids.ts';
import type { Delta, MeshSettings, PodState } from './model.ts';
import type { Reason } from '../errors.ts';

/** Our three sockets in a pod. The numbers are keys of the BPF maps (native/bpf/culvert.h). */
export const ROLES = { outbound: 0, plaintext: 1, hbone: 2 } as const;
export type Role = keyof typeof ROLES;

/** A certificate as it travels to the workers. PEM; the key never leaves the process. */
export interface CertificateMessage {
  readonly id: SpiffeId;
  /** Leaf first, then intermediates. */
  readonly chainPem: string;
  readonly keyPem: string;
  readonly rootsPem: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly serial: string;
}

/** An enrolled pod as a worker needs it; its listeners come apart. */
export interface LocalPod {
  readonly uid: PodUid;
  readonly name: string;
  readonly namespace: string;
  readonly id: SpiffeId;
  readonly ips: readonly Ip[];
  readonly state: PodState;
  /** Our copy of the pod's network namespace, open in this process until after `pod-gone`. */
  readonly netnsFd: number;
  /** All our listener ports in this pod, of every role and worker: never a target (DESIGN.md rule 10). */
  readonly ownPorts: readonly Port[];
}

/** main → worker. */
export type MainToWorker =
  | { readonly type: 'deltas'; readonly deltas: readonly Delta[] }
  /** The first complete state has been sent: decisions may be taken. */
  | { readonly type: 'synced' }
  | { readonly type: 'certificate'; readonly certificate: CertificateMessage }
  | { readonly type: 'certificate-failed'; readonly id: SpiffeId; readonly reason: string }
  /** No pod of this node needs this identity any more: its key is forgotten. */
  | { readonly type: 'certificate-released'; readonly id: SpiffeId }
  | { readonly type: 'drain'; readonly deadlineMs: number }
  | { readonly type: 'list-connections'; readonly request: number };

/** enrolment → worker, on a channel of their own. */
export type EnrolmentToWorker =
  /** BPF map descriptors of this process, before anything else. */
  | { readonly type: 'kernel'; readonly originalDestinationFd: number; readonly clientAddressFd: number }
  /** A pod appeared or changed (state, addresses). */
  | { readonly type: 'pod'; readonly pod: LocalPod }
  /** Listen on `fd` (bound and listening already; the worker owns this copy). */
  | {
      readonly type: 'listener';
      readonly uid: PodUid;
      readonly role: Role;
      readonly fd: number;
      readonly port: Port;
    }
  /** The pod has left or died: cut what is left of it, then say `pod-closed`. */
  | { readonly type: 'pod-gone'; readonly uid: PodUid; readonly reason: Reason }
  /** We stop, and no other daemon has the node: none can come while we drain, so the drain is cut short. */
  | { readonly type: 'no-successor' };

/** How often a worker says that it turns, and enrolment asks whether it has. */
export const BEAT_MS = 1_000;

/** worker → enrolment. */
export type WorkerToEnrolment =
  | { readonly type: 'listening'; readonly uid: PodUid; readonly role: Role }
  /** Its event loop turns: said once every BEAT_MS. */
  | { readonly type: 'beat' }
  /** No socket of this pod is left in the worker: netnsFd may be closed. */
  | { readonly type: 'pod-closed'; readonly uid: PodUid };

/** worker → main. */
export type WorkerToMain =
  | { readonly type: 'ready' }
  /** `connections`: those that outlive one batch, so that metrics count them as opened now; see `reportedOpen`. */
  | {
      readonly type: 'opened';
      readonly count: number;
      readonly connections?: readonly OpenConnection[];
    }
  | { readonly type: 'closed'; readonly records: readonly ConnectionRecord[] }
  | { readonly type: 'connections'; readonly request: number; readonly list: readonly OpenConnection[] }
  | { readonly type: 'gauges'; readonly gauges: WorkerGauges }
  | { readonly type: 'drained'; readonly cut: number };

/** main → enrolment. */
export type MainToEnrolment =
  /** A worker started, or one in a dead one's place; `port` is its own channel, and its closing is its death. */
  | { readonly type: 'worker'; readonly index: number; readonly port: MessagePort }
  | { readonly type: 'identity-ready'; readonly id: SpiffeId; readonly notAfterMs: number }
  | { readonly type: 'identity-failed'; readonly id: SpiffeId; readonly reason: string }
  /** What demands mTLS of connections that are older than enrolment; no pod's guard waits for it. */
  | { readonly type: 'modes'; readonly deltas: readonly Delta[] }
  /** Leave every pod (uninstall), then report `left`. */
  | { readonly type: 'leave-all' }
  /** Stop reconciling; pins stay (upgrade, restart). */
  | { readonly type: 'stop' };

/** enrolment → main. */
export type EnrolmentToMain =
  | { readonly type: 'started' }
  | { readonly type: 'fatal'; readonly code: string; readonly message: string }
  /** This identity is needed on this node (`urgent`: a pod waits), or no longer. */
  | { readonly type: 'want-identity'; readonly id: SpiffeId; readonly urgent: boolean }
  | { readonly type: 'release-identity'; readonly id: SpiffeId }
  /** The whole truth about this node's pods, after each change. */
  | { readonly type: 'pods'; readonly pods: readonly PodStatus[] }
  | { readonly type: 'kernel-counters'; readonly counters: Readonly<Record<string, number>> }
  /** `yielded`: another daemon has the node, and nothing was done here. */
  | { readonly type: 'left'; readonly yielded?: true }
  | { readonly type: 'stopped' }
  /** The pod ran before it was guarded; so many connections of its first moments were cut. */
  | { readonly type: 'unguarded'; readonly uid: PodUid; readonly connections: number }
  /** What the kernel refused since the last message, before any worker saw it. */
  | { readonly type: 'kernel-refusals'; readonly refusals: readonly KernelRefusals[] };

/** Connections of one pod that the kernel refused for one reason. */
export interface KernelRefusals {
  /** undefined: the pod is gone, or the kernel could not tell which one it was. */
  readonly uid: PodUid | undefined;
  readonly direction: Direction;
  readonly reason: Reason;
  readonly count: number;
}

/** One pod in `culvert status`. */
export interface PodStatus {
  readonly uid: PodUid;
  readonly name: string;
  readonly namespace: string;
  readonly state: PodState;
  /** Code and sentence when it is not simply enrolled; undefined when all is well. */
  readonly reason: string | undefined;
  readonly id: SpiffeId | undefined;
  readonly ips: readonly Ip[];
  /** Connections older than enrolment that still stand. */
  readonly olderConnections: number;
  readonly sinceMs: number;
}

export type Direction = 'outbound' | 'inbound';

/** One access record; names after ztunnel's access log (STYLE.md section 4). */
export interface ConnectionRecord {
  readonly connId: string;
  readonly direction: Direction;
  readonly startMs: number;
  readonly durationMs: number;
  readonly reason: Reason;
  /** More about this one case: an errno, an HTTP status, the object that decided. */
  readonly detail: string | undefined;
  readonly podUid: PodUid | undefined;
  readonly srcAddr: string;
  readonly srcWorkload: string | undefined;
  readonly srcNamespace: string | undefined;
  /** Only from a handshake or the enrolment, never from an address. */
  readonly srcIdentity: SpiffeId | undefined;
  /** What the app dialled (outbound), or what the peer asked for (inbound). */
  readonly dstAddr: string;
  /** Where the tunnel goes, `podIP:15008`, when there is one. */
  readonly dstHboneAddr: string | undefined;
  /** `name.namespace` of the Service dialled. */
  readonly dstService: string | undefined;
  readonly dstWorkload: string | undefined;
  readonly dstNamespace: string | undefined;
  readonly dstIdentity: SpiffeId | undefined;
  readonly security: 'mutual_tls' | 'none';
  /** The policy object that decided last, `AuthorizationPolicy shop/backend rule 0`; undefined: none did. */
  readonly policy?: string | undefined;
  /** What would have been decided with the dry-run policies in force: `deny by …`; undefined: the same. */
  readonly dryRun?: string | undefined;
  /** From source to destination. */
  readonly bytesSent: number;
  /** From destination to source. */
  readonly bytesReceived: number;
  /** It was in an `opened` message: metrics have counted it as opened already. */
  readonly reportedOpen?: boolean;
}

/** One line of `/connections`. */
export type OpenConnection = Omit<ConnectionRecord, 'reason' | 'detail' | 'durationMs'>;

/** A worker's resting numbers, sent every few seconds. */
export interface WorkerGauges {
  readonly connections: number;
  readonly held: number;
  readonly tunnelsOut: number;
  readonly tunnelsIn: number;
  readonly handshakes: number;
  readonly listeners: number;
  readonly loopLagP99Ms: number;
  /** What policies have decided since the last time. */
  readonly decisions?: readonly PolicyDecisions[];
}

/** Decisions of one policy; dry-run ones are those that a dry-run policy would have changed. */
export interface PolicyDecisions {
  /** `ns/name`; `-` when ALLOW policies applied and none matched. */
  readonly policy: string;
  readonly verdict: 'allow' | 'deny' | 'dry_run_allow' | 'dry_run_deny';
  readonly count: number;
}

/** What a worker is started with. */
export interface WorkerStart {
  readonly index: number;
  readonly settings: MeshSettings;
}
