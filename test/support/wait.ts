/** Bounded waits for tests. */
import { setTimeout as sleep } from 'node:timers/promises';

export interface WaitOptions {
  /** Default 15 s: only ever reached by a failing test. */
  readonly timeoutMs?: number;
  /** Default 20 ms. */
  readonly everyMs?: number;
  /** Added to the error: what was there instead. */
  readonly detail?: () => string;
}

/** Asks `check` until it gives neither undefined nor false, and gives that. @throws Error `waited in vain for …`. */
export async function until<T>(
  what: string,
  check: () => T | undefined | false | Promise<T | undefined | false>,
  options: WaitOptions = {},
): Promise<T> {
  const timeoutMs = options.timeoutMs ?? 15_000;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const value = await check();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > deadline) throw inVain(what, timeoutMs, options.detail);
    await sleep(options.everyMs ?? 20);
  }
}

/** What `promise` gives, if it does within the time. @throws Error `waited in vain for …`. */
export async function within<T>(
  what: string,
  promise: Promise<T>,
  timeoutMs = 15_000,
  detail?: () => string,
): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(inVain(what, timeoutMs, detail)), timeoutMs);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function inVain(what: string, timeoutMs: number, detail: (() => string) | undefined): Error {
  const more = detail === undefined ? '' : `\n${detail()}`;
  return new Error(`waited in vain for ${what} (${timeoutMs / 1000} s)${more}`);
}
