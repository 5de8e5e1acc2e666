/**
 * The daemon's own pod: what it says of its node there (`culvert.dev/node`), and what a person asks of it there
 * (`culvert.dev/renew`: '<identity or *>@<RFC 3339 time>').
 */
import { askedMs } from '../kube/backoff.ts';
import { Reflector } from '../kube/reflector.ts';
import type { KubeApi } from '../kube/seams.ts';
import type { SpiffeId } from '../mesh/ids.ts';
import { parseSpiffeId } from '../mesh/ids.ts';
import { annotationOf } from './kubernetes.ts';

export const NODE_ANNOTATION = 'culvert.dev/node';
export const RENEW_ANNOTATION = 'culvert.dev/renew';

export interface OwnPodOptions {
  readonly api: KubeApi;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  /** Wall clock, ms: what was asked before it was asked of a daemon before us. */
  readonly startedMs: number;
  /** Certificates are to be renewed now: one, or all. */
  readonly onRenew: (what: SpiffeId | '*') => void;
  readonly onProblem: (reason: string) => void;
  /** Between two writes, ms; less or more by up to a half, as every node does it. */
  readonly pauseMs?: number;
  /** 0 to 1. */
  readonly random?: () => number;
}

/** What the pod carries. */
interface Carried {
  readonly node: string | undefined;
  readonly renew: string | undefined;
}

const PAUSE_MS = 5_000;
const RENEW = /^(?<what>.{1,2048})@(?<time>\d{4}-\d\d-\d\dT[^@]{1,40})$/;

export class OwnPod implements AsyncDisposable {
  readonly #options: Required<OwnPodOptions>;
  readonly #watched: Reflector<Carried>;
  readonly #closing = new AbortController();
  readonly #text: () => string;
  #renewed: string | undefined;
  /** For so long the server asked to be left alone. */
  #askedMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> | undefined;

  /** `text`: what to say of the node now; asked whenever it may be written. */
  constructor(options: OwnPodOptions, text: () => string) {
    this.#options = { pauseMs: PAUSE_MS, random: Math.random, ...options };
    this.#text = text;
    this.#watched = new Reflector<Carried>({
      api: options.api,
      path: `/api/v1/namespaces/${options.namespace}/pods`,
      fieldSelector: `metadata.name=${options.name}`,
      decode: (object) => ({
        node: annotationOf(object, NODE_ANNOTATION),
        renew: annotationOf(object, RENEW_ANNOTATION),
      }),
      onProblem: options.onProblem,
    });
  }

  /** Starts to listen and to tell. */
  start(): void {
    this.#watched.start((changes) => {
      for (const { type, value } of changes) if (type === 'set') this.#heed(value.renew);
    });
    this.#plan();
  }

  /** Tells now, if there is something new. Never rejects: what could not be written is tried again. */
  tell(): Promise<void> {
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined;
    });
    return this.#writing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#timer);
    this.#closing.abort();
    await this.#writing;
    await this.#watched[Symbol.asyncDispose]();
  }

  #plan(): void {
    if (this.#closing.signal.aborted) return;
    const { pauseMs, random } = this.#options;
    const waitMs = Math.max(pauseMs * (0.5 + random()), this.#askedMs);
    this.#timer = setTimeout(() => void this.tell().finally(() => this.#plan()), waitMs);
  }

  async #write(): Promise<void> {
    const { api, namespace, name, uid, onProblem, random } = this.#options;
    this.#askedMs = 0;
    const shown = [...this.#watched.items.values()][0]?.node;
    const text = this.#text();
    if (text === shown) return;
    try {
      await api.request({
        method: 'PATCH',
        path: `/api/v1/namespaces/${namespace}/pods/${name}/status`,
        patch: 'application/merge-patch+json',
        body: { metadata: { uid, annotations: { [NODE_ANNOTATION]: text } } },
        signal: this.#closing.signal,
      });
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      this.#askedMs = askedMs(error, random());
      onProblem(
        `the node's summary could not be written: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }

  /** Each wish once; anything else than an identity or * is none. */
  #heed(renew: string | undefined): void {
    if (renew === undefined || renew === this.#renewed) return;
    this.#renewed = renew;
    const { what, time } = RENEW.exec(renew)?.groups ?? {};
    const atMs = Date.parse(time ?? '');
    if (what === undefined || Number.isNaN(atMs)) {
      this.#options.onProblem(
        `${RENEW_ANNOTATION}: "${renew.slice(0, 100)}" is not '<identity or *>@<time>'`,
      );
      return;
    }
    const wish = what === '*' ? what : parseSpiffeId(what);
    if (wish !== undefined && atMs >= this.#options.startedMs) this.#options.onRenew(wish);
  }
}
