/**
 * The cluster as a folder of YAML. What is on disk is looked at every `intervalMs`; notices from the kernel only
 * make it sooner. A file that is broken, unreadable or half written keeps what it said last; so does a folder that has
 * lost everything at once. What is gone counts when the folder is still: who empties it is not done with the first file.
 */
import { watch } from 'node:fs';
import type { FSWatcher } from 'node:fs';
import { basename, dirname, extname, join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MeshError } from '../errors.ts';
import type { ClusterSource, Delta, SourceProblem } from '../mesh/model.ts';
import { readObjects } from './documents.ts';
import { STATUS_FOLDER, readStatus } from './published.ts';
import { FolderView } from './view.ts';
import type { FileFilter } from './view.ts';
import { isSameStamp, isWanted, list, readText, stampOf } from './walk.ts';
import type { Listing, Stamp } from './walk.ts';

export interface FileSourceOptions {
  readonly filter?: FileFilter;
  /** Between two looks at everything; a folder that takes long to look at is looked at less often. */
  readonly intervalMs?: number;
  /** A file that is being written in place counts when it has been still for so long. */
  readonly settleMs?: number;
}

/** A look at everything may take one part in so many of the time. */
const LOOK_SHARE = 20;
const MAX_WATCHERS = 512;
/** Notices come in flocks: a rename is two. */
const FLOCK_MS = 15;
/** Longest stretch of parsing before others get their turn. */
const TURN_MS = 8;
/** A folder in which files come and go without a pause: what is gone counts after so many times `settleMs`. */
const MAX_SETTLES = 10;
/** Named files waiting to be looked at; beyond it everything is looked at. */
const MAX_NAMED = 1_000;

export class FileSource implements ClusterSource {
  readonly synced: Promise<void>;
  readonly #root: string;
  readonly #filter: FileFilter | undefined;
  readonly #intervalMs: number;
  readonly #settleMs: number;
  readonly #view: FolderView;
  readonly #stamps = new Map<string, Stamp>();
  /** Files written in place, not still yet. */
  readonly #restless = new Map<string, { stamp: Stamp; sinceMs: number }>();
  readonly #watchers = new Map<string, FSWatcher>();
  readonly #named = new Set<string>();
  readonly #firstLook = Promise.withResolvers<void>();
  #unread: ReadonlyMap<string, string> = new Map();
  /** When a file last came or went, and since when something gone waits to be told. */
  #movedMs = 0;
  #goneSinceMs: number | undefined;
  #hasLooked = false;
  #isAllDue = true;
  #nextLookMs = 0;
  /** Before which no notice makes us look at everything again. */
  #soonestLookMs = 0;
  /** What the last look at everything took, without reading. */
  #lookMs = 0;
  #lastTurnMs = 0;
  /** When everything was looked at last. */
  #currentMs = performance.now();
  readonly #closing = new AbortController();
  #wake: () => void = () => undefined;
  #running: Promise<void> | undefined;

  constructor(root: string, options: FileSourceOptions = {}) {
    this.#root = root;
    this.#filter = options.filter;
    this.#intervalMs = options.intervalMs ?? 500;
    this.#settleMs = options.settleMs ?? 100;
    this.#view = new FolderView(options.filter);
    this.synced = this.#firstLook.promise;
    // Whoever waits gets the error; nobody has to wait.
    this.synced.catch(() => undefined);
  }

  /**
   * Looks, and goes on looking until disposed of. `synced` rejects with MeshError CLUSTER_DIR_INVALID when there is
   * no such folder; it is looked for again all the same.
   */
  start(onDeltas: (deltas: readonly Delta[]) => void): void {
    this.#running ??= this.#run(onDeltas);
  }

