/**
 * The cluster CA at work, for as long as this replica leads: takes each request of our signer from the watch, reads it
 * anew from the API, decides, approves or denies, decides once more, signs.
 *
 * Everything it knows of a request is in the object: a signer that dies anywhere leaves the rest to the next one. Each
 * write carries the object's resourceVersion, so that of two signers at once one is told `Conflict`.
 */
import { z } from 'zod';
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi, WatchOptions, Watched } from '../../kube/seams.ts';
import type { Log } from '../../observe/log.ts';
import type { Clock } from '../clock.ts';
import { excerpt } from '../text.ts';
import { decide } from './decide.ts';
import type { Decision, DenyReason, PodFacts, SignerRules } from './decide.ts';
import type { RefusalEvents } from './events.ts';
import { signGrant } from './issuer.ts';
import type { SigningCa } from './issuer.ts';
import { Pace, Turns } from './pace.ts';
import { REQUESTS_PATH, SIGNER_NAME, readRequest } from './request.ts';
import type { RequestSummary, SigningRequest } from './request.ts';
import { PODS_PATH, WatchedWorld, podReader, readSummary } from './world.ts';

export type Outcome = 'issued' | 'denied' | 'failed';

export interface SignerOptions {
  readonly api: KubeApi;
  readonly watch: <T>(options: WatchOptions<T>) => Watched<T>;
  readonly rules: SignerRules;
  readonly daemonSet: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly events: RefusalEvents;
  /** What signs now, or why nothing does. */
  readonly ca: () => SigningCa | string;
  readonly onOutcome: (outcome: Outcome, reason: DenyReason | '') => void;
  readonly pace?: Pace;
}

type Deny = Extract<Decision, { verdict: 'deny' }>;

const MAX_IN_FLIGHT = 8;
const WAIT_MS = 1_000;
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 30_000;

export class Signer implements AsyncDisposable {
  readonly #options: SignerOptions;
  readonly #pace: Pace;
  readonly #turns = new Turns();
  /** Requests that wait for their next look, with how to end the wait. */
  readonly #later = new Map<string, () => void>();
  readonly #failures = new Map<string, number>();
  /** Requests that have had their turn, and may be looked at again. */
  readonly #admitted = new Set<string>();
  readonly #ending = new AbortController();
  readonly #pods: Watched<PodFacts>;
  readonly #requests: Watched<RequestSummary>;
  readonly #world: WatchedWorld;
  #inFlight = 0;

