/**
 * The certificates of this node's identities, on the main thread: one state machine per identity.
 *
 *   waiting → issuing → ready → renewing → ready …      renewing → expired → (issued again) ready
 *
 * A certificate is renewed at half of its life; the old one is kept while that fails, until it expires. Validity is
 * judged by the wall clock at each use and at least every 30 s, as timers stand still while a machine sleeps
 * (ztunnel issue 1481); retries are timed by the monotonic clock, so that a clock set back delays none.
 */
import type { SpiffeId, TrustDomain } from '../mesh/ids.ts';
import { splitSpiffeId } from '../mesh/ids.ts';
import type { CertificateMessage } from '../mesh/wiring.ts';
import { attempt, judgeEarly } from './attempt.ts';
import type { Attempt, Failure } from './attempt.ts';
import { rootHashes, rootIn } from './bundle.ts';
import type { TrustBundle } from './bundle.ts';
import type { ChainOptions } from './chain.ts';
import type { Clock } from './clock.ts';
import { fail, isDue, isUsable, newEntry, serves, stateOf, statusOf, succeed, waitOf } from './entry.ts';
import type { Entry } from './entry.ts';
import type { CertificateEvent, CertificateStatus } from './events.ts';
import { EARLY_MS, SOON_MS, renewalSpread, renewalTime, retryDelay, spreadDelay } from './renewal.ts';
import type { CertificateSource } from './sources/source.ts';

export interface CertificatesOptions {
  readonly source: CertificateSource;
  readonly trustDomain: TrustDomain;
  /** Asked of the source, ms. */
  readonly lifetimeMs: number;
  readonly clock: Clock;
  /** 0 to 1, for jitter. */
  readonly random?: () => number;
  /** Requests to the source at once. */
  readonly maxInFlight?: number;
  readonly maxIdentities?: number;
  /** After which one request counts as failed. */
  readonly issueTimeoutMs?: number;
  /** Nodes of the mesh now: the more there are, the wider renewals are spread. */
  readonly nodes?: () => number;
}

const TICK_MS = 30_000;
/** So many failures in a row are the source's, not one identity's. */
const OUTAGE_FAILURES = 3;
/** A certificate that came from another root than the one that is said to issue now: not asked for again before. */
const OTHER_ROOT_MS = 60_000;

export class Certificates implements Disposable {
  readonly #options: Required<CertificatesOptions>;
  readonly #entries = new Map<SpiffeId, Entry>();
  /** Due entries by urgency: a pod waits, no certificate that peers believe, renewal. First in, first out. */
  readonly #queues: readonly [Set<Entry>, Set<Entry>, Set<Entry>] = [new Set(), new Set(), new Set()];
  readonly #listeners = new Set<(event: CertificateEvent) => void>();
  #inFlight = 0;
  /** Attempts without an answer, of any identity, since the last success of any. */
  #failuresInARow = 0;
  #timer: { readonly atMs: number; readonly cancel: () => void } | undefined;
  #disposed = false;
  #bundle: TrustBundle | undefined;
  readonly #unsubscribe: (() => void) | undefined;

