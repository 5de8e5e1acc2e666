/**
 * A collection of the API, held as what `decode` makes of its objects: listed in pages, then watched from there on.
 *
 *   list ──▶ watch ──(ends, breaks, falls silent)──▶ watch, from where it was
 *     ▲        └──(410 Gone, nonsense, can't go on: resume.ts)──┐
 *     └──────────────────── differences only ◀──────────────────┘
 *
 * client-node's informer was measured to reopen every watch after 30 s, to ask for no bookmarks, to stay dead after
 * a reset, to open two watches when started twice, to die of a handler's exception, to end with an error, and to drop
 * bad lines in silence: test/kube-fake/reflector.test.ts holds each against this one.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { askedMs, backoffMs } from './backoff.ts';
import { collect } from './client.ts';
import { Listing, relistSpread } from './listing.ts';
import { keyOf } from './objects.ts';
import { Resume, SILENT, hasNoAnswer } from './resume.ts';
import { KubeError } from './seams.ts';
import type { Change, ListPage, WatchEvent, WatchOptions, Watched, Wire } from './seams.ts';
import { JSON_WIRE } from './wire.ts';

/** Times in ms. */
export interface ReflectorTuning {
  readonly pageSize: number;
  readonly maxItems: number;
  readonly maxPageBytes: number;
  readonly maxEventBytes: number;
  /** From the request of a page to its end. */
  readonly pageMs: number;
  /** How long the server is asked to let a watch live, at least; at most twice as long. */
  readonly watchMs: number;
  /** A watch of which nothing is heard for so long is taken for dead: servers send a bookmark every minute. */
  readonly silenceMs: number;
  readonly firstRetryMs: number;
  readonly lastRetryMs: number;
  /** The same for a server that does not answer at all: asking it costs it nothing, and it must be found soon. */
  readonly awayRetryMs: number;
  /** A list that another one preceded waits up to so long, or longer where there are many nodes: each may need one. */
  readonly relistSpreadMs: number;
  /** How many nodes there are that watch the same. */
  readonly nodes: () => number;
  /** 0 to 1. */
  readonly random: () => number;
}

const TUNING: ReflectorTuning = {
  // Of 4,000 pods 22 MB stay resident after pages of 100, and 54 after pages of 500 (test/bench/watch.bench.ts).
  pageSize: 100,
  maxItems: 500_000,
  // An object has at most 1.5 MB in etcd, and may be longer as JSON.
  maxEventBytes: 16 * 1024 * 1024,
  maxPageBytes: 64 * 1024 * 1024,
  pageMs: 60_000,
  watchMs: 300_000,
  silenceMs: 150_000,
  firstRetryMs: 500,
  lastRetryMs: 30_000,
  awayRetryMs: 8_000,
  relistSpreadMs: 5_000,
  nodes: () => 1,
  random: Math.random,
};

/** A watch that lived for so long was a good one: the next failure is a first one again. */
const GOOD_WATCH_MS = 5_000;

export class Reflector<T> implements Watched<T> {
  readonly synced: Promise<void>;
  readonly #options: WatchOptions<T>;
  readonly #tuning: ReflectorTuning;
  readonly #wire: Wire;
  readonly #items = new Map<string, T>();
  readonly #firstList = Promise.withResolvers<void>();
  readonly #closing = new AbortController();
  #onChanges: (changes: readonly Change<T>[]) => void = () => undefined;
  #running: Promise<void> | undefined;
  /** Where to watch from; undefined: a list is due. */
  #version: string | undefined;
  /** A list of which pages are still to come. */
  #listing: Listing | undefined;
  /** Of the last list; 0: none is complete yet. */
  #pages = 0;
  #failures = 0;
  /** It gave no answer the last time that it was asked. */
  #isAway = false;
  #pageSize: number;
  readonly #resume: Resume;
  /** Since when the watch that is open has said nothing; undefined: none is. */
  #quietSinceMs: number | undefined;
  #heardMs = performance.now();
  #problem: string | undefined;

  constructor(options: WatchOptions<T>, tuning: Partial<ReflectorTuning> = {}) {
    this.#options = options;
    this.#tuning = { ...TUNING, ...tuning };
    this.#wire = options.wire ?? JSON_WIRE;
    this.#pageSize = this.#tuning.pageSize;
    this.#resume = new Resume(this.#tuning.silenceMs);
    this.synced = this.#firstList.promise;
  }

