/** The workers as the enrolment thread sees them: who lives, who listens on what, and how a pod is handed to them. */
import type { MessagePort } from 'node:worker_threads';
import type { Reason } from '../errors.ts';
import type { PodUid, Port } from '../mesh/ids.ts';
import { ROLES } from '../mesh/wiring.ts';
import type { EnrolmentToWorker, LocalPod, Role, WorkerToEnrolment } from '../mesh/wiring.ts';

export const ROLE_NAMES = Object.keys(ROLES) as readonly Role[];

/** How long a pod waits for a worker to let go of it before it may be enrolled anew. */
const CLOSE_WAIT_MS = 5_000;

/**
 * So many beats in a row may be late; a worker with more stands still. Counted in looks, not in time: when this thread
 * stood still itself, that is one look, whatever time it took.
 */
const LATE_BEATS = 3;

interface Member {
  readonly port: MessagePort;
  /** Looks since its last beat. */
  late: number;
  /** Listeners handed over and not confirmed yet, by `uid/role`. */
  readonly unconfirmed: Map<string, HandedOver>;
}

/** A copy of a listener, and the socket's cookie: a number alone may mean another file by the time it is looked at. */
export interface HandedOver {
  readonly fd: number;
  readonly cookie: bigint;
}

/** What has happened once all workers were told that a pod is gone. */
export interface PodGone {
  /** No worker has a socket of the pod any more, or a bounded wait is over. */
  readonly soon: Promise<void>;
  /** No worker can have one any more: each has said so, or is dead. */
  readonly everywhere: Promise<void>;
}

interface Closing {
  /** Workers that have not told of it yet, each with the pod's listeners that it had not confirmed. */
  readonly left: Map<number, readonly HandedOver[]>;
  readonly done: () => void;
}

export interface FleetEvents {
  /** The set of workers that can take connections changed. */
  onMask(mask: number): void;
  /** The set of workers that stand still changed. */
  onStill(indexes: readonly number[]): void;
  /** A worker confirmed a listener, or a new one needs everything. */
  onChange(): void;
  /** A worker (new, or in a dead one's place) has nothing yet. */
  onEmpty(index: number): void;
  /** A worker died before it took these; nobody else has them. */
  onOrphans(listeners: readonly HandedOver[]): void;
}

export class Fleet {
  readonly count: number;
  readonly #members = new Map<number, Member>();
  readonly #events: FleetEvents;
  /** By pod, the oldest first: a pod that is back may go again before a worker has seen it go. */
  readonly #closing = new Map<PodUid, Closing[]>();
  /** By worker, what dead ones had not taken. */
  readonly #orphans = new Map<number, readonly HandedOver[]>();

  constructor(count: number, events: FleetEvents) {
    this.count = count;
    this.#events = events;
  }

