/** One identity in certificates.ts: what is kept of it, and what follows from that and the clocks. Pure. */
import type { SpiffeId } from '../mesh/ids.ts';
import type { CertificateMessage } from '../mesh/wiring.ts';
import type { EarlyCertificate, Failure, Success } from './attempt.ts';
import type { Clock } from './clock.ts';
import type { CertificateState, CertificateStatus } from './events.ts';

export interface Entry {
  readonly id: SpiffeId;
  urgent: boolean;
  certificate: CertificateMessage | undefined;
  /** bundle.ts `rootHash` of the root that the certificate chained to when it came, or when the roots last changed. */
  rootHash: string | undefined;
  /** The certificate chains to one of the roots as they are now. */
  isTrusted: boolean;
  /** Wall clock. */
  renewAtMs: number;
  /** Monotonic; set while failures last. */
  retryAtMs: number | undefined;
  /** Attempts without an answer since the last success. */
  failures: number;
  /** Answers that gave no certificate to use since the last success. */
  refusals: number;
  /** The last attempt was one of those. */
  isRefused: boolean;
  early: EarlyCertificate | undefined;
  lastError: string | undefined;
  flight: AbortController | undefined;
  expiryTold: boolean;
}

/** Takes the certificate into use; when it is renewed is the caller's. */
export function succeed(entry: Entry, { certificate, rootHash }: Success): void {
  const fresh = { ...newEntry(entry.id), certificate, rootHash, isTrusted: true };
  Object.assign(entry, fresh);
}

/** Notes why there is no certificate. Returns the how-manieth failure of its kind it is since the last success. */
export function fail(entry: Entry, { reason, isAnswered, early }: Failure): number {
  entry.isRefused = isAnswered;
  entry.early = early ?? entry.early;
  entry.lastError = reason;
  return isAnswered ? ++entry.refusals : ++entry.failures;
}

type Times = Pick<Clock, 'nowMs' | 'monotonicMs'>;

export function newEntry(id: SpiffeId): Entry {
  return {
    id,
    urgent: false,
    certificate: undefined,
    rootHash: undefined,
    isTrusted: false,
    renewAtMs: 0,
    retryAtMs: undefined,
    failures: 0,
    refusals: 0,
    isRefused: false,
    early: undefined,
    lastError: undefined,
    flight: undefined,
    expiryTold: false,
  };
}

export function isUsable(entry: Entry, clock: Times): boolean {
  return entry.certificate !== undefined && clock.nowMs() <= entry.certificate.notAfterMs;
}

/** Peers believe it, too: one whose root was retired meanwhile is believed by those only who do not know that yet. */
export function serves(entry: Entry, clock: Times): boolean {
  return entry.isTrusted && isUsable(entry, clock);
}

/** A certificate that is not valid yet was made while our clock was ahead: peers refuse it, so renew it now. */
export function isDue(entry: Entry, clock: Times): boolean {
  if (entry.flight !== undefined) return false;
  if (entry.early !== undefined && clock.nowMs() >= entry.early.notBeforeMs) return true;
  if (entry.retryAtMs !== undefined) return clock.monotonicMs() >= entry.retryAtMs;
  const nowMs = clock.nowMs();
  return entry.certificate === undefined || nowMs >= entry.renewAtMs || nowMs < entry.certificate.notBeforeMs;
}

/** Ms until something happens to an entry by itself: its next attempt, or its expiry. */
export function waitOf(entry: Entry, clock: Times): number {
  const nowMs = clock.nowMs();
  const expiry =
    entry.certificate === undefined || entry.expiryTold ? Infinity : entry.certificate.notAfterMs + 1 - nowMs;
  if (entry.flight !== undefined || isDue(entry, clock)) return expiry;
  const attempt =
    entry.retryAtMs === undefined ? entry.renewAtMs - nowMs : entry.retryAtMs - clock.monotonicMs();
  return Math.min(expiry, attempt, (entry.early?.notBeforeMs ?? Infinity) - nowMs);
}

export function stateOf(entry: Entry, clock: Times): CertificateState {
  if (entry.certificate === undefined) return entry.flight === undefined ? 'waiting' : 'issuing';
  if (!isUsable(entry, clock)) return 'expired';
  const renewing = entry.flight !== undefined || entry.retryAtMs !== undefined || isDue(entry, clock);
  return renewing || !entry.isTrusted ? 'renewing' : 'ready';
}

export function statusOf(entry: Entry, clock: Times): CertificateStatus {
  const idle = entry.flight === undefined && !isDue(entry, clock);
  const nextMs =
    entry.retryAtMs === undefined
      ? entry.renewAtMs
      : clock.nowMs() + Math.max(0, entry.retryAtMs - clock.monotonicMs());
  return {
    id: entry.id,
    state: stateOf(entry, clock),
    serial: entry.certificate?.serial,
    notBeforeMs: entry.certificate?.notBeforeMs,
    notAfterMs: entry.certificate?.notAfterMs,
    rootHash: entry.rootHash,
    lastError: entry.lastError,
    nextAttemptMs: idle ? Math.min(nextMs, entry.early?.notBeforeMs ?? Infinity) : undefined,
  };
}
