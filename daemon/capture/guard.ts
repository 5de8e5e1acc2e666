/** A pod's guard: refuses its connects and drops inbound SYNs by cgroup, while its namespace is not captured. */
import type { Entry } from './entry.ts';
import { cgroupId, cgroupIdOrZero } from './kubepods.ts';
import type { KernelState } from './programs.ts';

/** Guards the pod from its cgroup's appearance on. @throws MeshError when the kernel refuses. */
export function guardPod(kernel: KernelState, entry: Entry, cgroup: string): void {
  if (entry.guarded !== undefined) return;
  kernel.setPodCgroup(cgroupId(cgroup), { state: 'pending', netnsCookie: 0n, allowNested: false });
  guardInbound(kernel, entry, cgroup);
}

/** Only what comes in: its connects are refused by what its cgroup's entry says already. */
export function guardInbound(kernel: KernelState, entry: Entry, cgroup: string): void {
  kernel.guardPending(entry.uid, cgroup);
  entry.guarded = cgroup;
}

/** The pod is let go. */
export function dropGuard(kernel: KernelState, entry: Entry): void {
  if (entry.guarded === undefined) return;
  kernel.unguardPending(entry.uid);
  kernel.deletePodCgroup(cgroupIdOrZero(entry.guarded));
  entry.guarded = undefined;
}
