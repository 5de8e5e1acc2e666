/**
 * The lab: nodes as namespaces on one machine, pods with real processes, the real daemon on each node. Everything of
 * a lab lives in one cgroup and one folder, both named `culvert-lab-<id>`; its namespaces have no names and go with
 * their processes. A reaper outside the lab ends it all when its owner disposes of it, exits or is killed.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { until, within } from '../../support/wait.ts';
import { Server, serveArguments } from './apps.ts';
import type { ServeOptions, ServerKind } from './apps.ts';
import { Capture } from './capture.ts';
import type { CapturePoint } from './capture.ts';
import { cgroup2Mount } from './cgroups.ts';
import type { CgroupDriver } from './cgroups.ts';
import { LabCluster } from './cluster.ts';
import { LabDaemon } from './daemon.ts';
import type { DaemonOptions } from './daemon.ts';
import { FABRIC, ip, netnsOf, podCidrs } from './net.ts';
import { LabNode } from './node.ts';
import { LabPod } from './pod.ts';
import type { PodSpec } from './pod.ts';
import { missing } from './preflight.ts';
import { LabProcess, allEnded } from './process.ts';
import { tools } from './tools.ts';

export const PREFIX = 'culvert-lab-';

export interface LabOptions {
  /** Default 2. */
  readonly nodes?: number;
  /** Dual stack. Default true. */
  readonly ipv6?: boolean;
  /** How the kubelet names cgroups. Default systemd. */
  readonly cgroupDriver?: CgroupDriver;
  /** `perNode`: nodes can learn of a change at different times (`lagMs`). Default shared. */
  readonly views?: 'shared' | 'perNode';
}

export class Lab implements AsyncDisposable {
  readonly id: string;
  /** Everything on disk: logs, captures, the cluster's folder, the CA's. */
  readonly dir: string;
  /** As this machine sees it. */
  readonly cgroup: string;
  readonly nodes: readonly LabNode[];
  readonly cluster: LabCluster;
  readonly #fabric: LabProcess;
  readonly #reaper: Reaper;
  readonly #daemonPods = new Map<string, LabPod>();

  /** @throws Error that names everything the machine lacks, before anything is made. */
  static async create(options: LabOptions = {}): Promise<Lab> {
    const lacks = missing();
    if (lacks.length > 0) throw new Error(`the lab can't run here:\n${lacks.join('\n')}`);
    const id = randomBytes(4).toString('hex');
    const dir = join(tmpdir(), `${PREFIX}${id}`);
    const cgroup = join(cgroup2Mount(), `${PREFIX}${id}`);
    for (const folder of ['', 'logs', 'captures']) mkdirSync(join(dir, folder), { mode: 0o755 });
    const reaper = await Reaper.start(cgroup, dir);
    try {
      return await Lab.#make(id, dir, cgroup, reaper, options);
    } catch (error) {
      await reaper.reap();
      throw error;
    }
  }

