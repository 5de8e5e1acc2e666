/**
 * Connections that wait for the state to say more: a certificate, policies, a destination that is not known yet.
 * Bounded in number and in time; looked at again on every change of state.
 */

/** What a held question answers: still nothing, or a value to go on with. */
export type Attempt<T> = { readonly held: true } | { readonly held: false; readonly value: T };

interface Waiter {
  readonly retry: () => boolean;
  readonly giveUp: () => void;
  readonly deadline: NodeJS.Timeout;
}

export class Holding {
  readonly #waiting = new Set<Waiter>();
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
   * Calls `then` with the first value that `attempt` gives, now or after a change; `giveUp` when time or places ran
   * out or `signal` aborted (the attempt's last word is then the answer).
   */
  until<T>(
    attempt: () => Attempt<T>,
    then: (value: T) => void,
    giveUp: () => void,
    signal: AbortSignal,
  ): void {
    const first = attempt();
    if (!first.held) {
      then(first.value);
      return;
    }
    if (this.#waiting.size >= this.#max || signal.aborted) {
      giveUp();
      return;
    }
    const onAbort = (): void => leave(giveUp);
    const leave = (next: () => void): void => {
      if (!this.#waiting.delete(waiter)) return;
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
      giveUp: () => leave(giveUp),
      deadline: setTimeout(() => leave(giveUp), this.#timeoutMs),
    };
    signal.addEventListener('abort', onAbort, { once: true });
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

  /** Nobody waits any longer. */
  giveUpAll(): void {
    for (const waiter of [...this.#waiting]) waiter.giveUp();
  }
}
