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
import { acceptIssued } from './accept.ts';
import type { Acceptance } from './accept.ts';
import { bounded } from './clock.ts';
import type { Clock } from './clock.ts';
import type { CertificateEvent, CertificateState, CertificateStatus } from './events.ts';
import { SOON_MS, renewalTime, retryDelay } from './renewal.ts';
import type { CertificateSource } from './sources/source.ts';
import { excerpt } from './text.ts';

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
}

interface Entry {
  readonly id: SpiffeId;
  urgent: boolean;
  certificate: CertificateMessage | undefined;
  /** Wall clock. */
  renewAtMs: number;
  /** Monotonic; set while failures last. */
  retryAtMs: number | undefined;
  failures: number;
  lastError: string | undefined;
  flight: AbortController | undefined;
  expiryTold: boolean;
}

const TICK_MS = 30_000;
/** So many failures in a row are the source's, not one identity's. */
const OUTAGE_FAILURES = 3;

export class Certificates implements Disposable {
  readonly #options: Required<CertificatesOptions>;
  readonly #entries = new Map<SpiffeId, Entry>();
  /** Due entries by urgency: a pod waits, no valid certificate, renewal. First in, first out. */
  readonly #queues: readonly [Set<Entry>, Set<Entry>, Set<Entry>] = [new Set(), new Set(), new Set()];
  readonly #listeners = new Set<(event: CertificateEvent) => void>();
  #inFlight = 0;
  /** Failures of any identity since the last success of any. */
  #failuresInARow = 0;
  #timer: { readonly atMs: number; readonly cancel: () => void } | undefined;
  #disposed = false;