  static async #make(
    id: string,
    dir: string,
    cgroup: string,
    reaper: Reaper,
    options: LabOptions,
  ): Promise<Lab> {
    mkdirSync(join(cgroup, 'tools'), { recursive: true });
    const { nodes: count = 2, ipv6 = true, cgroupDriver = 'systemd' } = options;
    const fabric = await startFabric(join(cgroup, 'tools'));
    const fabricNetns = netnsOf(fabric.pid);
    const common = { cgroup, dir, fabricNetns, count, ipv6, cgroupDriver };
    const indexes = Array.from({ length: count }, (_, index) => index + 1);
    const nodes = await Promise.all(indexes.map((index) => LabNode.create({ ...common, index })));
    const names = options.views === 'perNode' ? nodes.map((node) => node.name) : [];
    const cluster = new LabCluster(dir, names, ipv6);
    cluster.onServices(async (rules) => {
      await Promise.all(nodes.map((node) => node.applyServices(rules)));
    });
    for (const node of nodes) await cluster.apply(node.object());
    return new Lab(id, dir, cgroup, nodes, cluster, fabric, reaper);
  }

  private constructor(
    id: string,
    dir: string,
    cgroup: string,
    nodes: readonly LabNode[],
    cluster: LabCluster,
    fabric: LabProcess,
    reaper: Reaper,
  ) {
    this.id = id;
    this.dir = dir;
    this.cgroup = cgroup;
    this.nodes = nodes;
    this.cluster = cluster;
    this.#fabric = fabric;
    this.#reaper = reaper;
  }

  /** The `index`th node, from 1. */
  node(index: number): LabNode {
    const node = this.nodes[index - 1];
    if (node === undefined) throw new Error(`the lab has no node ${index}`);
    return node;
  }

  /** Where `br0`, which joins the nodes, lives. */
  get fabricPoint(): CapturePoint {
    return { name: 'bridge', netns: netnsOf(this.#fabric.pid), device: 'br0' };
  }

  /** Makes a pod; its namespace and service account come into being with it. */
  async pod(spec: PodSpec): Promise<LabPod> {
    const namespace = spec.namespace ?? 'shop';
    if (!this.cluster.has('Namespace', '', namespace)) await this.cluster.namespace(namespace);
    await this.cluster.serviceAccount(namespace, spec.serviceAccount ?? spec.name);
    return LabPod.create(spec, this.node(spec.node), this.cluster);
  }

  /**
   * A pod outside the mesh, that the node's daemon, where one runs, has heard of: before that it is closed
   * (daemon/capture/unknown-pods.ts), which the kubelet is too slow to let anybody see.
   */
  async outsider(name: string, node = 1): Promise<LabPod> {
    const pod = await this.pod({ name, node, namespace: 'elsewhere' });
    const isOpen = async (): Promise<boolean> =>
      (await pod.send(FABRIC.nodeIp(node), 1)).error === 'ECONNREFUSED';
    await until(`${name} to be left alone`, isOpen);
    return pod;
  }

  /** Starts node `index`'s daemon, the first time with its pod; again after `daemon.stop()`. */
  async startDaemon(index: number, options: DaemonOptions = {}): Promise<LabDaemon> {
    const node = this.node(index);
    const name = `culvert-${node.name}`;
    const pod = this.#daemonPods.get(name) ?? (await this.#daemonPod(index, name));
    this.#daemonPods.set(name, pod);
    return LabDaemon.start(pod, this.cluster.folder(node.name), join(this.dir, 'ca'), options);
  }

  /** A second daemon pod of a node, as in a rolling upgrade; `name` tells them apart. */
  async startNextDaemon(index: number, name: string, options: DaemonOptions = {}): Promise<LabDaemon> {
    const pod = await this.#daemonPod(index, name);
    return LabDaemon.start(pod, this.cluster.folder(this.node(index).name), join(this.dir, 'ca'), options);
  }

  /** One daemon on every node. */
  async startDaemons(options: DaemonOptions = {}): Promise<LabDaemon[]> {
    return Promise.all(this.nodes.map((node) => this.startDaemon(node.index, options)));
  }

  #daemonPod(index: number, name: string): Promise<LabPod> {
    return this.pod({
      node: index,
      name,
      namespace: 'culvert-system',
      serviceAccount: 'culvert',
      labels: { app: 'culvert' },
      spec: { hostPID: true },
    });
  }

  /** Listens at `points`; default the bridge and every node's uplink. Dispose of it before reading is not needed. */
  async capture(points?: readonly CapturePoint[], filter = ''): Promise<Capture> {
    const all = points ?? [this.fabricPoint, ...this.nodes.map((node) => node.capturePoint)];
    return Capture.start(all, join(this.dir, 'captures'), join(this.cgroup, 'tools'), filter);
  }

  /** A program in any namespace of the lab, in no pod's cgroup. */
  run(argv: readonly string[], netns: string): Promise<LabProcess> {
    return LabProcess.start(argv, { cgroup: join(this.cgroup, 'tools'), netns });
  }

  /** A server in any namespace of the lab: outside the cluster, or a process of a node that is no pod. */
  async serveIn(netns: string, kind: ServerKind, port: number, options: ServeOptions = {}): Promise<Server> {
    const { labapp } = await tools();
    return Server.listening(await this.run([labapp, ...serveArguments(kind, port, options)], netns), port);
  }

  /** A host outside the cluster: joined to the bridge, with an address in no range of the mesh. */
  async outside(): Promise<{ readonly ip: string; readonly ip6: string; readonly netns: string }> {
    const { labtool } = await tools();
    const holder = await LabProcess.start([labtool, 'net'], { cgroup: join(this.cgroup, 'tools') });
    await holder.waitForLine('the outside', (line) => line === 'ready' || undefined);
    const { via, via6, ip: v4, ip6: v6 } = FABRIC.outside;
    await ip(this.fabricPoint.netns, [
      `link add outside type veth peer name eth0 netns ${holder.pid}`,
      'link set outside master br0 up',
    ]);
    const back = this.nodes.flatMap((node) => {
      const [cidr, cidr6] = podCidrs(node.index);
      return [
        `route add ${cidr} via ${node.addresses[0] ?? ''}`,
        `route add ${cidr6} via ${FABRIC.nodeIp6(node.index)}`,
      ];
    });
    const addresses = [
      `addr add ${via}/24 dev eth0`,
      `addr add ${via6}/64 dev eth0 nodad`,
      `addr add ${v4}/32 dev lo`,
      `addr add ${v6}/128 dev lo nodad`,
    ];
    await ip(netnsOf(holder.pid), ['link set eth0 up', ...addresses, ...back]);
    return { ip: v4, ip6: v6, netns: netnsOf(holder.pid) };
  }

  /** Ends everything. @throws Error when something can't be removed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#reaper.reap();
    await within('the end of all processes', allEnded(this.cgroup));
  }
}

async function startFabric(cgroup: string): Promise<LabProcess> {
  const { labtool } = await tools();
  const fabric = await LabProcess.start([labtool, 'net'], { cgroup });
  await fabric.waitForLine('the fabric', (line) => line === 'ready' || undefined);
  // A MAC of its own: else the bridge takes its ports' and changes it as they come.
  await ip(netnsOf(fabric.pid), [
    'link add br0 address 02:00:00:00:00:01 type bridge forward_delay 0 mcast_snooping 0',
    'link set br0 up',
  ]);
  return fabric;
}

/** The process that ends a lab; it lives outside the lab's cgroup and ends when its stdin does. */
class Reaper {
  readonly #child: ChildProcess;
  readonly #ended: Promise<number>;
  readonly #complaints: string[] = [];

  static async start(cgroup: string, dir: string): Promise<Reaper> {
    const script = join(import.meta.dirname, 'reap.sh');
    const child = spawn('sh', [script, cgroup, dir], { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
    const reaper = new Reaper(child);
    const { promise, resolve } = Promise.withResolvers<string>();
    createInterface({ input: child.stdout }).once('line', resolve);
    await within('the reaper', promise);
    return reaper;
  }

  private constructor(child: ChildProcess) {
    this.#child = child;
    const { promise, resolve } = Promise.withResolvers<number>();
    this.#ended = promise;
    child.on('error', () => resolve(1));
    child.on('exit', (code) => resolve(code ?? 1));
    child.stdin?.on('error', () => undefined);
    child.stderr?.on('data', (chunk: Buffer) => this.#complaints.push(chunk.toString()));
    // The reaper alone keeps nobody alive: a test that ends early is cleaned up after all the same.
    child.unref();
    for (const stream of child.stdio) if (stream instanceof Socket) stream.unref();
  }

  async reap(): Promise<void> {
    this.#child.ref();
    this.#child.stdin?.end();
    const code = await this.#ended;
    if (code !== 0) throw new Error(`the lab could not be ended: ${this.#complaints.join('')}`);
  }
}
