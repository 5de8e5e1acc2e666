/** What of ours is in the kernel. */
import type { Ip, PodUid } from '../mesh/ids.ts';
import { otherLayouts, podUids, podsElsewhere } from './layouts.ts';
import { CGROUP_STATES, LOCAL_LEAVING } from './maps.ts';
import type { PodCount } from './maps.ts';
import type { Pins } from './pins.ts';
import type { Tables } from './tables.ts';

/** Everything of ours that is found in the kernel: what should not be there is the reconciler's to remove. */
export interface Inventory {
  readonly pods: readonly bigint[];
  /** Cgroup ids of pods in any state, and of the enrolled ones among them. */
  readonly podCgroups: readonly bigint[];
  readonly enrolledCgroups: readonly bigint[];
  /** Cookie of the namespace that a pod's cgroup belongs to; 0n while it is pending. */
  readonly netnsOfCgroup: ReadonlyMap<bigint, bigint>;
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
  /** Pins of other layouts, of an older or newer daemon, and the pods that it enrolled. */
  readonly otherLayouts: readonly number[];
  readonly podsElsewhere: readonly PodUid[];
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
    netnsOfCgroup: new Map(cgroups.map(([id, { netns }]) => [id, netns])),
    enrolledCgroups: cgroups.filter(([, entry]) => entry.state === CGROUP_STATES.enrolled).map(([id]) => id),
    localPods: localPods.map(([ip, entry]) => ({
      ip,
      cookie: entry.netns,
      leaving: entry.flags === LOCAL_LEAVING,
    })),
    listeners: tables.listeners.entries().map(([key, cookie]) => ({ ...key, cookie })),
    netnsLinks: podUids(pins.list('netns')),
    guards: podUids(pins.list('pending')),
    exempt: tables.exempt.keys(),
    otherLayouts: otherLayouts(bpffs),
    podsElsewhere: podsElsewhere(bpffs),
  };
}

function sweepCounts(tables: Tables, alive: ReadonlySet<bigint>): void {
  for (const [cookie, count] of tables.podCounts.entries())
    if (!isStanding(count) && !alive.has(cookie)) tables.podCounts.delete(cookie);
}

function isStanding({ original, client, self }: PodCount): boolean {
  return original !== 0n || client !== 0n || self !== 0n;
}

/** Forgets the entry counts of a pod that was let go. @returns false while entries of it stand: ask again. */
export function forgetCounts(tables: Tables, cookie: bigint): boolean {
  if (tables.pods.get(cookie) !== undefined) return true; // it is back
  const count = tables.podCounts.get(cookie);
  if (count !== undefined && isStanding(count)) return false;
  tables.podCounts.delete(cookie);
  return true;
}