  constructor(options: CertificatesOptions) {
    this.#options = {
      random: Math.random,
      maxInFlight: 10,
      maxIdentities: 10_000,
      issueTimeoutMs: 60_000,
      ...options,
    };
    this.#arm(TICK_MS);
  }

  /** This node needs `id`; `urgent` when a pod waits for it. Again changes nothing but its urgency. */
  want(id: SpiffeId, urgent: boolean): void {
    if (this.#disposed) return;
    const entry = this.#entries.get(id) ?? this.#add(id);
    if (entry === undefined) return;
    entry.urgent ||= urgent && !this.#isUsable(entry);
    if (entry.urgent) this.#shorten(entry, SOON_MS);
    if (this.#isDue(entry)) this.#enqueue(entry);
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
    return entry !== undefined && this.#isUsable(entry) ? entry.certificate : undefined;
  }

  /** Every certificate that can be used now: what a new worker is started with. */
  usable(): readonly CertificateMessage[] {
    return [...this.#entries.values()].flatMap((entry) =>
      entry.certificate !== undefined && this.#isUsable(entry) ? [entry.certificate] : [],
    );
  }

  list(): readonly CertificateStatus[] {
    return [...this.#entries.values()].map((entry) => this.#statusOf(entry));
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
    const entry: Entry = {
      id,
      urgent: false,
      certificate: undefined,
      renewAtMs: 0,
      retryAtMs: undefined,
      failures: 0,
      lastError: undefined,
      flight: undefined,
      expiryTold: false,
    };
    this.#entries.set(id, entry);
    return entry;
  }

  #isUsable(entry: Entry): boolean {
    return entry.certificate !== undefined && this.#options.clock.nowMs() <= entry.certificate.notAfterMs;
  }

  /** A certificate that is not valid yet was made while our clock was ahead: peers refuse it, so renew it now. */
  #isDue(entry: Entry): boolean {
    const { clock } = this.#options;
    if (entry.flight !== undefined) return false;
    if (entry.retryAtMs !== undefined) return clock.monotonicMs() >= entry.retryAtMs;
    const nowMs = clock.nowMs();
    return (
      entry.certificate === undefined || nowMs >= entry.renewAtMs || nowMs < entry.certificate.notBeforeMs
    );
  }

  #enqueue(entry: Entry): void {
    this.#dequeue(entry);
    const usable = this.#isUsable(entry);
    this.#queues[entry.urgent && !usable ? 0 : usable ? 2 : 1].add(entry);
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
    const result = await this.#ask(entry.id, flight);
    entry.flight = undefined;
    this.#inFlight--;
    if (this.#entries.get(entry.id) === entry) this.#settle(entry, result);
    this.#pump();
  }

  async #ask(id: SpiffeId, flight: AbortController): Promise<Acceptance> {
    const { source, lifetimeMs, trustDomain, clock, issueTimeoutMs } = this.#options;
    try {
      const answer = source.issue(id, lifetimeMs, flight.signal);
      const issued = await bounded(answer, clock, issueTimeoutMs, flight);
      return acceptIssued(issued, id, { trustDomain, nowMs: clock.nowMs() });
    } catch (error) {
      return { ok: false, reason: excerpt(error) };
    }
  }

  #settle(entry: Entry, result: Acceptance): void {
    const { clock, random } = this.#options;
    if (!result.ok) {
      entry.failures++;
      entry.lastError = result.reason;
      entry.retryAtMs = clock.monotonicMs() + retryDelay(entry.failures, entry.urgent, random());
      this.#failuresInARow++;
      this.#arm(this.#waitOf(entry));
      this.#emit({ type: 'failed', id: entry.id, reason: result.reason, state: this.#stateOf(entry) });
      return;
    }
    const { certificate } = result;
    entry.certificate = certificate;
    entry.renewAtMs = renewalTime(clock.nowMs(), certificate.notAfterMs, random());
    entry.retryAtMs = undefined;
    entry.failures = 0;
    entry.lastError = undefined;
    entry.urgent = false;
    entry.expiryTold = false;
    this.#arm(this.#waitOf(entry));
    this.#emit({ type: 'certificate', certificate });
    if (this.#failuresInARow >= OUTAGE_FAILURES) this.#hasten();
    this.#failuresInARow = 0;
  }

  /** The source answers again after an outage: nobody waits for the rest of a long back-off. */
  #hasten(): void {
    const { random } = this.#options;
    for (const entry of this.#entries.values()) this.#shorten(entry, SOON_MS * random());
  }

  /** Lets a back-off last `waitMs` from now at most. */
  #shorten(entry: Entry, waitMs: number): void {
    if (entry.retryAtMs === undefined) return;
    entry.retryAtMs = Math.min(entry.retryAtMs, this.#options.clock.monotonicMs() + waitMs);
    this.#arm(waitMs);
  }

  /** Looks at every identity by the clocks as they are now. */
  #sweep(): void {
    this.#timer = undefined;
    let waitMs = TICK_MS;
    for (const entry of [...this.#entries.values()]) {
      this.#tellExpiry(entry);
      if (this.#isDue(entry)) this.#enqueue(entry);
      waitMs = Math.min(waitMs, this.#waitOf(entry));
    }
    this.#arm(waitMs);
    this.#pump();
  }

  #tellExpiry(entry: Entry): void {
    if (entry.certificate === undefined || entry.expiryTold || this.#isUsable(entry)) return;
    entry.expiryTold = true;
    this.#emit({ type: 'expired', id: entry.id });
  }

  /** Ms until something happens to an entry by itself: its next attempt, or its expiry. */
  #waitOf(entry: Entry): number {
    const { clock } = this.#options;
    const nowMs = clock.nowMs();
    const expiry =
      entry.certificate === undefined || entry.expiryTold
        ? Infinity
        : entry.certificate.notAfterMs + 1 - nowMs;
    if (entry.flight !== undefined || this.#isDue(entry)) return expiry;
    const attempt =
      entry.retryAtMs === undefined ? entry.renewAtMs - nowMs : entry.retryAtMs - clock.monotonicMs();
    return Math.min(expiry, attempt);
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

  #stateOf(entry: Entry): CertificateState {
    if (entry.certificate === undefined) return entry.flight === undefined ? 'waiting' : 'issuing';
    if (!this.#isUsable(entry)) return 'expired';
    const renewing = entry.flight !== undefined || entry.retryAtMs !== undefined || this.#isDue(entry);
    return renewing ? 'renewing' : 'ready';
  }

  #statusOf(entry: Entry): CertificateStatus {
    const { clock } = this.#options;
    const idle = entry.flight === undefined && !this.#isDue(entry);
    const nextMs =
      entry.retryAtMs === undefined
        ? entry.renewAtMs
        : clock.nowMs() + Math.max(0, entry.retryAtMs - clock.monotonicMs());
    return {
      id: entry.id,
      state: this.#stateOf(entry),
      serial: entry.certificate?.serial,
      notBeforeMs: entry.certificate?.notBeforeMs,
      notAfterMs: entry.certificate?.notAfterMs,
      lastError: entry.lastError,
      nextAttemptMs: idle ? nextMs : undefined,
    };
  }

  #emit(event: CertificateEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}
