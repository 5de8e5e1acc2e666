/**
 * A node: network, mount, pid, UTS, IPC and cgroup namespaces of its own on this kernel, with a real containerd,
 * kubelet and kube-proxy. Its cgroup is the root of its /sys/fs/cgroup and has no controllers: no limits, no OOM.
 */
import {
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { ip } from '../../lab/kit/net.ts';
import type { CapturePoint } from '../../lab/kit/capture.ts';
import { startedAt } from '../../../daemon/capture/sandbox.ts';
import { must } from '../../support/run.ts';
import type { RunOptions } from '../../support/run.ts';
import { until } from '../../support/wait.ts';
import { ADDRESSES } from './addresses.ts';
import type { ControlPlane } from './control-plane.ts';
import { writeNodeFiles } from './node-files.ts';
import { KubeProcess } from './process.ts';

/** What runs on a node beside its pods. */
export type NodePart = 'containerd' | 'kubelet' | 'kube-proxy';

export interface NodeOptions {
  /** From 1. */
  readonly index: number;
  readonly count: number;
  readonly rootfs: string;
  /** Archives that containerd imports before the kubelet starts. */
  readonly images: readonly string[];
}

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export class KubeNode {
  readonly name: string;
  readonly index: number;
  readonly ip: string;
  /** Its folder on this machine: `log/kubelet.log` and the like. */
  readonly dir: string;
  /** As this machine sees it: the root of the node's own /sys/fs/cgroup. */
  readonly cgroup: string;
  /** pid 1 of the node, as this machine sees it. */
  readonly initPid: number;

  /** Resolves when its namespaces and links are there; the kubelet registers later (`ready`). */
  static async start(controlPlane: ControlPlane, options: NodeOptions): Promise<KubeNode> {
    const name = `node-${options.index}`;
    const dir = join(controlPlane.home.dir, name);
    mkdirSync(join(dir, 'given'), { recursive: true });
    mkdirSync(join(dir, 'images'));
    await writeNodeFiles(join(dir, 'given'), controlPlane, options.index, options.count);
    for (const archive of options.images)
      linkOrCopy(archive, join(dir, 'images', `${basename(archive)}.tar`));
    await register(controlPlane, name, options.index);
    const cgroup = controlPlane.home.cgroupOf(name);
    const initPid = await startInit(controlPlane, options, dir, cgroup);
    const node = new KubeNode(name, options.index, dir, cgroup, initPid);
    await ip(controlPlane.netns, [
      `link add n${options.index} type veth peer name eth0 netns ${initPid}`,
      `link set n${options.index} master br0 up`,
      `route add ${ADDRESSES.podCidr(options.index)} via ${node.ip}`,
    ]);
    return node;
  }

  private constructor(name: string, index: number, dir: string, cgroup: string, initPid: number) {
    this.name = name;
    this.index = index;
    this.ip = ADDRESSES.node(index);
    this.dir = dir;
    this.cgroup = cgroup;
    this.initPid = initPid;
  }

  /** `/proc/PID/ns/net`: its host network namespace. */
  get netns(): string {
    return `/proc/${this.initPid}/ns/net`;
  }

  /** Its uplink, for a capture. */
  get capturePoint(): CapturePoint {
    return { name: this.name, netns: this.netns, device: 'eth0' };
  }

  /** Processes of a pod as this machine sees them, the sandbox's among them; none when it is not here. */
  podPids(uid: string): number[] {
    return this.#containerPids(uid).flat();
  }

  /** Of these the oldest of each container: it lasts as long as that, where others may be about to end. */
  podInitPids(uid: string): number[] {
    return this.#containerPids(uid).flatMap((pids) => {
      const [oldest] = pids
        .map((pid) => ({ pid, at: startedAt('/proc', pid) }))
        .filter(({ at }) => at !== Infinity)
        .sort((a, b) => a.at - b.at);
      return oldest === undefined ? [] : [oldest.pid];
    });
  }

  #containerPids(uid: string): number[][] {
    const roots = ['', 'burstable', 'besteffort'].map((qos) =>
      join(this.cgroup, 'kubepods', qos, `pod${uid}`),
    );
    const containers = roots.flatMap((root) => (existsSync(root) ? subfolders(root) : []));
    return containers.map((folder) =>
      readFileSync(join(folder, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number),
    );
  }

  /** Inside a pod of this node, for a capture. @throws Error when it has no process. */
  podCapturePoint(name: string, uid: string): CapturePoint {
    const [pid] = this.podInitPids(uid);
    if (pid === undefined) throw new Error(`${name} (${uid}) has no process on ${this.name}`);
    return { name: `pod ${name}`, netns: `/proc/${pid}/ns/net`, device: 'eth0' };
  }

  /** Runs a program of the node's file system in all of its namespaces. @throws Error with its stderr when it fails. */
  exec(argv: readonly string[], options: RunOptions = {}): Promise<string> {
    const words = [
      'nsenter',
      '-t',
      String(this.initPid),
      '-m',
      '-n',
      '-p',
      '-u',
      '-i',
      '-C',
      '--wd=/',
      '--',
      ...argv,
    ];
    return must(words, { env: { PATH, HOME: '/root', LANG: 'C' }, ...options });
  }

  /** Imports a docker or OCI archive, as `nerdctl load` would; pods find its images without a registry. */
  async loadImage(archive: string): Promise<void> {
    const script = 'exec ctr -n k8s.io images import - < "$0"';
    // The shell opens the archive before it enters the node, where that path means nothing.
    const enter = ['nsenter', '-t', String(this.initPid), '-m', '-n', '-p', '-u', '-i', '-C', '--wd=/', '--'];
    const quoted = script.replace('exec ', `exec ${enter.join(' ')} `);
    await must(['sh', '-c', quoted, archive], { env: { PATH, HOME: '/root' }, timeoutMs: 300_000 });
  }

  /** Ends a part at once, as a crash would, and keeps it from coming back. Pods go on. */
  async stop(part: NodePart): Promise<void> {
    await this.exec(['sh', '-c', 'touch /run/stopped/$0; kill -9 "$(cat /run/$0.pid)"', part]);
  }

  /** Lets it come back. */
  async start(part: NodePart): Promise<void> {
    await this.exec(['rm', '-f', `/run/stopped/${part}`]);
  }

  /** The last lines of a part's log. */
  tail(part: NodePart, lines = 15): string {
    return readFileSync(join(this.dir, 'log', `${part}.log`), 'utf8')
      .split('\n')
      .slice(-lines)
      .join('\n');
  }
}

