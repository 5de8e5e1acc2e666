/** Connections that were opened before a pod was captured: which they are, and which of them are cut (DESIGN.md 3a). */
import type { Hot } from '../../native/hot/index.ts';
import { must } from '../../native/hot/index.ts';
import type { TcpSocket } from '../../native/hot/records.ts';
import { MeshError } from '../errors.ts';
import { parsePort } from '../mesh/ids.ts';
import type { Ip, PodUid, Port } from '../mesh/ids.ts';
import { mode } from '../mesh/mode.ts';
import type { Workload } from '../mesh/model.ts';
import { isInside } from '../mesh/ranges.ts';
import type { MeshState } from '../mesh/state.ts';
import type { Log } from '../observe/log.ts';

/** Sockets of one pod that are looked at; more than its connection limit allows is not looked for. */
const MAX_SOCKETS = 65_536;
const ENOENT = -2;

export interface OlderContext {
  readonly hot: Pick<Hot, 'tcpSockets' | 'destroySocket'>;
  /** Cgroup ids whose sockets are the daemon's own. */
  readonly isOwnCgroup: (id: bigint) => boolean;
}

export class OlderConnections {
  readonly #context: OlderContext;
  readonly #uid: PodUid;
  readonly #netnsFd: number;
  #cookies = new Set<bigint>();
  /** They could not be listed when they should have been: they are noted as soon as they can. */
  #isDue: 'no' | 'all' | 'outbound' = 'no';
  /** Ranges that the pod's owner takes out: a connection to one of them is as it should be, however old. */
  #excluded: readonly string[] = [];

  constructor(context: OlderContext, uid: PodUid, netnsFd: number) {
    this.#context = context;
    this.#uid = uid;
    this.#netnsFd = netnsFd;
  }

  /** Remembers the connections that stand now and are not redirected, but those to `excluded`. @returns how many. */
  note(excluded: readonly string[]): number {
    this.#excluded = excluded;
    this.#isDue = 'all';
    this.#noteDue();
    return this.#cookies.size;
  }

  /** Other ranges are taken out from now on: what stands to one that is so no longer is older too. */
  exclude(excluded: readonly string[]): void {
    if (excluded.join() === this.#excluded.join()) return;
    this.#excluded = excluded;
    if (this.#isDue === 'no') this.#isDue = 'outbound';
  }

  /** How many of them still stand. */
  count(): number {
    this.#noteDue();
    if (this.#cookies.size === 0) return 0;
    const now = new Set(this.#standing().map(({ socket }) => socket.cookie));
    this.#cookies = new Set([...this.#cookies].filter((cookie) => now.has(cookie)));
    return this.#cookies.size;
  }

  /**
   * Ends those on whose port of the pod `isCut` says so. @returns how many were ended.
   * @throws MeshError SYSTEM_CALL_FAILED when the kernel can't.
   */
  cut(isCut: (port: Port) => boolean): number {
    let cut = 0;
    for (const { socket } of this.#standing()) {
      const port = parsePort(socket.sourcePort);
      if (!this.#cookies.has(socket.cookie) || port === undefined || !isCut(port)) continue;
      const result = this.#context.hot.destroySocket(this.#netnsFd, socket);
      if (result === 0) cut += 1;
      else if (result !== ENOENT)
        throw new MeshError(
          'SYSTEM_CALL_FAILED',
          `could not cut an older connection of pod ${this.#uid}: errno ${-result}`,
        );
    }
    this.count();
    return cut;
  }

  /** What comes in later may be a host probe, which is no older connection: after the start only outbound is noted. */
  #noteDue(): void {
    if (this.#isDue === 'no') return;
    const found = this.#standing().filter(({ isOutbound }) => isOutbound || this.#isDue === 'all');
    const kept = this.#isDue === 'all' ? [] : this.#cookies;
    this.#cookies = new Set([...kept, ...found.map(({ socket }) => socket.cookie)]);
    this.#isDue = 'no';
  }

  /**
   * Open connections of the pod's own processes with somebody outside the pod. One from a port that the pod listens on
   * came in; the others went out. @throws MeshError SYSTEM_CALL_FAILED
   */
  #standing(): { readonly socket: TcpSocket; readonly isOutbound: boolean }[] {
    const { hot, isOwnCgroup } = this.#context;
    const { sockets } = must(
      hot.tcpSockets(this.#netnsFd, MAX_SOCKETS),
      `list the connections of pod ${this.#uid}`,
    );
    const listening = new Set(sockets.filter(isListener).map(({ sourcePort }) => sourcePort));
    return sockets
      .filter(
        (socket) =>
          !isListener(socket) &&
          !isOwnCgroup(socket.cgroupId) &&
          !isLoopback(socket.destination) &&
          socket.source !== socket.destination,
      )
      .map((socket) => ({ socket, isOutbound: !listening.has(socket.sourcePort) }))
      .filter(({ socket, isOutbound }) => !isOutbound || !isInside(socket.destination, this.#excluded));
  }
}

function isListener(socket: TcpSocket): boolean {
  return socket.state === 'LISTEN';
}

function isLoopback(ip: Ip): boolean {
  return ip.startsWith('127.') || ip === '::1';
}

/** A pod that should have been guarded from its start: all that it opened meanwhile went unguarded. @returns how many. */
export function cutUnguarded(log: Log, uid: PodUid, older: OlderConnections): number {
  const cut = older.cut(() => true);
  if (cut > 0)
    log.warn(
      { pod: uid, connections: cut },
      'the pod started before it was guarded: its connections were cut',
    );
  return cut;
}

/** STRICT destroys connections older than enrolment; PERMISSIVE only on the pod's wish. */
export function cutOlderIfAsked(
  { state, log }: { readonly state: MeshState; readonly log: Log },
  workload: Workload,
  older: OlderConnections,
): void {
  const cut = older.cut((port) => workload.cutExisting || mode(state, workload, port) === 'strict');
  if (cut > 0) log.info({ pod: workload.uid, connections: cut }, 'connections older than enrolment were cut');
}
