/**
 * What a folder's files say together: which file's object counts, what is kept of a broken one, and what has
 * changed since it was asked last. Pure: files come in as content.
 */
import { isDeepStrictEqual } from 'node:util';
import type { PodUid } from '../mesh/ids.ts';
import type { Delta, PublishedState, SourceProblem } from '../mesh/model.ts';
import type { FileContent, LineProblem } from './documents.ts';
import { gone, inOrder } from './order.ts';
import type { StatusContent } from './published.ts';

/** Which objects are wanted. `node` narrows pods to one node's. Pods are needed for `published`. */
export interface FileFilter {
  readonly kinds: readonly Delta['kind'][];
  readonly node?: string;
}

interface Held {
  readonly title: string;
  readonly line: number | undefined;
  readonly delta: Delta | undefined;
}

interface HeldFile {
  readonly objects: ReadonlyMap<string, Held>;
  readonly problems: readonly LineProblem[];
}

interface HeldStatus {
  readonly path: string;
  readonly pods: ReadonlyMap<PodUid, PublishedState>;
  readonly problems: readonly LineProblem[];
}

/** Objects that a folder may hold. */
const MAX_OBJECTS = 500_000;
/** Problems told at once; the rest is a number. */
const MAX_PROBLEMS = 1_000;
const HIDING =
  'names policies, and nothing of it could be read yet: a daemon that starts decides nothing until it is mended, one that runs goes without them';

export class FolderView {
  readonly #filter: FileFilter | undefined;
  readonly #files = new Map<string, HeldFile>();
  readonly #status = new Map<string, HeldStatus>();
  /** Object → the files that hold one of it. */
  readonly #holders = new Map<string, Set<string>>();
  /** Object → what was told of it last. */
  readonly #told = new Map<string, Delta>();
  readonly #published = new Map<PodUid, PublishedState>();
  readonly #duplicates = new Map<string, SourceProblem[]>();
  readonly #strangers = new Map<PodUid, SourceProblem>();
  /** By path, for what is wrong with a file itself (too large, unreadable). */
  readonly #fileProblems = new Map<string, string>();
  /** Files of which nothing could ever be read and that name policies. */
  readonly #hiding = new Set<string>();
  readonly #changedIds = new Set<string>();
  readonly #changedUids = new Set<PodUid>();
  #objects = 0;

  constructor(filter?: FileFilter) {
    this.#filter = filter;
  }

