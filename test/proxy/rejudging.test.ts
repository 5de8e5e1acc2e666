/** Which connections are judged again when something has changed, and that a crowd of them stops nobody. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Delta } from '../../daemon/mesh/model.ts';
import type { LocalPod } from '../../daemon/mesh/wiring.ts';
import { Rejudging } from '../../daemon/proxy/rejudging.ts';
import { until } from '../support/wait.ts';
import { pod, told } from '../mesh/world.ts';
import { localPod, makePlane } from './plane.kit.ts';

const web = pod('web', '10.244.1.1', { labels: { app: 'web' } });
const deny = told.policy('shop', 'no', { action: 'DENY', rules: [{}] });

interface Judged {
  /** Tells the worker of changes, as main does. */
  readonly tell: (...deltas: Delta[]) => Promise<number>;
  readonly setPod: (pod: LocalPod) => Promise<number>;
}

/** One connection to `web`; each call gives how often it has been judged again because of it. */
async function standing(): Promise<Judged> {
  const test = makePlane({ pod: localPod(web), deltas: [told.pod(web), told.namespace('shop', 'enabled')] });
  const { plane } = test;
  const rejudging = new Rejudging(plane);
  let times = 0;
  plane.connections.open(web.uid, 'inbound', 'client').connection.judgeAgain = () => {
    times += 1;
  };
  const settled = async (change: () => void): Promise<number> => {
    times = 0;
    change();
    await turns();
    return times;
  };
  const judged: Judged = {
    tell: (...deltas) =>
      settled(() => {
        plane.state.apply(deltas);
        rejudging.deltas(deltas);
      }),
    setPod: (one) =>
      settled(() => {
        test.setPod(one);
        rejudging.pod(one.uid);
      }),
  };
  // What it was judged by at first.
  await judged.tell(told.namespace('shop', 'enabled'));
  return judged;
}

/** More than it takes to look at one pod and one connection. */
async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) await nextTurn();
}

describe('a connection is judged again', () => {
  it('when a policy of its namespace or of the root namespace comes, changes or goes', async () => {
    const { tell } = await standing();
    assert.equal(await tell(deny), 1);
    assert.equal(await tell(told.policy('shop', 'no')), 1);
    assert.equal(await tell(told.policy('istio-system', 'all', {})), 1);
    assert.equal(await tell(told.peerAuthentication('shop', 'd', { mtls: { mode: 'STRICT' } })), 1);
    assert.equal(await tell(told.peerAuthentication('istio-system', 'd', { mtls: {} })), 1);
  });

  it('when the labels of its pod, its namespace or the state of its pod change', async () => {
    const { tell, setPod } = await standing();
    assert.equal(await tell(told.pod({ ...web, labels: { app: 'db' } })), 1);
    assert.equal(await tell(told.namespace('shop', undefined)), 1);
    assert.equal(await setPod(localPod(web, { state: 'leaving' })), 1);
  });

  it('not when what changed is none of its business', async () => {
    const { tell, setPod } = await standing();
    assert.equal(await tell(told.policy('bank', 'no', { action: 'DENY', rules: [{}] })), 0);
    assert.equal(await tell(told.pod(pod('other', '10.244.1.2'))), 0);
    assert.equal(await tell(told.published(web, 'enrolled')), 0);
    assert.equal(await tell(told.namespace('bank', 'enabled')), 0);
    assert.equal(await setPod(localPod(web)), 0);
  });

  it('once for many changes of one turn', async () => {
    const { tell } = await standing();
    assert.equal(await tell(deny, told.policy('shop', 'no'), deny), 1);
  });

  it('each of a crowd, and others get their turns between', async () => {
    const { plane } = makePlane({
      pod: localPod(web),
      deltas: [told.pod(web), told.namespace('shop', 'enabled')],
      limits: { perPod: 20_000, total: 20_000 },
    });
    const rejudging = new Rejudging(plane);
    let done = 0;
    let between = 0;
    for (let i = 0; i < 200; i++)
      plane.connections.open(web.uid, 'inbound', 'client').connection.judgeAgain = () => {
        for (const untilMs = performance.now() + 1; performance.now() < untilMs; );
        done += 1;
      };
    const count = (): void => {
      if (done > 0 && done < 200) between += 1;
      if (done < 200) setImmediate(count);
    };
    setImmediate(count);
    plane.state.apply([deny]);
    rejudging.deltas([deny]);
    await until('all to be judged', () => done === 200);
    assert.ok(between >= 10, `others had ${between} turns`);
  });

  it('no longer when it has closed meanwhile', async () => {
    const { plane } = makePlane({ pod: localPod(web), deltas: [told.pod(web)] });
    const rejudging = new Rejudging(plane);
    const { connection } = plane.connections.open(web.uid, 'inbound', 'client');
    connection.judgeAgain = () => assert.fail('it is closed');
    plane.state.apply([deny]);
    rejudging.deltas([deny]);
    connection.close('OK');
    await turns();
  });
});
