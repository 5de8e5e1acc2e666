/**
 * What of ours is in the kernel: programs, links, maps, all pinned, so that enrolled pods stay closed while no daemon
 * runs and the next one adopts them. Synchronous; one owner per node calls it (owner.ts).
 */
import { randomInt } from 'node:crypto';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { MeshError } from '../errors.ts';
import type { Ip, PodUid } from '../mesh/ids.ts';
import { readCounters, takeRefusals } from './counters.ts';
import type { Counter, KernelRefusal } from './counters.ts';
import { replaceExclusions } from './exclusions.ts';
import { forgetCounts, takeInventory } from './inventory.ts';
import type { Inventory } from './inventory.ts';
import { cgroupId, cgroupIdsBelow } from './kubepods.ts';
import { removeOtherLayouts, removePins, shareExemptions } from './layouts.ts';
import { BpfObject, closeFd, createLink } from './libbpf.ts';
import {
  CGROUP_ALLOW_NESTED,
  CGROUP_STATES,
  LAYOUT,
  LOCAL_LEAVING,
  MAX_GENERATIONS,
  POD_FLAGS,
} from './maps.ts';
import type { CgroupState, KernelConfig } from './maps.ts';
import { readObject } from './object.ts';
import { Pins } from './pins.ts';
import type { Attachment } from './pins.ts';
import { connectDatagram } from './syscalls.ts';
import { PINNED_MAPS, openTables } from './tables.ts';
import type { Tables } from './tables.ts';

/** Pin name → program, on the node's kubepods cgroup. */
const POD_PROGRAMS = {
  connect4: 'culvert_connect4',
  connect6: 'culvert_connect6',
  getpeername4: 'culvert_getpeername4',
  getpeername6: 'culvert_getpeername6',
  sockops: 'culvert_sockops',
} as const;
/** Pin name → program, on the parent of the kubelet's cgroup. */
const KUBELET_PROGRAMS = {
  kubelet_connect4: 'culvert_probe4',
  kubelet_connect6: 'culvert_probe6',
  kubelet_sockops: 'culvert_probe_flows',
} as const;
const LOOKUP = 'culvert_lookup';
const PENDING = 'culvert_pending';
const LEVEL = 'culvert_level';
const PROGRAMS = [...Object.values(POD_PROGRAMS), ...Object.values(KUBELET_PROGRAMS), LOOKUP, PENDING, LEVEL];

export interface KernelOptions {
  /** A bpffs; two daemons on one kernel (the lab's nodes) have a folder each. */
  readonly bpffs: string;
  /** The node's kubepods cgroup: pods and daemon lie below it. */
  readonly kubepods: string;
  /** Where the prebuilt objects are; the checkout's or image's own when left out. */
  readonly objectDir?: string;
  /** Cookie of the host's network namespace, when known already. */
  readonly hostNetnsCookie?: bigint;
  /** Parent of the kubelet's cgroup, when known already. */
  readonly kubeletParent?: string;
}

/** What a pod's outbound connections meet. */
export interface PodSettings {
  readonly capture: boolean;
  readonly noGlobalV6: boolean;
  /** Outbound listener port per worker; 0: none. */
  readonly ports: readonly number[];
  readonly maxPending: number;
}

export class KernelState {
  /** Level of the kubepods cgroup below the kernel's real root. */
  readonly level: number;
  /** The daemon's own cgroup, as the kernel sees it; exempt from the start. */
  readonly ownCgroup: bigint;
  /** This daemon's slot in `workers`. */
  readonly generation: number;
  readonly #bpffs: string;
  readonly #kubepods: string;
  readonly #pins: Pins;
  readonly #object: BpfObject;
  readonly #tables: Tables;
  /** Pods that were let go and whose counts may still stand. */
  readonly #gone = new Set<bigint>();

