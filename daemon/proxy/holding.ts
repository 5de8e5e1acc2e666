/**
 * Connections that wait for the state to say more: a certificate, policies, a destination that is not known yet.
 * Bounded in number, in all and for each pod, and in time; looked at again on every change of state.
 */
import type { PodUid } from '../mesh/ids.ts';
import type { Gone } from './seams.ts';

/** What a held question answers: still nothing, or a value to go on with. */
export type Attempt<T> = { readonly held: true } | { readonly held: false; readonly value: T };

/** Why a connection that had to wait was refused at once. */
export const NO_PLACE = { reason: 'CONNECTION_LIMIT', detail: 'too many connections are held' } as const;

interface Waiter {
  readonly retry: () => boolean;
  readonly giveUp: () => void;
  readonly deadline: NodeJS.Timeout;
}

/** One pod may have one part in so many of the places: it can make up destinations that nobody knows. */
const POD_SHARE = 4;

export class Holding {
  readonly #waiting = new Set<Waiter>();
  readonly #perPod = new Map<PodUid, number>();
  readonly #max: number;
  readonly #timeoutMs: number;
  #wakeScheduled = false;

  /** At most `max` connections wait, each at most `timeoutMs`. */
  constructor(max: number, timeoutMs: number) {
    this.#max = max;
    this.#timeoutMs = timeoutMs;
  }

  get size(): number {
    return this.#waiting.size;
  }

  /**
   * Calls `then` with the first value that `attempt` gives, now or after a change; `giveUp` when time ran out or
   * `signal` aborted (the attempt's last word is then the answer), or when there is no place to wait (`isFull`).
   * `timeoutMs`: what is left of the time of one that has waited before.
   */
  until<T>(
    pod: PodUid,
    attempt: () => Attempt<T>,
    then: (value: T) => void,
    giveUp: (isFull: boolean) => void,
    signal: Gone,
    timeoutMs = this.#timeoutMs,
  ): void {
    const first = attempt();
    if (!first.held) {
      then(first.value);
      return;
    }
    const ofPod = this.#perPod.get(pod) ?? 0;
    const isFull = this.#waiting.size >= this.#max || ofPod >= Math.ceil(this.#max / POD_SHARE);
    if (isFull || signal.aborted) {
      giveUp(isFull);
      return;
    }
    this.#perPod.set(pod, ofPod + 1);
    const giveUpWaiting = (): void => giveUp(false);
    const onAbort = (): void => leave(giveUpWaiting);
    const leave = (next: () => void): void => {
      if (!this.#waiting.delete(waiter)) return;
      this.#giveBack(pod);
      clearTimeout(waiter.deadline);
      signal.removeEventListener('abort', onAbort);
      next();
    };
    const waiter: Waiter = {
      retry: () => {
        const again = attempt();
        if (again.held) return false;
        leave(() => then(again.value));
        return true;
      },
      giveUp: () => leave(giveUpWaiting),
      deadline: setTimeout(() => leave(giveUpWaiting), timeoutMs),
    };
    signal.addEventListener('abort', onAbort);
    this.#waiting.add(waiter);
  }

  /** The state changed: everyone is asked again, once per turn however many changes came. */
  wake(): void {
    if (this.#wakeScheduled || this.#waiting.size === 0) return;
    this.#wakeScheduled = true;
    setImmediate(() => {
      this.#wakeScheduled = false;
      for (const waiter of [...this.#waiting]) waiter.retry();
    });
  }

  #giveBack(pod: PodUid): void {
    const left = (this.#perPod.get(pod) ?? 0) - 1;
    if (left > 0) this.#perPod.set(pod, left);
    else this.#perPod.delete(pod);
  }

  /** Nobody waits any longer. */
  giveUpAll(): void {
    for (const waiter of [...this.#waiting]) waiter.giveUp();
  }
}
