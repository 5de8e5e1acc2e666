/** Plaintext whose verdict is 'not yet': it waits, bounded, and is decided by what comes. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { PodState } from '../../daemon/mesh/model.ts';
import { handlePlaintext } from '../../daemon/proxy/plaintext.ts';
import { until } from '../support/wait.ts';
import { ip, pod, told } from '../mesh/world.ts';
import { localPod, makePlane } from './plane.kit.ts';
import type { TestPlane } from './plane.kit.ts';

/** The tests' connections are over loopback. */
const server = pod('server', '127.0.0.1');

async function arrive(options: {
  readonly mode: 'permissive' | 'strict';
  readonly state?: PodState;
  readonly holdTimeout?: number;
}): Promise<TestPlane> {
  const test = makePlane({
    pod: localPod(server, { state: options.state ?? 'enrolled' }),
    deltas: [],
    config: { defaultMode: options.mode, holdTimeout: options.holdTimeout ?? 60_000 },
  });
  const { ours } = await test.connect();
  handlePlaintext(test.plane, server.uid, ours);
  return test;
}

const isHeld = (test: TestPlane): Promise<unknown> =>
  until('it to be held', () => test.plane.holding.size === 1);

describe('plaintext to a pod whose mode is not known yet in this worker', () => {
  it('is held, and dialled once the pod is known and PERMISSIVE', async () => {
    const test = await arrive({ mode: 'permissive' });
    await isHeld(test);
    assert.deepEqual(test.records, []);
    test.tell(told.pod(server), told.namespace('shop', 'enabled'));
    // The kernel of this test has no socket to dial with.
    assert.equal((await test.record()).reason, 'POD_GONE');
  });

  it('is held, and refused once the pod is known and STRICT', async () => {
    const test = await arrive({ mode: 'strict' });
    await isHeld(test);
    test.tell(told.pod(server), told.namespace('shop', 'enabled'));
    assert.equal((await test.record()).reason, 'PLAINTEXT_DENIED');
  });

  it('is refused after holdTimeout, with what it waited for', async () => {
    const test = await arrive({ mode: 'permissive', holdTimeout: 100 });
    const record = await test.record();
    assert.deepEqual(
      [record.reason, record.detail],
      ['POD_NOT_READY', "the pod's mode is not known yet in this worker"],
    );
  });

  it('is held until the first complete state has come, however much of it is there, then refused', async () => {
    const config = { defaultMode: 'permissive', holdTimeout: 200 } as const;
    const deltas = [told.pod(server), told.namespace('shop', 'enabled')];
    const test = makePlane({ pod: localPod(server), deltas, config });
    test.plane.synced = false;
    const { ours } = await test.connect();
    handlePlaintext(test.plane, server.uid, ours);
    await isHeld(test);
    test.tell(told.policy('shop', 'one', { rules: [{}] }));
    assert.deepEqual([(await test.record()).reason, test.plane.holding.size], ['POD_NOT_READY', 0]);
  });

  it('is held while the pod opens', async () => {
    const test = await arrive({ mode: 'strict', state: 'opening' });
    test.tell(told.pod(server), told.namespace('shop', 'enabled'));
    await isHeld(test);
    test.setPod(localPod(server, { ips: [ip('127.0.0.1')] }));
    assert.equal((await test.record()).reason, 'PLAINTEXT_DENIED');
  });
});

describe('plaintext that waits', () => {
  it('is a connection of the pod from its first moment: it is cut when the pod goes', async () => {
    const test = await arrive({ mode: 'permissive' });
    await isHeld(test);
    assert.equal(test.plane.connections.size, 1);
    assert.equal(
      test.plane.connections.cut(({ podUid }) => podUid === server.uid, 'POD_GONE'),
      1,
    );
    assert.equal((await test.record()).reason, 'POD_GONE');
    await until('nobody to wait', () => test.plane.holding.size === 0);
  });
});

describe('plaintext that policies are asked about', () => {
  const deny = told.policy('shop', 'no', {
    action: 'DENY',
    rules: [{ from: [{ source: { ipBlocks: ['127.0.0.0/8'] } }] }],
  });

  it('is refused with the object in its record and in the counts', async () => {
    const test = makePlane({
      pod: localPod(server),
      deltas: [told.pod(server), told.namespace('shop', 'enabled'), deny],
    });
    const { ours } = await test.connect();
    handlePlaintext(test.plane, server.uid, ours);
    const record = await test.record();
    assert.deepEqual(
      [record.reason, record.policy, record.detail],
      ['POLICY_DENIED', 'AuthorizationPolicy shop/no rule 0', 'AuthorizationPolicy shop/no rule 0'],
    );
    assert.deepEqual(test.plane.decisions.take(), [{ policy: 'shop/no', verdict: 'deny', count: 1 }]);
    assert.deepEqual(test.plane.decisions.take(), []);
  });
});
