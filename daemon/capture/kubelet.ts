/** Which cgroup the kubelet lives in: that of the process listening in the host netns on the node's kubelet port. */
import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import type { Hot } from '../../native/hot/index.ts';
import type { Port } from '../mesh/ids.ts';

const MAX_SOCKETS = 65_536;
const MAX_DIRECTORIES = 4_096;
/** systemd nests the kubelet at most this deep: `kubelet.slice/kubelet.service`, `system.slice/…`. */
const MAX_DEPTH = 4;

/** The cgroup id of the kubelet, or undefined while nobody listens on `port` in the host's namespace. */
export function kubeletCgroup(hot: Hot, hostNetnsFd: number, port: Port): bigint | undefined {
  const listed = hot.tcpSockets(hostNetnsFd, MAX_SOCKETS);
  if (typeof listed === 'number') return undefined;
  const found = listed.sockets.find((socket) => socket.state === 'LISTEN' && socket.sourcePort === port);
  return found === undefined || found.cgroupId === 0n ? undefined : found.cgroupId;
}

/** The path of the cgroup with this id below `cgroupRoot`, or undefined. Ids are inodes (CAPTURE.md, needs). */
export function cgroupPathOf(cgroupRoot: string, id: bigint): string | undefined {
  let level = [cgroupRoot];
  let seen = 0;
  for (let depth = 0; depth <= MAX_DEPTH && level.length > 0; depth++) {
    const next: string[] = [];
    for (const directory of level) {
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
