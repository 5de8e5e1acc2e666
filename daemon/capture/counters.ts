/** What the kernel programs did and refused (native/bpf/culvert.h), by name. */
import type { Tables } from './tables.ts';

/** Codes of the maps `refusals` and `totals`, by name; a name is what people see. */
export const COUNTERS = {
  POD_PENDING: 1,
  POD_PENDING_INBOUND: 2,
  NESTED_NETNS: 3,
  POD_ENTRY_LIMIT: 4,
  NO_WORKER: 5,
  NO_SOCKET_STORAGE: 6,
  NO_KERNEL_RECORD: 7,
  UNKNOWN_LOCAL_ADDRESS: 8,
  NO_LISTENER: 9,
  CLIENT_ADDRESS_LOST: 10,
  SELF_FLOW_LOST: 11,
  HOST_FLOW_LOST: 12,
  NO_WORKER_INBOUND: 13,
  CAPTURED: 16,
  STEERED_PLAINTEXT: 17,
  STEERED_HBONE: 18,
  PASSED_PROBE: 19,
  PASSED_SELF: 20,
} as const;
export type Counter = keyof typeof COUNTERS;

const NAMES = Object.keys(COUNTERS) as readonly Counter[];

/** Refusals of one pod for one reason; `id` is its netns cookie, or its cgroup's id while it is pending, or 0n. */
export interface KernelRefusal {
  readonly id: bigint;
  readonly code: Counter;
  readonly count: number;
}

/** Sums since the maps were made. */
export function readCounters(tables: Tables): Readonly<Record<Counter, number>> {
  const totals: Record<Counter, number> = { ...COUNTERS };
  for (const name of NAMES) totals[name] = Number(tables.totals.get(COUNTERS[name]) ?? 0n);
  return totals;
}

/** What was refused since the last call, by whichever daemon; at most 4,096 pods and reasons, the most recent. */
export function takeRefusals(tables: Tables): KernelRefusal[] {
  return tables.refusals.keys().flatMap((key) => {
    const code = NAMES.find((name) => COUNTERS[name] === key.code);
    const count = tables.refusals.take(key);
    return code === undefined || count === undefined ? [] : [{ id: key.id, code, count: Number(count) }];
  });
}
