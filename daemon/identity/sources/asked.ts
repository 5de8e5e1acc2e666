/**
 * A certificate from a CA that is asked by an object of the API: one object for each certificate, watched by its name
 * until it is answered; one that was not answered in time is taken up again by the next attempt instead of being asked
 * anew, so that a CA that is away finds one request for each identity when it is back. The kinds of objects: kubernetes-csr.ts
 * and cert-manager.ts.
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
import { excerpt } from '../text.ts';
import { Refused } from './source.ts';
import type { CertificateSource, IssuedCertificate } from './source.ts';
import { PublishedBundle } from './trust-bundle.ts';

export interface AskedOptions {
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

/** What is wanted, for the object that asks for it. */
export interface Wanted {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** base64 of the PEM request. */
  readonly request: string;
  readonly lifetimeMs: number;
}

export type Answer =
  | { readonly chainPem: string }
  /** A sentence. Final: the next attempt makes another object. */
  | { readonly refusal: string }
  /** What the object says while it has no answer; a sentence. */
  | { readonly pending: string | undefined };

/** The kind of objects by which a CA is asked. */
export interface AskedKind {
  /** Of the collection. */
  readonly path: string;
  /** How a person finds the object `name`: a command. */
  readonly command: (name: string) => string;
  readonly body: (wanted: Wanted) => unknown;
  /** What the CA has said in `object`; undefined when it is no such object. */
  readonly answerIn: (object: unknown) => Answer | undefined;
}

/** Shorter than what certificates.ts gives an attempt, so that the reason is ours. */
const ANSWER_MS = 45_000;
const PAUSE_MS = 1_000;
/** The cluster's own cleaner removes signing requests that are pending after 24 h. */
const PENDING_MS = 3_600_000;
const MAX_PENDING = 10_000;
const MAX_LINE_BYTES = 2 * 1024 * 1024;
const MAX_NODE_CHARS = 200;
/** A label's value has no more. */
const MAX_LABEL_CHARS = 63;

/** A request that has no answer yet. */
interface Pending {
  readonly name: string;
  readonly keys: KeyPair;
  readonly sinceMs: number;
  posted: boolean;
}

export class AskedCertificates implements CertificateSource, AsyncDisposable {
  readonly name: string;
  readonly #options: AskedOptions;
  readonly #kind: AskedKind;
  readonly #bundle: PublishedBundle;
  readonly #pending = new Map<SpiffeId, Pending>();

  constructor(name: string, options: AskedOptions, kind: AskedKind) {
    this.name = name;
    this.#options = options;
    this.#kind = kind;
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

  /** @throws Refused with the CA's reason, or the API's; Error with what was not answered. */
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
    const body = this.#kind.body({
      name: pending.name,
      // Longer node names go without it.
      labels: nodeName.length <= MAX_LABEL_CHARS ? { 'culvert.dev/node': nodeName } : {},
      request: Buffer.from(pem).toString('base64'),
      lifetimeMs,
    });
    try {
      await api.request({ method: 'POST', path: this.#kind.path, body, signal });
      pending.posted = true;
    } catch (error) {
      // Without an answer it may have been made: the next attempt finds out, by the same name.
      if (!(error instanceof KubeError)) throw error;
      pending.posted = error.status === 409;
      if (pending.posted) return;
      const why = `the certificate could not be asked for: ${excerpt(error)}`;
      if (error.status < 400 || error.status >= 500 || error.status === 429)
        throw new Error(why, { cause: error });
      this.#pending.delete(id);
      throw new Refused(why, { cause: error });
    }
  }

  /** The chain, PEM. Reads, then watches from there; a watch that ends or breaks is begun again. */
  async #answerOf(id: SpiffeId, { name }: Pending, signal: AbortSignal): Promise<string> {
    const why: Why = {};
    for (;;) {
      const answer = await this.#look(name, why, signal).catch((error: unknown) => {
        // That we gave up is not why.
        if (!signal.aborted) why.trouble = excerpt(error);
        return undefined;
      });
      if (answer !== undefined) {
        this.#pending.delete(id);
        if ('chainPem' in answer) return answer.chainPem;
        throw new Refused(answer.refusal);
      }
      if (signal.aborted)
        throw new Error(`no answer to request ${name} yet (${this.#kind.command(name)}): ${reasonOf(why)}`);
      await this.#pause(signal);
    }
  }

  /** The final answer, or undefined when there is none yet and the watch has ended. @throws KubeError, Error */
  async #look(name: string, why: Why, signal: AbortSignal): Promise<Final | undefined> {
    const { api } = this.#options;
    const { path } = this.#kind;
    const object = await api
      .request({ method: 'GET', path: `${path}/${name}`, signal })
      .catch((error: unknown) => {
        if (error instanceof KubeError && error.status === 404) return undefined;
        throw error;
      });
    if (object === undefined)
      return { refusal: `request ${name} is gone: it was deleted before it was answered` };
    const known = this.#finalIn(object, why);
    if (known !== undefined) return known;
    const { resourceVersion } = headSchema.parse(object).metadata;
    using stream = await api.stream({
      method: 'GET',
      path,
      query: { watch: 'true', fieldSelector: `metadata.name=${name}`, resourceVersion, timeoutSeconds: '60' },
      signal,
    });
    for await (const lines of linesOf(stream, MAX_LINE_BYTES))
      for (const line of lines) {
        const found = this.#finalIn(eventObject(line), why);
        if (found !== undefined) return found;
      }
    return undefined;
  }

  #finalIn(object: unknown, why: Why): Final | undefined {
    const answer = this.#kind.answerIn(object);
    if (answer === undefined || !('pending' in answer)) return answer;
    why.pending = answer.pending;
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

type Final = Exclude<Answer, { pending: unknown }>;

/** Why there is no answer. */
interface Why {
  pending?: string | undefined;
  trouble?: string;
}

function reasonOf({ pending, trouble }: Why): string {
  return pending ?? trouble ?? 'is Deployment culvert-ca running? `culvert ca status` says what is wrong';
}

const headSchema = z.object({ metadata: z.object({ resourceVersion: z.string() }) });
const eventSchema = z.object({ type: z.string(), object: z.unknown() });

/** @throws Error when the watch says that it can not go on, or says nonsense. */
function eventObject(line: string): unknown {
  const { type, object } = eventSchema.parse(JSON.parse(line));
  if (type === 'ERROR' || type === 'DELETED') throw new Error(`the watch ended with ${type}`);
  return object;
}
