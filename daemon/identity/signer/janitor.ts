/**
 * Answered requests of daemons to cert-manager's issuer, taken away by the leader: cert-manager keeps them, a daemon may
 * delete nothing, and each renewal leaves one. (Requests to our own signer are taken away by the cluster's own cleaner:
 * kube-controller-manager, an hour after their answer, looking once an hour.)
 */
import { z } from 'zod';
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi } from '../../kube/seams.ts';
import type { Log } from '../../observe/log.ts';
import type { Clock } from '../clock.ts';
import { excerpt } from '../text.ts';
import { GROUP, readIssuerRequest } from './certificate-request.ts';
import type { IssuerRequest, IssuerScope } from './certificate-request.ts';

export interface JanitorOptions {
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly log: Log;
  readonly scope: IssuerScope;
  /** `system:serviceaccount:…` of the daemons. */
  readonly daemon: string;
  readonly tuning?: Partial<JanitorTuning>;
}

/** Times in ms. */
export interface JanitorTuning {
  readonly everyMs: number;
  /** Long enough for a person to read why one was refused; as the cluster's own cleaner has it. */
  readonly answeredMs: number;
  /** Without an answer: a daemon asks anew after an hour (sources/asked.ts). */
  readonly pendingMs: number;
  /** Between two deletions. */
  readonly paceMs: number;
}

const TUNING: JanitorTuning = {
  everyMs: 600_000,
  answeredMs: 3_600_000,
  pendingMs: 3 * 3_600_000,
  paceMs: 50,
};
const PAGE = 100;
/** In one round; the rest has to wait for the next. */
const MAX_PAGES = 200;
const NOT_FOUND = 404;
const CONFLICT = 409;

const pageSchema = z.object({
  metadata: z.object({ continue: z.string().nullish() }),
  items: z.array(z.unknown()).nullish(),
});

interface Old {
  readonly name: string;
  readonly uid: string;
}

export class Janitor implements AsyncDisposable {
  readonly #options: JanitorOptions;
  readonly #tuning: JanitorTuning;
  readonly #path: string;
  readonly #ending = new AbortController();
  #cancel: () => void = () => undefined;
  #round: Promise<unknown> = Promise.resolve();

  constructor(options: JanitorOptions) {
    this.#options = options;
    this.#tuning = { ...TUNING, ...options.tuning };
    this.#path = `/apis/${GROUP}/v1/namespaces/${options.scope.namespace}/certificaterequests`;
  }

  start(): void {
    this.#round = this.sweep().finally(() => {
      if (!this.#ending.signal.aborted)
        this.#cancel = this.#options.clock.after(this.#tuning.everyMs, () => this.start());
    });
  }

  /** Deletes no more from now on. */
  stop(): void {
    this.#ending.abort(new Error('this replica leads no more'));
    this.#cancel();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    await this.#round;
  }

  /** One round. Never rejects. @returns how many it took away. */
  async sweep(): Promise<number> {
    const { log } = this.#options;
    let count = 0;
    try {
      for await (const { name, uid } of this.#old()) {
        await this.#pause();
        count += await this.#delete(name, uid);
      }
    } catch (error) {
      if (!this.#ending.signal.aborted)
        log.warn({ reason: excerpt(error) }, 'old certificate requests could not be taken away; tried again');
    }
    if (count > 0) log.info({ count }, 'took away old certificate requests');
    return count;
  }

  async *#old(): AsyncIterable<Old> {
    let next = '';
    for (let page = 0; page < MAX_PAGES; page++) {
      const query = {
        labelSelector: 'culvert.dev/node',
        limit: String(PAGE),
        ...(next && { continue: next }),
      };
      const { signal } = this.#ending;
      const answer = await this.#options.api.request({ method: 'GET', path: this.#path, query, signal });
      const { items, metadata } = pageSchema.parse(answer);
      yield* (items ?? []).flatMap((item) => this.#oldIn(item));
      next = metadata.continue ?? '';
      if (next === '') return;
    }
  }

  #oldIn(item: unknown): readonly Old[] {
    const { daemon, clock } = this.#options;
    const read = this.#read(item);
    if (read === undefined) return [];
    const { name, uid, phase, createdMs, requester } = read.request;
    const isAnswered = phase === 'issued' || phase === 'denied' || phase === 'failed';
    const keptMs = isAnswered ? this.#tuning.answeredMs : this.#tuning.pendingMs;
    const isOld = clock.nowMs() - createdMs >= keptMs;
    return requester.username === daemon && isOld ? [{ name, uid }] : [];
  }

  /** What can't be read no daemon has made: it is left, and must not keep the round from the others. */
  #read(item: unknown): IssuerRequest | undefined {
    const { scope, log } = this.#options;
    try {
      return readIssuerRequest(item, scope);
    } catch (error) {
      log.debug({ reason: excerpt(error) }, 'a certificate request can not be read');
      return undefined;
    }
  }

  async #delete(name: string, uid: string): Promise<number> {
    const path = `${this.#path}/${encodeURIComponent(name)}`;
    const body = { apiVersion: 'v1', kind: 'DeleteOptions', preconditions: { uid } };
    this.#ending.signal.throwIfAborted();
    try {
      await this.#options.api.request({ method: 'DELETE', path, body, signal: this.#ending.signal });
      return 1;
    } catch (error) {
      // Gone, or another of that name by now.
      if (error instanceof KubeError && (error.status === NOT_FOUND || error.status === CONFLICT)) return 0;
      throw error;
    }
  }

  #pause(): Promise<void> {
    const { signal } = this.#ending;
    return new Promise((resolve) => {
      const cancel = this.#options.clock.after(this.#tuning.paceMs, done);
      function done(): void {
        cancel();
        signal.removeEventListener('abort', done);
        resolve();
      }
      signal.addEventListener('abort', done, { once: true });
    });
  }
}
