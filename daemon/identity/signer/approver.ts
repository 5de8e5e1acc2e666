/**
 * The approver of cert-manager's issuer, for as long as this replica leads: takes every request to it, whoever asks, reads
 * it anew from the API, decides, and writes Approved or Denied. cert-manager signs what is approved.
 */
import type { IssuerRef } from '../issuer-ref.ts';
import { excerpt } from '../text.ts';
import {
  ALL_PATH,
  GROUP,
  decideApproval,
  issuerSummaryOf,
  readIssuerRequest,
} from './certificate-request.ts';
import type { Approval, ApproverRules, IssuerRequest } from './certificate-request.ts';
import { nowIso, withCondition } from './condition.ts';
import type { DenyReason } from './decide.ts';
import type { RefusalEvents } from './events.ts';
import { RequestQueue } from './queue.ts';
import type { QueueOptions } from './queue.ts';
import type { RequestSummary } from './request.ts';
import type { Outcome } from './signer.ts';

export interface ApproverOptions extends QueueOptions {
  readonly rules: ApproverRules;
  readonly issuer: IssuerRef;
  readonly events: RefusalEvents;
  /** Why no identity can be approved now; undefined when it can. */
  readonly hold: () => string | undefined;
  readonly onOutcome: (outcome: Outcome, reason: DenyReason | '') => void;
}

const WAIT_MS = 1_000;
const SUBJECT = { apiVersion: `${GROUP}/v1`, kind: 'CertificateRequest' };

export class Approver implements AsyncDisposable {
  readonly #options: ApproverOptions;
  readonly #queue: RequestQueue;

  constructor(options: ApproverOptions) {
    this.#options = options;
    this.#queue = new RequestQueue(options, {
      requests: { path: ALL_PATH, decode: (object) => this.#summary(object) },
      isOpen: ({ phase }) => phase === 'pending',
      advance: (key) => this.#advance(key),
    });
  }

  /** Requests that are not decided yet. */
  get waiting(): number {
    return this.#queue.waiting;
  }

  /** Starts to approve, once pods are known. */
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

  #read(object: unknown): IssuerRequest | undefined {
    const { issuer, rules } = this.#options;
    return readIssuerRequest(object, { issuer, namespace: rules.namespace });
  }

  #summary(object: unknown): RequestSummary | undefined {
    const read = this.#read(object);
    return read === undefined ? undefined : issuerSummaryOf(read);
  }

  async #advance(key: string): Promise<number> {
    const { api, rules, hold, clock, log, onOutcome } = this.#options;
    const [namespace = '', name = ''] = key.split('/').map(encodeURIComponent);
    const path = `/apis/${GROUP}/v1/namespaces/${namespace}/certificaterequests/${name}`;
    const object = await api.request({ method: 'GET', path, signal: this.#queue.signal });
    const asked = this.#read(object);
    if (asked?.request.phase !== 'pending') return 0;
    const approval = decideApproval(asked, this.#queue.world, rules);
    if (approval.verdict === 'wait') return WAIT_MS;
    const isApproved = approval.verdict === 'approve';
    if (isApproved && approval.claimsIdentity && hold() !== undefined) return WAIT_MS;
    const { reason, detail } = approval;
    const type = isApproved ? 'Approved' : 'Denied';
    await this.#queue.put(
      `${path}/status`,
      withCondition(object, type, reason, detail, nowIso(clock.nowMs())),
    );
    if (approval.verdict === 'deny') this.#denied(asked, approval);
    else {
      onOutcome('approved', '');
      log.info({ csr: excerpt(key), reason, detail }, 'approved a certificate request');
    }
    return 0;
  }

  #denied(
    { namespace, request }: IssuerRequest,
    { reason, detail }: Extract<Approval, { verdict: 'deny' }>,
  ): void {
    const { events, log, onOutcome } = this.#options;
    const { name, uid } = request;
    onOutcome('denied', reason);
    log.warn({ csr: excerpt(`${namespace}/${name}`), reason, detail }, 'a certificate request was denied');
    events.refused({ ...SUBJECT, namespace, name, uid }, 'denied', reason, detail);
  }
}
