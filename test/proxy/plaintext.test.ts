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

  it('is held while the pod opens', async () => {
    const test = await arrive({ mode: 'strict', state: 'opening' });
    test.tell(told.pod(server), told.namespace('shop', 'enabled'));
    await isHeld(test);
    test.setPod(localPod(server, { ips: [ip('127.0.0.1')] }));
    assert.equal((await test.record()).reason, 'PLAINTEXT_DENIED');
  });
});
