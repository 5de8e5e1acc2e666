/** What of ours is in the kernel, and how all of it is removed without loading anything. */
import type { Ip, PodUid } from '../mesh/ids.ts';
import { parsePodUid } from '../mesh/ids.ts';
import { BpfMap } from './bpf-map.ts';
import { closeFd, openPin } from './libbpf.ts';
import { CGROUP_STATES, LAYOUT, LOCAL_LEAVING, u64, u8 } from './maps.ts';
import { Pins, pinnedLayouts } from './pins.ts';
import type { Tables } from './tables.ts';

/** Everything of ours that is found in the kernel: what should not be there is the reconciler's to remove. */
export interface Inventory {
  readonly pods: readonly bigint[];
  /** Cgroup ids of pods in any state, and of the enrolled ones among them. */
  readonly podCgroups: readonly bigint[];
  readonly enrolledCgroups: readonly bigint[];
  readonly localPods: readonly { readonly ip: Ip; readonly cookie: bigint; readonly leaving: boolean }[];
  readonly listeners: readonly {
    readonly ip: Ip;
    readonly role: number;
    readonly worker: number;
    readonly cookie: bigint;
  }[];
  readonly netnsLinks: readonly PodUid[];
  /** Pods whose inbound SYNs are dropped. */
  readonly guards: readonly PodUid[];
  readonly exempt: readonly bigint[];
  /** Pins of other layouts, of an older or newer daemon. */
  readonly otherLayouts: readonly number[];
}

/** Everything found. Also forgets the entry counts of pods that are gone: nothing else knows when the last one fell. */
export function takeInventory(tables: Tables, pins: Pins, bpffs: string): Inventory {
  const pods = tables.pods.keys();
  const localPods = tables.localPods.entries();
  const cgroups = tables.podCgroups.entries();
  sweepCounts(tables, new Set([...pods, ...localPods.map(([, entry]) => entry.netns)]));
  return {
    pods,
    podCgroups: cgroups.map(([id]) => id),
    enrolledCgroups: cgroups.filter(([, entry]) => entry.state === CGROUP_STATES.enrolled).map(([id]) => id),
    localPods: localPods.map(([ip, entry]) => ({
      ip,
      cookie: entry.netns,
      leaving: entry.flags === LOCAL_LEAVING,
    })),
    listeners: tables.listeners.entries().map(([key, cookie]) => ({ ...key, cookie })),
    netnsLinks: uids(pins.list('netns')),
    guards: uids(pins.list('pending')),
    exempt: tables.exempt.keys(),
    otherLayouts: pinnedLayouts(bpffs).filter((layout) => layout !== LAYOUT),
  };
}

function sweepCounts(tables: Tables, alive: ReadonlySet<bigint>): void {
  for (const [cookie, count] of tables.podCounts.entries()) {
    const standing = count.original !== 0n || count.client !== 0n || count.self !== 0n;
    if (!standing && !alive.has(cookie)) tables.podCounts.delete(cookie);
  }
}

function uids(names: readonly string[]): PodUid[] {
  return names.map((name) => parsePodUid(name)).filter((uid) => uid !== undefined);
}

/**
 * Removes what any daemon of any layout left below `bpffs`: capture ends first, then links and maps go.
 * @returns the folders that were removed. @throws MeshError PIN_FAILED, BPF_ATTACH_FAILED, BPF_MAP_FAILED
 */
export function removePins(bpffs: string): string[] {
  const found = pinnedLayouts(bpffs);
  for (const layout of found) removeLayout(bpffs, layout);
  return found.map((layout) => new Pins(bpffs, layout).directory);
}

/** The same for one layout: what an older daemon left, once this one holds the pods. */
export function removeLayout(bpffs: string, layout: number): void {
  const pins = new Pins(bpffs, layout);
  for (const name of ['pods', 'pod_cgroups']) {
    const fd = openPin(pins.path('maps', name));
    if (fd === undefined) continue;
    // Keys are 8 bytes in every layout so far; values are not read.
    const map = new BpfMap(name, fd, u64, u8);
    for (const key of map.keys()) map.delete(key);
    closeFd(fd);
  }
  pins.removeAll();
}
