/**
 * The cluster CA at work, for as long as this replica leads: takes each request of our signer from the watch, reads it
 * anew from the API, decides, approves or denies, decides once more, signs.
 *
 * Everything it knows of a request is in the object: a signer that dies anywhere leaves the rest to the next one. Each
 * write carries the object's resourceVersion, so that of two signers at once one is told `Conflict`.
 */
import { z } from 'zod';
import { excerpt } from '../text.ts';
import { nowIso, withCondition } from './condition.ts';
import { decide } from './decide.ts';
import type { Decision, DenyReason } from './decide.ts';
import type { RefusalEvents } from './events.ts';
import { signGrant } from './issuer.ts';
import type { SigningCa } from './issuer.ts';
import { RequestQueue } from './queue.ts';
import type { QueueOptions } from './queue.ts';
import { REQUESTS_PATH, SIGNER_NAME, readRequest } from './request.ts';
import type { SigningRequest } from './request.ts';
import { readSummary } from './world.ts';

export type Outcome = 'approved' | 'issued' | 'denied' | 'failed';

export interface SignerOptions extends QueueOptions {
  readonly events: RefusalEvents;
  /** What signs now, or why nothing does. */
  readonly ca: () => SigningCa | string;
  readonly onOutcome: (outcome: Outcome, reason: DenyReason | '') => void;
}

type Deny = Extract<Decision, { verdict: 'deny' }>;

const WAIT_MS = 1_000;
const SUBJECT = { apiVersion: 'certificates.k8s.io/v1', kind: 'CertificateSigningRequest' };

export class Signer implements AsyncDisposable {
  readonly #options: SignerOptions;
  readonly #queue: RequestQueue;

  constructor(options: SignerOptions) {
    this.#options = options;
    this.#queue = new RequestQueue(options, {
      requests: {
        path: REQUESTS_PATH,
        fieldSelector: `spec.signerName=${SIGNER_NAME}`,
        decode: readSummary,
      },
      isOpen: ({ phase }) => phase === 'pending' || phase === 'approved',
      advance: (name) => this.#advance(name),
    });
  }

  /** Requests that are not decided or not signed yet. */
  get waiting(): number {
    return this.#queue.waiting;
  }

  /** Starts to sign, once pods are known. */
  start(): void {
    this.#queue.start();
  }

  /** Acts no more from now on: no write is begun after this, and none under way is waited for. */
  stop(): void {
    this.#queue.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#queue[Symbol.asyncDispose]();
  }

  async #advance(name: string): Promise<number> {
    const { api } = this.#options;
    const path = `${REQUESTS_PATH}/${encodeURIComponent(name)}`;
    const object = await api.request({ method: 'GET', path, signal: this.#queue.signal });
    const request = readRequest(object);
    if (request?.phase === 'pending') return this.#approve(path, object, request);
    if (request?.phase === 'approved') return this.#sign(path, object, request);
    return 0;
  }

  async #approve(path: string, object: unknown, request: SigningRequest): Promise<number> {
    const { rules, ca } = this.#options;
    const decision = decide(request, this.#queue.world, rules);
    if (decision.verdict === 'wait' || typeof ca() === 'string') return WAIT_MS;
    if (decision.verdict === 'deny') {
      await this.#queue.put(
        `${path}/approval`,
        withCondition(object, 'Denied', decision.reason, decision.detail, this.#now()),
      );
      this.#refused(request, 'denied', decision);
      return 0;
    }
    const why = `node ${decision.node} runs a pod of ${decision.id}`;
    const approved = await this.#queue.put(
      `${path}/approval`,
      withCondition(object, 'Approved', 'NodeRunsWorkload', why, this.#now()),
    );
    const again = readRequest(approved);
    return again?.phase === 'approved' ? this.#sign(path, approved, again) : WAIT_MS;
  }

  /** Whoever approved it, the same questions are asked again. */
  async #sign(path: string, object: unknown, request: SigningRequest): Promise<number> {
    const { rules, clock, log } = this.#options;
    const decision = decide(request, this.#queue.world, rules);
    const ca = this.#options.ca();
    if (decision.verdict === 'wait' || typeof ca === 'string') return WAIT_MS;
    if (decision.verdict === 'deny') {
      await this.#queue.put(
        `${path}/status`,
        withCondition(object, 'Failed', decision.reason, decision.detail, this.#now()),
      );
      this.#refused(request, 'failed', decision);
      return 0;
    }
    const chain = signGrant(ca, decision, clock.nowMs());
    await this.#queue.put(`${path}/status`, withCertificate(object, chain));
    this.#options.onOutcome('issued', '');
    log.info({ csr: excerpt(request.name), id: decision.id, node: decision.node }, 'issued a certificate');
    return 0;
  }

  #now(): string {
    return nowIso(this.#options.clock.nowMs());
  }

  #refused(request: SigningRequest, outcome: 'denied' | 'failed', { reason, detail }: Deny): void {
    const { events, log, onOutcome } = this.#options;
    onOutcome(outcome, reason);
    log.warn({ csr: excerpt(request.name), reason, detail }, `a certificate request was ${outcome}`);
    events.refused({ ...SUBJECT, name: request.name, uid: request.uid }, outcome, reason, detail);
  }
}

const objectSchema = z.looseObject({
  status: z.looseObject({ conditions: z.array(z.unknown()).nullish() }).nullish(),
});

/** The object with its certificate, which can be set once. */
function withCertificate(object: unknown, chainPem: string): unknown {
  const whole = objectSchema.parse(object);
  return { ...whole, status: { ...whole.status, certificate: Buffer.from(chainPem).toString('base64') } };
}