  /**
   * Loads the programs, or takes over what an earlier daemon pinned: its maps with their entries, its links with
   * their programs swapped atomically. The daemon's own cgroup is exempt before anything is attached.
   * @throws MeshError BPF_OBJECT_CORRUPT, BPF_LOAD_FAILED, BPF_ATTACH_FAILED, BPF_MAP_FAILED, PIN_FAILED,
   *   CGROUP_NOT_FOUND (the daemon is not below `kubepods`).
   */
  static open(options: KernelOptions): KernelState {
    const bytes = readObject(options.objectDir);
    const pins = new Pins(options.bpffs, LAYOUT);
    pins.create();
    const mapPins = new Map(PINNED_MAPS.map((name) => [name, pins.path('maps', name)]));
    const object = BpfObject.load('culvert.bpf.o', bytes, PROGRAMS, mapPins);
    try {
      return new KernelState(pins, object, options);
    } catch (error) {
      object.close();
      throw error;
    }
  }

  private constructor(pins: Pins, object: BpfObject, options: KernelOptions) {
    this.#bpffs = options.bpffs;
    this.#kubepods = options.kubepods;
    this.#pins = pins;
    this.#object = object;
    this.#tables = openTables((name) => object.mapFd(name));
    const own = this.probeLevel();
    this.level = own.level;
    this.ownCgroup = own.ownCgroup;
    this.generation = (this.#config().generation + 1) % MAX_GENERATIONS;
    this.#configure({ podLevel: this.level + 1, generation: this.generation });
    if (options.hostNetnsCookie !== undefined) this.setHostNetns(options.hostNetnsCookie);
    this.setWorkers(0, 0);
    this.#exemptDaemons();
    this.#attachAll(POD_PROGRAMS, options.kubepods);
    if (options.kubeletParent !== undefined) this.attachKubelet(options.kubeletParent);
    else for (const [pin, program] of Object.entries(KUBELET_PROGRAMS)) this.#refresh('links', pin, program);
    for (const uid of pins.list('netns')) this.#refresh('netns', uid, LOOKUP);
    for (const uid of pins.list('pending')) this.#refresh('pending', uid, PENDING);
  }

  /**
   * Where `kubepods` and the daemon's own cgroup stand below the kernel's real root, which /proc does not tell inside
   * a cgroup namespace: a program notes the ancestors of a connect of ours, and refuses it.
   * @throws MeshError CGROUP_NOT_FOUND when the calling thread is not below `kubepods`.
   */
  probeLevel(): { readonly level: number; readonly ownCgroup: bigint } {
    const kubepods = this.#kubepods;
    const ip = Uint8Array.of(198, 18, randomInt(256), randomInt(256));
    const port = randomInt(1, 65_536);
    this.#tables.levelProbe.set(0, { ip, port, ancestors: [] });
    const { program, targetFd, targetId } = this.#cgroupAttachment(LEVEL, kubepods);
    try {
      const link = createLink(`${LEVEL} on ${kubepods}`, program.fd, targetFd, program.attachType);
      connectDatagram(ip, port);
      closeFd(link);
    } finally {
      closeSync(targetFd);
    }
    const ancestors = (this.#tables.levelProbe.get(0)?.ancestors ?? []).filter((id) => id !== 0n);
    const level = ancestors.indexOf(targetId);
    const ownCgroup = ancestors.at(-1);
    if (level < 0 || ownCgroup === undefined)
      throw new MeshError(
        'CGROUP_NOT_FOUND',
        `the daemon's own cgroup is not below ${kubepods}: run it as a pod of this node, or set --kubepods`,
      );
    return { level, ownCgroup };
  }

  // === The daemon and the kubelet ===

  /** Leaves the processes of this cgroup alone: a daemon's own. Before it makes any socket in a pod. */
  setExempt(id: bigint, on: boolean): void {
    if (on) this.#tables.exempt.set(id, 1);
    else this.#tables.exempt.delete(id);
  }

  /** Cgroups of daemons: this one, and others that still drain. */
  exempt(): bigint[] {
    return this.#tables.exempt.keys();
  }

  /** Attaches the probes' programs to the parent of the kubelet's cgroup, which outlives its restarts. */
  attachKubelet(parentPath: string): void {
    this.#attachAll(KUBELET_PROGRAMS, parentPath);
  }

  /** Whose connections out of the host's namespace are probes; undefined: nobody's. */
  setKubelet(id: bigint | undefined): void {
    this.#configure({ kubeletCgroup: id ?? 0n });
  }

  /** Cookie of the host's network namespace; changes when the machine restarts. */
  setHostNetns(cookie: bigint): void {
    this.#configure({ hostNetns: cookie });
  }

  /** Which of this daemon's workers take connections: bit w of `mask`, of `count` in all. */
  setWorkers(mask: number, count: number): void {
    this.#tables.workers.set(this.generation, { mask, count });
  }

  // === A pod's cgroup ===

  /** Pending: connects are refused, but loopback. Enrolled: those of other network namespaces, unless allowed. */
  setPodCgroup(id: bigint, entry: { state: CgroupState; netnsCookie: bigint; allowNested: boolean }): void {
    this.#tables.podCgroups.set(id, {
      netns: entry.netnsCookie,
      state: CGROUP_STATES[entry.state],
      flags: entry.allowNested ? CGROUP_ALLOW_NESTED : 0,
    });
  }

