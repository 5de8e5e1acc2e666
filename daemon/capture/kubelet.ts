/** Which cgroup the kubelet lives in: that of the process listening in the host netns on the node's kubelet port. */
import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import type { Hot } from '../../native/hot/index.ts';
import type { Port } from '../mesh/ids.ts';
import { processesOf } from './kubepods.ts';

/** Sockets of the host that are looked at, once in a while: listing them is what costs. */
const MAX_SOCKETS = 65_536;
const MAX_DIRECTORIES = 4_096;
/** systemd nests the kubelet at most this deep: `kubelet.slice/kubelet.service`, `system.slice/…`. */
const MAX_DEPTH = 4;
/** Between two searches while there is none: often at first, for a kubelet that restarts probes again at once. */
const MIN_PAUSE_MS = 900;
const MAX_PAUSE_MS = 5_000;

export interface KubeletPlace {
  readonly hot: Pick<Hot, 'tcpSockets'>;
  readonly hostNetnsFd: number;
  readonly cgroupRoot: string;
  /** The pods' cgroup: whoever listens in it is a pod in the host's network, not the kubelet. */
  readonly kubepods: string;
  /** Any clock, in ms. */
  readonly now: () => number;
}

export interface Kubelet {
  /** Of its cgroup. */
  readonly id: bigint;
  readonly path: string;
}

export class KubeletFinder {
  readonly #place: KubeletPlace;
  #known: (Kubelet & { readonly port: Port }) | undefined;
  #pauseMs = MIN_PAUSE_MS;
  #searchedMs = Number.NEGATIVE_INFINITY;

  constructor(place: KubeletPlace) {
    this.#place = place;
  }

  /**
   * Call it as often as you like: while the kubelet that was found last still runs on `port`, that costs a look at its
   * cgroup. `take` gets the kubelet when it is another one than before; when it throws, that one is looked for again.
   */
  look(port: Port | undefined, take: (kubelet: Kubelet) => void): void {
    const known = this.#known;
    if (port === undefined || (known?.port === port && isAlive(known))) return;
    const nowMs = this.#place.now();
    if (known?.port === port) this.#forget();
    else if (nowMs - this.#searchedMs < this.#pauseMs) return;
    this.#searchedMs = nowMs;
    const found = this.#search(port);
    this.#pauseMs = found === undefined ? Math.min(MAX_PAUSE_MS, 2 * this.#pauseMs) : MIN_PAUSE_MS;
    if (found === undefined) return;
    take(found);
    this.#known = { ...found, port };
  }

  #forget(): void {
    this.#known = undefined;
    this.#pauseMs = MIN_PAUSE_MS;
  }

  #search(port: Port): Kubelet | undefined {
    const { hot, hostNetnsFd, cgroupRoot, kubepods } = this.#place;
    const listed = hot.tcpSockets(hostNetnsFd, MAX_SOCKETS);
    if (typeof listed === 'number') return undefined;
    const listeners = listed.sockets.filter(
      (socket) => socket.state === 'LISTEN' && socket.sourcePort === port && socket.cgroupId !== 0n,
    );
    // The kubelet listens on every address, unless it is told otherwise.
    const isAny = (source: string): number => (source === '::' || source === '0.0.0.0' ? 0 : 1);
    for (const { cgroupId } of listeners.sort((a, b) => isAny(a.source) - isAny(b.source))) {
      const found = cgroupPathOf(cgroupRoot, cgroupId, kubepods);
      if (found !== undefined) return { id: cgroupId, path: found };
    }
    return undefined;
  }
}

/** Its cgroup is that one still (systemd makes another at each start), and somebody is in it. */
function isAlive({ id, path: directory }: Kubelet): boolean {
  return inodeOf(directory) === id && processesOf(directory).length > 0;
}

/** The path of the cgroup with this id below `cgroupRoot`, but not in `except`, or undefined. Ids are inodes. */
export function cgroupPathOf(cgroupRoot: string, id: bigint, except?: string): string | undefined {
  let level = [cgroupRoot];
  let seen = 0;
  for (let depth = 0; depth <= MAX_DEPTH && level.length > 0; depth++) {
    const next: string[] = [];
    for (const directory of level) {
      if (directory === except) continue;
      if (inodeOf(directory) === id) return directory;
      if (++seen >= MAX_DIRECTORIES) return undefined;
      next.push(...children(directory));
    }
    level = next;
  }
  return undefined;
}

function inodeOf(directory: string): bigint | undefined {
  return statSync(directory, { bigint: true, throwIfNoEntry: false })?.ino;
}

function children(directory: string): string[] {
  try {
    return readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => path.join(directory, entry.name));
  } catch {
    return []; // gone meanwhile
  }
}
