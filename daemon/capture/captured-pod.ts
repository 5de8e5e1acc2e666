/**
 * One pod as it is in the kernel: its network namespace, our listeners in it, its entries in the maps. The order of
 * things is CAPTURE.md's: listeners before maps before the namespace's link before capture, and back the other way.
 */
import type { Hot } from '../../native/hot/index.ts';
import { must } from '../../native/hot/index.ts';
import { isIpv6 } from '../mesh/ids.ts';
import type { Ip, PodUid, Port } from '../mesh/ids.ts';
import type { Workload } from '../mesh/model.ts';
import { ROLES } from '../mesh/wiring.ts';
import type { Fleet } from './fleet.ts';
import { PodListeners } from './listeners.ts';
import type { Facets } from './machine.ts';
import { OlderConnections } from './older.ts';
import type { KernelState } from './programs.ts';

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

export class CapturedPod {
  readonly uid: PodUid;
  readonly netnsFd: number;
  readonly cookie: bigint;
  readonly cgroupId: bigint;
  readonly listeners: PodListeners;
  readonly older: OlderConnections;
  #ips: readonly Ip[] = [];
  #hasGlobalV6 = false;
  /** Its addresses have been the same at two looks: more may follow the first at once. */
  #isSettled = false;
  readonly #context: CaptureContext;
  /** What the kernel's entries are made of: facets, and the pod's annotations that count there. */
  #applied: string | undefined;
  /** Addresses that have been steered to us since we have had them. */
  readonly #steered = new Set<Ip>();
  #isCapturing = false;

  /**
   * Opens the pod's listeners; nothing is redirected yet, and no worker has one until `listeners.handOver`. Owns
   * `netnsFd` from here, also when it throws.
   */
  constructor(context: CaptureContext, uid: PodUid, netnsFd: number, cgroupId: bigint, workload: Workload) {
    this.#context = context;
    this.uid = uid;
    this.netnsFd = netnsFd;
    this.cgroupId = cgroupId;
    this.listeners = new PodListeners(context, uid);
    this.older = new OlderConnections(context, uid, netnsFd);
    try {
      this.cookie = must(
        context.hot.netnsCookie(netnsFd),
        `read the netns cookie of pod ${uid}`,
        'NETNS_FAILED',
      );
      this.listeners.open(netnsFd, workload.containerPorts);
    } catch (error) {
      // It is tried again and again: what is kept each time would use up the daemon's descriptors.
      this.listeners.close();
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
    return this.listeners.all.map(({ port }) => port);
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
    this.listeners.close();
    const gone = fleet.podGone(this.uid, reason);
    // A worker that stands still may dial in there once more: the number must not mean another namespace by then.
    void gone.everywhere.then(() => hot.closeFd(this.netnsFd));
    await gone.soon;
  }

  // === Kernel entries ===

  #steer(facets: Facets): void {
    const { kernel } = this.#context;
    for (const ip of this.#ips) {
      // The next pod has it already, and we are late to go: what is steered there is that pod's.
      const owner = this.#steered.has(ip) ? kernel.localPod(ip) : undefined;
      if (owner !== undefined && owner !== this.cookie) continue;
      for (const { role, worker, fd } of this.listeners.all)
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
    for (const { role, worker, cookie } of this.listeners.all)
      if (role !== 'outbound') kernel.deleteListener(ip, ROLES[role], worker, cookie);
    kernel.deleteLocalPod(ip, this.cookie);
    this.#steered.delete(ip);
  }

  /** The pod's entry stands while it is steered at all: sockops hands clients' addresses on only where there is one. */
  #setPod(capture: boolean): void {
    const { kernel, maxPending } = this.#context;
    const noGlobalV6 = this.#isSettled && !this.#hasGlobalV6;
    kernel.setPod(this.cookie, {
      capture,
      noGlobalV6,
      ports: this.listeners.portsOf('outbound'),
      maxPending,
    });
    this.#isCapturing = capture;
  }

  #capture(workload: Workload): void {
    const { kernel } = this.#context;
    kernel.setExclusions(this.cookie, workload.excludeOutboundCidrs);
    if (this.#isCapturing) this.older.exclude(workload.excludeOutboundCidrs);
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