  get items(): ReadonlyMap<string, T> {
    return this.#items;
  }

  start(onChanges: (changes: readonly Change<T>[]) => void): void {
    if (this.#running !== undefined) return;
    this.#onChanges = onChanges;
    this.#running = this.#run();
  }

  stalenessMs(): number {
    return performance.now() - this.#heardMs;
  }

  problem(): string | undefined {
    return this.#problem;
  }

  /** Ends the watch; nothing is told after it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#onChanges = () => undefined;
    this.#closing.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#isClosed()) {
      const beganMs = performance.now();
      const error = await this.#turn().catch((thrown: unknown) => toError(thrown));
      if (this.#isClosed()) return;
      const isGood = performance.now() - beganMs > GOOD_WATCH_MS;
      this.#judge(error);
      const wasAway = this.#isAway;
      this.#isAway = error !== undefined && hasNoAnswer(error);
      // One that answers again is asked soon, however long it was away: it may only have to tell that we must list.
      const isFirst = (wasAway && !this.#isAway) || this.#listing?.failures === 1;
      this.#failures = isGood ? 0 : isFirst ? 1 : this.#failures + 1;
      const waitMs = isGood && error === undefined ? 0 : this.#waitMs(error);
      await sleep(waitMs, undefined, { signal: this.#closing.signal }).catch(() => undefined);
    }
  }

  /** One list if that is due, and one watch. Resolves when the server has ended the watch as agreed. */
  async #turn(): Promise<undefined> {
    if (this.#version === undefined) {
      this.#version = await this.#list();
      this.#resume.heard();
      this.#heard();
      this.#firstList.resolve();
    }
    await this.#watch(this.#version);
    return undefined;
  }

  /** @returns where to watch from: all pages are of one snapshot. */
  async #list(): Promise<string> {
    const listing = (this.#listing ??= new Listing());
    for (;;) {
      const page = await this.#page(listing.token);
      this.#takePage(page, listing.seen);
      listing.turn(page.next);
      if (page.next !== '') continue;
      this.#listing = undefined;
      this.#pages = listing.pages;
      return page.version;
    }
  }