  deletePodCgroup(id: bigint): void {
    this.#tables.podCgroups.delete(id);
  }

  /** Drops inbound SYNs of the cgroup but those from lo and of host probes. Stays when the daemon dies. */
  guardPending(uid: PodUid, cgroupPath: string): void {
    this.#attachCgroup('pending', uid, PENDING, cgroupPath);
  }

  unguardPending(uid: PodUid): void {
    this.#pins.detach('pending', uid);
  }

  // === A pod's network namespace ===

  /** Captures (or with `capture` false only counts) the pod's outbound connections. */
  setPod(cookie: bigint, pod: PodSettings): void {
    this.#tables.podCounts.setNew(cookie, { original: 0n, client: 0n, self: 0n });
    this.#tables.pods.set(cookie, {
      flags: (pod.capture ? POD_FLAGS.capture : 0) | (pod.noGlobalV6 ? POD_FLAGS.noGlobalV6 : 0),
      generation: this.generation,
      maxPending: pod.maxPending,
      ports: pod.ports,
    });
  }

  /** Its outbound connections are left alone from now on. */
  deletePod(cookie: bigint): void {
    this.#tables.pods.delete(cookie);
    this.#gone.add(cookie);
  }

  /** Makes room for other pods: the counts of pods that are gone, as soon as their last connection is. */
  forgetGone(): void {
    for (const cookie of this.#gone) if (forgetCounts(this.#tables, cookie)) this.#gone.delete(cookie);
  }

  /** Steers what comes in; the pod's addresses and listeners must be set. Borrows `netnsFd`. */
  attachNetns(uid: PodUid, netnsFd: number): void {
    const targetId = fstatSync(netnsFd, { bigint: true }).ino;
    this.#pins.attach('netns', uid, { program: this.#object.program(LOOKUP), targetFd: netnsFd, targetId });
  }

  detachNetns(uid: PodUid): void {
    this.#pins.detach('netns', uid);
  }

  /** Says whose address this is. Leaving: plaintext goes to the app, only port 15008 to us. */
  setLocalPod(ip: Ip, entry: { cookie: bigint; leaving: boolean }): void {
    this.#tables.podCounts.setNew(entry.cookie, { original: 0n, client: 0n, self: 0n });
    this.#tables.localPods.set(ip, {
      netns: entry.cookie,
      flags: entry.leaving ? LOCAL_LEAVING : 0,
      generation: this.generation,
    });
  }

  /** Cookie of the namespace that connections to this address are steered for. */
  localPod(ip: Ip): bigint | undefined {
    return this.#tables.localPods.get(ip)?.netns;
  }

  /** Only while it is still this pod's: the address may belong to the next one already. */
  deleteLocalPod(ip: Ip, cookie: bigint): void {
    if (this.#tables.localPods.get(ip)?.netns === cookie) this.#tables.localPods.delete(ip);
  }

  /** Where connections to `ip` go that fall to this role and worker. `fd` must be listening; borrowed. */
  setListener(ip: Ip, role: number, worker: number, fd: number): void {
    this.#tables.listeners.set({ ip, role, worker }, BigInt(fd));
  }

  /** Only while it is still that socket's: the address may belong to the next pod already. */
  deleteListener(ip: Ip, role: number, worker: number, cookie: bigint): void {
    const key = { ip, role, worker };
    if (this.#tables.listeners.get(key) === cookie) this.#tables.listeners.delete(key);
  }

  /** Destinations (`ip/len`) that are left alone, in place of all earlier ones. @throws MeshError BPF_MAP_FAILED */
  setExclusions(cookie: bigint, cidrs: readonly string[]): void {
    replaceExclusions(this.#tables.exclusions, cookie, cidrs);
  }

  // === What is there ===

  /** Descriptors of the two maps that the workers read and write per connection; open until `close`. */
  mapFds(): { readonly originalDestinationFd: number; readonly clientAddressFd: number } {
    return {
      originalDestinationFd: this.#object.mapFd('original_destination'),
      clientAddressFd: this.#object.mapFd('client_address'),
    };
  }

  /** Everything found. Also forgets the entry counts of pods that are gone. */
  inventory(): Inventory {
    return takeInventory(this.#tables, this.#pins, this.#bpffs);
  }

  /** Entries that stand for a pod: connections whose record nobody has taken yet. */
  pendingOf(cookie: bigint): { readonly original: number; readonly client: number; readonly self: number } {
    const found = this.#tables.podCounts.get(cookie);
    return {
      original: Number(found?.original ?? 0n),
      client: Number(found?.client ?? 0n),
      self: Number(found?.self ?? 0n),
    };
  }

  /** What the kernel did and refused since the maps were made, by name. */
  counters(): Readonly<Record<Counter, number>> {
    return readCounters(this.#tables);
  }

  /** Refusals by pod since the last call, also those of a time without a daemon; 4,096 pods and reasons at most. */
  takeRefusals(): KernelRefusal[] {
    return takeRefusals(this.#tables);
  }

  // === The end ===

  /** Once every pod is held here: what daemons of other layouts left goes. @returns the folders that were removed. */
  removeOtherLayouts(): string[] {
    return removeOtherLayouts(this.#bpffs);
  }

  /** Uninstall: removes everything of every layout, then closes. */
  removeAll(): void {
    removePins(this.#bpffs);
    this.close();
  }

  /** The same from outside, without loading anything. @returns the folders that were removed. */
  static remove(bpffs: string): string[] {
    return removePins(bpffs);
  }

  /** Frees this process's share; all that is pinned stays. */
  close(): void {
    this.#object.close();
  }

  // === Parts ===

  /** Ourselves, and daemons that still drain; those whose cgroup is gone make room, or no start would be the last. */
  #exemptDaemons(): void {
    const alive = cgroupIdsBelow(this.#kubepods);
    for (const id of this.#tables.exempt.keys()) if (!alive.has(id)) this.setExempt(id, false);
    const others = shareExemptions(this.#bpffs, this.ownCgroup).filter((id) => alive.has(id));
    for (const id of [this.ownCgroup, ...others]) this.setExempt(id, true);
  }

  #config(): KernelConfig {
    return this.#tables.config.get(0) ?? { hostNetns: 0n, kubeletCgroup: 0n, podLevel: 0, generation: 0 };
  }

  #configure(change: Partial<KernelConfig>): void {
    this.#tables.config.set(0, { ...this.#config(), ...change });
  }

  #attachAll(programs: Readonly<Record<string, string>>, cgroupPath: string): void {
    for (const [pin, program] of Object.entries(programs))
      this.#attachCgroup('links', pin, program, cgroupPath);
  }

  #attachCgroup(folder: 'links' | 'pending', name: string, program: string, cgroupPath: string): void {
    const attachment = this.#cgroupAttachment(program, cgroupPath);
    try {
      this.#pins.attach(folder, name, attachment);
    } finally {
      closeSync(attachment.targetFd);
    }
  }

  /** The caller closes `targetFd`. */
  #cgroupAttachment(program: string, cgroupPath: string): Attachment {
    try {
      const targetId = cgroupId(cgroupPath);
      return { program: this.#object.program(program), targetId, targetFd: openSync(cgroupPath, 'r') };
    } catch (cause) {
      if (cause instanceof MeshError) throw cause;
      throw new MeshError('CGROUP_NOT_FOUND', `the cgroup ${cgroupPath} could not be opened`, { cause });
    }
  }

  #refresh(folder: 'links' | 'netns' | 'pending', name: string, program: string): void {
    this.#pins.refresh(folder, name, this.#object.program(program).fd);
  }
}
