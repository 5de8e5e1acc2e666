/**
 * The cluster CA as a daemon sees it: a CertificateSigningRequest for `culvert.dev/workload`, which `culvert-ca`
 * approves and signs. One request for each certificate, watched by its name until it is answered; one that was not
 * answered in time is taken up again by the next attempt instead of being asked anew, so that a CA that is away finds
 * one request for each identity when it is back.
 */
import { randomBytes } from 'node:crypto';
import { z } from 'zod';
import { linesOf } from '../../kube/lines.ts';
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi, Watched, WatchOptions } from '../../kube/seams.ts';
import type { SpiffeId } from '../../mesh/ids.ts';
import type { TrustBundle } from '../bundle.ts';
import type { Clock } from '../clock.ts';
import { keyPem, makeCsr, makeKeyPair, toPem } from '../csr.ts';
import type { KeyPair } from '../csr.ts';
import { MIN_EXPIRATION_S } from '../signer/decide.ts';
import { REQUESTS_PATH, SIGNER_NAME, USAGES } from '../signer/request.ts';
import { excerpt } from '../text.ts';
import type { CertificateSource, IssuedCertificate } from './source.ts';
import { PublishedBundle } from './trust-bundle.ts';

export interface KubernetesCsrOptions {
  readonly api: KubeApi;
  /** Of the daemon's own pod, of culvert-ca and of the trust bundle. */
  readonly namespace: string;
  readonly nodeName: string;
  readonly clock: Clock;
  /** What went wrong and was survived, in one sentence. */
  readonly onProblem: (reason: string) => void;
  /** For tests: how the trust bundle is watched. */
  readonly watch?: <T>(options: WatchOptions<T>) => Watched<T>;
}

/** Shorter than what certificates.ts gives an attempt, so that the reason is ours. */
const ANSWER_MS = 45_000;
const PAUSE_MS = 1_000;
/** The cluster's own cleaner removes what is pending after 24 h. */
const PENDING_MS = 3_600_000;
const MAX_PENDING = 10_000;
const MAX_LINE_BYTES = 2 * 1024 * 1024;
const MAX_NODE_CHARS = 200;

/** A request that has no answer yet. */
interface Pending {
  readonly name: string;
  readonly keys: KeyPair;
  readonly sinceMs: number;
  posted: boolean;
}

export class KubernetesCsr implements CertificateSource, AsyncDisposable {
  readonly name = 'kubernetes-csr';
  readonly #options: KubernetesCsrOptions;
  readonly #bundle: PublishedBundle;
  readonly #pending = new Map<SpiffeId, Pending>();

  constructor(options: KubernetesCsrOptions) {
    this.#options = options;
    this.#bundle = new PublishedBundle(options);
    this.#bundle.start();
  }

  async roots(): Promise<string> {
    const bundle = await this.#bundle.first(AbortSignal.timeout(ANSWER_MS));
    return bundle.rootsPem;
  }

  onBundle(listener: (bundle: TrustBundle) => void): () => void {
    return this.#bundle.onBundle(listener);
  }

  /** @throws Error with the CA's reason when it refused, or with what it did not answer. */
  async issue(id: SpiffeId, lifetimeMs: number, signal: AbortSignal): Promise<IssuedCertificate> {
    const late = new AbortController();
    const cancel = this.#options.clock.after(ANSWER_MS, () => late.abort());
    const both = AbortSignal.any([signal, late.signal]);
    try {
      await this.#bundle.first(both);
      const pending = await this.#pendingOf(id);
      if (!pending.posted) await this.#post(id, pending, lifetimeMs, both);
      const chainPem = await this.#answerOf(id, pending, both);
      // As it is now: it may have changed while we waited.
      const { rootsPem } = await this.#bundle.first(both);
      return { chainPem, keyPem: keyPem(pending.keys.privateKey), rootsPem };
    } finally {
      cancel();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#pending.clear();
    await this.#bundle[Symbol.asyncDispose]();
  }

  async #pendingOf(id: SpiffeId): Promise<Pending> {
    const nowMs = this.#options.clock.monotonicMs();
    for (const [other, { sinceMs }] of this.#pending)
      if (nowMs - sinceMs > PENDING_MS || this.#pending.size > MAX_PENDING) this.#pending.delete(other);
    const known = this.#pending.get(id);
    if (known !== undefined) return known;
    const node = this.#options.nodeName.slice(0, MAX_NODE_CHARS);
    const name = `culvert-${node}-${randomBytes(8).toString('hex')}`;
    const pending = { name, keys: await makeKeyPair(), sinceMs: nowMs, posted: false };
    this.#pending.set(id, pending);
    return pending;
  }

  async #post(id: SpiffeId, pending: Pending, lifetimeMs: number, signal: AbortSignal): Promise<void> {
    const { api, nodeName } = this.#options;
    const pem = toPem('CERTIFICATE REQUEST', makeCsr(id, pending.keys));
    const body = {
      apiVersion: 'certificates.k8s.io/v1',
      kind: 'CertificateSigningRequest',
      // A label has 63 characters at most; longer node names go without it.
      metadata: { name: pending.name, labels: nodeName.length <= 63 ? { 'culvert.dev/node': nodeName } : {} },
      spec: {
        request: Buffer.from(pem).toString('base64'),
        signerName: SIGNER_NAME,
        usages: USAGES,
        expirationSeconds: Math.max(MIN_EXPIRATION_S, Math.ceil(lifetimeMs / 1_000)),
      },
    };
    try {
      await api.request({ method: 'POST', path: REQUESTS_PATH, body, signal });
      pending.posted = true;
    } catch (error) {
      // Without an answer it may have been made: the next attempt finds out, by the same name.
      if (!(error instanceof KubeError)) throw error;
      if (error.status === 409) pending.posted = true;
      else if (error.status >= 400 && error.status < 500 && error.status !== 429) this.#pending.delete(id);
      if (!pending.posted)
        throw new Error(`the certificate could not be asked for: ${excerpt(error)}`, { cause: error });
    }
  }

  /** The chain, PEM. Reads, then watches from there; a watch that ends or breaks is begun again. */
  async #answerOf(id: SpiffeId, pending: Pending, signal: AbortSignal): Promise<string> {
    let trouble: string | undefined;
    for (;;) {
      const answer = await this.#look(pending.name, signal).catch((error: unknown) => excerpt(error));
      if (typeof answer === 'object') {
        this.#pending.delete(id);
        if ('chainPem' in answer) return answer.chainPem;
        throw new Error(answer.refusal);
      }
      trouble = answer ?? trouble;
      if (signal.aborted) throw new Error(unanswered(pending.name, trouble));
      await this.#pause(signal);
    }
  }