  /** What has been taken is told in any case: to the next list it is no news. */
  #takePage({ items, next }: ListPage, seen: Set<string>): void {
    const { maxItems } = this.#tuning;
    const changes: Change<T>[] = [];
    try {
      for (const object of items) this.#take({ type: 'MODIFIED', object }, changes, seen);
      if (seen.size > maxItems)
        throw new KubeError(0, 'TooMany', `${this.#options.path}: more than ${maxItems} objects`);
      if (next === '') this.#dropUnseen(seen, changes);
    } finally {
      this.#tell(changes);
    }
  }

  async #page(token: string): Promise<ListPage> {
    const { pageMs, maxPageBytes } = this.#tuning;
    const { path, api } = this.#options;
    using stream = await api.stream({
      method: 'GET',
      path,
      query: {
        ...this.#selectors(),
        limit: String(this.#pageSize),
        ...(token === '' ? {} : { continue: token }),
      },
      accept: this.#wire.mediaType,
      signal: AbortSignal.any([this.#closing.signal, AbortSignal.timeout(pageMs)]),
    });
    return this.#wire.page(await collect(stream, maxPageBytes, path));
  }

  async #watch(from: string): Promise<void> {
    const { watchMs, silenceMs, maxEventBytes, random } = this.#tuning;
    const silence = new AbortController();
    const beganMs = performance.now();
    const timer = setTimeout(() => silence.abort(), silenceMs);
    const signal = AbortSignal.any([this.#closing.signal, silence.signal]);
    try {
      using stream = await this.#options.api.stream({
        method: 'GET',
        path: this.#options.path,
        query: {
          ...this.#selectors(),
          watch: 'true',
          allowWatchBookmarks: 'true',
          resourceVersion: from,
          timeoutSeconds: String(Math.ceil((watchMs * (1 + random())) / 1_000)),
        },
        accept: `${this.#wire.mediaType};stream=watch`,
        signal,
      });
      // It knows our version, and what comes after it will be told; a quiet collection has nothing to say for a minute.
      this.#heard();
      this.#quietSinceMs = beganMs;
      for await (const events of this.#wire.events(stream, maxEventBytes)) {
        timer.refresh();
        this.#takeEvents(events);
      }
    } catch (error) {
      if (!silence.signal.aborted) throw error;
      throw new KubeError(0, SILENT, `${this.#options.path}: nothing was heard for ${silenceMs} ms`);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Each is read when those before it have been taken: one that is nonsense takes back none of them. */
  #takeEvents(events: readonly (() => WatchEvent)[]): void {
    const changes: Change<T>[] = [];
    try {
      for (const read of events) {
        const event = read();
        this.#take(event, changes);
        this.#version = event.version ?? this.#version;
      }
    } finally {
      this.#tell(changes);
    }
    if (events.length === 0) return;
    this.#heard();
    this.#resume.heard();
    this.#quietSinceMs = this.#heardMs;
  }

  #take(event: Pick<WatchEvent, 'type' | 'object'>, changes: Change<T>[], seen?: Set<string>): void {
    if (event.type === 'BOOKMARK') return;
    const key = keyOf(event.object);
    seen?.add(key);
    const old = this.#items.get(key);
    const value = event.type === 'DELETED' ? undefined : this.#decode(event.object, key);
    if (value === KEEP) return;
    if (value !== undefined) {
      if (old !== undefined && (this.#options.isSame ?? isDeepStrictEqual)(old, value)) return;
      this.#items.set(key, value);
      changes.push({ type: 'set', key, value });
    } else if (old !== undefined) {
      this.#items.delete(key);
      changes.push({ type: 'gone', key, value: old });
    }
  }

  #decode(object: unknown, key: string): T | undefined | typeof KEEP {
    try {
      return this.#options.decode(object);
    } catch (error) {
      this.#options.onProblem?.(`${this.#options.path}: ${key} stays as it was: ${toError(error).message}`);
      return KEEP;
    }
  }

  #dropUnseen(seen: ReadonlySet<string>, changes: Change<T>[]): void {
    for (const [key, value] of this.#items) {
      if (seen.has(key)) continue;
      this.#items.delete(key);
      changes.push({ type: 'gone', key, value });
    }
  }

  #tell(changes: readonly Change<T>[]): void {
    if (changes.length === 0) return;
    try {
      this.#onChanges(changes);
    } catch (error) {
      this.#options.onProblem?.(
        `${this.#options.path}: a change was not taken: ${toError(error).stack ?? ''}`,
      );
    }
  }

  #heard(): void {
    this.#heardMs = performance.now();
    this.#problem = undefined;
  }

  /** What follows from how a turn ended. */
  #judge(error: Error | undefined): void {
    const quietMs = this.#quietSinceMs === undefined ? undefined : performance.now() - this.#quietSinceMs;
    this.#quietSinceMs = undefined;
    const goesOn = this.#version !== undefined && this.#resume.goesOn(error, quietMs);
    if (!goesOn) this.#version = undefined;
    if (error === undefined) return;
    if (this.#listing?.goesOn(error) === false) this.#listing = undefined;
    this.#options.onProblem?.(error.message);
    const reason = error instanceof KubeError ? error.reason : undefined;
    if (reason === 'TooLarge') this.#pageSize = Math.max(1, Math.floor(this.#pageSize / 2));
    // A silent watch that is resumed may have been a connection that died.
    if (!goesOn || reason !== SILENT) this.#problem = error.message;
  }

  /** Jittered, doubling with each failure in a row; as long as the server asks for; spread for a relist. */
  #waitMs(error: Error | undefined): number {
    const { firstRetryMs, lastRetryMs, awayRetryMs, relistSpreadMs, nodes, random } = this.#tuning;
    const mostMs = this.#isAway ? Math.min(awayRetryMs, lastRetryMs) : lastRetryMs;
    const isRelist = this.#version === undefined && this.#listing === undefined && this.#pages > 0;
    const spreadMs = isRelist ? relistSpread(nodes(), this.#pages, relistSpreadMs) : 0;
    const retryMs = backoffMs(this.#failures, firstRetryMs, mostMs, random());
    return Math.max(retryMs, askedMs(error, random()), spreadMs * random());
  }

  #selectors(): Record<string, string> {
    const { fieldSelector, labelSelector } = this.#options;
    return {
      ...(fieldSelector === undefined ? {} : { fieldSelector }),
      ...(labelSelector === undefined ? {} : { labelSelector }),
    };
  }

  #isClosed(): boolean {
    return this.#closing.signal.aborted;
  }
}

/** An object that can't be read stays as it was. */
const KEEP = Symbol('keep');

function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