  problems(): readonly SourceProblem[] {
    const folders = [...this.#unread].map(([folder, reason]) => ({
      where: join(this.#root, folder),
      line: undefined,
      reason,
    }));
    return [
      ...folders,
      ...this.#emptiness(),
      ...this.#view.problems().map((problem) => ({ ...problem, where: join(this.#root, problem.where) })),
    ];
  }

  stalenessMs(): ReadonlyMap<string, number> {
    return new Map([['folder', performance.now() - this.#currentMs]]);
  }

  #emptiness(): SourceProblem[] {
    if (!this.#hasLooked || !this.#view.isEmpty) return [];
    const reason = this.#view.isEmptied
      ? 'has lost all of its objects at once: everything stays as it was until there are some again'
      : 'holds no object: pods that an earlier daemon enrolled stay closed';
    return [{ where: this.#root, line: undefined, reason }];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    this.#wake();
    await this.#running;
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
    this.#firstLook.reject(
      new MeshError('CLUSTER_DIR_INVALID', `${this.#root} was closed before it was read`),
    );
  }

  async #run(onDeltas: (deltas: readonly Delta[]) => void): Promise<void> {
    while (!this.#isClosed()) {
      const isAll = performance.now() >= this.#dueMs();
      await (isAll ? this.#lookAtAll() : this.#lookAtNamed());
      if (this.#isClosed()) return;
      const deltas = this.#view.takeDeltas(this.#isGoneCounted());
      if (deltas.length > 0) onDeltas(deltas);
      if (isAll && !this.#unread.has('')) this.#currentMs = performance.now();
      if (isAll) this.#settleFirstLook();
      await this.#sleep();
    }
  }

  /** Whether what is gone may be told now; if not, everything is looked at once more before it is. */
  #isGoneCounted(): boolean {
    const nowMs = performance.now();
    if (!this.#view.hasVanished || this.#view.isEmptied) {
      this.#goneSinceMs = undefined;
      return true;
    }
    this.#goneSinceMs ??= nowMs;
    const isStill = nowMs - this.#movedMs >= this.#settleMs;
    const isCounted = isStill || nowMs - this.#goneSinceMs >= this.#settleMs * MAX_SETTLES;
    if (isCounted) this.#goneSinceMs = undefined;
    else this.#nextLookMs = Math.min(this.#nextLookMs, nowMs + Math.max(this.#settleMs, this.#lookMs));
    return isCounted;
  }

  async #lookAtAll(): Promise<void> {
    const startMs = performance.now();
    this.#isAllDue = false;
    this.#named.clear();
    const listing = await list(this.#root);
    this.#unread = listing.unread;
    this.#watchFolders(listing);
    for (const path of this.#stamps.keys())
      if (!listing.files.has(path) && !isBelow(path, listing.unread)) this.#forget(path);
    this.#lookMs = performance.now() - startMs;
    for (const [path, stamp] of listing.files) await this.#consider(path, stamp);
    const nowMs = performance.now();
    this.#nextLookMs = nowMs + Math.max(this.#intervalMs, this.#lookMs * LOOK_SHARE);
    this.#soonestLookMs = nowMs + Math.min(this.#intervalMs, this.#lookMs * LOOK_SHARE);
  }

  /** When everything is looked at next: notices alone must not make us do it all the time. */
  #dueMs(): number {
    return this.#isAllDue ? Math.min(this.#soonestLookMs, this.#nextLookMs) : this.#nextLookMs;
  }

  /** The files that notices named, and those that were restless. */
  async #lookAtNamed(): Promise<void> {
    const paths = new Set([...this.#named, ...this.#restless.keys()]);
    this.#named.clear();
    let isAnyAway = false;
    for (const path of paths) {
      const stamp = await stampOf(join(this.#root, path));
      if (typeof stamp === 'object') await this.#consider(path, stamp);
      else {
        // It may be gone, or it or its folder unreadable: a look at everything tells these apart.
        this.#restless.delete(path);
        isAnyAway ||= this.#stamps.has(path);
      }
    }
    if (isAnyAway) await this.#lookAtAll();
  }

  async #consider(path: string, stamp: Stamp): Promise<void> {
    const known = this.#stamps.get(path);
    if (this.#isClosed() || (known !== undefined && isSameStamp(known, stamp))) return;
    // A file that was renamed into place is whole; one that is written in place may be half of itself.
    if (known?.inode === stamp.inode && !this.#isStill(path, stamp)) return;
    const read = await readText(join(this.#root, path));
    if (!read.ok && read.reason === undefined) {
      this.#restless.set(path, { stamp, sinceMs: performance.now() });
      return;
    }
    this.#restless.delete(path);
    if (known === undefined) this.#movedMs = performance.now();
    const seen = read.ok ? read.stamp : stamp;
    this.#stamps.set(path, read.ok && isFresh(seen) ? { ...seen, ctimeMs: -1 } : seen);
    if (read.ok) this.#take(path, read.text);
    else this.#view.setFileProblem(path, read.reason);
    await this.#giveTurn();
  }

  #isStill(path: string, stamp: Stamp): boolean {
    const now = performance.now();
    const before = this.#restless.get(path);
    if (before !== undefined && isSameStamp(before.stamp, stamp))
      return now - before.sinceMs >= this.#settleMs;
    this.#restless.set(path, { stamp, sinceMs: now });
    return this.#settleMs === 0;
  }

  #take(path: string, text: string): void {
    if (dirname(path) === STATUS_FOLDER) {
      const node = basename(path, extname(path));
      if (this.#filter?.kinds.includes('published') ?? true)
        this.#view.putStatus(path, node, readStatus(text, node));
    } else if (this.#view.holds(path) || mayMatter(text, this.#filter)) {
      this.#view.put(path, readObjects(text, extname(path) === '.json'));
    } else {
      this.#view.remove(path);
    }
  }

  #forget(path: string): void {
    this.#movedMs = performance.now();
    this.#stamps.delete(path);
    this.#restless.delete(path);
    this.#view.remove(path);
  }

  #settleFirstLook(): void {
    this.#hasLooked = true;
    const reason = this.#unread.get('');
    if (reason === undefined) {
      if (!this.#view.hidesPolicies) this.#firstLook.resolve();
      return;
    }
    const message = `the cluster folder ${this.#root} ${reason}; make it, or give another one with --cluster-dir`;
    this.#firstLook.reject(new MeshError('CLUSTER_DIR_INVALID', message));
  }

  /** One watcher a folder. Each is only a help: without one, the next look at everything finds the change. */
  #watchFolders({ folders }: Listing): void {
    const wanted = new Set(folders.slice(0, MAX_WATCHERS));
    for (const [folder, watcher] of this.#watchers) if (!wanted.has(folder)) this.#unwatch(folder, watcher);
    for (const folder of wanted) {
      if (this.#watchers.has(folder)) continue;
      try {
        const watcher = watch(join(this.#root, folder), { persistent: false });
        watcher.on('error', () => this.#unwatch(folder, watcher));
        watcher.on('change', (_event, name) => this.#notice(folder, name));
        this.#watchers.set(folder, watcher);
        // What changed between the listing and this line gave no notice.
        this.#isAllDue = true;
      } catch {
        // No more inotify watches, or the folder went away.
      }
    }
  }

  #unwatch(folder: string, watcher: FSWatcher): void {
    watcher.close();
    this.#watchers.delete(folder);
  }

  #notice(folder: string, name: string | Buffer | null): void {
    const file = name === null ? '' : name.toString();
    if (file.startsWith('.')) return;
    if (isWanted(file) && this.#named.size < MAX_NAMED) this.#named.add(join(folder, file));
    else this.#isAllDue = true;
    this.#wake();
  }

  /**
   * Until something is due: a notice, a restless file, or the next look at everything. A file that was named never
   * waits for that one: a pod that is not known yet may be starting.
   */
  async #sleep(): Promise<void> {
    const restMs = Math.max(0, this.#dueMs() - performance.now());
    const dueMs = this.#restless.size > 0 ? Math.min(restMs, this.#settleMs) : restMs;
    if (this.#named.size === 0 && !this.#isClosed()) await this.#pause(dueMs);
    if (!this.#isClosed()) await this.#pause(FLOCK_MS, true);
  }

  async #pause(ms: number, isDeaf = false): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    if (!isDeaf) this.#wake = resolve;
    await promise;
    clearTimeout(timer);
    this.#wake = () => undefined;
  }

  #isClosed(): boolean {
    return this.#closing.signal.aborted;
  }

  async #giveTurn(): Promise<void> {
    if (performance.now() - this.#lastTurnMs < TURN_MS) return;
    await nextTurn();
    this.#lastTurnMs = performance.now();
  }
}

/** Longest tick of file times before Linux 6.13, and more. */
const TICK_MS = 20;

/** Whether a second write of the same size could still leave the same stamp: then the file is read once more. */
function isFresh({ mtimeMs }: Stamp): boolean {
  return Math.abs(Date.now() - mtimeMs) < TICK_MS;
}

function isBelow(path: string, unread: ReadonlyMap<string, string>): boolean {
  if (unread.has('')) return true;
  for (let folder = path; folder !== '.'; folder = dirname(folder)) if (unread.has(folder)) return true;
  return false;
}

/** What could be another way of writing a word: then only the parser can tell. */
const ESCAPE = /\\[xuU\r\n]/;

/**
 * Whether a file can hold something that the filter wants. A watch of one node's pods parses only the files that
 * name the node or hold another kind: of 10,000 pods it parses its own.
 */
function mayMatter(text: string, filter: FileFilter | undefined): boolean {
  if (filter?.node === undefined || text.includes(filter.node) || ESCAPE.test(text)) return true;
  return /\b(?:Namespace|Node|Service|EndpointSlice)\b/.test(text);
}
