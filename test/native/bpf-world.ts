/**
 * A node in miniature for tests of the kernel programs: a kubepods tree with this process below it, a namespace for
 * the host, pods with a process each, a bpffs of its own. Everything carries a random suffix and is removed.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { BpfMap } from '../../daemon/capture/bpf-map.ts';
import { cgroupId, findCgroupRoot } from '../../daemon/capture/kubepods.ts';
import { endpointCodec, flowCodec, tupleCodec, u32 } from '../../daemon/capture/maps.ts';
import type { EndpointRecord } from '../../daemon/capture/maps.ts';
import { closeFd, openPin } from '../../daemon/capture/libbpf.ts';
import { KernelState } from '../../daemon/capture/programs.ts';
import { parseIp, parsePodUid } from '../../daemon/mesh/ids.ts';
import type { Ip, PodUid } from '../../daemon/mesh/ids.ts';
import { ROLES } from '../../daemon/mesh/wiring.ts';
import type { Role } from '../../daemon/mesh/wiring.ts';
import { containerPath, podPath } from '../lab/kit/cgroups.ts';
import type { CgroupDriver, Qos } from '../lab/kit/cgroups.ts';
import { loadHot, must } from '../../native/hot/index.ts';
import type { Hot } from '../../native/hot/index.ts';

const AGENT = path.join(import.meta.dirname, 'bpf-agent.py');
export const WORKERS = 2;
/** A test that waits longer waits for ever. */
const HANG_MS = 10_000;

