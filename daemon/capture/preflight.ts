/**
 * What a node must have before anything of ours is attached to it: each missing thing is named with its remedy.
 * Asks the kernel where it can (a version number says little: distributions backport); attaches nothing.
 */
import { accessSync, constants, readFileSync } from 'node:fs';
import { release } from 'node:os';
import path from 'node:path';
import { MeshError } from '../errors.ts';
import { isBpffs } from './bpffs.ts';
import { cgroupId, findCgroupRoot, findProcess, ownCgroupPath, resolveKubepods } from './kubepods.ts';
import { closeFd, describeErrno, libbpfVersion, tryCreateMap } from './libbpf.ts';
import { OBJECT_DIRECTORY, readObject } from './object.ts';
import { hasDiagDestroy } from './syscalls.ts';

export interface PreflightOptions {
  readonly bpffs: string;
  /** '' finds it, here and below. */
  readonly cgroupRoot: string;
  readonly kubepods: string;
  readonly procRoot: string;
  /** Where the prebuilt objects are; the checkout's or image's own when left out. */
  readonly objectDir?: string;
}

/** One result; `warn`: it works, but less well than it could. */
export interface Finding {
  readonly id: string;
  readonly ok: boolean | 'warn';
  readonly what: string;
  readonly detail: string;
  /** What to do; '' when there is nothing to do. */
  readonly fix: string;
}

type Outcome = Pick<Finding, 'ok' | 'detail'>;

const KERNEL_FLOOR = [5, 15] as const;
const LIBBPF_FLOOR = [1, 1] as const;
/** Below this many descriptors the daemon's connection limits are lower than most nodes need. */
const COMFORTABLE_FILES = 65_536;
/** Of the limit, what is left for connections (one descriptor each at either end) by tunnels and listeners. */
const CONNECTIONS_SHARE = 0.75;
const MAP_TYPES = [
  ['HASH', 1, 8, 8],
  ['SOCKHASH', 18, 8, 8],
] as const;
/** Bits of CapEff. SYS_ADMIN contains BPF and PERFMON. */
const CAPABILITIES = { NET_ADMIN: 12, SYS_PTRACE: 19, SYS_ADMIN: 21, BPF: 39 } as const;

/** Looks at this node. Never throws: what can't be looked at is a finding that is not ok. */
export function preflight(options: PreflightOptions): Finding[] {
  const checks: readonly [string, string, string, () => Outcome][] = [
    [
      'kernel',
      'kernel 5.15 or newer',
      'run a node image with Linux 5.15 or newer',
      () => judgeKernel(release()),
    ],
    ['libbpf', 'libbpf 1.1 or newer', 'install libbpf1 (Debian 12 or newer has it)', checkLibbpf],
    [
      'capabilities',
      'capabilities',
      'give the container BPF (or SYS_ADMIN), NET_ADMIN, SYS_ADMIN and SYS_PTRACE',
      () => judgeCapabilities(readFileSync('/proc/self/status', 'utf8')),
    ],
    [
      'bpf',
      'BPF system call',
      'kernel options CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF, CONFIG_BPF_STREAM_PARSER; a seccomp profile that lets bpf(2) through',
      checkBpf,
    ],
    [
      'sock-destroy',
      'cutting connections older than enrolment',
      'kernel option CONFIG_INET_DIAG_DESTROY, module tcp_diag',
      checkDestroy,
    ],
    [
      'cgroup2',
      'cgroup version 2',
      'boot the node with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or mount cgroup2 and set --cgroup-root',
      () => checkCgroup(options),
    ],
    [
      'kubepods',
      "the node's pods' cgroup",
      "mount the host's cgroup file system, or set --kubepods",
      () => checkKubepods(options),
    ],
    [
      'own-cgroup',
      'own cgroup below the pods’ cgroup',
      'run the daemon as a pod of this node (a DaemonSet), or set --kubepods to a cgroup that holds the pods and the daemon',
      () => checkOwnCgroup(options),
    ],
    [
      'bpffs',
      'BPF file system',
      `mount -t bpf bpf ${options.bpffs}, in the host's mount namespace, and not read-only`,
      () => checkBpffs(options.bpffs),
    ],
    [
      'host-namespace',
      "the node's own network namespace",
      'set hostPID: true, and --proc-root to the /proc that shows the node',
      () => checkHost(options.procRoot),
    ],
    [
      'bpf-object',
      'prebuilt BPF object',
      'install culvert again, or rebuild the object with make bpf',
      () => checkObject(options.objectDir),
    ],
    [
      'open-files',
      'open-file limit',
      `raise it to ${COMFORTABLE_FILES} or more (LimitNOFILE of the container runtime)`,
      () => judgeOpenFiles(readFileSync('/proc/self/limits', 'utf8')),
    ],
  ];
  return checks.map(([id, what, fix, check]) => {
    const { ok, detail } = attempt(check);
    return { id, ok, what, detail, fix: ok === true ? '' : fix };
  });
}