/** Its Node object: the address range has to be there before the kubelet is, which only completes the rest. */
async function register(controlPlane: ControlPlane, name: string, index: number): Promise<void> {
  const podCIDR = ADDRESSES.podCidr(index);
  const body = {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name, labels: { 'kubernetes.io/hostname': name } },
    spec: { podCIDR, podCIDRs: [podCIDR] },
  };
  await controlPlane.api.must('POST', '/api/v1/nodes', { body });
}

async function startInit(
  controlPlane: ControlPlane,
  options: NodeOptions,
  dir: string,
  cgroup: string,
): Promise<number> {
  const { index, rootfs } = options;
  const namespaces = ['-m', '-n', '-p', '-u', '-i', '-C', '-f', '--propagation', 'private', '--kill-child'];
  const script = join(import.meta.dirname, 'node-enter.sh');
  const words = [rootfs, dir, `node-${index}`, ADDRESSES.node(index), ADDRESSES.podCidr(index)];
  const starter = await KubeProcess.start(['unshare', ...namespaces, '--', 'bash', script, ...words], {
    cgroup,
    logFile: controlPlane.home.logFile(`node-${index}`),
  });
  const children = `/proc/${starter.pid}/task/${starter.pid}/children`;
  const pid = await until(
    'the init of a node',
    () => Number(readFileSync(children, 'utf8').trim()) || undefined,
    {
      detail: () => starter.tail(),
    },
  );
  // The starter is no process of the node: it must not show in its root group.
  writeFileSync(join(controlPlane.home.cgroupOf('tools'), 'cgroup.procs'), String(starter.pid));
  return pid;
}

function subfolders(folder: string): string[] {
  const entries = readdirSync(folder, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(folder, name));
}

function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch {
    copyFileSync(from, to);
  }
}
