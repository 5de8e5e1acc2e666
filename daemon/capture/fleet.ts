/** The workers as the enrolment thread sees them: who lives, who listens on what, and how a pod is handed to them. */
import type { MessagePort } from 'node:worker_threads';
import type { Reason } from '../errors.ts';
import type { PodUid, Port } from '../mesh/ids.ts';
import { ROLES } from '../mesh/wiring.ts';
import type { EnrolmentToWorker, LocalPod, Role, WorkerToEnrolment } from '../mesh/wiring.ts';

export const ROLE_NAMES = Object.keys(ROLES) as readonly Role[];

/** How long a worker may take to let go of a pod before its namespace is closed all the same. */
const CLOSE_WAIT_MS = 5_000;

interface Member {
  readonly port: MessagePort;
  /** Listeners handed over and not confirmed yet, `uid/role`. */
  readonly unconfirmed: Set<string>;
}

export interface FleetEvents {
  /** The set of workers that can take connections changed. */
  onMask(mask: number): void;
  /** A worker confirmed a listener, or a new one needs everything. */
  onChange(): void;
  /** A worker (new, or in a dead one's place) has nothing yet. */
  onEmpty(index: number): void;
}

export class Fleet {
  readonly count: number;
  readonly #members = new Map<number, Member>();
  readonly #events: FleetEvents;
  readonly #closing = new Map<PodUid, { left: Set<number>; done: () => void }>();

  constructor(count: number, events: FleetEvents) {
    this.count = count;
    this.#events = events;
  }

  /** A worker joins; `port` closing is its death. */
  add(index: number, port: MessagePort): void {
    const member: Member = { port, unconfirmed: new Set() };
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
   * Bit w: worker w lives. It may not accept on its newest listeners yet: they listen already, so what arrives
   * meanwhile waits in their backlog.
   */
  get mask(): number {
    let mask = 0;
    for (const index of this.#members.keys()) mask |= 1 << index;
    return mask;
  }

  /** Whether every live worker accepts on every listener of the pod; false while there is no worker. */
  isListening(uid: PodUid): boolean {
    if (this.#members.size === 0) return false;
    for (const member of this.#members.values())
      for (const role of ROLE_NAMES) if (member.unconfirmed.has(`${uid}/${role}`)) return false;
    return true;
  }

  send(index: number, message: EnrolmentToWorker): void {
    this.#members.get(index)?.port.postMessage(message);
  }

  announce(pod: LocalPod): void {
    for (const index of this.indexes) this.send(index, { type: 'pod', pod });
  }

  /** Gives worker `index` its own copy `fd` of a listener. */
  handOver(index: number, uid: PodUid, role: Role, fd: number, port: Port): void {
    this.#members.get(index)?.unconfirmed.add(`${uid}/${role}`);
    this.send(index, { type: 'listener', uid, role, fd, port });
  }

  /** Resolves when no worker has a socket of the pod any more, or after a bounded wait. */
  podGone(uid: PodUid, reason: Reason): Promise<void> {
    if (this.#members.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#closing.get(uid)?.done(), CLOSE_WAIT_MS);
      const done = (): void => {
        clearTimeout(timer);
        this.#closing.delete(uid);
        resolve();
      };
      this.#closing.get(uid)?.done();
      this.#closing.set(uid, { left: new Set(this.indexes), done });
      for (const [index, member] of this.#members) {
        for (const role of ROLE_NAMES) member.unconfirmed.delete(`${uid}/${role}`);
        this.send(index, { type: 'pod-gone', uid, reason });
      }
    });
  }

  #receive(index: number, member: Member, message: WorkerToEnrolment): void {
    switch (message.type) {
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
    this.#events.onMask(this.mask);
    for (const uid of [...this.#closing.keys()]) this.#closed(uid, index);
    this.#events.onChange();
  }

  #closed(uid: PodUid, index: number): void {
    const closing = this.#closing.get(uid);
    if (closing === undefined) return;
    closing.left.delete(index);
    if (closing.left.size === 0) closing.done();
  }
}
