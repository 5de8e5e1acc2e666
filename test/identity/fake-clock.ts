/** A clock that tests move. Timers run on its monotonic side, as node's do; the wall can be stepped apart from it. */
import type { Clock } from '../../daemon/identity/clock.ts';
import { NOW } from './forge.ts';

interface Timer {
  readonly atMs: number;
  readonly fire: () => void;
}

export class FakeClock implements Clock {
  #wallMs = NOW;
  #monotonicMs = 0;
  readonly #timers = new Set<Timer>();

  nowMs(): number {
    return this.#wallMs;
  }
  monotonicMs(): number {
    return this.#monotonicMs;
  }
  after(delayMs: number, fire: () => void): () => void {
    const timer = { atMs: this.#monotonicMs + delayMs, fire };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }
  get timers(): number {
    return this.#timers.size;
  }

  /** Sets the wall clock forward or back; no timer notices (a clock step, or a suspend). */
  step(ms: number): void {
    this.#wallMs += ms;
  }

  /** Lets time pass, timer by timer; what a timer starts has settled before the next one fires. */
  async advance(ms: number): Promise<void> {
    const end = this.#monotonicMs + ms;
    for (;;) {
      await settled();
      const next = [...this.#timers].sort((a, b) => a.atMs - b.atMs)[0];
      if (next === undefined || next.atMs > end) break;
      this.#timers.delete(next);
      this.#move(next.atMs);
      next.fire();
    }
    this.#move(end);
    await settled();
  }

  #move(toMs: number): void {
    this.#wallMs += toMs - this.#monotonicMs;
    this.#monotonicMs = toMs;
  }
}

/** All promises that can go on without time passing have. Fake sources answer in microtasks. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
