/** What a real Kubernetes needs of the machine on top of what the lab does, said at once and before anything is made. */
import { existsSync, readFileSync, statSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { missing } from '../../lab/kit/preflight.ts';
import { CACHE_ROOT } from './cache.ts';
import { USUAL_GO } from './go.ts';

const PROGRAMS = {
  go: 'golang-go',
  debootstrap: 'debootstrap',
  buildah: 'buildah',
  shellcheck: 'shellcheck',
  bpftool: 'bpftool',
  flock: 'util-linux',
  openssl: 'openssl',
} as const;

const GB = 1e9;
/** Of the folders of clusters that are up. */
const CLUSTERS_BYTES = 2 * GB;
/** A cluster of two nodes has 2.5 GB resident, its test 0.3. */
const MEMORY_BYTES = 3 * GB;

/** Space that is going to be used somewhere. */
export interface Space {
  readonly folder: string;
  readonly bytes: number;
}

/** What is free of a machine, as tests can say it. */
export interface Machine {
  readonly freeMemoryBytes: number;
  /** Of the file system that a folder is or will be on, and which one that is. */
  readonly disk: (folder: string) => { readonly device: number; readonly freeBytes: number };
  readonly has: (program: string) => boolean;
}

/** One line for each missing thing; empty when clusters can be made here. `toBeMade`: what is not cached yet. */
export function missingForKube(toBeMade: number, machine: Machine = thisMachine): string[] {
  const programs = Object.entries(PROGRAMS)
    .filter(([program]) => !machine.has(program))
    .map(([program, name]) => `${program}: run make kube-packages, or apt-get install ${name}`);
  const { freeMemoryBytes } = machine;
  const memory =
    freeMemoryBytes < MEMORY_BYTES
      ? [`memory: a cluster needs ${inGb(MEMORY_BYTES)}, ${inGb(freeMemoryBytes)} is free`]
      : [];
  return [...missing(), ...programs, ...memory, ...missingSpace(spaces(toBeMade), machine)];
}

/** What is needed, in words. */
export function needs(toBeMade: number): string {
  const disk = spaces(toBeMade).map(({ folder, bytes }) => `${inGb(bytes)} in ${folder}`);
  return `root, cgroup v2, eBPF, ${inGb(MEMORY_BYTES)} of memory, disk: ${disk.join(', ')}`;
}

function spaces(toBeMade: number): Space[] {
  const made = toBeMade === 0 ? [] : [{ folder: CACHE_ROOT, bytes: toBeMade }];
  return [...made, { folder: tmpdir(), bytes: CLUSTERS_BYTES }];
}

/** A line for each file system that has less than all that goes on it. */
function missingSpace(wanted: readonly Space[], { disk }: Machine): string[] {
  const devices = Map.groupBy(wanted, ({ folder }) => disk(folder).device);
  return [...devices.values()].flatMap((here) => {
    const bytes = here.reduce((sum, one) => sum + one.bytes, 0);
    const folders = here.map(({ folder }) => folder);
    const freeBytes = Math.min(...folders.map((folder) => disk(folder).freeBytes));
    if (freeBytes >= bytes) return [];
    return [`disk: ${inGb(bytes)} is needed in ${folders.join(' and ')}, ${inGb(freeBytes)} is free`];
  });
}

function inGb(bytes: number): string {
  return `${(bytes / GB).toFixed(1)} GB`;
}

const thisMachine: Machine = {
  get freeMemoryBytes() {
    const found = /^MemAvailable: +(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1];
    return Number(found ?? 0) * 1_024;
  },
  disk: (folder) => {
    const there = existing(folder);
    const { bavail, bsize } = statfsSync(there);
    return { device: statSync(there).dev, freeBytes: bavail * bsize };
  },
  has: (program) => {
    const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin', USUAL_GO];
    return folders.some((folder) => existsSync(join(folder, program)));
  },
};

/** The folder, or the nearest above it that is there. */
function existing(folder: string): string {
  return existsSync(folder) ? folder : existing(dirname(folder));
}
