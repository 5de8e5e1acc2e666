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