  /** Takes a file's new content. What is broken in it stays as it was. */
  put(path: string, content: FileContent): void {
    const old = this.#files.get(path)?.objects ?? new Map<string, Held>();
    if (content.hidesPolicies === true && !this.#files.has(path)) this.#hiding.add(path);
    else if (!content.isBroken) this.#hiding.delete(path);
    const problems = [...content.problems];
    const objects = content.isBroken ? old : this.#merge(old, content, problems);
    if (this.#objects - old.size + objects.size > MAX_OBJECTS) {
      this.setFileProblem(
        path,
        `the folder holds more than ${MAX_OBJECTS} objects: the file is left as it was`,
      );
      return;
    }
    this.#fileProblems.delete(path);
    this.#files.set(path, { objects, problems });
    this.#objects += objects.size - old.size;
    for (const id of old.keys()) if (!objects.has(id)) this.#release(id, path);
    for (const id of objects.keys()) this.#hold(id, path);
  }

  /** Takes a node's status file. */
  putStatus(path: string, node: string, content: StatusContent): void {
    const old = this.#status.get(node)?.pods ?? new Map<PodUid, PublishedState>();
    const pods = content.pods ?? old;
    this.#fileProblems.delete(path);
    this.#status.set(node, { path, pods, problems: content.problems });
    for (const uid of [...old.keys(), ...pods.keys()]) this.#changedUids.add(uid);
  }

  /** The file is gone: so are its objects. */
  remove(path: string): void {
    this.#fileProblems.delete(path);
    this.#hiding.delete(path);
    const file = this.#files.get(path);
    this.#files.delete(path);
    this.#objects -= file?.objects.size ?? 0;
    for (const id of file?.objects.keys() ?? []) this.#release(id, path);
    for (const [node, status] of this.#status) {
      if (status.path !== path) continue;
      this.#status.delete(node);
      for (const uid of status.pods.keys()) this.#changedUids.add(uid);
    }
  }

  /** The file can't be read: it stays as it was. */
  setFileProblem(path: string, reason: string): void {
    this.#fileProblems.set(path, reason);
  }

  /** Whether anything of this file is held. */
  holds(path: string): boolean {
    return (this.#files.get(path)?.objects.size ?? 0) > 0;
  }

  get isEmpty(): boolean {
    return this.#objects === 0;
  }

  /** Whether there may be policies that nobody knows: what decides without them may allow what they deny. */
  get hidesPolicies(): boolean {
    return this.#hiding.size > 0 && this.#wants('policy');
  }

  /** Whether nothing is left of what there was: that is no deletion, but a folder that is away. */
  get isEmptied(): boolean {
    return this.isEmpty && this.#told.size > 0;
  }

  /** Whether an object is gone and that has not been told. */
  get hasVanished(): boolean {
    return [...this.#changedIds].some((id) => this.#told.has(id) && !this.#holders.has(id));
  }

  /** What has changed since the last call, namespaces first; without `tellGone` what is gone is told later. */
  takeDeltas(tellGone = true): Delta[] {
    if (this.isEmptied) return [];
    const later = [...this.#changedIds].filter((id) => !tellGone && !this.#holders.has(id));
    for (const id of later) this.#changedIds.delete(id);
    const deltas = [...this.#changedIds].flatMap((id) => this.#settle(id) ?? []);
    this.#changedIds.clear();
    for (const id of later) this.#changedIds.add(id);
    for (const delta of deltas) if (delta.kind === 'workload') this.#changedUids.add(delta.key);
    if (this.#wants('published'))
      for (const uid of this.#changedUids) deltas.push(...this.#settlePublished(uid));
    this.#changedUids.clear();
    return inOrder(deltas);
  }

  problems(): readonly SourceProblem[] {
    const all: SourceProblem[] = [];
    for (const [where, reason] of this.#fileProblems) all.push({ where, line: undefined, reason });
    for (const where of this.#hiding) all.push({ where, line: undefined, reason: HIDING });
    for (const [where, { problems }] of this.#files)
      for (const each of problems) all.push({ where, ...each });
    for (const { path, problems } of this.#status.values())
      for (const each of problems) all.push({ where: path, ...each });
    for (const each of this.#duplicates.values()) all.push(...each);
    all.push(...this.#strangers.values());
    if (all.length <= MAX_PROBLEMS) return all;
    const rest = {
      where: 'the folder',
      line: undefined,
      reason: `${all.length - MAX_PROBLEMS} more problems`,
    };
    return [...all.slice(0, MAX_PROBLEMS), rest];
  }

  /** The file's objects now: broken ones as they were; all of the old ones when a broken one can't be named. */
  #merge(
    old: ReadonlyMap<string, Held>,
    { objects }: FileContent,
    problems: LineProblem[],
  ): Map<string, Held> {
    const merged = new Map<string, Held>();
    for (const object of objects) {
      if (object.kind === 'invalid') continue;
      const earlier = merged.get(object.id);
      if (earlier === undefined) merged.set(object.id, object);
      else problems.push({ line: object.line, reason: twice(object.title, `line ${earlier.line ?? '?'}`) });
    }
    const broken = objects.filter((object) => object.kind === 'invalid').map(({ id }) => id);
    const isAnyNameless = broken.includes(undefined);
    for (const [id, held] of old)
      if (!merged.has(id) && (isAnyNameless || broken.includes(id))) merged.set(id, held);
    for (const [id, { delta }] of merged) if (!this.#keeps(delta)) merged.delete(id);
    return merged;
  }

  #keeps(delta: Delta | undefined): boolean {
    if (delta === undefined || !this.#wants(delta.kind))
      return delta === undefined && this.#filter === undefined;
    const node = this.#filter?.node;
    return delta.kind !== 'workload' || node === undefined || delta.value?.node === node;
  }

  #wants(kind: Delta['kind']): boolean {
    return this.#filter === undefined || this.#filter.kinds.includes(kind);
  }

  #hold(id: string, path: string): void {
    this.#changedIds.add(id);
    const holders = this.#holders.get(id);
    if (holders === undefined) this.#holders.set(id, new Set([path]));
    else holders.add(path);
  }

  #release(id: string, path: string): void {
    this.#changedIds.add(id);
    const holders = this.#holders.get(id);
    if (holders?.delete(path) === true && holders.size === 0) this.#holders.delete(id);
  }

  /** The first file by name counts; the others are told. */
  #settle(id: string): Delta | undefined {
    const paths = [...(this.#holders.get(id) ?? [])].sort();
    const [first, ...others] = paths.flatMap((path) => {
      const held = this.#files.get(path)?.objects.get(id);
      return held === undefined ? [] : [{ path, held }];
    });
    this.#duplicates.delete(id);
    if (first !== undefined && others.length > 0) {
      const reason = twice(first.held.title, `${first.path}:${first.held.line ?? '?'}`);
      const told = others.map(({ path, held }) => ({ where: path, line: held.line, reason }));
      this.#duplicates.set(id, told);
    }
    const before = this.#told.get(id);
    const now = first?.held.delta;
    if (now === undefined) {
      this.#told.delete(id);
      return before && gone(before);
    }
    if (isDeepStrictEqual(before, now)) return undefined;
    this.#told.set(id, now);
    return now;
  }

  /** A node's daemon speaks for that node's pods only. Pods that aren't known yet may come. */
  #settlePublished(uid: PodUid): Delta[] {
    const pod = this.#told.get(`Pod ${uid}`);
    const workload = pod?.kind === 'workload' ? pod.value : undefined;
    const now = workload && this.#status.get(workload.node)?.pods.get(uid);
    this.#strangers.delete(uid);
    for (const [node, { path, pods }] of this.#status) {
      if (workload === undefined || node === workload.node || !pods.has(uid)) continue;
      const name = `${workload.namespace}/${workload.name}`;
      const reason = `speaks for pod ${name}, which is on node ${workload.node || '(none)'}: ignored`;
      this.#strangers.set(uid, { where: path, line: undefined, reason });
    }
    if (isDeepStrictEqual(this.#published.get(uid), now)) return [];
    if (now === undefined) this.#published.delete(uid);
    else this.#published.set(uid, now);
    return [{ kind: 'published', key: uid, value: now }];
  }
}

function twice(title: string, where: string): string {
  return `${title} is also in ${where}, and that one is used`;
}