/** Runs a command to its end. @throws Error with its stderr. */
export function run(command: string, ...args: string[]): string {
  const done = spawnSync(command, args, { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`${command} ${args.join(' ')}: ${done.stderr}`);
  return done.stdout;
}

export function ipOf(text: string): Ip {
  const ip = parseIp(text);
  assert(ip !== undefined, text);
  return ip;
}

export type Answer = Readonly<Record<string, unknown>> & { readonly ok: boolean };

/** A process in a cgroup and a namespace. */
export class Agent {
  readonly process: ChildProcess;
  readonly #waiting: ((answer: Answer) => void)[] = [];
  readonly ready: Promise<unknown>;

  constructor(cgroup: string, netns: string) {
    const script = 'echo 0 > "$1/cgroup.procs" && exec nsenter --net="/run/netns/$2" /usr/bin/python3 "$3"';
    const child = spawn('sh', ['-c', script, 'sh', cgroup, netns, AGENT], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.process = child;
    child.stdin.on('error', () => undefined);
    this.ready = new Promise((resolve) => this.#waiting.push(resolve));
    createInterface(child.stdout).on('line', (line) => this.#waiting.shift()?.(JSON.parse(line) as Answer));
    child.on('exit', () =>
      this.#waiting.splice(0).forEach((waiting) => waiting({ ok: false, error: 'GONE' })),
    );
  }

  /** Runs one of bpf-agent.py's calls. */
  async call(name: string, options: Readonly<Record<string, unknown>> = {}): Promise<Answer> {
    const answer = new Promise<Answer>((resolve) => this.#waiting.push(resolve));
    this.process.stdin?.write(`${JSON.stringify({ do: name, ...options })}\n`);
    return await answer;
  }

  async stop(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const gone = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.kill('SIGKILL');
    await gone;
  }
}

/** One connection that a listener of ours took, and what the kernel says of it. */
export interface Taken {
  readonly role: Role;
  readonly worker: number;
  readonly socket: Socket;
  readonly fd: number;
  readonly local: string;
  readonly record: EndpointRecord | undefined;
}

export interface TestPod {
  readonly uid: PodUid;
  readonly netns: string;
  readonly netnsFd: number;
  readonly cookie: bigint;
  readonly cgroup: string;
  readonly v4: Ip;
  readonly v6: Ip;
  readonly agent: Agent;
  /** Our listeners: role/worker → port, fd, cookie. */
  readonly listeners: { role: Role; worker: number; port: number; fd: number; cookie: bigint }[];
}

export interface WorldOptions {
  /** Level of kubepods below the kernel's root, from 1. */
  readonly depth?: number;
  /** Which of the kubelet's layouts the pods' cgroups have. */
  readonly driver?: CgroupDriver;
}

export class World {
  readonly suffix = randomBytes(4).toString('hex');
  readonly hot: Hot = loadHot();
  readonly bpffs: string;
  readonly base: string;
  readonly kubepods: string;
  readonly ownCgroup: string;
  readonly kubeletCgroup: string;
  readonly hostNetns: string;
  kernel: KernelState;
  readonly #homeCgroup: string;
  readonly #driver: CgroupDriver;
  readonly #agents: Agent[] = [];
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #netns: string[] = [];
  readonly #fds: number[] = [];
  readonly #taken: Taken[] = [];
  readonly #waiting: ((taken: Taken) => void)[] = [];
  #podCount = 0;

  constructor({ depth = 2, driver = 'cgroupfs' }: WorldOptions = {}) {
    this.#driver = driver;
    const root = findCgroupRoot();
    this.#homeCgroup = path.join(
      root,
      /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1] ?? '/',
    );
    this.base = path.join(root, `culvert-test-${this.suffix}`);
    const above = Array.from({ length: depth - 2 }, (_, i) => `level${i}`);
    this.kubepods = depth === 1 ? `${this.base}-kubepods` : path.join(this.base, ...above, 'kubepods');
    this.ownCgroup = path.join(this.#podCgroup('guaranteed', randomUUID()), 'daemon');
    this.kubeletCgroup = path.join(this.base, 'system', 'kubelet');
    for (const cgroup of [this.ownCgroup, this.kubeletCgroup]) mkdirSync(cgroup, { recursive: true });
    writeFileSync(path.join(this.ownCgroup, 'cgroup.procs'), String(process.pid));
    this.bpffs = mkdtempSync(path.join(tmpdir(), 'culvert-bpffs-'));
    run('mount', '-t', 'bpf', 'bpf', this.bpffs);
    this.hostNetns = this.addNetns('node');
    this.#in(this.hostNetns, 'ip link add br0 type bridge', 'ip link set br0 up');
    this.#in(this.hostNetns, `ip addr add 10.77.0.1/16 dev br0`, `ip addr add fd77::1/64 dev br0 nodad`);
    this.kernel = this.openKernel();
  }

  openKernel(): KernelState {
    const kernel = KernelState.open({
      bpffs: this.bpffs,
      kubepods: this.kubepods,
      kubeletParent: path.dirname(this.kubeletCgroup),
      hostNetnsCookie: this.cookieOf(this.hostNetns),
    });
    kernel.setKubelet(cgroupId(this.kubeletCgroup));
    kernel.setWorkers((1 << WORKERS) - 1, WORKERS);
    return kernel;
  }

  addNetns(name: string): string {
    const full = `cv-${this.suffix}-${name}`;
    run('ip', 'netns', 'add', full);
    this.#netns.push(full);
    this.#in(full, 'ip link set lo up');
    return full;
  }

  #in(netns: string, ...commands: string[]): void {
    for (const command of commands) run('nsenter', `--net=/run/netns/${netns}`, ...command.split(' '));
  }

  sh(netns: string, command: string): void {
    this.#in(netns, command);
  }

  cookieOf(netns: string): bigint {
    const fd = must(this.hot.openNetns(`/run/netns/${netns}`), `open ${netns}`);
    const cookie = must(this.hot.netnsCookie(fd), 'netns cookie');
    this.hot.closeFd(fd);
    return cookie;
  }

  /** A process of the host's namespace: the kubelet, or (elsewhere) just something on the node. */
  async hostAgent(cgroup = this.kubeletCgroup): Promise<Agent> {
    return await this.agent(cgroup, this.hostNetns);
  }

  async agent(cgroup: string, netns: string): Promise<Agent> {
    const agent = new Agent(cgroup, netns);
    this.#agents.push(agent);
    await agent.ready;
    return agent;
  }

  /** A pod with addresses and a process, not yet ours in any way. */
  async addPod(qos: Qos = 'burstable', hasV6 = true): Promise<TestPod> {
    const index = ++this.#podCount;
    const uid = parsePodUid(randomUUID());
    assert(uid !== undefined);
    const cgroup = path.join(this.#podCgroup(qos, uid), containerPath(this.#driver, 'c0'));
    mkdirSync(cgroup, { recursive: true });
    const netns = this.addNetns(`p${index}`);
    const v4 = ipOf(`10.77.1.${index}`);
    const v6 = ipOf(`fd77::1:${index}`);
    const veth = `v${this.suffix}${index}`;
    run(
      'ip',
      'link',
      'add',
      veth,
      'netns',
      this.hostNetns,
      'type',
      'veth',
      'peer',
      'name',
      'eth0',
      'netns',
      netns,
    );
    this.#in(this.hostNetns, `ip link set ${veth} master br0 up`);
    this.#in(netns, 'ip link set eth0 up', `ip addr add ${v4}/16 dev eth0`);
    if (hasV6) this.#in(netns, `ip addr add ${v6}/64 dev eth0 nodad`);
    const netnsFd = must(this.hot.openNetns(`/run/netns/${netns}`), `open ${netns}`);
    this.#fds.push(netnsFd);
    const agent = await this.agent(cgroup, netns);
    return { uid, netns, netnsFd, cookie: this.cookieOf(netns), cgroup, v4, v6, agent, listeners: [] };
  }

  /** As the kubelet names it, below this world's kubepods. */
  #podCgroup(qos: Qos, uid: string): string {
    const [, ...below] = podPath(this.#driver, qos, uid).split('/');
    return path.join(this.kubepods, ...below);
  }

  podCgroupOf(pod: TestPod): string {
    return path.dirname(pod.cgroup);
  }

  /** The number by which the kernel knows the pod's cgroup. */
  idOf(pod: TestPod): bigint {
    return cgroupId(this.podCgroupOf(pod));
  }

  /** Opens our listeners in the pod; nothing is redirected yet. */
  listen(pod: TestPod): void {
    const roles: readonly Role[] = ['outbound', 'plaintext', 'hbone'];
    for (let worker = 0; worker < WORKERS; worker++) {
      for (const role of roles) {
        const port = 61_001 + worker * 10 + ROLES[role];
        const fd = must(this.hot.listen(pod.netnsFd, 6, port, 4_096, 0), `listen on ${port}`);
        const cookie = must(this.hot.socketCookie(fd), 'socket cookie');
        pod.listeners.push({ role, worker, port, fd, cookie });
        this.#serve(fd, role, worker);
      }
    }
  }

  #serve(fd: number, role: Role, worker: number): void {
    const server = createServer({ pauseOnConnect: true }, (socket) => {
      socket.on('error', () => undefined);
      this.#sockets.add(socket);
      const taken = {
        role,
        worker,
        socket,
        fd: fdOf(socket),
        local: `${socket.localAddress}:${socket.localPort}`,
      };
      const record = this.originals().get(taken.fd);
      const next = this.#waiting.shift();
      if (next === undefined) this.#taken.push({ ...taken, record });
      else next({ ...taken, record });
    });
    server.on('error', () => undefined);
    // Node closes this descriptor with the server: a copy, so that ours stays.
    server.listen({ fd: must(this.hot.dupFd(fd), 'copy a listener') }, 4_096);
    this.#servers.push(server);
  }

  /** The whole enrolment, in its order. */
  enrol(
    pod: TestPod,
    options: { maxPending?: number; noGlobalV6?: boolean; allowNested?: boolean } = {},
  ): void {
    if (pod.listeners.length === 0) this.listen(pod);
    this.steer(pod);
    this.kernel.setPod(pod.cookie, {
      capture: true,
      noGlobalV6: options.noGlobalV6 ?? false,
      ports: pod.listeners.filter(({ role }) => role === 'outbound').map(({ port }) => port),
      maxPending: options.maxPending ?? 1_024,
    });
    this.kernel.setPodCgroup(cgroupId(this.podCgroupOf(pod)), {
      state: 'enrolled',
      netnsCookie: pod.cookie,
      allowNested: options.allowNested ?? false,
    });
  }

  steer(pod: TestPod): void {
    for (const ip of [pod.v4, pod.v6]) {
      for (const { role, worker, fd } of pod.listeners)
        if (role !== 'outbound') this.kernel.setListener(ip, ROLES[role], worker, fd);
      this.kernel.setLocalPod(ip, { cookie: pod.cookie, leaving: false });
    }
    this.kernel.attachNetns(pod.uid, pod.netnsFd);
  }

  /** The next connection that a listener of ours takes (or has taken, in order); an error instead of a hang. */
  async take(): Promise<Taken> {
    const known = this.#taken.shift();
    if (known !== undefined) return known;
    return await new Promise((resolve, reject) => {
      const hang = setTimeout(() => reject(new Error('no connection came to our listeners')), HANG_MS);
      this.#waiting.push((taken) => {
        clearTimeout(hang);
        resolve(taken);
      });
    });
  }

  /** Connections taken and not asked for. */
  get untaken(): number {
    return this.#taken.length;
  }

  originals(): BpfMap<number, EndpointRecord> {
    return new BpfMap('original_destination', this.kernel.mapFds().originalDestinationFd, u32, endpointCodec);
  }

  /** How many entries stand in one of the maps of flows. */
  flows(name: 'original_by_tuple' | 'client_by_tuple' | 'self_flows' | 'host_flows'): number {
    const fd = openPin(path.join(this.bpffs, 'culvert/v1/maps', name));
    assert(fd !== undefined);
    try {
      return name === 'host_flows'
        ? new BpfMap(name, fd, flowCodec, u32).keys().length
        : new BpfMap(name, fd, tupleCodec, u32).keys().length;
    } finally {
      closeFd(fd);
    }
  }

  /** What a dead daemon leaves of its listeners: nothing. */
  async closeServers(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all(
      this.#servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))),
    );
  }

  async close(): Promise<void> {
    await Promise.all(this.#agents.map((agent) => agent.stop()));
    await this.closeServers();
    try {
      this.kernel.removeAll();
    } finally {
      for (const fd of this.#fds) this.hot.closeFd(fd);
      run('umount', this.bpffs);
      rmdirSync(this.bpffs);
      for (const name of this.#netns) run('ip', 'netns', 'del', name);
      writeFileSync(path.join(this.#homeCgroup, 'cgroup.procs'), String(process.pid));
      for (const top of new Set([this.kubepods, this.base]))
        run('find', top, '-depth', '-type', 'd', '-delete');
    }
  }
}

/** Node hides the descriptor of a socket; the daemon knows its own. */
function fdOf(socket: Socket): number {
  const handle: unknown = Reflect.get(socket, '_handle');
  assert(typeof handle === 'object' && handle !== null && 'fd' in handle && typeof handle.fd === 'number');
  return handle.fd;
}
