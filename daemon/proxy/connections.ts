/**
 * Every connection that a worker has: who, where to, how many bytes, and exactly one record when it ends.
 * Counts per pod, so that no pod can take more than its share.
 */
import type { Reason } from '../errors.ts';
import type { Ip, PodUid, SpiffeId } from '../mesh/ids.ts';
import type { ConnectionRecord, Direction, OpenConnection } from '../mesh/wiring.ts';

/** What is known of a connection so far; filled in as decisions are taken. */
export interface ConnectionFacts {
  srcAddr: string;
  srcWorkload: string | undefined;
  srcNamespace: string | undefined;
  srcIdentity: SpiffeId | undefined;
  dstAddr: string;
  dstHboneAddr: string | undefined;
  dstService: string | undefined;
  dstWorkload: string | undefined;
  dstNamespace: string | undefined;
  dstIdentity: SpiffeId | undefined;
  security: 'mutual_tls' | 'none';
}

export interface Connection {
  readonly podUid: PodUid;
  readonly direction: Direction;
  readonly facts: ConnectionFacts;
  /** How the connection's bytes are counted once they flow. */
  counters: { readonly bytesSent: number; readonly bytesReceived: number };
  /** Ends the connection's sockets, whatever stage it is at; set by the stage. */
  cut: (reason: Reason, detail?: string) => void;
  /** Writes the record and gives the place back. Later calls do nothing: one record each. */
  close(reason: Reason, detail?: string): void;
}

export interface ConnectionLimits {
  readonly perPod: number;
  readonly total: number;
}

const NO_BYTES = { bytesSent: 0, bytesReceived: 0 } as const;

export class Connections {
  readonly #open = new Set<TrackedConnection>();
  readonly #perPod = new Map<PodUid, number>();
  readonly #limits: ConnectionLimits;
  readonly #onOpen: () => void;
  readonly #onClosed: (record: ConnectionRecord) => void;
  readonly #prefix: string;
  #next = 0;
  /** Opened since the last `takeOpened`, and between that and the one before. */
  #fresh = new Set<TrackedConnection>();
  #aging = new Set<TrackedConnection>();

  /** `prefix` makes connection ids unique over the workers of a node. */
  constructor(
    prefix: string,
    limits: ConnectionLimits,
    events: { onOpen: () => void; onClosed: (record: ConnectionRecord) => void },
  ) {
    this.#prefix = prefix;
    this.#limits = limits;
    this.#onOpen = events.onOpen;
    this.#onClosed = events.onClosed;
  }

  get size(): number {
    return this.#open.size;
  }

  /** Registers a connection, also one over the limits: it gets its record too. `overLimit` says so. */
  open(
    podUid: PodUid,
    direction: Direction,
    srcAddr: string,
  ): { connection: Connection; overLimit: boolean } {
    const ofPod = this.#perPod.get(podUid) ?? 0;
    const overLimit = ofPod >= this.#limits.perPod || this.#open.size >= this.#limits.total;
    this.#perPod.set(podUid, ofPod + 1);
    this.#next += 1;
    const connection = new TrackedConnection(
      `${this.#prefix}-${this.#next.toString(36)}`,
      podUid,
      direction,
      srcAddr,
      (ended) => this.#remove(ended),
      this.#onClosed,
    );
    this.#open.add(connection);
    this.#fresh.add(connection);
    this.#onOpen();
    return { connection, overLimit };
  }

  /** Cuts every connection for which `which` holds. @returns how many. */
  cut(which: (connection: Connection) => boolean, reason: Reason, detail?: string): number {
    let count = 0;
    for (const connection of [...this.#open]) {
      if (!which(connection)) continue;
      connection.cut(reason, detail);
      count += 1;
    }
    return count;
  }

  /** The first `max` open connections, for people. */
  list(max: number): OpenConnection[] {
    const found: OpenConnection[] = [];
    for (const connection of this.#open) {
      if (found.length >= max) break;
      found.push(connection.snapshot());
    }
    return found;
  }

  /** Connections that have outlived a whole batch, each once: metrics count them as opened before they close. */
  takeOpened(): OpenConnection[] {
    const lasting = [...this.#aging];
    this.#aging = this.#fresh;
    this.#fresh = new Set();
    return lasting.map((connection) => {
      connection.reportedOpen = true;
      return connection.snapshot();
    });
  }

  #remove(connection: TrackedConnection): void {
    this.#open.delete(connection);
    this.#fresh.delete(connection);
    this.#aging.delete(connection);
    const left = (this.#perPod.get(connection.podUid) ?? 1) - 1;
    if (left > 0) this.#perPod.set(connection.podUid, left);
    else this.#perPod.delete(connection.podUid);
  }
}

class TrackedConnection implements Connection {
  readonly podUid: PodUid;
  readonly direction: Direction;
  readonly facts: ConnectionFacts;
  counters: { readonly bytesSent: number; readonly bytesReceived: number } = NO_BYTES;
  reportedOpen = false;
  cut: (reason: Reason, detail?: string) => void = (reason, detail) => this.close(reason, detail);
  readonly #id: string;
  readonly #startMs = Date.now();
  readonly #startTick = performance.now();
  readonly #remove: (connection: TrackedConnection) => void;
  readonly #onClosed: (record: ConnectionRecord) => void;
  #closed = false;

  constructor(
    id: string,
    podUid: PodUid,
    direction: Direction,
    srcAddr: string,
    remove: (connection: TrackedConnection) => void,
    onClosed: (record: ConnectionRecord) => void,
  ) {
    this.#id = id;
    this.podUid = podUid;
    this.direction = direction;
    this.facts = {
      srcAddr,
      srcWorkload: undefined,
      srcNamespace: undefined,
      srcIdentity: undefined,
      dstAddr: '',
      dstHboneAddr: undefined,
      dstService: undefined,
      dstWorkload: undefined,
      dstNamespace: undefined,
      dstIdentity: undefined,
      security: 'none',
    };
    this.#remove = remove;
    this.#onClosed = onClosed;
  }

  close(reason: Reason, detail?: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#remove(this);
    this.#onClosed({
      ...this.snapshot(),
      durationMs: Math.round((performance.now() - this.#startTick) * 1_000) / 1_000,
      reason,
      detail,
      reportedOpen: this.reportedOpen,
    });
  }

  snapshot(): OpenConnection {
    return {
      connId: this.#id,
      direction: this.direction,
      startMs: this.#startMs,
      podUid: this.podUid,
      ...this.facts,
      bytesSent: this.counters.bytesSent,
      bytesReceived: this.counters.bytesReceived,
    };
  }
}

/** `ip:port` of a socket's far end; '' when the peer is gone already (remoteAddress is undefined then). */
export function addressText(ip: Ip | undefined, port: number | undefined): string {
  if (ip === undefined || port === undefined) return '';
  return ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`;
}
