/** Time, injected so that tests can step it. */
import { performance } from 'node:perf_hooks';

export interface Clock {
  /** Wall clock, ms since the epoch: what certificates are judged by. May jump either way. */
  nowMs(): number;
  /** Never goes back, and stands still while the machine sleeps: what waits are measured by. */
  monotonicMs(): number;
  /** Calls `fire` once after `delayMs` of monotonic time. Returns the cancel. */
  after(delayMs: number, fire: () => void): () => void;
}

/** The machine's own clocks. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  after: (delayMs, fire) => {
    const timer = setTimeout(fire, delayMs);
    return () => clearTimeout(timer);
  },
};

/** `answer`, or a failure and an abort of `flight` after `limitMs`, also of a callee that ignores its signal. */
export function bounded<T>(
  answer: Promise<T>,
  clock: Clock,
  limitMs: number,
  flight: AbortController,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const cancel = clock.after(limitMs, () => {
      const error = new Error(`no answer within ${limitMs} ms`);
      flight.abort(error);
      reject(error);
    });
    answer.finally(cancel).then(resolve, reject);
  });
}
