/** Access records: one line in the log for each closed connection, and the last refusals of each pod. */
import { reasonInfo } from '../errors.ts';
import type { Reason } from '../errors.ts';
import type { PodUid } from '../mesh/ids.ts';
import type { ConnectionRecord, KernelRefusals } from '../mesh/wiring.ts';
import { wireText, writeLines } from './log.ts';
import type { Log, LogFields } from './log.ts';

/** Ways in which a connection ends that had been let through: an end, not a refusal. */
const ENDS: ReadonlySet<Reason> = new Set<Reason>([
  'CLIENT_RESET',
  'UPSTREAM_RESET',
  'HALF_CLOSED_TIMEOUT',
  'TUNNEL_LOST',
  'POLICY_CHANGED',
  'DRAINED',
  'WORKER_LOST',
]);

/** Whether a connection with this reason was turned away, or failed before it could be carried. */
export function isRefusal(reason: Reason): boolean {
  return reasonInfo(reason).flag !== '-' && !ENDS.has(reason);
}

/** The fields of a record's line, named as ztunnel's access log names them. Unknown ones are undefined. */
export function accessFields(record: ConnectionRecord): LogFields {
  const { flag, text } = reasonInfo(record.reason);
  return {
    conn_id: record.connId,
    'src.addr': record.srcAddr,
    'src.workload': record.srcWorkload,
    'src.namespace': record.srcNamespace,
    'src.identity': record.srcIdentity,
    'dst.addr': wireText(record.dstAddr),
    'dst.hbone_addr': record.dstHboneAddr,
    'dst.service': record.dstService,
    'dst.workload': record.dstWorkload,
    'dst.namespace': record.dstNamespace,
    'dst.identity': record.dstIdentity,
    direction: record.direction,
    security: record.security,
    bytes_sent: record.bytesSent,
    bytes_recv: record.bytesReceived,
    duration: `${Math.round(record.durationMs)}ms`,
    reason: record.reason,
    flag,
    policy: record.policy,
    dry_run: record.dryRun,
    detail: record.detail === undefined ? undefined : wireText(record.detail),
    // ztunnel's field for what went wrong; absent when nothing did.
    error: flag === '-' ? undefined : text,
  };
}

/** Writes the lines of closed connections, one each, at the level of its reason. */
export function writeAccess(log: Log, records: readonly ConnectionRecord[]): void {
  writeLines(
    log,
    records.map((record) => ({ level: reasonInfo(record.reason).level, fields: accessFields(record) })),
    'connection complete',
  );
}

/** The pod that the kernel refused connections of, where it is known. */
export interface RefusedPod {
  readonly uid: PodUid;
  readonly name: string;
  readonly namespace: string;
}

/** Writes one line for connections that the kernel refused for one reason since the last look, with their count. */
export function writeKernelRefusals(log: Log, refused: KernelRefusals, pod: RefusedPod | undefined): void {
  const { flag, level, text } = reasonInfo(refused.reason);
  const side = refused.direction === 'outbound' ? 'src' : 'dst';
  const fields = {
    [`${side}.workload`]: pod?.name,
    [`${side}.namespace`]: pod?.namespace,
    direction: refused.direction,
    security: 'none',
    count: refused.count,
    bytes_sent: 0,
    bytes_recv: 0,
    reason: refused.reason,
    flag,
    error: text,
  };
  log[level](fields, 'connections refused in the kernel');
}

/** Like refusals of one pod, counted. */
export interface RefusalSummary {
  readonly podUid: PodUid;
  readonly direction: ConnectionRecord['direction'];
  readonly reason: Reason;
  readonly text: string;
  readonly detail: string | undefined;
  readonly source: string;
  readonly destination: string;
  readonly count: number;
  readonly firstMs: number;
  readonly lastMs: number;
}

const REFUSALS_PER_POD = 5;
const PODS_WITH_REFUSALS = 512;
/** The kernel counts refusals without the other end's address. */
const UNKNOWN_END = '-';

/** The last refusals of each pod for `culvert status`: five kinds a pod, 512 pods; the oldest use makes room. */
export class Refusals {
  readonly #pods = new Map<PodUid, Map<string, RefusalSummary>>();

  /** Takes notice of a closed connection; ignores those that were no refusal or had no pod of ours. */
  record(record: ConnectionRecord): void {
    if (record.podUid !== undefined && isRefusal(record.reason)) this.#add(summarize(record, record.podUid));
  }

  /** The same of connections that the kernel refused: it does not say where they went. */
  recordKernel(refused: KernelRefusals, pod: RefusedPod, nowMs: number): void {
    const isOut = refused.direction === 'outbound';
    const own = `${pod.namespace}/${pod.name}`;
    this.#add({
      podUid: pod.uid,
      direction: refused.direction,
      reason: refused.reason,
      text: reasonInfo(refused.reason).text,
      detail: 'refused in the kernel',
      source: isOut ? own : UNKNOWN_END,
      destination: isOut ? UNKNOWN_END : own,
      count: refused.count,
      firstMs: nowMs,
      lastMs: nowMs,
    });
  }

  #add(summary: RefusalSummary): void {
    const kinds = this.#pods.get(summary.podUid) ?? new Map<string, RefusalSummary>();
    moveToEnd(this.#pods, summary.podUid, kinds, PODS_WITH_REFUSALS);
    const key = [summary.direction, summary.reason, summary.source, summary.destination].join(' ');
    const before = kinds.get(key);
    const merged =
      before === undefined
        ? summary
        : {
            ...summary,
            count: before.count + summary.count,
            firstMs: Math.min(before.firstMs, summary.firstMs),
          };
    moveToEnd(kinds, key, merged, REFUSALS_PER_POD);
  }

  /** All that are kept, the latest first. */
  list(): readonly RefusalSummary[] {
    const all = [...this.#pods.values()].flatMap((kinds) => [...kinds.values()]);
    return all.sort((a, b) => b.lastMs - a.lastMs);
  }

  /** Drops a pod that has gone. */
  forget(uid: PodUid): void {
    this.#pods.delete(uid);
  }
}

/** A Map keeps its order of insertion: the first entry is the one longest unused. */
function moveToEnd<K, V>(map: Map<K, V>, key: K, value: V, limit: number): void {
  map.delete(key);
  map.set(key, value);
  const first = map.keys().next();
  if (map.size > limit && first.done !== true) map.delete(first.value);
}

function summarize(record: ConnectionRecord, podUid: PodUid): RefusalSummary {
  const atMs = record.startMs + record.durationMs;
  return {
    podUid,
    direction: record.direction,
    reason: record.reason,
    text: reasonInfo(record.reason).text,
    detail: record.detail === undefined ? undefined : wireText(record.detail),
    source: named(record.srcNamespace, record.srcWorkload) ?? withoutPort(record.srcAddr),
    destination: record.dstService ?? wireText(record.dstAddr),
    count: 1,
    firstMs: atMs,
    lastMs: atMs,
  };
}

function named(namespace: string | undefined, name: string | undefined): string | undefined {
  return namespace === undefined || name === undefined ? undefined : `${namespace}/${name}`;
}

/** The client's port differs each time and would make every refusal a kind of its own. */
function withoutPort(address: string): string {
  return address.replace(/:\d+$/, '');
}
