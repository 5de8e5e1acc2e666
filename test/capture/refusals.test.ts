import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { COUNTERS } from '../../daemon/capture/counters.ts';
import { attributeRefusals } from '../../daemon/capture/refusals.ts';
import { podUid } from '../observe/records.ts';

const ONE = podUid('11111111-1111-1111-1111-111111111111');
const TWO = podUid('22222222-2222-2222-2222-222222222222');

/** A cgroup and a network namespace of two pods that the kernel numbered the same. */
const PODS = {
  byCgroup: (id: bigint) => (id === 7n ? ONE : undefined),
  byNetns: (cookie: bigint) => (cookie === 7n ? TWO : undefined),
};

describe('what the kernel refused', () => {
  it('is of the pod by its cgroup while it is pending, and by its network namespace later', () => {
    const found = attributeRefusals(
      [
        { id: 7n, code: 'POD_PENDING', count: 3 },
        { id: 7n, code: 'POD_PENDING_INBOUND', count: 1 },
        { id: 7n, code: 'NO_WORKER_INBOUND', count: 2 },
      ],
      PODS,
    );
    assert.deepEqual(found, [
      { uid: ONE, direction: 'outbound', reason: 'POD_PENDING', count: 3 },
      { uid: ONE, direction: 'inbound', reason: 'POD_PENDING', count: 1 },
      { uid: TWO, direction: 'inbound', reason: 'NO_WORKER', count: 2 },
    ]);
  });

  it('is told also of a pod that is gone, or that the kernel could not name', () => {
    const found = attributeRefusals(
      [
        { id: 9n, code: 'POD_ENTRY_LIMIT', count: 1 },
        { id: 0n, code: 'UNKNOWN_LOCAL_ADDRESS', count: 4 },
      ],
      PODS,
    );
    assert.deepEqual(found, [
      { uid: undefined, direction: 'outbound', reason: 'POD_ENTRY_LIMIT', count: 1 },
      { uid: undefined, direction: 'inbound', reason: 'UNKNOWN_LOCAL_ADDRESS', count: 4 },
    ]);
  });

  it('has a direction and a reason for every counter but those that refuse nothing, or that a worker records', () => {
    const elsewhere = ['NO_KERNEL_RECORD', 'CLIENT_ADDRESS_LOST', 'SELF_FLOW_LOST', 'HOST_FLOW_LOST'];
    const codes = (Object.keys(COUNTERS) as (keyof typeof COUNTERS)[]).filter((code) => COUNTERS[code] < 16);
    const told = codes.filter((code) => attributeRefusals([{ id: 7n, code, count: 1 }], PODS).length === 1);
    assert.deepEqual([...told, ...elsewhere].sort(), [...codes].sort());
  });
});
