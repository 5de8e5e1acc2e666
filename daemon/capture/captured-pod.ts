/**
 * One pod as it is in the kernel: its network namespace, our listeners in it, its entries in the maps. The order of
 * things is CAPTURE.md's: listeners before maps before the namespace's link before capture, and back the other way.
 */
import type { Hot } from '../../native/hot/index.ts';
import { must } from '../../native/hot/index.ts';
import type { TcpSocket } from '../../native/hot/records.ts';
import { MeshError } from '../errors.ts';
import { isIpv6, parsePort } from '../mesh/ids.ts';
import type { Ip, PodUid, Port } from '../mesh/ids.ts';
import type { Workload } from '../mesh/model.ts';
import { ROLES } from '../mesh/wiring.ts';
import type { Role } from '../mesh/wiring.ts';
import type { Fleet } from './fleet.ts';
import { ROLE_NAMES } from './fleet.ts';
import type { Facets } from './machine.ts';
import { candidatePorts } from './ports.ts';
import type { KernelState } from './programs.ts';

const BACKLOG = 4_096;
/** Sockets of one pod that are looked at; more than its connection limit allows is not looked for. */
const MAX_SOCKETS = 65_536;
const IFA_F_TENTATIVE = 0x40;

export interface CaptureContext {
  readonly hot: Hot;
  readonly kernel: KernelState;
  readonly fleet: Fleet;
  readonly ports: { readonly min: number; readonly max: number };
  readonly maxPending: number;
  /** Cgroup ids whose sockets are the daemon's own. */
  readonly isOwnCgroup: (id: bigint) => boolean;
}

interface Listener {
  readonly fd: number;
  readonly port: Port;
  readonly cookie: bigint;
  readonly role: Role;
  readonly worker: number;
}

export class CapturedPod {
  readonly uid: PodUid;
  readonly netnsFd: number;
  readonly cookie: bigint;
  readonly cgroupId: bigint;
  #ips: readonly Ip[] = [];
  #hasGlobalV6 = false;
  /** Its addresses have been the same at two looks: more may follow the first at once. */
  #isSettled = false;
  readonly #context: CaptureContext;
  readonly #listeners: Listener[] = [];
  /** What the kernel's entries are made of: facets, and the pod's annotations that count there. */
  #applied: string | undefined;
  /** Addresses that have been steered to us since we have had them. */
  readonly #steered = new Set<Ip>();
  #isCapturing = false;
  #older = new Set<bigint>();
  /** They could not be listed when it was captured: they are noted as soon as they can. */
  #mustNoteOlder = false;

  /**
   * Opens the pod's listeners and hands them to the workers; nothing is redirected yet. Owns `netnsFd` from here, also
   * when it throws.
   */
  constructor(context: CaptureContext, uid: PodUid, netnsFd: number, cgroupId: bigint, workload: Workload) {
    this.#context = context;
    this.uid = uid;
    this.netnsFd = netnsFd;
    this.cgroupId = cgroupId;
    try {
      this.cookie = must(
        context.hot.netnsCookie(netnsFd),
        `read the netns cookie of pod ${uid}`,
        'NETNS_FAILED',
      );
      this.#openListeners(workload);
    } catch (error) {
      // It is tried again and again: what is kept each time would use up the daemon's descriptors.
      this.closeListeners();
      context.hot.closeFd(netnsFd);
      throw error;
    }
  }

  get ips(): readonly Ip[] {
    return this.#ips;
  }

  /** Whether the pod's connects are redirected. */
  get isCapturing(): boolean {
    return this.#isCapturing;
  }

  get ownPorts(): readonly Port[] {
    return this.#listeners.map((listener) => listener.port);
  }

