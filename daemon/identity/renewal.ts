/** When to renew and when to try again. Pure: randomness comes in as a number from 0 to 1. */

/** A lifetime that is nearly over must not make us ask all the time. */
const LEAST_WAIT_MS = 500;
const LEAST_JITTER = 0.1;
const MOST_JITTER = 0.5;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 150_000;
/** A certificate that is not valid yet is waited for; but it may be the CA's clock that was wrong. */
export const EARLY_MS = 3_600_000;
/** Within what a recovery must be noticed where it matters. */
export const SOON_MS = 5_000;
/** What the API server may be asked by all nodes together for renewals (DESIGN.md section 6). */
const REQUESTS_PER_SECOND = 50;
/** One certificate: the daemon creates, reads and watches; the CA reads, approves and signs. */
const REQUESTS_PER_CERTIFICATE = 6;

/**
 * Ms over which this node spreads renewals that nobody waits for, so that all nodes together keep to the rate above
 * when they all begin at once: after an outage, or when the root changes.
 */
export function renewalSpread(nodes: number, identities: number): number {
  return Math.max(SOON_MS, (nodes * identities * REQUESTS_PER_CERTIFICATE * 1_000) / REQUESTS_PER_SECOND);
}

/**
 * Wall clock ms at which a certificate got at `nowMs` is renewed: half of what is left of it, ± 10 %, or more when that
 * is less than `spreadMs` in all; never outside the middle half of its life. Counted from now, as notBefore is backdated.
 */
export function renewalTime(nowMs: number, notAfterMs: number, random: number, spreadMs = 0): number {
  const half = (notAfterMs - nowMs) / 2;
  const jitter = Math.min(MOST_JITTER, Math.max(LEAST_JITTER, spreadMs / 2 / Math.max(half, 1)));
  return nowMs + Math.max(LEAST_WAIT_MS, half * (1 + jitter * (2 * random - 1)));
}

/**
 * Ms to wait after the `failures`th failure in a row: 0.5 s, doubling up to 150 s, or to `spreadMs` where that is more
 * (5 s while a pod waits for a CA that does not answer), less up to a fifth.
 */
export function retryDelay(failures: number, urgent: boolean, random: number, spreadMs = 0): number {
  const doubled = FIRST_RETRY_MS * 2 ** Math.min(failures - 1, 30);
  const most = urgent ? SOON_MS : Math.max(LAST_RETRY_MS, spreadMs);
  return Math.min(doubled, most) * (1 - 0.2 * random);
}

/** Ms until something that all nodes do at once is done here: within `spreadMs`, and within half of what is left. */
export function spreadDelay(leftMs: number, spreadMs: number, random: number): number {
  return random * Math.max(0, Math.min(spreadMs, leftMs / 2));
}
