/**
 * The node's BPF file system, which holds our pins. Where nobody has mounted one (a systemd does, an init of another
 * kind may not), we do, in the mount namespace of the node's pid 1: pins have to outlive our container. That takes
 * CAP_SYS_CHROOT beside CAP_SYS_ADMIN, and no privileged container (DESIGN.md section 6).
 */
import { statfsSync } from 'node:fs';
import path from 'node:path';
import type { Hot } from '../../native/hot/index.ts';
import { must } from '../../native/hot/index.ts';
import { MeshError } from '../errors.ts';

const BPF_FS_MAGIC = 0xcafe4a11;

/** Whether a BPF file system is mounted at `bpffs`, as this process sees it. @throws Error when nothing is there */
export function isBpffs(bpffs: string): boolean {
  // f_type is a signed word on some file systems' way through node.
  return statfsSync(bpffs).type >>> 0 === BPF_FS_MAGIC;
}

/**
 * Mounts one on the node when there is none. @returns whether it did.
 * @throws MeshError PREFLIGHT_FAILED when it can't, or when this container does not see what is mounted there.
 */
export function ensureBpffs(
  hot: Pick<Hot, 'mountBpf'>,
  { bpffs, procRoot }: { readonly bpffs: string; readonly procRoot: string },
): boolean {
  if (isBpffs(bpffs)) return false;
  must(
    hot.mountBpf(path.join(procRoot, '1/ns/mnt'), bpffs),
    `mount a BPF file system on the node's ${bpffs} (it has none; hostPID, SYS_ADMIN, SYS_PTRACE and SYS_CHROOT are needed): mount -t bpf bpf ${bpffs} on the node does as well`,
    'PREFLIGHT_FAILED',
  );
  if (isBpffs(bpffs)) return true;
  // Of mounts that don't propagate, the next start of this container sees what is there.
  throw new MeshError(
    'PREFLIGHT_FAILED',
    `the node has a BPF file system at ${bpffs} now, which this container does not see yet: it has to start again`,
  );
}
