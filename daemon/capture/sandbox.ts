/** From a pod's cgroup to its network namespace (CAPTURE.md, from Node): by its processes, never by its address. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import type { Hot } from '../../native/hot/index.ts';

/** The deepest a container's cgroup lies below its pod's (nested containers make their own below). */
const MAX_DEPTH = 6;
const MAX_CGROUPS = 512;

export interface Sandbox {
  /** Open descriptor of the pod's netns; the caller owns it. */
  readonly netnsFd: number;
  readonly pid: number;
}

/**
 * The network namespace of the oldest process in `cgroupPath` or below, or undefined while there is none: the sandbox's
 * is made first and outlives the others. Any other process may be in a namespace nested in the pod, and who took that
 * for the pod's would let the pod itself go. Drops the host's own netns (a hostNetwork pod, or a process on its way in).
 * @param knownPid the sandbox's process as last found: while it lives nothing else is looked at.
 * @param cgroupOf the pod's cgroup as a process in it sees it is told by `/proc/PID/cgroup`: re-read after opening the
 *   netns, because a pid can have been reused in between.
 */
export function findSandbox(
  hot: Pick<Hot, 'openNetns' | 'sameNetns' | 'closeFd'>,
  procRoot: string,
  cgroupPath: string,
  hostNetnsFd: number,
  knownPid?: number,
): Sandbox | undefined {
  const found = cgroupsBelow(cgroupPath).flatMap((directory) =>
    processesOf(directory).map((pid) => ({ pid, directory })),
  );
  const known = found.filter(({ pid }) => pid === knownPid);
  for (const { pid, directory } of known.length > 0 ? known : oldestFirst(procRoot, found)) {
    const netnsFd = hot.openNetns(path.join(procRoot, String(pid), 'ns/net'));
    if (netnsFd < 0) continue;
    const stillThere = processesOf(directory).includes(pid);
    if (stillThere && !hot.sameNetns(netnsFd, hostNetnsFd)) return { netnsFd, pid };
    hot.closeFd(netnsFd);
  }
  return undefined;
}

function oldestFirst<T extends { readonly pid: number }>(procRoot: string, found: readonly T[]): T[] {
  const started = new Map(found.map(({ pid }) => [pid, startedAt(procRoot, pid)]));
  const age = ({ pid }: T): number => started.get(pid) ?? Number.POSITIVE_INFINITY;
  return found.toSorted((a, b) => age(a) - age(b) || a.pid - b.pid);
}

/** Clock ticks since boot at the start of a process (proc(5), stat, field 22); infinite when it is gone. */
export function startedAt(procRoot: string, pid: number): number {
  try {
    const stat = readFileSync(path.join(procRoot, String(pid), 'stat'), 'utf8');
    // The name, in parentheses, may hold anything.
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? Number.POSITIVE_INFINITY);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}

/** Whether any process runs in the cgroup or below it. */
export function hasProcesses(cgroupPath: string): boolean {
  return cgroupsBelow(cgroupPath).some((directory) => processesOf(directory).length > 0);
}

/** The cgroup and all below it, itself first; bounded, and silent about what vanished meanwhile. */
export function cgroupsBelow(cgroupPath: string): string[] {
  const found = [cgroupPath];
  const depthOf = new Map([[cgroupPath, 0]]);
  for (let i = 0; i < found.length && found.length < MAX_CGROUPS; i++) {
    const directory = found[i];
    if (directory === undefined) break;
    const depth = depthOf.get(directory) ?? 0;
    if (depth >= MAX_DEPTH) continue;
    for (const name of subdirectories(directory)) {
      const child = path.join(directory, name);
      depthOf.set(child, depth + 1);
      found.push(child);
    }
  }
  return found;
}

function subdirectories(directory: string): string[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return []; // gone meanwhile
  }
}

function processesOf(directory: string): number[] {
  try {
    return readFileSync(path.join(directory, 'cgroup.procs'), 'utf8')
      .split('\n')
      .map(Number)
      .filter((pid) => pid > 0);
  } catch {
    return []; // gone meanwhile
  }
}
