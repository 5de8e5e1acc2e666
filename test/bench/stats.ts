/** Numbers: medians, slopes, and what /proc says of a process tree. */
import { readdirSync, readFileSync } from 'node:fs';

/** USER_HZ: the unit of CPU times in /proc, 100 on every Linux. */
const TICKS_PER_SECOND = 100;

/** The middle value; of an even number the mean of the two in the middle; NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[sorted.length >> 1] ?? Number.NaN;
  const lower = sorted[(sorted.length - 1) >> 1] ?? Number.NaN;
  return (upper + lower) / 2;
}

/** KB that one connection adds, from the resident KiB at two counts. */
export function slopeKb(
  few: { readonly count: number; readonly kib: number },
  many: { readonly count: number; readonly kib: number },
): number {
  return ((many.kib - few.kib) * 1.024) / (many.count - few.count);
}

/** CPU seconds in /proc/PID/stat: user and system, of the process and of its children that were waited for. */
export function cpuSecondsOf(stat: string): number {
  // The command's name may hold spaces and brackets: fields are counted after the last one.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
  return ticks / TICKS_PER_SECOND;
}

/** Resident KiB in /proc/PID/status. */
export function residentKibOf(status: string): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0);
}

/** CPU seconds of `roots` and all that descend from them. @throws Error when one of the roots has ended. */
export function treeCpuSeconds(roots: readonly number[]): number {
  return sumOver(roots, (pid) => cpuSecondsOf(readFileSync(`/proc/${pid}/stat`, 'utf8')));
}

/** Resident KiB of `roots` and all that descend from them. @throws Error when one of the roots has ended. */
export function treeResidentKib(roots: readonly number[]): number {
  return sumOver(roots, (pid) => residentKibOf(readFileSync(`/proc/${pid}/status`, 'utf8')));
}

function sumOver(roots: readonly number[], read: (pid: number) => number): number {
  let sum = 0;
  for (const root of roots) {
    sum += read(root);
    for (const child of descendants(root)) sum += readOr0(child, read);
  }
  return sum;
}

/** A child may end between being listed and being read: its time is then its parent's. */
function readOr0(pid: number, read: (pid: number) => number): number {
  try {
    return read(pid);
  } catch {
    return 0;
  }
}

function descendants(pid: number): number[] {
  const children = listOr(`/proc/${pid}/task`).flatMap((task) => {
    try {
      const text = readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8');
      return text.split(' ').filter((word) => word !== '');
    } catch {
      return [];
    }
  });
  return children.map(Number).flatMap((child) => [child, ...descendants(child)]);
}

function listOr(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