  /** A worker joins; `port` closing is its death. */
  add(index: number, port: MessagePort): void {
    // Only now is the dead one's thread surely over, so that it can't be closing them itself.
    this.#events.onOrphans(this.#orphans.get(index) ?? []);
    this.#orphans.delete(index);
    const member: Member = { port, late: 0, unconfirmed: new Map() };
    this.#members.set(index, member);
    port.on('message', (message: WorkerToEnrolment) => this.#receive(index, member, message));
    port.on('close', () => this.#lost(index, member));
    this.#events.onEmpty(index);
    this.#events.onMask(this.mask);
  }

  get indexes(): readonly number[] {
    return [...this.#members.keys()];
  }

  /**
   * Bit w: worker w lives and turns; when none turns, they may as well keep what comes. It may not accept on its newest listeners yet: they listen already, so what arrives
   * meanwhile waits in their backlog.
   */
  get mask(): number {
    let mask = 0;
    for (const [index] of this.#turning()) mask |= 1 << index;
    return mask;
  }

  #turning(): readonly (readonly [number, Member])[] {
    const all = [...this.#members];
    const turning = all.filter(([, member]) => !isStill(member));
    return turning.length > 0 ? turning : all;
  }

  /** Looks for beats: to be called every BEAT_MS. */
  look(): void {
    let hasChanged = false;
    for (const member of this.#members.values()) {
      member.late += 1;
      hasChanged ||= member.late === LATE_BEATS + 1;
    }
    if (hasChanged) this.#tellStill();
  }

  #beat(member: Member): void {
    const wasStill = isStill(member);
    member.late = 0;
    if (wasStill) this.#tellStill();
  }

  #tellStill(): void {
    const still = [...this.#members].filter(([, member]) => isStill(member));
    this.#events.onStill(still.map(([index]) => index));
    this.#events.onMask(this.mask);
    this.#events.onChange();
  }

  /** Whether every worker that turns accepts on every listener of the pod; false while there is no worker. */
  isListening(uid: PodUid): boolean {
    const turning = this.#turning();
    return (
      turning.length > 0 &&
      turning.every(([, { unconfirmed }]) => ROLE_NAMES.every((role) => !unconfirmed.has(`${uid}/${role}`)))
    );
  }

  send(index: number, message: EnrolmentToWorker): void {
    this.#members.get(index)?.port.postMessage(message);
  }

  announce(pod: LocalPod): void {
    for (const index of this.indexes) this.send(index, { type: 'pod', pod });
  }

  /** What is open is cut soon: nobody else can serve the node's pods before this process has ended. */
  hurry(): void {
    for (const index of this.indexes) this.send(index, { type: 'no-successor' });
  }

  /** Gives worker `index` its own copy of a listener. */
  handOver(index: number, uid: PodUid, role: Role, copy: HandedOver, port: Port): void {
    this.#members.get(index)?.unconfirmed.set(`${uid}/${role}`, copy);
    this.send(index, { type: 'listener', uid, role, fd: copy.fd, port });
  }

  /** Has every worker let go of the pod. */
  podGone(uid: PodUid, reason: Reason): PodGone {
    if (this.#members.size === 0) return { soon: Promise.resolve(), everywhere: Promise.resolve() };
    const all = Promise.withResolvers<void>();
    const soon = Promise.withResolvers<void>();
    const timer = setTimeout(soon.resolve, CLOSE_WAIT_MS);
    const done = (): void => {
      clearTimeout(timer);
      soon.resolve();
      all.resolve();
    };
    const left = new Map<number, readonly HandedOver[]>();
    this.#closing.set(uid, [...(this.#closing.get(uid) ?? []), { left, done }]);
    for (const [index, member] of this.#members) {
      left.set(index, takeOf(member, uid));
      this.send(index, { type: 'pod-gone', uid, reason });
    }
    return { soon: soon.promise, everywhere: all.promise };
  }

  #receive(index: number, member: Member, message: WorkerToEnrolment): void {
    switch (message.type) {
      case 'beat':
        this.#beat(member);
        return;
      case 'listening':
        member.unconfirmed.delete(`${message.uid}/${message.role}`);
        this.#events.onChange();
        return;
      case 'pod-closed':
        this.#closed(message.uid, index);
        return;
    }
  }

  #lost(index: number, member: Member): void {
    if (this.#members.get(index) !== member) return;
    this.#members.delete(index);
    if (isStill(member)) this.#tellStill();
    const orphans = [...member.unconfirmed.values()];
    this.#events.onMask(this.mask);
    for (const [uid, closings] of [...this.#closing])
      for (const { left } of closings) {
        orphans.push(...(left.get(index) ?? []));
        if (left.has(index)) this.#closed(uid, index);
      }
    this.#orphans.set(index, orphans);
    this.#events.onChange();
  }

  /** A worker tells of its goings in their order: this is of the oldest one that it has not told of. */
  #closed(uid: PodUid, index: number): void {
    const closings = this.#closing.get(uid) ?? [];
    const closing = closings.find(({ left }) => left.has(index));
    if (closing === undefined) return;
    closing.left.delete(index);
    if (closing.left.size > 0) return;
    closing.done();
    const others = closings.filter((other) => other !== closing);
    if (others.length > 0) this.#closing.set(uid, others);
    else this.#closing.delete(uid);
  }
}

function isStill({ late }: Member): boolean {
  return late > LATE_BEATS;
}

/** The pod's unconfirmed listeners, which are no longer waited for. */
function takeOf({ unconfirmed }: Member, uid: PodUid): HandedOver[] {
  return ROLE_NAMES.flatMap((role) => {
    const key = `${uid}/${role}`;
    const copy = unconfirmed.get(key);
    unconfirmed.delete(key);
    return copy === undefined ? [] : [copy];
  });
}
