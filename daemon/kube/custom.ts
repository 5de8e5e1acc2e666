/**
 * A collection whose kind a cluster may not have: its CustomResourceDefinition may come, go and change its versions
 * while we run.
 *
 *   look ──(served)──▶ list and watch ──(404)──▶ look
 *     └──(not served: what was held is gone)──▶ wait, look
 *
 * Only discovery takes away what is held. Any other error, a 403 or a 404 too, leaves it as it was.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { askedMs, backoffMs } from './backoff.ts';
import { Looks, collectionPath } from './discovery.ts';
import type { CustomKind, LookTuning } from './discovery.ts';
import { Reflector } from './reflector.ts';
import type { ReflectorTuning } from './reflector.ts';
import { KubeError } from './seams.ts';
import type { ApiRequest, ApiStream, Change, KubeApi, Watched } from './seams.ts';

export interface CustomOptions<T> {
  readonly api: KubeApi;
  readonly kind: CustomKind;
  /** Shared by kinds of one group: what is not there is looked for by one request. Default: its own. */
  readonly looks?: Looks;
  /** As in WatchOptions; `version` is the one that the object is in. */
  readonly decode: (object: unknown, version: string) => T | undefined;
  readonly onProblem?: (reason: string) => void;
}

/** Times in ms. */
export interface CustomTuning extends ReflectorTuning, LookTuning {
  /** Objects that are held go when discovery says twice that their kind is not served, so long apart. */
  readonly confirmMs: number;
}

const CONFIRM_MS = 1_000;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 8_000;

interface Following<T> {
  readonly version: string;
  readonly reflector: Reflector<T>;
}

export class CustomCollection<T> implements Watched<T> {
  readonly synced: Promise<void>;
  readonly #options: CustomOptions<T>;
  readonly #tuning: Partial<CustomTuning>;
  readonly #looks: Looks;
  readonly #items = new Map<string, T>();
  readonly #known = Promise.withResolvers<void>();
  readonly #closing = new AbortController();
  #onChanges: (changes: readonly Change<T>[]) => void = () => undefined;
  #running: Promise<void> | undefined;
  #following: Following<T> | undefined;
  /** Resolves when the server knows nothing of the collection that is followed. */
  #lost = Promise.withResolvers<void>();
  #isForbidden = false;
  #isAbsent = false;
  #failures = 0;
  #lookedMs = performance.now();
  #problem: string | undefined;

  constructor(options: CustomOptions<T>, tuning: Partial<CustomTuning> = {}) {
    this.#options = options;
    this.#tuning = tuning;
    this.#looks = options.looks ?? new Looks(options.api, options.kind.group, tuning);
    this.synced = this.#known.promise;
  }

  get items(): ReadonlyMap<string, T> {
    return this.#items;
  }

  /** The version that is watched; undefined while the kind is not served, or that is not known yet. */
  get version(): string | undefined {
    return this.#following?.version;
  }

