/** Which event loops still turn: what `/healthz` asks (RELIABILITY.md: turned in the last 10 s). */

export const LATE_MS = 10_000;

/** The last turn of each thread. A thread that was forgotten is not late. */
export class Heartbeats {
  readonly #lastMs = new Map<string, number>();
  readonly #now: () => number;

  /** `now`: a monotonic clock in ms, so that a step of the wall clock makes nobody late. */
  constructor(now: () => number) {
    this.#now = now;
  }

  beat(thread: string): void {
    this.#lastMs.set(thread, this.#now());
  }

  forget(thread: string): void {
    this.#lastMs.delete(thread);
  }

  /** One sentence for each thread that is late; empty when all is well. */
  late(): readonly string[] {
    const now = this.#now();
    return [...this.#lastMs]
      .filter(([, atMs]) => now - atMs > LATE_MS)
      .map(
        ([thread, atMs]) =>
          `the event loop of ${thread} has not turned for ${Math.round((now - atMs) / 1_000)} s`,
      );
  }
}
