/** One attempt to get a certificate, and what its failure says of the next one. */
import type { SpiffeId } from '../mesh/ids.ts';
import { acceptIssued } from './accept.ts';
import type { Acceptance } from './accept.ts';
import { readPem } from './chain.ts';
import type { ChainOptions } from './chain.ts';
import { bounded } from './clock.ts';
import type { Clock } from './clock.ts';
import { Refused } from './sources/source.ts';
import type { CertificateSource, IssuedCertificate } from './sources/source.ts';
import { excerpt } from './text.ts';

/** A certificate that is good but for our clock, which is behind that of its CA. */
export interface EarlyCertificate {
  readonly issued: IssuedCertificate;
  readonly notBeforeMs: number;
}

export interface Failure {
  readonly ok: false;
  readonly reason: string;
  /** The CA was there: asked again at once it would say the same, and every request is another object of the API. */
  readonly isAnswered: boolean;
  /** What it gave, where that can be used later. */
  readonly early: EarlyCertificate | undefined;
}

export type Success = Extract<Acceptance, { readonly ok: true }>;
export type Attempt = Success | Failure;

export interface AttemptOptions {
  readonly source: CertificateSource;
  readonly lifetimeMs: number;
  readonly issueTimeoutMs: number;
  readonly clock: Clock;
  /** When the answer has come. */
  readonly chainOptions: () => ChainOptions;
}

/** Longest certificate chain, as chain.ts reads it. */
const MAX_CHAIN = 8;

/** Asks the source once. Never throws. */
export async function attempt(
  id: SpiffeId,
  flight: AbortController,
  { source, lifetimeMs, issueTimeoutMs, clock, chainOptions }: AttemptOptions,
): Promise<Attempt> {
  try {
    const answer = source.issue(id, lifetimeMs, flight.signal);
    return judge(await bounded(answer, clock, issueTimeoutMs, flight), id, chainOptions());
  } catch (error) {
    return {
      ok: false,
      reason: excerpt(error),
      isAnswered: error instanceof Refused,
      early: undefined,
    };
  }
}

/** Whether what was given can be used now, or later. */
export function judge(issued: IssuedCertificate, id: SpiffeId, options: ChainOptions): Attempt {
  const accepted = acceptIssued(issued, id, options);
  if (accepted.ok) return accepted;
  const early = earlyOf(issued, id, options);
  const { reason } = accepted;
  return {
    ok: false,
    reason:
      early === undefined ? reason : `${reason}; it is kept until then (is the clock of this node behind?)`,
    isAnswered: true,
    early,
  };
}

/** A certificate that was kept until it is valid: what it is by now, or undefined while it is to be kept on. */
export function judgeEarly(
  { issued, notBeforeMs }: EarlyCertificate,
  id: SpiffeId,
  rootsPem: string | undefined,
  options: ChainOptions,
): Attempt | undefined {
  if (options.nowMs < notBeforeMs) return undefined;
  return judge({ ...issued, rootsPem: rootsPem ?? issued.rootsPem }, id, options);
}

function earlyOf(
  issued: IssuedCertificate,
  id: SpiffeId,
  options: ChainOptions,
): EarlyCertificate | undefined {
  const notBeforeMs = startOf(issued.chainPem);
  if (!(notBeforeMs > options.nowMs)) return undefined;
  const later = acceptIssued(issued, id, { ...options, nowMs: notBeforeMs });
  return later.ok ? { issued, notBeforeMs } : undefined;
}

/** Wall clock, ms; NaN when there is no certificate. */
function startOf(chainPem: string): number {
  try {
    return readPem(chainPem, MAX_CHAIN)[0]?.validFromDate.getTime() ?? NaN;
  } catch {
    return NaN;
  }
}
