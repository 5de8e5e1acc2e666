/**
 * The node's cgroups: where version 2 is mounted, which one holds the pods, which pod each belongs to. Both kubelet
 * drivers (`kubepods/burstable/pod<uid>`, `kubepods.slice/…-pod<uid with _>.slice`) and kind's extra level.
 */
import { readFileSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { MeshError } from '../errors.ts';
import type { PodUid } from '../mesh/ids.ts';
import { parsePodUid } from '../mesh/ids.ts';

/** How deep kubepods is looked for: kind has it at 2, a node inside a container at 4 or 5. */
const SEARCH_DEPTH = 5;
/** Cgroups of a node that are looked at; a node has a few hundred. */
const MAX_CGROUPS = 20_000;
const KUBEPODS = /^(?:[a-zA-Z0-9_.-]+-)?kubepods(?:\.slice)?$/;
const POD_CGROUPFS = /^pod([a-zA-Z0-9-]+)$/;
const POD_SYSTEMD = /^(?:.*-)?kubepods(?:-(?:besteffort|burstable))?-pod([a-zA-Z0-9_]+)\.slice$/;
const QOS = /(?:^|-)(?:besteffort|burstable)(?:\.slice)?$/;

export interface PodCgroup {
  readonly uid: PodUid;
  readonly path: string;
}

export interface Kubepods {
  readonly cgroupRoot: string;
  readonly path: string;
  /** The directories in which pods' cgroups appear: kubepods itself and its QoS classes. */
  readonly classes: readonly string[];
  /** The cgroup of this process. */
  readonly own: string;
}

/** Mount point of cgroup v2 in the text of /proc/self/mounts (also of a hybrid layout), or undefined. */
export function parseCgroupRoot(mounts: string): string | undefined {
  for (const line of mounts.split('\n')) {
    const [, where, type] = line.split(' ');
    if (type === 'cgroup2' && where !== undefined) return unescapeMount(where);
  }
  return undefined;
}

/** Blanks in /proc/mounts are octal escapes. */
function unescapeMount(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** The pod that the kubelet made this cgroup directory for, or undefined when it is no pod's. */
export function podUidOf(directoryName: string): PodUid | undefined {
  const plain = POD_CGROUPFS.exec(directoryName)?.[1];
  if (plain !== undefined) return parsePodUid(plain);
  // A dash would be another level of slices, so the kubelet writes the UID's dashes as underscores.
  const escaped = POD_SYSTEMD.exec(directoryName)?.[1];
  return escaped === undefined ? undefined : parsePodUid(escaped.replaceAll('_', '-'));
}

/** Whether a directory of that name holds the node's pods. */
export function isKubepodsName(directoryName: string): boolean {
  return KUBEPODS.test(directoryName);
}

/** The own cgroup's path in the text of /proc/self/cgroup (v2 line), seen from the own cgroup namespace's root. */
export function parseOwnCgroup(text: string): string | undefined {
  return /^0::(.*)$/m.exec(text)?.[1];
}

/** Mount point of cgroup v2. @throws MeshError CGROUP_NOT_FOUND */
export function findCgroupRoot(mountsFile = '/proc/self/mounts'): string {
  const found = parseCgroupRoot(readFileSync(mountsFile, 'utf8'));
  if (found === undefined)
    throw new MeshError(
      'CGROUP_NOT_FOUND',
      `${mountsFile} lists no cgroup2 file system: cgroup v1 only is not supported`,
    );
  return found;
}

/** What configuration says of the cgroups; '' means: find it. `kubepods` is a path below `cgroupRoot`. */
export interface CgroupSettings {
  readonly cgroupRoot: string;
  readonly kubepods: string;
}

/**
 * The pods' cgroup: as configured, or the one of that name nearest to the root. @throws MeshError CGROUP_NOT_FOUND
 */
export function resolveKubepods(settings: CgroupSettings): { cgroupRoot: string; kubepods: string } {
  const cgroupRoot = settings.cgroupRoot === '' ? findCgroupRoot() : settings.cgroupRoot;
  const { kubepods } = settings;
  return { cgroupRoot, kubepods: kubepods === '' ? searchKubepods(cgroupRoot) : below(cgroupRoot, kubepods) };
}

/** The node's pods' cgroup and ours. @throws MeshError CGROUP_NOT_FOUND, naming both when ours is elsewhere. */
export function findKubepods(settings: CgroupSettings): Kubepods {
  const { cgroupRoot, kubepods } = resolveKubepods(settings);
  const own = findProcess(kubepods, process.pid);
  if (own === undefined)
    throw new MeshError(
      'CGROUP_NOT_FOUND',
      `this process (its cgroup: ${ownCgroupPath()}) is not below ${kubepods}: run the daemon as a pod of this node, or set --kubepods`,
    );
  return { path: kubepods, cgroupRoot, classes: podParents(kubepods), own };
}

function below(cgroupRoot: string, kubepods: string): string {
  const inside = kubepods === cgroupRoot || kubepods.startsWith(`${cgroupRoot}/`);
  return inside ? path.normalize(kubepods) : path.join(cgroupRoot, kubepods);
}

/** The own cgroup as its own cgroup namespace names it: for messages. */
export function ownCgroupPath(): string {
  return parseOwnCgroup(readFileSync('/proc/self/cgroup', 'utf8')) ?? 'none of version 2';
}

/** The cgroup that holds the node's pods, the one nearest to the root. @throws MeshError CGROUP_NOT_FOUND */
export function searchKubepods(cgroupRoot: string): string {
  for (const { directory, depth } of walk(cgroupRoot, SEARCH_DEPTH))
    if (depth > 0 && isKubepodsName(path.basename(directory))) return directory;
  throw new MeshError(
    'CGROUP_NOT_FOUND',
    `no kubepods cgroup in the first ${SEARCH_DEPTH} levels of ${cgroupRoot}: mount the host's cgroup file system there, or set --kubepods`,
  );
}

/** Id of a cgroup, as BPF programs see it: its inode number. */
export function cgroupId(directory: string): bigint {
  return statSync(directory, { bigint: true }).ino;
}

/** The same, or 0n when the cgroup is gone: no map entry of it can ever match again. */
export function cgroupIdOrZero(directory: string): bigint {
  try {
    return cgroupId(directory);
  } catch {
    return 0n;
  }
}

/** Ids of all cgroups at and below `top`. */
export function cgroupIdsBelow(top: string): ReadonlySet<bigint> {
  const ids = new Set<bigint>();
  for (const { directory } of walk(top, SEARCH_DEPTH + SEARCH_DEPTH)) ids.add(cgroupIdOrZero(directory));
  return ids;
}

/**
 * All pods' cgroups below kubepods, of every QoS class. What vanishes meanwhile is left out; what is there and can't
 * be listed (no descriptor left) throws: whoever takes a pod for gone lets it go in the clear.
 */
export function listPodCgroups(kubepods: string): PodCgroup[] {
  const found: PodCgroup[] = [];
  for (const name of subdirectories(kubepods)) {
    const directory = path.join(kubepods, name);
    const uid = podUidOf(name);
    if (uid !== undefined) found.push({ uid, path: directory });
    else if (QOS.test(name)) found.push(...podsIn(directory));
  }
  return found;
}

function podsIn(directory: string): PodCgroup[] {
  return subdirectories(directory).flatMap((name) => {
    const uid = podUidOf(name);
    return uid === undefined ? [] : [{ uid, path: path.join(directory, name) }];
  });
}

/** The directories whose `mkdir` tells of a new pod: kubepods and its QoS classes. */
export function podParents(kubepods: string): string[] {
  const classes = subdirectories(kubepods).filter((name) => podUidOf(name) === undefined && QOS.test(name));
  return [kubepods, ...classes.map((name) => path.join(kubepods, name))];
}

/**
 * The cgroup at or below `top` that holds the process, or undefined. Works where /proc/self/cgroup does not: inside
 * a private cgroup namespace that says `0::/`.
 */
export function findProcess(top: string, pid: number): string | undefined {
  for (const { directory } of walk(top, SEARCH_DEPTH + SEARCH_DEPTH))
    if (processesOf(directory).includes(pid)) return directory;
  return undefined;
}

/** Processes directly in a cgroup; empty when it is gone. */
export function processesOf(directory: string): number[] {
  try {
    return readFileSync(path.join(directory, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number);
  } catch {
    return []; // gone, or a threaded cgroup, which can't be read
  }
}

/** `top` and the directories below it, nearest first. */
function* walk(top: string, maxDepth: number): Generator<{ directory: string; depth: number }> {
  const queue = [{ directory: top, depth: 0 }];
  for (let i = 0; i < queue.length && i < MAX_CGROUPS; i++) {
    const next = queue[i];
    if (next === undefined) return;
    yield next;
    if (next.depth >= maxDepth) continue;
    for (const name of subdirectories(next.directory))
      queue.push({ directory: path.join(next.directory, name), depth: next.depth + 1 });
  }
}

function subdirectories(directory: string): string[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
      .sort();
  } catch (error) {
    if (isGone(error)) return []; // vanished meanwhile
    throw error;
  }
}

function isGone(error: unknown): boolean {
  const code: unknown = Reflect.get(Object(error), 'code');
  return code === 'ENOENT' || code === 'ENODEV' || code === 'ENOTDIR';
}
