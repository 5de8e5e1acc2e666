/** A node of the lab: namespaces and a cgroup tree as a machine with a kubelet has them. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { must } from '../../support/run.ts';
import { kubepodsPaths } from './cgroups.ts';
import type { CgroupDriver } from './cgroups.ts';
import type { CapturePoint } from './capture.ts';
import { FABRIC, ip, netnsOf, podCidrs } from './net.ts';
import { nodeObject } from './objects.ts';
import type { KubeObject } from './objects.ts';
import { LabProcess } from './process.ts';
import type { Place } from './process.ts';
import { REPOSITORY, tools } from './tools.ts';

export const KUBELET_PORT = 10_250;

export interface NodeOptions {
  /** From 1. */
  readonly index: number;
  /** The lab's cgroup and folder. */
  readonly cgroup: string;
  readonly dir: string;
  readonly fabricNetns: string;
  /** How many nodes there are: each has routes to all others. */
  readonly count: number;
  readonly ipv6: boolean;
  readonly cgroupDriver: CgroupDriver;
}

export type ProbeKind = 'http' | 'tcp' | 'grpc';

const ProbeAnswer = z.object({ id: z.number(), ok: z.boolean(), detail: z.string() });

export class LabNode {
  readonly index: number;
  readonly name: string;
  /** The node's root cgroup as this machine sees it. */
  readonly cgroup: string;
  readonly cgroupDriver: CgroupDriver;
  readonly ipv6: boolean;
  /** The lab's folder. */
  readonly dir: string;
  /** pid 1 of the node as this machine sees it. */
  readonly initPid: number;
  readonly podCidrs: readonly string[];
  readonly addresses: readonly string[];
  #kubelet: LabProcess | undefined;
  #probes = 0;
  #lastHost = 1;

  static async create(options: NodeOptions): Promise<LabNode> {
    const name = `node-${options.index}`;
    const cgroup = join(options.cgroup, name);
    for (const path of ['kubelet', ...kubepodsPaths(options.cgroupDriver)])
      mkdirSync(join(cgroup, path), { recursive: true });
    const { labtool } = await tools();
    const process = await LabProcess.start([labtool, 'node', cgroup, name], {
      cgroup: join(options.cgroup, 'tools'),
    });
    await process.waitForLine(`node ${name}`, (line) => line === 'ready' || undefined);
    const initPid = await process.waitForLine('its pid', (line) => pidIn(line));
    const node = new LabNode(options, name, cgroup, initPid);
    await node.#joinFabric(options);
    await node.startKubelet();
    return node;
  }

  private constructor(options: NodeOptions, name: string, cgroup: string, initPid: number) {
    this.index = options.index;
    this.name = name;
    this.cgroup = cgroup;
    this.cgroupDriver = options.cgroupDriver;
    this.ipv6 = options.ipv6;
    this.dir = options.dir;
    this.initPid = initPid;
    this.podCidrs = podCidrs(options.index).slice(0, options.ipv6 ? 2 : 1);
    this.addresses = [FABRIC.nodeIp(options.index), FABRIC.nodeIp6(options.index)].slice(
      0,
      options.ipv6 ? 2 : 1,
    );
  }

  /** `/proc/PID/ns/net` of the node: its host network namespace. */
  get netns(): string {
    return netnsOf(this.initPid);
  }

  /** Where a process of this node lives that is no pod. */
  place(cgroup = 'system.slice'): Place & { nodePid: number; netns: string } {
    return { cgroup: join(this.cgroup, cgroup), nodePid: this.initPid, netns: this.netns };
  }

  /** Its uplink, for a capture. */
  get capturePoint(): CapturePoint {
    return { name: this.name, netns: this.netns, device: 'eth0' };
  }

  object(): KubeObject {
    const { name, podCidrs: cidrs, addresses } = this;
    return nodeObject({ name, podCidrs: cidrs, addresses, kubeletPort: KUBELET_PORT });
  }

