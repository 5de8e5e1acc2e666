/** What a dead daemon left in the kernel for pods that are no longer there, or no longer ours. */
import type { PodUid } from '../mesh/ids.ts';
import type { Inventory } from './inventory.ts';
import type { KernelState } from './programs.ts';

/** What of the kernel's entries belongs to somebody. */
export interface Known {
  readonly uids: ReadonlySet<PodUid>;
  readonly netnsCookies: ReadonlySet<bigint>;
  readonly cgroups: ReadonlySet<bigint>;
}

/** Removes everything that belongs to nobody. @throws MeshError when the kernel refuses. */
export function removeStrangers(kernel: KernelState, found: Inventory, known: Known): void {
  for (const cookie of found.pods) if (!known.netnsCookies.has(cookie)) kernel.deletePod(cookie);
  for (const id of found.podCgroups) if (!known.cgroups.has(id)) kernel.deletePodCgroup(id);
  for (const uid of found.netnsLinks) if (!known.uids.has(uid)) kernel.detachNetns(uid);
  for (const uid of found.guards) if (!known.uids.has(uid)) kernel.unguardPending(uid);
  for (const { ip, cookie } of found.localPods)
    if (!known.netnsCookies.has(cookie)) kernel.deleteLocalPod(ip, cookie);
}
