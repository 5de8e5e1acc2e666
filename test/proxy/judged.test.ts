/** A connection is judged once more when the app has answered: what is in doubt by then takes nothing. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ip, pod, port, told } from '../mesh/world.ts';
import { JudgedConnection } from '../../daemon/proxy/judged.ts';
import { localPod, makePlane } from './plane.kit.ts';
import type { TestPlane } from './plane.kit.ts';

const server = pod('server', '127.0.0.1');

/** One that was allowed; then `change` happens while the app is dialled. */
async function carriedAfter(change: (test: TestPlane) => void): Promise<unknown> {
  const test = makePlane({
    pod: localPod(server),
    deltas: [told.pod(server), told.namespace('shop', 'enabled')],
    config: { defaultMode: 'permissive' },
  });
  const { plane } = test;
  const { connection } = plane.connections.open(server.uid, 'inbound', '127.0.0.1:1');
  const target = { ip: ip('127.0.0.1'), port: port(8080) };
  const asked = { uid: server.uid, target, sourceIp: ip('127.0.0.1'), peer: undefined };
  const judged = new JudgedConnection(plane, connection, asked);
  const { verdict } = judged.judge();
  assert.equal(verdict?.kind, 'allow');
  judged.decided(verdict);
  change(test);
  const { app, ours } = await test.connect();
  try {
    return judged.carry(ours, () => assert.fail('the client was taken'))?.reason;
  } finally {
    app.destroy();
    ours.destroy();
  }
}

describe('a connection whose app answers', () => {
  it('is refused when a policy has come meanwhile', async () => {
    const deny = told.policy('shop', 'no', { action: 'DENY', rules: [{}] });
    assert.equal(await carriedAfter((test) => test.tell(deny)), 'POLICY_DENIED');
  });

  it('is refused when nobody can say any more what the pod is', async () => {
    const gone = { kind: 'workload', key: server.uid, value: undefined } as const;
    assert.equal(await carriedAfter((test) => test.tell(gone)), 'POD_NOT_READY');
  });

  it('is refused when the pod has gone', async () => {
    assert.equal(await carriedAfter((test) => test.dropPod(server.uid)), 'POD_GONE');
  });
});
