import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { LabDaemon } from './kit/daemon.ts';
import type { LabPod } from './kit/pod.ts';
import { QUICK, openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { makeUnborn } from './unborn.ts';
import { statesOf, statusOf, takeCaAway, waitReason, withoutPayload } from './watch.ts';

const FLAGS = [...QUICK, '--hold-timeout', '3s', '--leave-wait', '2s'];

describe('a daemon killed and started again, with its pods in every state', { timeout: 300_000 }, () => {
  let shop: Shop;
  let daemon: LabDaemon;
  let sink: Server;
  let joining: LabPod;
  let opening: LabPod;
  let leaving: LabPod;
  let pending: Awaited<ReturnType<typeof makeUnborn>>;

  before(async () => {
    shop = await openShop({ daemon: { inspect: true, flags: FLAGS } });
    const { lab, server } = shop;
    daemon = shop.daemon2;
    await server.serve('http', 8080);
    sink = await server.serve('sink', 8081);
    leaving = await lab.pod({ name: 'leaving', node: 2, namespace: 'goes' });
    await leaving.serve('http', 8080);
    await lab.cluster.label('goes', 'enabled');
    await daemon.waitState(leaving, 'enrolled');
    joining = await lab.pod({ name: 'joining', node: 2, namespace: 'comes' });
    await joining.serve('http', 8080);
    {
      await using ca = await daemon.inspect();
      await takeCaAway(ca);
    }
    await lab.cluster.label('comes', 'enabled');
    opening = await lab.pod({ name: 'opening', node: 2 });
    await opening.serve('http', 8080);
    pending = await makeUnborn(shop, 'pending');
    await waitReason(daemon, joining, 'JOINING_NO_CERTIFICATE');
    await waitReason(daemon, opening, 'OPENING_NO_CERTIFICATE');
    await daemon.waitState(pending, 'pending');
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it('dead: what was promised stays closed, what was not stays open', async () => {
    const { lab, client, server } = shop;
    await daemon.stop('SIGKILL');
    // Its label goes while nobody looks.
    await lab.cluster.label('goes', undefined);
    const first = randomBytes(64);
    for (const pod of [server, opening, leaving])
      await withoutPayload(sink, () => pod.send(joining.ip, 8080, { first, timeoutMs: 1_000 })).then((out) =>
        assert.notEqual(out.error, '', `${pod.name} got out`),
      );
    // Nobody listens there: the far side's reset says that the way was open; the others are our own side's words.
    const { error } = (await joining.request(client.ip, 8080)).result;
    assert.doesNotMatch(error, /EPERM|ECONNREFUSED|ETIMEDOUT/, 'an unpromised pod was closed');
  });

  it('started again: enrolled ones are so at once and never join, joining ones join, opening ones open', async () => {
    const { client, server, lab } = shop;
    daemon = await lab.startDaemon(2, { flags: FLAGS });
    await daemon.waitState(server, 'enrolled');
    await daemon.waitState(joining, 'enrolled');
    await daemon.waitState(opening, 'enrolled');
    assert.ok(!statesOf(daemon, server).includes('joining'), statesOf(daemon, server).join());
    assert.ok(!statesOf(daemon, opening).includes('joining'), statesOf(daemon, opening).join());
    assert.deepEqual(statesOf(daemon, joining), ['joining', 'enrolled']);
    await until(
      'tunnels to be made again',
      async () => (await client.request(server.ip, 8080)).status === 200,
    );
    for (const pod of [joining, opening]) assert.equal((await client.request(pod.ip, 8080)).status, 200);
    assert.equal((await opening.request(server.ip, 8080)).status, 200);
  });

  it('one whose label went meanwhile leaves in order: published first, then let go', async () => {
    const { client, lab } = shop;
    await lab.cluster.waitPublished([leaving], undefined);
    await daemon.waitState(leaving, 'none');
    assert.deepEqual(statesOf(daemon, leaving), ['leaving']);
    assert.equal((await client.request(leaving.ip, 8080)).status, 200);
  });

  it('it joins when it is labelled again: that an earlier daemon had it counts no more', async () => {
    const { lab } = shop;
    await lab.cluster.label('goes', 'enabled');
    await daemon.waitState(leaving, 'enrolled');
    assert.deepEqual(statesOf(daemon, leaving), ['leaving', 'joining', 'enrolled']);
  });

  it('one that waits for its sandbox waits on, guarded; no guard stays behind', async () => {
    assert.equal((await statusOf(daemon, pending))?.state, 'pending');
    const guards = (): Promise<string> =>
      shop.server.node.must(['find', '/sys/fs/bpf', '-path', '*pending*', '-name', '*-*-*-*-*']);
    assert.deepEqual(
      (await guards())
        .trim()
        .split('\n')
        .map((path) => path.split('/').at(-1)),
      [pending.uid],
    );
    await pending.remove();
    await daemon.waitState(pending, 'none');
    assert.equal(await guards(), '');
  });
});
