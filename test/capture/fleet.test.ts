import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { MessageChannel } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { Fleet } from '../../daemon/capture/fleet.ts';
import type { HandedOver } from '../../daemon/capture/fleet.ts';
import { parsePodUid, parsePort } from '../../daemon/mesh/ids.ts';
import { until } from '../support/wait.ts';

const UID = parsePodUid('12345678-9abc-4def-8123-456789abcdef') ?? assert.fail();
const PORT = parsePort(61_001) ?? assert.fail();

describe('the fleet of workers', () => {
  let fleet: Fleet;
  let far: MessagePort[];
  let orphans: HandedOver[];
  let masks: number[];
  let still: readonly number[];
  let current: object;

  /** A worker joins; its end is kept in `far`. */
  function join(index: number): MessagePort {
    const { port1, port2 } = new MessageChannel();
    fleet.add(index, port1);
    far.push(port2);
    return port2;
  }

  /** Tells the fleet something, and waits until it has heard it. */
  async function say(port: MessagePort, message: object): Promise<void> {
    port.postMessage(message);
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
  }

  async function die(port: MessagePort): Promise<void> {
    const before = fleet.indexes.length;
    port.close();
    await until('the death to be noticed', () => fleet.indexes.length < before);
  }

  beforeEach(() => {
    far = [];
    orphans = [];
    // The fleet of the test before may still hear of its workers' ends.
    const told: number[] = [];
    masks = told;
    still = [];
    const own = {};
    current = own;
    fleet = new Fleet(2, {
      onMask: (mask) => told.push(mask),
      onStill: (indexes) => {
        if (current === own) still = indexes;
      },
      onChange: () => undefined,
      onEmpty: () => undefined,
      onOrphans: (listeners) => orphans.push(...listeners),
    });
  });
  afterEach(() => {
    for (const port of far) port.close();
  });

  it('leads new connections past a worker that stands still, and back when it turns again', async () => {
    const [quick, stuck] = [join(0), join(1)];
    assert.equal(masks.at(-1), 0b11);
    for (let look = 0; look < 3; look++) {
      fleet.look();
      await say(quick, { type: 'beat' });
    }
    assert.deepEqual([masks.at(-1), still], [0b11, []], 'a few late beats are nothing');
    fleet.look();
    assert.deepEqual([masks.at(-1), still], [0b01, [1]]);
    fleet.handOver(1, UID, 'outbound', { fd: 99, cookie: 1n }, PORT);
    assert.equal(fleet.isListening(UID), true, 'a pod waits for a worker that stands still');
    await say(stuck, { type: 'beat' });
    assert.deepEqual([masks.at(-1), still], [0b11, []]);
    assert.equal(fleet.isListening(UID), false);
  });

  it('keeps all workers when none turns, and forgets one that stood still when it dies', async () => {
    const [, stuck] = [join(0), join(1)];
    for (let look = 0; look < 10; look++) fleet.look();
    assert.deepEqual([masks.at(-1), still], [0b11, [0, 1]]);
    await die(stuck);
    assert.deepEqual([masks.at(-1), still], [0b01, [0]]);
  });

  it('does not say that a pod has gone everywhere while a worker that stands still may dial in it', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const [quick, stuck] = [join(0), join(1)];
    const gone = fleet.podGone(UID, 'POD_GONE');
    let isGone = false;
    void gone.everywhere.then(() => (isGone = true));
    await say(quick, { type: 'pod-closed', uid: UID });
    t.mock.timers.tick(60_000);
    await gone.soon;
    assert.equal(isGone, false);
    await say(stuck, { type: 'pod-closed', uid: UID });
    await gone.everywhere;
  });

  it('takes the death of a worker for its word', async () => {
    const [one, other] = [join(0), join(1)];
    const gone = fleet.podGone(UID, 'POD_GONE');
    await say(one, { type: 'pod-closed', uid: UID });
    await die(other);
    await gone.everywhere;
  });

  it('tells two goings of one pod apart', async () => {
    const worker = join(0);
    const [first, second] = [fleet.podGone(UID, 'POD_GONE'), fleet.podGone(UID, 'POD_GONE')];
    let isSecond = false;
    void second.everywhere.then(() => (isSecond = true));
    await say(worker, { type: 'pod-closed', uid: UID });
    await first.everywhere;
    assert.equal(isSecond, false);
    await say(worker, { type: 'pod-closed', uid: UID });
    await second.everywhere;
  });

  it('gives back the listeners that a worker had not taken when it died, once another is in its place', async () => {
    const worker = join(0);
    const [taken, left, leaving] = [10, 11, 12].map((fd) => ({ fd, cookie: BigInt(fd) }));
    assert.ok(taken && left && leaving);
    fleet.handOver(0, UID, 'outbound', leaving, PORT);
    void fleet.podGone(UID, 'POLICY_CHANGED');
    fleet.handOver(0, UID, 'outbound', taken, PORT);
    fleet.handOver(0, UID, 'hbone', left, PORT);
    await say(worker, { type: 'listening', uid: UID, role: 'outbound' });
    assert.equal(fleet.isListening(UID), false);
    await die(worker);
    assert.deepEqual(orphans, []);
    join(0);
    assert.deepEqual(orphans.map(({ fd }) => fd).sort(), [11, 12]);
  });
});
