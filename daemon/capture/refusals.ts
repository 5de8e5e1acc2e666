/** What the kernel refused, said of pods: no worker ever sees these connections, so no record of theirs has them. */
import type { Reason } from '../errors.ts';
import type { PodUid } from '../mesh/ids.ts';
import type { Direction, KernelRefusals } from '../mesh/wiring.ts';
import type { Counter, KernelRefusal } from './counters.ts';

interface Meaning {
  readonly direction: Direction;
  readonly reason: Reason;
  /** Whose number the kernel noted. */
  readonly by: 'cgroup' | 'netns' | 'nobody';
}

/** The others are no refusals, or (NO_KERNEL_RECORD) reach a worker, which refuses and records them itself. */
const MEANINGS: Partial<Readonly<Record<Counter, Meaning>>> = {
  POD_PENDING: { direction: 'outbound', reason: 'POD_PENDING', by: 'cgroup' },
  POD_PENDING_INBOUND: { direction: 'inbound', reason: 'POD_PENDING', by: 'cgroup' },
  NESTED_NETNS: { direction: 'outbound', reason: 'NESTED_NETNS', by: 'netns' },
  POD_ENTRY_LIMIT: { direction: 'outbound', reason: 'POD_ENTRY_LIMIT', by: 'netns' },
  NO_WORKER: { direction: 'outbound', reason: 'NO_WORKER', by: 'netns' },
  NO_WORKER_INBOUND: { direction: 'inbound', reason: 'NO_WORKER', by: 'netns' },
  NO_SOCKET_STORAGE: { direction: 'outbound', reason: 'NO_SOCKET_STORAGE', by: 'netns' },
  UNKNOWN_LOCAL_ADDRESS: { direction: 'inbound', reason: 'UNKNOWN_LOCAL_ADDRESS', by: 'nobody' },
  NO_LISTENER: { direction: 'inbound', reason: 'NO_LISTENER', by: 'netns' },
};

/** How pods are found by the kernel's numbers; undefined when the pod is gone. */
export interface PodNumbers {
  byCgroup(id: bigint): PodUid | undefined;
  byNetns(cookie: bigint): PodUid | undefined;
}

/** The refusals that no worker records, each with its pod. A cgroup's and a namespace's number may be the same. */
export function attributeRefusals(found: readonly KernelRefusal[], pods: PodNumbers): KernelRefusals[] {
  return found.flatMap(({ id, code, count }) => {
    const meaning = MEANINGS[code];
    if (meaning === undefined) return [];
    const { direction, reason, by } = meaning;
    const uid = by === 'cgroup' ? pods.byCgroup(id) : by === 'netns' ? pods.byNetns(id) : undefined;
    return [{ uid, direction, reason, count }];
  });
}