function attempt(check: () => Outcome): Outcome {
  try {
    return check();
  } catch (error) {
    const cause =
      error instanceof MeshError && error.cause instanceof Error ? `: ${error.cause.message}` : '';
    return { ok: false, detail: `${error instanceof Error ? error.message : String(error)}${cause}` };
  }
}

/** `text` as uname -r says it. */
export function judgeKernel(text: string): Outcome {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(text) ?? [];
  return { ok: isAtLeast(Number(major), Number(minor), KERNEL_FLOOR), detail: text };
}

function isAtLeast(major: number, minor: number, floor: readonly [number, number]): boolean {
  return major > floor[0] || (major === floor[0] && minor >= floor[1]);
}

function checkLibbpf(): Outcome {
  const { major, minor } = libbpfVersion();
  return { ok: isAtLeast(major, minor, LIBBPF_FLOOR), detail: `${major}.${minor}` };
}

/** `status` is the text of /proc/self/status. */
export function judgeCapabilities(status: string): Outcome {
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
  const has = (name: keyof typeof CAPABILITIES): boolean =>
    ((effective >> BigInt(CAPABILITIES[name])) & 1n) === 1n;
  const missing = (['NET_ADMIN', 'SYS_ADMIN', 'SYS_PTRACE'] as const).filter((name) => !has(name));
  const all = has('BPF') || has('SYS_ADMIN') ? missing : ['BPF', ...missing];
  return all.length === 0
    ? { ok: true, detail: 'BPF, NET_ADMIN, SYS_ADMIN, SYS_PTRACE' }
    : { ok: false, detail: `missing: ${all.join(', ')}` };
}

function checkBpf(): Outcome {
  for (const [name, type, keyBytes, valueBytes] of MAP_TYPES) {
    const fd = tryCreateMap(type, keyBytes, valueBytes);
    if (fd < 0)
      return { ok: false, detail: `a map of type ${name} could not be made: ${describeErrno(-fd)}` };
    closeFd(fd);
  }
  return { ok: true, detail: 'maps can be made' };
}

function checkDestroy(): Outcome {
  const errno = hasDiagDestroy();
  // Without it only one promise falls: connections that are older than the label stay under STRICT.
  return errno === 0
    ? { ok: true, detail: 'SOCK_DESTROY works' }
    : { ok: 'warn', detail: describeErrno(errno) };
}

function checkCgroup({ cgroupRoot }: PreflightOptions): Outcome {
  return { ok: true, detail: cgroupRoot === '' ? findCgroupRoot() : cgroupRoot };
}

function checkKubepods(options: PreflightOptions): Outcome {
  const { kubepods } = resolveKubepods(options);
  return { ok: true, detail: `${kubepods} (id ${cgroupId(kubepods)})` };
}

function checkOwnCgroup(options: PreflightOptions): Outcome {
  const { kubepods } = resolveKubepods(options);
  const own = findProcess(kubepods, process.pid);
  // Sockets made elsewhere run none of our programs: listeners' children would never get their record.
  if (own === undefined)
    return { ok: false, detail: `own cgroup ${ownCgroupPath()} is not below ${kubepods}` };
  return { ok: true, detail: `${own} is below ${kubepods}` };
}

function checkBpffs(bpffs: string): Outcome {
  if (!isBpffs(bpffs)) return { ok: 'warn', detail: `${bpffs} is no BPF file system: the daemon mounts one` };
  accessSync(bpffs, constants.W_OK); // of a read-only mount it says EROFS
  return { ok: true, detail: bpffs };
}

function checkHost(procRoot: string): Outcome {
  const file = path.join(procRoot, '1/ns/net');
  readFileSync(path.join(procRoot, '1/status'), 'utf8');
  return { ok: true, detail: file };
}

function checkObject(directory = OBJECT_DIRECTORY): Outcome {
  return { ok: true, detail: `${readObject(directory).length} bytes, checksum as SHA256SUMS says` };
}

/** `limits` is the text of /proc/self/limits. */
export function judgeOpenFiles(limits: string): Outcome {
  const [, soft] = /^Max open files\s+(\S+)/m.exec(limits) ?? [];
  const files = soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft);
  if (!(files > 0)) return { ok: false, detail: 'could not be read' };
  const detail = Number.isFinite(files)
    ? `${files}: about ${Math.floor(files * CONNECTIONS_SHARE)} connections at once`
    : 'unlimited';
  return { ok: files >= COMFORTABLE_FILES ? true : 'warn', detail };
}
