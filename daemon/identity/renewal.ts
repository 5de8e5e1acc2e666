/** When to renew and when to try again. Pure: randomness comes in as a number from 0 to 1. */

/** A lifetime that is nearly over must not make us ask all the time. */
const LEAST_WAIT_MS = 500;
const JITTER = 0.1;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 150_000;
/** Within what a recovery must be noticed where it matters. */
export const SOON_MS = 5_000;

/**
 * Wall clock ms at which a certificate got at `nowMs` is renewed: half of what is left of it, ± 10 %. Counted from
 * now, as notBefore is backdated.
 */
export function renewalTime(nowMs: number, notAfterMs: number, random: number): number {
  const half = (notAfterMs - nowMs) / 2;
  return nowMs + Math.max(LEAST_WAIT_MS, half * (1 + JITTER * (2 * random - 1)));
}

/** Ms to wait after the `failures`th failure in a row: 0.5 s, doubling up to 150 s (5 s while a pod waits), less up to a fifth. */
export function retryDelay(failures: number, urgent: boolean, random: number): number {
  const doubled = FIRST_RETRY_MS * 2 ** Math.min(failures - 1, 30);
  return Math.min(doubled, urgent ? SOON_MS : LAST_RETRY_MS) * (1 - 0.2 * random);
}