  start(onChanges: (changes: readonly Change<T>[]) => void): void {
    if (this.#running !== undefined) return;
    this.#onChanges = onChanges;
    this.#running = this.#run();
  }

  stalenessMs(): number {
    return this.#following?.reflector.stalenessMs() ?? performance.now() - this.#lookedMs;
  }

  problem(): string | undefined {
    const reason = this.#problem ?? this.#following?.reflector.problem();
    if (reason === undefined || !this.#isForbidden) return reason;
    const { resource, group } = this.#options.kind;
    const remedy = `this account needs list and watch on ${resource}.${group}: apply the ClusterRoles of Culvert's manifests`;
    return `${reason}; ${remedy}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#onChanges = () => undefined;
    this.#closing.abort();
    this.#lost.resolve();
    await this.#running;
    await this.#following?.reflector[Symbol.asyncDispose]();
  }

  async #run(): Promise<void> {
    while (!this.#isClosed()) {
      try {
        const waitMs = await this.#turn();
        this.#failures = 0;
        await this.#rest(waitMs);
      } catch (error) {
        if (this.#isClosed()) return;
        this.#failures += 1;
        this.#problem = error instanceof Error ? error.message : String(error);
        this.#options.onProblem?.(this.#problem);
        await this.#rest(this.#retryMs(error));
      }
    }
  }

  /** @returns after how many ms to look again. @throws KubeError when it can't be told what is served. */
  async #turn(): Promise<number> {
    const version = await this.#look();
    if (version === undefined) return this.#leave();
    this.#isAbsent = false;
    if (this.#following?.version !== version) await this.#follow(version);
    await this.#lost.promise;
    this.#lost = Promise.withResolvers<void>();
    return 0;
  }

  /** Discovery's word; twice, where it takes away what is held. */
  async #look(): Promise<string | undefined> {
    // What was seen by another kind's look may be older than what we hold.
    const ask = (): Promise<string | undefined> => {
      const look = this.#following === undefined ? this.#looks.shared() : this.#looks.fresh();
      return look.servedVersion(this.#options.kind, this.#isAbsent, this.#closing.signal);
    };
    let version = await ask();
    if (version === undefined && this.#items.size > 0) {
      await this.#rest(this.#tuning.confirmMs ?? CONFIRM_MS);
      version = await ask();
    }
    this.#lookedMs = performance.now();
    this.#problem = undefined;
    return version;
  }

  async #leave(): Promise<number> {
    await this.#following?.reflector[Symbol.asyncDispose]();
    this.#following = undefined;
    this.#isForbidden = false;
    this.#isAbsent = true;
    this.#dropAllBut(new Map());
    this.#known.resolve();
    return this.#looks.pauseMs();
  }

  /** What is held stays until the new version's list is complete. */
  async #follow(version: string): Promise<void> {
    const { api, kind, decode, onProblem } = this.#options;
    await this.#following?.reflector[Symbol.asyncDispose]();
    if (this.#isClosed()) return;
    const reflector = new Reflector<T>(
      {
        api: { request: (asked) => api.request(asked), stream: (asked) => this.#stream(asked) },
        path: collectionPath(kind, version),
        decode: (object) => decode(object, version),
        ...(onProblem === undefined ? {} : { onProblem }),
      },
      this.#tuning,
    );
    this.#following = { version, reflector };
    this.#lost = Promise.withResolvers<void>();
    void reflector.synced.then(() => {
      if (this.#following?.reflector !== reflector) return;
      this.#dropAllBut(reflector.items);
      this.#known.resolve();
    });
    reflector.start((changes) => this.#take(changes));
  }

  async #stream(asked: ApiRequest): Promise<ApiStream> {
    try {
      const stream = await this.#options.api.stream(asked);
      this.#isForbidden = false;
      return stream;
    } catch (error) {
      const status = error instanceof KubeError ? error.status : 0;
      this.#isForbidden = status === 403;
      if (status === 404) this.#lost.resolve();
      throw error;
    }
  }

  #take(changes: readonly Change<T>[]): void {
    const told = changes.filter((change) => {
      if (change.type === 'gone') return this.#items.delete(change.key);
      const isNews = !isDeepStrictEqual(this.#items.get(change.key), change.value);
      this.#items.set(change.key, change.value);
      return isNews;
    });
    if (told.length > 0) this.#onChanges(told);
  }

  #dropAllBut(kept: ReadonlyMap<string, T>): void {
    const gone = [...this.#items].filter(([key]) => !kept.has(key));
    this.#take(gone.map(([key, value]) => ({ type: 'gone', key, value })));
  }

  #retryMs(error: unknown): number {
    const { firstRetryMs = FIRST_RETRY_MS, lastRetryMs = LAST_RETRY_MS, random = Math.random } = this.#tuning;
    const mostMs = Math.min(lastRetryMs, LAST_RETRY_MS);
    return Math.max(backoffMs(this.#failures, firstRetryMs, mostMs, random()), askedMs(error, random()));
  }

  async #rest(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#closing.signal }).catch(() => undefined);
  }

  #isClosed(): boolean {
    return this.#closing.signal.aborted;
  }
}
