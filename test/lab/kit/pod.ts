/** A pod of the lab, made in the kubelet's order: object, cgroup, sandbox with its namespace, address, processes. */
import { randomBytes, randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from '../../support/wait.ts';
import {
  Idle,
  Loop,
  Sending,
  Server,
  httpReply,
  httpRequest,
  sendArguments,
  serveArguments,
} from './apps.ts';
import type { HttpReply, LoopOptions, SendOptions, SendResult, ServeOptions, ServerKind } from './apps.ts';
import type { CapturePoint } from './capture.ts';
import { containerPath, podPath } from './cgroups.ts';
import type { Qos } from './cgroups.ts';
import type { LabCluster } from './cluster.ts';
import { ip, macOf, netnsOf, nodeSide, podSide } from './net.ts';
import type { LabNode } from './node.ts';
import { podObject } from './objects.ts';
import type { KubeObject, Labels } from './objects.ts';
import { LabProcess, placeArguments } from './process.ts';
import type { Exit, Place, StartOptions } from './process.ts';
import { tools } from './tools.ts';

export interface PodSpec {
  readonly name: string;
  /** Node's number, from 1. */
  readonly node: number;
  /** Default `shop`; created (without label) when the cluster has none. */
  readonly namespace?: string;
  /** Default the pod's name. */
  readonly serviceAccount?: string;
  readonly labels?: Labels;
  readonly annotations?: Labels;
  /** Declared containerPorts. */
  readonly ports?: readonly number[];
  /** Default burstable. */
  readonly qos?: Qos;
  readonly hostNetwork?: boolean;
  /** Instead of the next free ones; another pod's, to use them again. */
  readonly ips?: readonly string[];
  /** Merged over the object's spec. */
  readonly spec?: Readonly<Record<string, unknown>>;
  /** False: the API does not know it (yet): call `list()` later. Default true. */
  readonly listed?: boolean;
  /** Called when its sandbox and addresses are there, before the API says Running. */
  readonly onSandbox?: (pod: LabPod) => Promise<void>;
}

export interface ExecResult extends Exit {
  /** stdout and stderr, by line. */
  readonly lines: readonly string[];
}

export class LabPod {
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly uid = randomUUID();
  readonly node: LabNode;
  readonly nodeName: string;
  readonly ips: readonly string[];
  /** As this machine sees it. */
  readonly cgroup: string;
  readonly qos: Qos;
  readonly veth = `v${randomBytes(5).toString('hex')}`;
  readonly #spec: PodSpec;
  readonly #cluster: LabCluster;
  readonly #mac: string;
  #container = '';
  #sandbox: LabProcess | undefined;
  #running = false;
  #ready = true;

  /** Makes the pod and (unless `listed: false`) its object. Use `lab.pod()`. */
  static async create(spec: PodSpec, node: LabNode, cluster: LabCluster): Promise<LabPod> {
    const pod = new LabPod(spec, node, cluster);
    if (spec.listed !== false) await pod.list();
    pod.#makeCgroups();
    await pod.#startSandbox();
    await spec.onSandbox?.(pod);
    pod.#running = true;
    if (spec.listed !== false) await pod.list();
    return pod;
  }

  private constructor(spec: PodSpec, node: LabNode, cluster: LabCluster) {
    const own = node.nextAddresses();
    this.#spec = spec;
    this.#cluster = cluster;
    this.#mac = macOf(node.index, own.host);
    this.name = spec.name;
    this.namespace = spec.namespace ?? 'shop';
    this.serviceAccount = spec.serviceAccount ?? spec.name;
    this.node = node;
    this.nodeName = node.name;
    this.ips = spec.hostNetwork === true ? node.addresses : (spec.ips ?? own.ips);
    this.qos = spec.qos ?? 'burstable';
    this.cgroup = join(node.cgroup, podPath(node.cgroupDriver, this.qos, this.uid));
  }

  /** Its first address. */
  get ip(): string {
    return this.ips[0] ?? '';
  }

  /** Its IPv6 address, or ''. */
  get ip6(): string {
    return this.ips.find((address) => address.includes(':')) ?? '';
  }

  /** `/proc/PID/ns/net` of its sandbox. */
  get netns(): string {
    return this.#spec.hostNetwork === true ? this.node.netns : netnsOf(this.sandboxPid);
  }

  /** Of the pause process, as this machine sees it. */
  get sandboxPid(): number {
    return this.#sandbox?.pid ?? 0;
  }

  /** The node's end of its veth, for a capture. */
  get capturePoint(): CapturePoint {
    return { name: `pod ${this.name}`, netns: this.node.netns, device: this.veth };
  }

  /** Where its app's processes live. */
  place(): Place {
    return { cgroup: this.#container, nodePid: this.node.initPid, netns: this.netns };
  }

  object(): KubeObject {
    const { name, namespace, uid, serviceAccount, ips } = this;
    return podObject({
      name,
      namespace,
      uid,
      serviceAccount,
      ips,
      node: this.nodeName,
      hostIp: this.node.addresses[0] ?? '',
      labels: this.#spec.labels ?? {},
      annotations: this.#spec.annotations ?? {},
      ports: this.#spec.ports ?? [],
      hostNetwork: this.#spec.hostNetwork === true,
      running: this.#running,
      ready: this.#ready,
      spec: this.#spec.spec ?? {},
    });
  }

  /** Writes its object as it now is. */
  async list(): Promise<void> {
    await this.#cluster.apply(this.object());
  }

  /** Sets the Ready condition. */
  async setReady(ready: boolean): Promise<void> {
    this.#ready = ready;
    await this.list();
  }

  /** Runs a program to its end. */
  async exec(argv: readonly string[], options: StartOptions = {}): Promise<ExecResult> {
    const process = await this.spawn(argv, options);
    process.stdin.end();
    return { ...(await process.exited), lines: process.lines };
  }

  /** Starts a program in the app container. */
  spawn(argv: readonly string[], options: StartOptions = {}): Promise<LabProcess> {
    return LabProcess.start(argv, this.place(), options);
  }

  /**
   * Writes a script that runs its arguments (or a shell) in the app container, for people. nsenter alone is not
   * enough: a process outside the pod's cgroup is not the pod's, and is not captured.
   */
  async writeShell(path: string): Promise<void> {
    const { labtool } = await tools();
    const words = [labtool, ...placeArguments(this.place())].map((word) => `'${word}'`).join(' ');
    writeFileSync(path, `#!/bin/bash\n[ $# = 0 ] && set -- bash\nexec ${words} -- "$@"\n`, { mode: 0o755 });
  }

  /** Starts a server and waits until it listens. */
  async serve(kind: ServerKind, port: number, options: ServeOptions = {}): Promise<Server> {
    const { labapp } = await tools();
    const words = serveArguments(kind, port, { name: this.name, ...options });
    return Server.listening(await this.spawn([labapp, ...words]), port);
  }

  /** One connection to its end: how it went. Never throws for how it went. */
  async send(host: string, port: number, options: SendOptions = {}): Promise<SendResult> {
    await using sending = await this.startSend(host, port, options);
    return await sending.result((options.timeoutMs ?? 30_000) + 15_000);
  }

  /** One connection, looked at on the way. */
  async startSend(host: string, port: number, options: SendOptions = {}): Promise<Sending> {
    const { labapp } = await tools();
    return new Sending(await this.spawn([labapp, ...sendArguments(host, port, options)]));
  }

  /** One HTTP request on a connection of its own, with `body` echoed by an `http` server. */
  async request(
    host: string,
    port: number,
    options: Omit<SendOptions, 'first' | 'halfClose'> & { body?: Uint8Array } = {},
  ): Promise<HttpReply> {
    const { body, ...rest } = options;
    return httpReply(
      await this.send(host, port, { ...rest, first: httpRequest('/', body), halfClose: false }),
    );
  }

  /** Opens `count` connections and keeps them. */
  async idle(host: string, port: number, count: number, window = 128): Promise<Idle> {
    const { labapp } = await tools();
    const words = ['idle', host, String(port), String(count), '--window', String(window)];
    return new Idle(await this.spawn([labapp, ...words]));
  }

  /** A new connection per request, every `everyMs`, until stopped. */
  async loop(host: string, port: number, options: LoopOptions): Promise<Loop> {
    const { labapp } = await tools();
    const first = Buffer.from(options.first ?? httpRequest('/')).toString('hex');
    const words = ['loop', host, String(port), String(options.everyMs), '--hex', first];
    if (options.timeoutMs !== undefined) words.push('--timeout-ms', String(options.timeoutMs));
    return new Loop(await this.spawn([labapp, ...words]));
  }

  /** Kills the app's processes; sandbox, address and object stay. */
  async kill(): Promise<void> {
    await killCgroup(this.#container);
  }

  /** The pod restarts in place: a new sandbox, a new network namespace, the same UID and addresses. */
  async replaceSandbox(): Promise<void> {
    await killCgroup(this.cgroup);
    await this.#removeLink();
    for (const name of readdirSync(this.cgroup, { withFileTypes: true }))
      if (name.isDirectory()) removeTree(join(this.cgroup, name.name));
    this.#makeCgroups();
    await this.#startSandbox();
  }

  /** Ends it as the kubelet does: processes, link, cgroup, object. `keepObject`: the API has not been told. */
  async delete(options: { readonly keepObject?: boolean } = {}): Promise<void> {
    await killCgroup(this.cgroup);
    await this.#removeLink();
    removeTree(this.cgroup);
    if (options.keepObject !== true) await this.#cluster.remove(this.object());
  }

  #makeCgroups(): void {
    this.#container = join(this.cgroup, containerPath(this.node.cgroupDriver, hexId()));
    mkdirSync(this.cgroup, { recursive: true });
  }

  async #startSandbox(): Promise<void> {
    const { labapp } = await tools();
    const sandbox = join(this.cgroup, containerPath(this.node.cgroupDriver, hexId()));
    mkdirSync(sandbox);
    const netns = this.#spec.hostNetwork === true ? this.node.netns : 'new';
    this.#sandbox = await LabProcess.start([labapp, 'pause'], {
      cgroup: sandbox,
      nodePid: this.node.initPid,
      netns,
    });
    if (netns === 'new') await this.#joinNode(this.#sandbox.pid);
    mkdirSync(this.#container);
  }

  async #joinNode(sandboxPid: number): Promise<void> {
    const link = { veth: this.veth, mac: this.#mac, ips: this.ips };
    await ip(this.node.netns, nodeSide(link, sandboxPid));
    await ip(netnsOf(sandboxPid), podSide(link));
  }

  /** The CNI plugin's part: the pair goes even while someone holds the namespace. */
  async #removeLink(): Promise<void> {
    if (this.#spec.hostNetwork === true) return;
    await ip(this.node.netns, [`link del ${this.veth}`]).catch(() => undefined);
  }
}

function hexId(): string {
  return randomBytes(32).toString('hex');
}

/** Kills all processes of a cgroup and waits until they are gone. */
async function killCgroup(path: string): Promise<void> {
  if (!existsSync(path)) return;
  writeFileSync(join(path, 'cgroup.kill'), '1');
  await until(`${path} to be empty`, () =>
    readFileSync(join(path, 'cgroup.events'), 'utf8').includes('populated 0'),
  );
}

/** Removes a cgroup and those below it; all must be empty of processes. */
function removeTree(path: string): void {
  if (!existsSync(path)) return;
  for (const entry of readdirSync(path, { withFileTypes: true }))
    if (entry.isDirectory()) removeTree(join(path, entry.name));
  rmdirSync(path);
}
