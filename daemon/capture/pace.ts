/** How long the reconcile loop may rest. Pure. */
import type { Entry } from './entry.ts';
import { nextDeadline } from './machine.ts';
import type { Timing } from './machine.ts';

/** While a pod waits for its sandbox or its address, look this often at first: nothing tells when one is added. */
const SANDBOX_POLL_MS = 10;

/** ms until something can have changed by time alone, or is to be looked for again; `rescanInterval` at most. */
export function untilNextLook(
  entries: Iterable<
    Pick<Entry, 'phase'> & { readonly captured: { readonly ips: readonly unknown[] } | undefined }
  >,
  timing: Timing & { readonly rescanInterval: number },
  nowMs: number,
): number {
  let wait = timing.rescanInterval;
  for (const { phase, captured } of entries) {
    const deadline = nextDeadline(phase, timing);
    if (deadline !== undefined) wait = Math.min(wait, Math.max(1, deadline - nowMs));
    if (phase.state !== 'none' && (captured === undefined || captured.ips.length === 0))
      wait = Math.min(wait, sandboxPoll(nowMs - phase.sinceMs));
  }
  return wait;
}

/** Less and less often: a pod whose network is never made must not keep us busy. */
function sandboxPoll(waitedMs: number): number {
  return Math.max(SANDBOX_POLL_MS, waitedMs / 50);
}
