/** What a dead daemon left in the kernel for pods that are no longer there, or no longer ours. */
import type { PodUid } from '../mesh/ids.ts';
import type { Entry } from './entry.ts';
import type { Inventory } from './inventory.ts';
import { cgroupIdOrZero } from './kubepods.ts';
import type { KernelState } from './programs.ts';

/** What of the kernel's entries belongs to somebody. */
export interface Known {
  readonly uids: ReadonlySet<PodUid>;
  readonly netnsCookies: ReadonlySet<bigint>;
  readonly cgroups: ReadonlySet<bigint>;
}

/** What a daemon before us left: cgroups of pods that it captured, pods whose guard stands, pods of other layouts. */
export type Adopted = Pick<Inventory, 'enrolledCgroups' | 'guards' | 'otherLayouts' | 'podsElsewhere'>;

/**
 * What of `adopted` belongs to pods that live and that nobody has told us of: their objects may be late, or their
 * files broken. They stay as closed as they are.
 */
export function unseenOf(
  adopted: Adopted,
  cgroups: ReadonlyMap<PodUid, string>,
  isSeen: (uid: PodUid) => boolean,
): Adopted {
  const unseen = new Map([...cgroups].filter(([uid]) => !isSeen(uid)));
  const ids = new Set([...unseen.values()].map(cgroupIdOrZero));
  return {
    ...adopted,
    enrolledCgroups: adopted.enrolledCgroups.filter((id) => ids.has(id)),
    guards: adopted.guards.filter((uid) => unseen.has(uid)),
    podsElsewhere: adopted.podsElsewhere.filter((uid) => unseen.has(uid)),
  };
}

/** What is the entries', the unseen pods', and that of new pods that we guard. */
export function knownOf(
  entries: ReadonlyMap<PodUid, Entry>,
  unseen: Adopted,
  cgroups: ReadonlyMap<PodUid, string>,
  guarded: Iterable<PodUid>,
): Known {
  const isUnseen = ([uid, path]: readonly [PodUid, string]): boolean =>
    unseen.guards.includes(uid) || unseen.enrolledCgroups.includes(cgroupIdOrZero(path));
  const uids = new Set([...entries.keys(), ...guarded, ...[...cgroups].filter(isUnseen).map(([uid]) => uid)]);
  return {
    uids,
    netnsCookies: new Set([...entries.values()].flatMap(({ captured }) => captured?.cookie ?? [])),
    cgroups: new Set([...cgroups].filter(([uid]) => uids.has(uid)).map(([, path]) => cgroupIdOrZero(path))),
  };
}

export type Removing = Pick<
  KernelState,
  'deletePod' | 'deletePodCgroup' | 'detachNetns' | 'unguardPending' | 'deleteLocalPod'
>;

/** Removes everything that belongs to nobody. @returns what the kernel refused: one failure keeps nothing else back. */
export function removeStrangers(kernel: Removing, found: Inventory, known: Known): unknown[] {
  const failures: unknown[] = [];
  const attempt = (remove: () => void): void => {
    try {
      remove();
    } catch (error) {
      failures.push(error);
    }
  };
  const cookies = new Set(known.netnsCookies);
  for (const [id, cookie] of found.netnsOfCgroup) if (known.cgroups.has(id)) cookies.add(cookie);
  for (const cookie of found.pods) if (!cookies.has(cookie)) attempt(() => kernel.deletePod(cookie));
  for (const id of found.podCgroups) if (!known.cgroups.has(id)) attempt(() => kernel.deletePodCgroup(id));
  for (const uid of found.netnsLinks) if (!known.uids.has(uid)) attempt(() => kernel.detachNetns(uid));
  for (const uid of found.guards) if (!known.uids.has(uid)) attempt(() => kernel.unguardPending(uid));
  for (const { ip, cookie } of found.localPods)
    if (!cookies.has(cookie)) attempt(() => kernel.deleteLocalPod(ip, cookie));
  return failures;
}
