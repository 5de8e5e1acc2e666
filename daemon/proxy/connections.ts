/**
 * Every connection that a worker has: who, where to, how many bytes, and exactly one record when it ends.
 * Counts per pod, so that no pod can take more than its share.
 */
import type { Reason } from '../errors.ts';
import type { PodUid, SpiffeId } from '../mesh/ids.ts';
import type { ConnectionRecord, Direction, OpenConnection } from '../mesh/wiring.ts';
import type { Descriptors } from './descriptors.ts';

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
  /** The policy object that decided. */
  policy: string | undefined;
  /** What dry-run policies would have decided, where it is something else. */
  dryRun: string | undefined;
}

export interface Connection {
  readonly podUid: PodUid;
  readonly direction: Direction;
  readonly facts: ConnectionFacts;
  /** How the connection's bytes are counted once they flow. */
  counters: { readonly bytesSent: number; readonly bytesReceived: number };
  /** Ends the connection's sockets, whatever stage it is at; set by the stage. */
  cut: (reason: Reason, detail?: string) => void;
  /** Judges it again by the present state, and cuts it when it is no longer allowed; set by who has let it through. */
  judgeAgain: (() => void) | undefined;
  /**
   * The connection is about to take a second descriptor of its own: it goes on in the clear, without a tunnel that
   * others share. @returns whether it is within the limits; if not, it must be refused.
   */
  takeSecond(): boolean;
  /** Writes the record and gives the place back. Later calls do nothing: one record each. */
  close(reason: Reason, detail?: string): void;
}

const NO_BYTES = { bytesSent: 0, bytesReceived: 0 } as const;

export class Connections {
  readonly #open = new Set<TrackedConnection>();
  readonly #descriptors: Descriptors;
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
    descriptors: Descriptors,
    events: { onOpen: () => void; onClosed: (record: ConnectionRecord) => void },
  ) {
    this.#prefix = prefix;
    this.#descriptors = descriptors;
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
    const overLimit = !this.#descriptors.take(podUid);
    this.#next += 1;
    const connection = new TrackedConnection(
      `${this.#prefix}-${this.#next.toString(36)}`,
      podUid,
      direction,
      srcAddr,
      {
        onSecond: () => this.#descriptors.take(podUid),
        onClosed: (ended, record) => {
          this.#remove(ended);
          this.#onClosed(record);
        },
      },
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

  /** Connections to these pods that can be judged again. */
  judged(pods: ReadonlySet<PodUid>): Connection[] {
    const found: Connection[] = [];
    for (const connection of this.#open)
      if (connection.judgeAgain !== undefined && pods.has(connection.podUid)) found.push(connection);
    return found;
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
    this.#descriptors.give(connection.podUid, connection.descriptors);
  }
}

interface TrackedEvents {
  readonly onSecond: () => boolean;
  readonly onClosed: (connection: TrackedConnection, record: ConnectionRecord) => void;
}

class TrackedConnection implements Connection {
  readonly podUid: PodUid;
  readonly direction: Direction;
  readonly facts: ConnectionFacts;
  counters: { readonly bytesSent: number; readonly bytesReceived: number } = NO_BYTES;
  judgeAgain: (() => void) | undefined = undefined;
  reportedOpen = false;
  descriptors = 1;
  cut: (reason: Reason, detail?: string) => void = (reason, detail) => this.close(reason, detail);
  readonly #id: string;
  readonly #startMs = Date.now();
  readonly #startTick = performance.now();
  readonly #events: TrackedEvents;
  #closed = false;

  constructor(id: string, podUid: PodUid, direction: Direction, srcAddr: string, events: TrackedEvents) {
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
      policy: undefined,
      dryRun: undefined,
    };
    this.#events = events;
  }

  takeSecond(): boolean {
    if (this.#closed || this.descriptors === 2) return true;
    this.descriptors = 2;
    return this.#events.onSecond();
  }

  close(reason: Reason, detail?: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.judgeAgain = undefined;
    this.#events.onClosed(this, {
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