  constructor(options: SignerOptions) {
    this.#options = options;
    this.#pace = options.pace ?? new Pace();
    const { api, watch, log } = options;
    const onProblem = (reason: string): void => log.warn({ reason }, 'a watch of the CA failed');
    const decode = podReader(options.rules.namespace, options.daemonSet);
    this.#pods = watch({ api, path: PODS_PATH, decode, onProblem });
    this.#requests = watch({
      api,
      path: REQUESTS_PATH,
      fieldSelector: `spec.signerName=${SIGNER_NAME}`,
      decode: readSummary,
      onProblem,
    });
    this.#world = new WatchedWorld(this.#pods, () => options.clock.nowMs());
  }

  /** Requests that are not decided or not signed yet. */
  get waiting(): number {
    return this.#turns.size + this.#later.size + this.#inFlight;
  }

  /** Starts to sign, once pods are known. */
  start(): void {
    this.#pods.start((changes) => this.#world.podsChanged(changes));
    void this.#pods.synced.then(() => {
      if (this.#ending.signal.aborted) return;
      this.#requests.start((changes) => {
        this.#world.requestsChanged(changes);
        for (const { type, key } of changes) {
          if (type === 'set') this.#queue(key);
          else this.#forget(key);
        }
      });
    });
  }

  /** Acts no more from now on: no write is begun after this, and none under way is waited for. */
  stop(): void {
    this.#ending.abort(new Error('this replica leads no more'));
    for (const cancel of this.#later.values()) cancel();
    this.#later.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    await Promise.all([this.#pods[Symbol.asyncDispose](), this.#requests[Symbol.asyncDispose]()]);
  }

  #queue(name: string): void {
    const summary = this.#world.requests.get(name);
    if (this.#ending.signal.aborted || summary === undefined) return;
    if (summary.phase !== 'pending' && summary.phase !== 'approved') return;
    this.#later.get(name)?.();
    this.#later.delete(name);
    this.#turns.add(summary.source, name);
    this.#pump();
  }

  #forget(name: string): void {
    this.#later.get(name)?.();
    this.#later.delete(name);
    this.#failures.delete(name);
    this.#admitted.delete(name);
  }

  #pump(): void {
    while (this.#inFlight < MAX_IN_FLIGHT && !this.#ending.signal.aborted) {
      const name = this.#turns.next();
      if (name === undefined) return;
      this.#inFlight++;
      void this.#take(name).then((waitMs) => {
        this.#inFlight--;
        if (waitMs > 0) this.#lookAgain(name, waitMs);
        this.#pump();
      });
    }
  }

  #lookAgain(name: string, waitMs: number): void {
    if (this.#ending.signal.aborted || this.#later.has(name)) return;
    const cancel = this.#options.clock.after(waitMs, () => {
      this.#later.delete(name);
      this.#queue(name);
    });
    this.#later.set(name, cancel);
  }

  /** @returns ms until it has to be looked at again; 0: it is done, or the watch will say. */
  async #take(name: string): Promise<number> {
    const pausedMs = this.#paused(name);
    if (pausedMs > 0) return pausedMs;
    try {
      const waitMs = await this.#advance(name);
      this.#failures.delete(name);
      return waitMs;
    } catch (error) {
      if (this.#ending.signal.aborted) return 0;
      return this.#afterError(name, error);
    }
  }

  /** Ms that a request waits for its turn, as its source asks too often; it is not denied for that. */
  #paused(name: string): number {
    const source = this.#world.requests.get(name)?.source;
    if (source === undefined || this.#admitted.has(name)) return 0;
    const { waitMs, isReserved } = this.#pace.take(source, this.#options.clock.monotonicMs());
    if (isReserved) this.#admitted.add(name);
    return waitMs;
  }

  #afterError(name: string, error: unknown): number {
    if (error instanceof KubeError && error.status === 404) return 0;
    const failures = (this.#failures.get(name) ?? 0) + 1;
    this.#failures.set(name, failures);
    const isConflict = error instanceof KubeError && error.status === 409;
    if (!isConflict)
      this.#options.log.warn({ csr: excerpt(name), reason: excerpt(error) }, 'a request waits');
    return Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(failures - 1, 10));
  }

  async #advance(name: string): Promise<number> {
    const { api } = this.#options;
    const path = `${REQUESTS_PATH}/${encodeURIComponent(name)}`;
    const object = await api.request({ method: 'GET', path, signal: this.#ending.signal });
    const request = readRequest(object);
    if (request?.phase === 'pending') return this.#approve(path, object, request);
    if (request?.phase === 'approved') return this.#sign(path, object, request);
    return 0;
  }

  async #approve(path: string, object: unknown, request: SigningRequest): Promise<number> {
    const { rules, ca } = this.#options;
    const decision = decide(request, this.#world, rules);
    if (decision.verdict === 'wait' || typeof ca() === 'string') return WAIT_MS;
    if (decision.verdict === 'deny') {
      await this.#put(
        `${path}/approval`,
        withCondition(object, 'Denied', decision.reason, decision.detail, this.#nowIso()),
      );
      this.#refused(request, 'denied', decision);
      return 0;
    }
    const why = `node ${decision.node} runs a pod of ${decision.id}`;
    const approved = await this.#put(
      `${path}/approval`,
      withCondition(object, 'Approved', 'NodeRunsWorkload', why, this.#nowIso()),
    );
    const again = readRequest(approved);
    return again?.phase === 'approved' ? this.#sign(path, approved, again) : WAIT_MS;
  }

  /** Whoever approved it, the same questions are asked again. */
  async #sign(path: string, object: unknown, request: SigningRequest): Promise<number> {
    const { rules, clock, log } = this.#options;
    const decision = decide(request, this.#world, rules);
    const ca = this.#options.ca();
    if (decision.verdict === 'wait' || typeof ca === 'string') return WAIT_MS;
    if (decision.verdict === 'deny') {
      await this.#put(
        `${path}/status`,
        withCondition(object, 'Failed', decision.reason, decision.detail, this.#nowIso()),
      );
      this.#refused(request, 'failed', decision);
      return 0;
    }
    const chain = signGrant(ca, decision, clock.nowMs());
    await this.#put(`${path}/status`, withCertificate(object, chain));
    this.#options.onOutcome('issued', '');
    log.info({ csr: excerpt(request.name), id: decision.id, node: decision.node }, 'issued a certificate');
    return 0;
  }

  async #put(path: string, body: unknown): Promise<unknown> {
    this.#ending.signal.throwIfAborted();
    return await this.#options.api.request({ method: 'PUT', path, body, signal: this.#ending.signal });
  }

  #refused(request: SigningRequest, outcome: 'denied' | 'failed', { reason, detail }: Deny): void {
    const { events, log, onOutcome } = this.#options;
    onOutcome(outcome, reason);
    log.warn({ csr: excerpt(request.name), reason, detail }, `a certificate request was ${outcome}`);
    events.refused(request, outcome, reason, detail);
  }

  #nowIso(): string {
    return new Date(Math.floor(this.#options.clock.nowMs() / 1_000) * 1_000)
      .toISOString()
      .replace('.000', '');
  }
}

const objectSchema = z.looseObject({
  status: z.looseObject({ conditions: z.array(z.unknown()).nullish() }).nullish(),
});

/** The object with one more condition. */
function withCondition(
  object: unknown,
  type: 'Approved' | 'Denied' | 'Failed',
  reason: string,
  message: string,
  now: string,
): unknown {
  const whole = objectSchema.parse(object);
  const condition = { type, status: 'True', reason, message, lastUpdateTime: now, lastTransitionTime: now };
  return {
    ...whole,
    status: { ...whole.status, conditions: [...(whole.status?.conditions ?? []), condition] },
  };
}

/** The object with its certificate, which can be set once. */
function withCertificate(object: unknown, chainPem: string): unknown {
  const whole = objectSchema.parse(object);
  return { ...whole, status: { ...whole.status, certificate: Buffer.from(chainPem).toString('base64') } };
}