  constructor(options: CertificatesOptions) {
    this.#options = {
      random: Math.random,
      maxInFlight: 10,
      maxIdentities: 10_000,
      issueTimeoutMs: 60_000,
      nodes: () => 1,
      ...options,
    };
    this.#arm(TICK_MS);
    this.#unsubscribe = options.source.onBundle?.((bundle) => this.#takeBundle(bundle));
  }

  /** The roots in use, where the source tells of changes. Set before the events that follow from it. */
  get bundle(): TrustBundle | undefined {
    return this.#bundle;
  }

  /** Certificates in use by `rootHash` of their root: `issuers` in `culvert.dev/node`, which a rotation waits for. */
  issuers(): Readonly<Record<string, number>> {
    const counts: Record<string, number> = {};
    for (const entry of this.#entries.values())
      if (entry.rootHash !== undefined && isUsable(entry, this.#options.clock))
        counts[entry.rootHash] = (counts[entry.rootHash] ?? 0) + 1;
    return counts;
  }

  /** Asks for a new certificate of `id`, or of all, now; what is in use stays so until it comes. */
  renew(id: SpiffeId | '*'): void {
    for (const entry of this.#entries.values()) {
      if (id !== '*' && entry.id !== id) continue;
      entry.renewAtMs = 0;
      entry.retryAtMs = undefined;
      entry.early = undefined;
      if (isDue(entry, this.#options.clock)) this.#enqueue(entry);
    }
    this.#pump();
  }

  /** This node needs `id`; `urgent` when a pod waits for it. Again changes nothing but its urgency. */
  want(id: SpiffeId, urgent: boolean): void {
    if (this.#disposed) return;
    const entry = this.#entries.get(id) ?? this.#add(id);
    if (entry === undefined) return;
    entry.urgent ||= urgent && !serves(entry, this.#options.clock);
    if (entry.urgent) this.#shorten(entry, SOON_MS);
    if (isDue(entry, this.#options.clock)) this.#enqueue(entry);
    this.#pump();
  }

  /** This node needs `id` no longer: its key is forgotten, a request under way is ended. */
  release(id: SpiffeId): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    this.#entries.delete(id);
    this.#dequeue(entry);
    entry.flight?.abort(new Error('the identity is not needed any more'));
    this.#emit({ type: 'released', id });
  }

  /** The certificate of `id`, if there is one and it has not expired by the wall clock. */
  get(id: SpiffeId): CertificateMessage | undefined {
    const entry = this.#entries.get(id);
    return entry !== undefined && isUsable(entry, this.#options.clock) ? entry.certificate : undefined;
  }

  /** Every certificate that can be used now: what a new worker is started with. */
  usable(): readonly CertificateMessage[] {
    return [...this.#entries.values()].flatMap((entry) =>
      entry.certificate !== undefined && isUsable(entry, this.#options.clock) ? [entry.certificate] : [],
    );
  }

  list(): readonly CertificateStatus[] {
    return [...this.#entries.values()].map((entry) => statusOf(entry, this.#options.clock));
  }

  /** Calls back on every event. Returns the unsubscribe. */
  onEvent(listener: (event: CertificateEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Ends all requests; no event comes after it. */
  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#listeners.clear();
    this.#unsubscribe?.();
    this.#timer?.cancel();
    for (const id of [...this.#entries.keys()]) this.release(id);
  }

  #add(id: SpiffeId): Entry | undefined {
    const { maxIdentities, trustDomain } = this.#options;
    const reason =
      this.#entries.size >= maxIdentities
        ? `this node has ${maxIdentities} identities already`
        : splitSpiffeId(id)?.trustDomain !== trustDomain
          ? `it is not of our trust domain ${trustDomain}`
          : undefined;
    if (reason !== undefined) {
      this.#emit({ type: 'failed', id, reason, state: 'waiting' });
      return undefined;
    }
    const entry = newEntry(id);
    this.#entries.set(id, entry);
    return entry;
  }

  #enqueue(entry: Entry): void {
    this.#dequeue(entry);
    const isServing = serves(entry, this.#options.clock);
    this.#queues[entry.urgent && !isServing ? 0 : isServing ? 2 : 1].add(entry);
  }

  #dequeue(entry: Entry): void {
    for (const queue of this.#queues) queue.delete(entry);
  }

  #pump(): void {
    for (const queue of this.#queues) {
      for (const entry of queue) {
        if (this.#inFlight >= this.#options.maxInFlight) return;
        queue.delete(entry);
        void this.#issue(entry);
      }
    }
  }

  async #issue(entry: Entry): Promise<void> {
    const flight = new AbortController();
    entry.flight = flight;
    this.#inFlight++;
    const options = { ...this.#options, chainOptions: () => this.#chainOptions() };
    const result = await (this.#takeEarly(entry) ?? attempt(entry.id, flight, options));
    entry.flight = undefined;
    this.#inFlight--;
    if (this.#entries.get(entry.id) === entry) this.#settle(entry, result);
    this.#pump();
  }

  /** A certificate that was kept until it is valid; where it is good for nothing by then, the source is asked. */
  #takeEarly(entry: Entry): Attempt | undefined {
    if (entry.early === undefined) return undefined;
    const result = judgeEarly(entry.early, entry.id, this.#bundle?.rootsPem, this.#chainOptions());
    if (result !== undefined) entry.early = undefined;
    return result?.ok === true ? result : undefined;
  }

  #chainOptions(): ChainOptions {
    const { trustDomain, clock } = this.#options;
    return { trustDomain, nowMs: clock.nowMs(), preferredRoot: this.#bundle?.issuingRoot };
  }

  #fail(entry: Entry, failure: Failure): void {
    const { clock, random } = this.#options;
    const { reason, isAnswered, early } = failure;
    if (!isAnswered) this.#failuresInARow++;
    const isUrgent = entry.urgent && !isAnswered;
    const delayMs = retryDelay(fail(entry, failure), isUrgent, random(), this.#spreadMs(entry));
    entry.retryAtMs = clock.monotonicMs() + (early === undefined ? delayMs : EARLY_MS);
    this.#arm(waitOf(entry, clock));
    this.#emit({ type: 'failed', id: entry.id, reason, state: stateOf(entry, clock) });
  }

  #settle(entry: Entry, result: Attempt): void {
    if (!result.ok) return this.#fail(entry, result);
    const { clock, random } = this.#options;
    const { certificate } = result;
    succeed(entry, result);
    entry.renewAtMs = renewalTime(clock.nowMs(), certificate.notAfterMs, random(), this.#spreadMs(entry));
    if (this.#isOfOtherRoot(entry)) this.#renewWithin(entry, Math.max(OTHER_ROOT_MS, this.#spreadMs(entry)));
    this.#arm(waitOf(entry, clock));
    this.#emit({ type: 'certificate', certificate });
    if (this.#failuresInARow >= OUTAGE_FAILURES) this.#hasten();
    this.#failuresInARow = 0;
  }

  /** The source answers again after an outage: nobody waits for the rest of a long back-off. */
  #hasten(): void {
    const { clock, random } = this.#options;
    for (const entry of this.#entries.values()) {
      if (entry.isRefused) continue;
      const left = entry.certificate === undefined ? 0 : entry.certificate.notAfterMs - clock.nowMs();
      const spread = left > 0 ? spreadDelay(left, this.#spreadMs(entry), random()) : SOON_MS * random();
      this.#shorten(entry, spread);
    }
  }

  /**
   * Other roots: they reach the workers with every certificate; what another root has issued is replaced, and soon where
   * that root is trusted no more (we were away while it was retired).
   */
  #takeBundle(bundle: TrustBundle): void {
    const { clock, random } = this.#options;
    const isOther = bundle.issuingRoot !== this.#bundle?.issuingRoot;
    const hashes = rootHashes(bundle.rootsPem);
    this.#bundle = bundle;
    for (const entry of this.#entries.values()) {
      const { certificate } = entry;
      if (certificate === undefined) continue;
      if (certificate.rootsPem !== bundle.rootsPem) {
        entry.certificate = { ...certificate, rootsPem: bundle.rootsPem };
        if (isUsable(entry, clock)) this.#emit({ type: 'certificate', certificate: entry.certificate });
      }
      this.#placeRoot(entry, bundle, hashes);
      if (entry.isTrusted && !(isOther && this.#isOfOtherRoot(entry))) continue;
      const waitMs = this.#spreadMs(entry) * random();
      this.#renewWithin(entry, waitMs);
      if (entry.isTrusted) continue;
      entry.early = undefined;
      this.#shorten(entry, waitMs);
    }
  }

  /** A root renewed under its key fits what the one before it has signed: such a certificate needs no successor. */
  #placeRoot(entry: Entry, bundle: TrustBundle, hashes: readonly string[]): void {
    const { certificate, rootHash } = entry;
    if (certificate === undefined) return;
    entry.isTrusted = rootHash !== undefined && rootHash === bundle.issuingRoot && hashes.includes(rootHash);
    if (entry.isTrusted) return;
    const found = rootIn(bundle, certificate.chainPem, this.#chainOptions());
    entry.isTrusted = found !== undefined;
    entry.rootHash = found ?? entry.rootHash;
  }

  #isOfOtherRoot(entry: Entry): boolean {
    const issuing = this.#bundle?.issuingRoot;
    return issuing !== undefined && entry.rootHash !== issuing;
  }

  /** Renews `waitMs` from now, or earlier if less than twice that is left. */
  #renewWithin(entry: Entry, waitMs: number): void {
    const { clock } = this.#options;
    const nowMs = clock.nowMs();
    const left = (entry.certificate?.notAfterMs ?? nowMs) - nowMs;
    entry.renewAtMs = Math.min(entry.renewAtMs, nowMs + spreadDelay(left, waitMs, 1));
    this.#arm(waitOf(entry, clock));
  }

  /** Ms over which this node spreads what all nodes do at once; less near the end of a certificate that serves. */
  #spreadMs(entry: Entry): number {
    const { clock, nodes } = this.#options;
    if (!entry.isTrusted) return SOON_MS;
    const left = (entry.certificate?.notAfterMs ?? 0) - clock.nowMs();
    return Math.max(SOON_MS, Math.min(renewalSpread(nodes(), this.#entries.size), left / 2));
  }

  /** Lets a back-off last `waitMs` from now at most; what only the clock keeps from us is not asked for again. */
  #shorten(entry: Entry, waitMs: number): void {
    if (entry.retryAtMs === undefined || entry.early !== undefined) return;
    entry.retryAtMs = Math.min(entry.retryAtMs, this.#options.clock.monotonicMs() + waitMs);
    this.#arm(waitMs);
  }

  /** Looks at every identity by the clocks as they are now. */
  #sweep(): void {
    this.#timer = undefined;
    let waitMs = TICK_MS;
    for (const entry of [...this.#entries.values()]) {
      this.#tellExpiry(entry);
      if (isDue(entry, this.#options.clock)) this.#enqueue(entry);
      waitMs = Math.min(waitMs, waitOf(entry, this.#options.clock));
    }
    this.#arm(waitMs);
    this.#pump();
  }

  #tellExpiry(entry: Entry): void {
    if (entry.certificate === undefined || entry.expiryTold || isUsable(entry, this.#options.clock)) return;
    entry.expiryTold = true;
    this.#emit({ type: 'expired', id: entry.id });
  }

  /** Sweeps in `waitMs` (at least 1 ms), or earlier if that was asked before. */
  #arm(waitMs: number): void {
    if (this.#disposed) return;
    const { clock } = this.#options;
    const delayMs = Math.ceil(Math.max(waitMs, 1));
    const atMs = clock.monotonicMs() + delayMs;
    if (this.#timer !== undefined && this.#timer.atMs <= atMs) return;
    this.#timer?.cancel();
    this.#timer = { atMs, cancel: clock.after(delayMs, () => this.#sweep()) };
  }

  #emit(event: CertificateEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}