  /** The answer, or undefined when there is none yet and the watch has ended. @throws KubeError, Error */
  async #look(name: string, signal: AbortSignal): Promise<Answer | undefined> {
    const { api } = this.#options;
    const path = `${REQUESTS_PATH}/${name}`;
    const object = await api.request({ method: 'GET', path, signal }).catch((error: unknown) => {
      if (error instanceof KubeError && error.status === 404) return undefined;
      throw error;
    });
    if (object === undefined)
      return { refusal: `request ${name} is gone: it was deleted before it was answered` };
    const known = answerIn(object);
    if (known !== undefined) return known;
    const resourceVersion = versionOf(object);
    using stream = await api.stream({
      method: 'GET',
      path: REQUESTS_PATH,
      query: { watch: 'true', fieldSelector: `metadata.name=${name}`, resourceVersion, timeoutSeconds: '60' },
      signal,
    });
    for await (const lines of linesOf(stream, MAX_LINE_BYTES))
      for (const line of lines) {
        const found = answerIn(eventObject(line));
        if (found !== undefined) return found;
      }
    return undefined;
  }

  #pause(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        cancel();
        signal.removeEventListener('abort', done);
        resolve();
      };
      const cancel = this.#options.clock.after(PAUSE_MS, done);
      signal.addEventListener('abort', done, { once: true });
    });
  }
}

type Answer =
  | { readonly chainPem: string }
  /** A sentence. */
  | { readonly refusal: string };

const objectSchema = z.object({
  metadata: z.object({ name: z.string(), resourceVersion: z.string() }),
  status: z
    .object({
      certificate: z.string().nullish(),
      conditions: z
        .array(z.object({ type: z.string(), reason: z.string().nullish(), message: z.string().nullish() }))
        .nullish(),
    })
    .nullish(),
});

/** What the CA has said in `object`, or undefined. */
function answerIn(object: unknown): Answer | undefined {
  const parsed = objectSchema.safeParse(object);
  if (!parsed.success) return undefined;
  const { metadata, status } = parsed.data;
  const no = status?.conditions?.find(({ type }) => type === 'Denied' || type === 'Failed');
  if (no !== undefined)
    return {
      refusal: `culvert-ca refused request ${metadata.name} (${no.type}, ${no.reason ?? 'no reason'}): ${excerpt(no.message ?? '')}`,
    };
  const { certificate } = status ?? {};
  return certificate ? { chainPem: Buffer.from(certificate, 'base64').toString('latin1') } : undefined;
}

function versionOf(object: unknown): string {
  return objectSchema.parse(object).metadata.resourceVersion;
}

const eventSchema = z.object({ type: z.string(), object: z.unknown() });

/** @throws Error when the watch says that it can not go on, or says nonsense. */
function eventObject(line: string): unknown {
  const { type, object } = eventSchema.parse(JSON.parse(line));
  if (type === 'ERROR' || type === 'DELETED') throw new Error(`the watch ended with ${type}`);
  return object;
}

function unanswered(name: string, trouble: string | undefined): string {
  const why = trouble === undefined ? 'is Deployment culvert-ca running?' : trouble;
  return `no answer to request ${name} yet (kubectl get csr ${name}): ${why}`;
}