  /** Looks at the namespace's addresses again. @returns whether they changed; those that can't be read stay. */
  refreshAddresses(): boolean {
    const listed = globalAddresses(this.#context.hot, this.netnsFd);
    if (listed === undefined) return false;
    const found = listed.filter(({ isUsable }) => isUsable).map(({ ip }) => ip);
    // One that is still being checked for duplicates may be used at any moment from now on.
    const hasGlobalV6 = listed.some(({ ip }) => isIpv6(ip));
    const isSame = found.length === this.#ips.length && found.every((ip, i) => ip === this.#ips[i]);
    if (isSame && hasGlobalV6 === this.#hasGlobalV6) {
      if (!this.#isSettled && found.length > 0) this.#applied = undefined;
      this.#isSettled = found.length > 0;
      return false;
    }
    const gone = this.#ips.filter((ip) => !found.includes(ip));
    for (const ip of gone) this.#forgetAddress(ip);
    this.#ips = found;
    this.#hasGlobalV6 = hasGlobalV6;
    this.#isSettled = false;
    this.#applied = undefined;
    return !isSame;
  }

  /** Makes the kernel's entries what `facets` asks. Does nothing when they are so already. */
  apply(facets: Facets, workload: Workload): void {
    const asked = JSON.stringify([facets, workload.excludeOutboundCidrs, workload.allowNestedNetns]);
    if (this.#applied === asked) return;
    this.#applied = undefined; // whatever fails below is tried again as a whole
    if (facets.hbone) this.#steer(facets);
    if (facets.capture) this.#capture(workload);
    else this.#release();
    if (!facets.hbone) this.#unsteer();
    this.#applied = asked;
  }

  /** Forgets what was applied: another daemon had the maps meanwhile. */
  invalidate(): void {
    this.#applied = undefined;
  }

  /** Gives a new worker its share of the listeners, from our own copies. */
  handTo(worker: number): void {
    const { hot, fleet } = this.#context;
    for (const listener of this.#listeners) {
      if (listener.worker !== worker) continue;
      const fd = must(hot.dupFd(listener.fd), `copy a listener of pod ${this.uid}`, 'SYSTEM_CALL_FAILED');
      fleet.handOver(worker, this.uid, listener.role, { fd, cookie: listener.cookie }, listener.port);
    }
  }

  /**
   * Takes everything out of the kernel and closes our sockets; the namespace itself when no worker uses it any more.
   * `isGuarded`: the pod lives on elsewhere (a new sandbox), and may connect from nowhere until that one is captured.
   * May be called again when it threw. @throws MeshError
   */
  async dismantle(reason: 'POD_GONE' | 'POLICY_CHANGED', isGuarded: boolean): Promise<void> {
    const { hot, kernel, fleet } = this.#context;
    this.#release(isGuarded);
    this.#unsteer();
    kernel.deletePod(this.cookie);
    this.closeListeners();
    const gone = fleet.podGone(this.uid, reason);
    // A worker that stands still may dial in there once more: the number must not mean another namespace by then.
    void gone.everywhere.then(() => hot.closeFd(this.netnsFd));
    await gone.soon;
  }

  // === Older connections ===

  /** Remembers the connections that stand now and are not redirected. @returns how many. */
  noteOlder(): number {
    this.#mustNoteOlder = true;
    this.#older = new Set(this.#foreignSockets().map((socket) => socket.cookie));
    this.#mustNoteOlder = false;
    return this.#older.size;
  }

  /** How many of the older connections still stand. */
  countOlder(): number {
    if (this.#mustNoteOlder) return this.noteOlder();
    if (this.#older.size === 0) return 0;
    const now = new Set(this.#foreignSockets().map((socket) => socket.cookie));
    this.#older = new Set([...this.#older].filter((cookie) => now.has(cookie)));
    return this.#older.size;
  }

  /**
   * Ends the older connections on whose port of the pod `isCut` says so. @returns how many were ended.
   * @throws MeshError SYSTEM_CALL_FAILED when the kernel can't.
   */
  cutOlder(isCut: (port: Port) => boolean): number {
    let cut = 0;
    for (const socket of this.#foreignSockets()) {
      const port = parsePort(socket.sourcePort);
      if (!this.#older.has(socket.cookie) || port === undefined || !isCut(port)) continue;
      const result = this.#context.hot.destroySocket(this.netnsFd, socket);
      if (result === 0) cut += 1;
      else if (result !== ENOENT)
        throw new MeshError(
          'SYSTEM_CALL_FAILED',
          `could not cut an older connection of pod ${this.uid}: errno ${-result}`,
        );
    }
    this.countOlder();
    return cut;
  }

  /** Open connections of the pod's own processes with somebody outside the pod. @throws MeshError SYSTEM_CALL_FAILED */
  #foreignSockets(): TcpSocket[] {
    const listed = must(
      this.#context.hot.tcpSockets(this.netnsFd, MAX_SOCKETS),
      `list the connections of pod ${this.uid}`,
    );
    return listed.sockets.filter(
      (socket) =>
        socket.state !== 'LISTEN' &&
        !this.#context.isOwnCgroup(socket.cgroupId) &&
        !isLoopback(socket.destination) &&
        socket.source !== socket.destination,
    );
  }

  // === Listeners ===

  #openListeners(workload: Workload): void {
    const { hot, fleet, ports } = this.#context;
    const range = hot.localPortRange(this.netnsFd);
    const candidates = candidatePorts({
      ...ports,
      ephemeral: typeof range === 'number' ? undefined : range,
      taken: new Set(workload.containerPorts),
    });
    for (let worker = 0; worker < fleet.count; worker++)
      for (const role of ROLE_NAMES) this.#listeners.push(this.#openListener(candidates, role, worker));
    for (const index of fleet.indexes) this.handTo(index);
  }

  #openListener(candidates: Generator<Port>, role: Role, worker: number): Listener {
    const { hot } = this.#context;
    // Not for…of: leaving it would end the generator, and the next listener goes on where this one stops.
    for (let next = candidates.next(); next.done !== true; next = candidates.next()) {
      const port = next.value;
      let fd = hot.listen(this.netnsFd, 6, port, BACKLOG, 0);
      if (fd === EAFNOSUPPORT) fd = hot.listen(this.netnsFd, 4, port, BACKLOG, 0);
      if (fd === EADDRINUSE) continue;
      must(fd, `open a listener on port ${port} of pod ${this.uid}`, 'NETNS_FAILED');
      const cookie = must(hot.socketCookie(fd), 'read a socket cookie');
      return { fd, port, cookie, role, worker };
    }
    throw new MeshError(
      'NETNS_FAILED',
      `no free port for a listener in pod ${this.uid} from ${this.#context.ports.min} to ${this.#context.ports.max}: widen --listener-port-min/max`,
    );
  }

  /** Closes our copies; a worker's stay open until it closes its own. */
  closeListeners(): void {
    for (const listener of this.#listeners) this.#context.hot.closeFd(listener.fd);
    this.#listeners.length = 0;
  }

  // === Kernel entries ===

  #steer(facets: Facets): void {
    const { kernel } = this.#context;
    for (const ip of this.#ips) {
      // The next pod has it already, and we are late to go: what is steered there is that pod's.
      const owner = this.#steered.has(ip) ? kernel.localPod(ip) : undefined;
      if (owner !== undefined && owner !== this.cookie) continue;
      for (const { role, worker, fd } of this.#listeners)
        if (role !== 'outbound') kernel.setListener(ip, ROLES[role], worker, fd);
      kernel.setLocalPod(ip, { cookie: this.cookie, leaving: !facets.steer });
      this.#steered.add(ip);
    }
    kernel.attachNetns(this.uid, this.netnsFd);
  }

  #unsteer(): void {
    this.#context.kernel.detachNetns(this.uid);
    for (const ip of this.#ips) this.#forgetAddress(ip);
  }

  #forgetAddress(ip: Ip): void {
    const { kernel } = this.#context;
    for (const { role, worker, cookie } of this.#listeners)
      if (role !== 'outbound') kernel.deleteListener(ip, ROLES[role], worker, cookie);
    kernel.deleteLocalPod(ip, this.cookie);
    this.#steered.delete(ip);
  }

  /** The pod's entry stands while it is steered at all: sockops hands clients' addresses on only where there is one. */
  #setPod(capture: boolean): void {
    const { kernel, fleet, maxPending } = this.#context;
    const ports = new Array<number>(fleet.count).fill(0);
    for (const listener of this.#listeners)
      if (listener.role === 'outbound') ports[listener.worker] = listener.port;
    const noGlobalV6 = this.#isSettled && !this.#hasGlobalV6;
    kernel.setPod(this.cookie, { capture, noGlobalV6, ports, maxPending });
    this.#isCapturing = capture;
  }

  #capture(workload: Workload): void {
    const { kernel } = this.#context;
    kernel.setExclusions(this.cookie, workload.excludeOutboundCidrs);
    this.#setPod(true);
    kernel.setPodCgroup(this.cgroupId, {
      state: 'enrolled',
      netnsCookie: this.cookie,
      allowNested: workload.allowNestedNetns,
    });
  }

  /** Outbound is left alone from here on; what was captured lives on. */
  #release(isGuarded = false): void {
    const { kernel } = this.#context;
    this.#setPod(false);
    if (isGuarded)
      kernel.setPodCgroup(this.cgroupId, { state: 'pending', netnsCookie: 0n, allowNested: false });
    else kernel.deletePodCgroup(this.cgroupId);
    kernel.setExclusions(this.cookie, []);
  }
}

const EADDRINUSE = -98;
const EAFNOSUPPORT = -97;
const ENOENT = -2;

/**
 * The pod's own global addresses, sorted: what lo has is not it. Tentative ones can't be used yet. undefined when they
 * can't be read now (they changed meanwhile, no descriptor is left).
 */
function globalAddresses(hot: Hot, netnsFd: number): { ip: Ip; isUsable: boolean }[] | undefined {
  const listed = hot.addresses(netnsFd);
  if (typeof listed === 'number') return undefined;
  return listed
    .filter((address) => address.scope === 'global' && address.ifname !== 'lo')
    .map(({ ip, flags }) => ({ ip, isUsable: (flags & IFA_F_TENTATIVE) === 0 }))
    .sort((a, b) => (a.ip < b.ip ? -1 : 1));
}

function isLoopback(ip: Ip): boolean {
  return ip.startsWith('127.') || ip === '::1';
}