  /** The next free pair of pod addresses: `host` is their last part. */
  nextAddresses(): { host: number; ips: string[] } {
    this.#lastHost += 1;
    const host = this.#lastHost;
    const ips = [`10.244.${this.index}.${host}`];
    return { host, ips: this.ipv6 ? [...ips, `fd00:244:${this.index}::${host.toString(16)}`] : ips };
  }

  /** Runs a program to its end in the node's own namespaces. @throws Error when it fails. */
  async must(argv: readonly string[], input = ''): Promise<string> {
    const words = ['nsenter', '-t', String(this.initPid), '-n', '-m', '-p', '-C', '--', ...argv];
    return must(words, { input });
  }

  /** Replaces the stand-in for kube-proxy's rules. */
  async applyServices(rules: string): Promise<void> {
    await must(['nsenter', `--net=${this.netns}`, 'nft', '-f', '-'], { input: rules });
  }

  /** Starts the kubelet, again after `stopKubelet`. */
  async startKubelet(): Promise<void> {
    const script = join(REPOSITORY, 'test/lab/apps/kubelet.ts');
    this.#kubelet = await LabProcess.start(
      [process.execPath, script, String(KUBELET_PORT)],
      this.place('kubelet'),
    );
    await this.#kubelet.waitForLine('the kubelet', (line) => line === 'listening' || undefined);
  }

  async stopKubelet(): Promise<void> {
    await this.#kubelet?.stop('SIGKILL');
  }

  /** A probe as the kubelet makes it (HTTP: GET /healthz). Gives '' when it succeeds, else why not. */
  async probe(kind: ProbeKind, host: string, port: number, timeoutMs = 2_000): Promise<string> {
    if (this.#kubelet === undefined) throw new Error('no kubelet');
    this.#probes += 1;
    const id = this.#probes;
    const from = this.#kubelet.lines.length;
    this.#kubelet.stdin.write(`${JSON.stringify({ id, kind, host, port, timeoutMs })}\n`);
    const answer = await this.#kubelet.waitForLine(
      'a probe',
      (line) => {
        const parsed = line.startsWith('{') ? ProbeAnswer.parse(JSON.parse(line)) : undefined;
        return parsed?.id === id ? parsed : undefined;
      },
      { from },
    );
    return answer.ok ? '' : answer.detail;
  }

  async #joinFabric(options: NodeOptions): Promise<void> {
    const mac = `02:00:00:00:01:${(10 + this.index).toString(16).padStart(2, '0')}`;
    await ip(options.fabricNetns, [
      `link add n${this.index} type veth peer name eth0 address ${mac} netns ${this.initPid}`,
      `link set n${this.index} master br0 up`,
    ]);
    const commands = ['link set eth0 up', `addr add ${FABRIC.nodeIp(this.index)}/24 dev eth0`];
    // Its own range but for the pods that are there: an address without a pod is refused, not lost on the uplink.
    for (const cidr of this.podCidrs) commands.push(`route add unreachable ${cidr}`);
    commands.push(`route add default via ${FABRIC.outside.via}`);
    if (this.ipv6) {
      commands.push(`addr add ${FABRIC.nodeIp6(this.index)}/64 dev eth0 nodad`);
      commands.push(`route add default via ${FABRIC.outside.via6}`);
    }
    for (let other = 1; other <= options.count; other++)
      if (other !== this.index) commands.push(...this.#routesTo(other));
    await ip(this.netns, commands);
  }

  #routesTo(other: number): string[] {
    const [v4, v6] = podCidrs(other);
    const routes = [`route add ${v4} via ${FABRIC.nodeIp(other)}`];
    return this.ipv6 ? [...routes, `route add ${v6} via ${FABRIC.nodeIp6(other)}`] : routes;
  }
}

function pidIn(line: string): number | undefined {
  const found = /^init (\d+)$/.exec(line)?.[1];
  return found === undefined ? undefined : Number(found);
}
