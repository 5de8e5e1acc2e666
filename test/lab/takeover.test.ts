/** What a daemon finds in the kernel that is not as it left it: another layout's pins, none at all, a late pod's entries. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { must } from '../support/run.ts';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { Lab } from './kit/lab.ts';
import type { LabDaemon } from './kit/daemon.ts';
import type { LabPod } from './kit/pod.ts';
import { LabProcess } from './kit/process.ts';
import { QUICK, openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { makeUnborn } from './unborn.ts';
import { withoutPayload } from './watch.ts';

const TIMEOUT = { timeout: 300_000 };
const PINS = '/sys/fs/bpf/culvert';

describe('what a daemon finds in the kernel', TIMEOUT, () => {
  let shop: Shop;
  let sink: Server;
  before(async () => {
    shop = await openShop({ daemon: { flags: ['--default-mode', 'strict'] } });
    sink = await shop.server.serve('sink', 8081);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  const FLAGS = [...QUICK, '--default-mode', 'strict'];

  /** A marker that arrives whole, over mTLS, and is seen nowhere on the way. */
  async function isCarried(from: LabPod, to: LabPod, app: Server): Promise<void> {
    await using wire = await shop.lab.capture([shop.lab.fabricPoint, from.capturePoint, to.capturePoint]);
    const marker = randomBytes(64);
    const received = (await app.stats()).received;
    assert.equal((await from.send(to.ip, 8081, { first: marker })).error, '', `${from.name} to ${to.name}`);
    await until('the payload', async () => (await app.stats()).received === received + 64);
    assert.deepEqual(await wire.seenAt(marker), []);
    assert.ok(((await wire.tls(15_008)).get(from.capturePoint.name)?.applicationData ?? 0) > 0);
  }

  it(
    'pins of another layout: they keep the pods closed, and go once the pods are held again',
    TIMEOUT,
    async () => {
      const { lab, client, server, daemon1 } = shop;
      const { node } = client;
      await daemon1.stop('SIGKILL');
      await node.must(['mv', `${PINS}/v1`, `${PINS}/v0`]);
      const loop = await client.loop(server.ip, 8081, {
        everyMs: 20,
        timeoutMs: 1_000,
        first: randomBytes(64),
      });
      await using wire = await lab.capture([lab.fabricPoint, client.capturePoint]);
      const markers = Array.from({ length: 10 }, () => randomBytes(64));
      const refused = await withoutPayload(sink, () =>
        client.send(server.ip, 8081, { first: randomBytes(64) }),
      );
      assert.notEqual(refused.error, '');
      const starting = lab.startDaemon(1, { flags: FLAGS });
      for (const marker of markers) await client.send(server.ip, 8081, { first: marker, timeoutMs: 1_000 });
      const daemon = await starting;
      shop = { ...shop, daemon1: daemon };
      await daemon.waitState(client, 'enrolled');
      await daemon.waitForLog('the end of the old pins', ({ msg }) =>
        String(msg).includes('another map layout'),
      );
      assert.equal((await node.must(['ls', PINS])).trim(), 'v1');
      for (const marker of markers) assert.deepEqual(await wire.seenAt(marker), []);
      const tree = await node.must(['bpftool', 'cgroup', 'tree', '/sys/fs/cgroup']);
      assert.equal(tree.split(/\s+/).filter((word) => word === 'culvert_connect4').length, 1, tree);
      await loop.stop();
      await isCarried(client, server, sink);
    },
  );

  it('no pins at all, as after a reboot: it starts clean, and enrols its pods again', TIMEOUT, async () => {
    const { lab, client, server, daemon1 } = shop;
    await daemon1.stop('SIGKILL');
    assert.match(await client.node.must(['ls', `${PINS}/v1/netns`]), new RegExp(client.uid));
    await client.node.must(['rm', '-rf', PINS]);
    const daemon = await lab.startDaemon(1, { flags: FLAGS });
    shop = { ...shop, daemon1: daemon };
    await daemon.waitState(client, 'enrolled');
    await isCarried(client, server, sink);
  });

  it(
    'an address that a pod still has when the next one gets it: the next stays steered and captured',
    TIMEOUT,
    async () => {
      const { lab, client, daemon2 } = shop;
      const old = await lab.pod({ name: 'old', node: 2 });
      await old.serve('sink', 8081);
      await daemon2.waitState(old, 'enrolled');
      const next = await lab.pod({ name: 'next', node: 2, ips: old.ips });
      const app = await next.serve('sink', 8081);
      await daemon2.waitState(next, 'enrolled');
      await sleep(2_500); // its addresses are looked at twice before they count as settled, without an event
      // It leaves in order, its last step long after the address became the next one's.
      await lab.cluster.relabel(old.object(), { 'culvert.dev/mesh': 'disabled' });
      const outsider = await lab.outsider('outsider');
      const clear = async (): Promise<void> => {
        const options = { first: randomBytes(64), timeoutMs: 1_000 };
        const result = await withoutPayload(app, () => outsider.send(next.ip, 8081, options));
        assert.notEqual(result.error, '', 'clear text came through');
      };
      await until('it to have left', async () => {
        await clear();
        return (await daemon2.podState(old)) === 'none';
      });
      await clear();
      await old.delete();
      await clear();
      await isCarried(client, next, app);
      await isCarried(next, client, await client.serve('sink', 8081));
      await daemon2.waitForAccess('the refusal', ({ reason }) => reason === 'PLAINTEXT_DENIED');
      await next.delete();
    },
  );
});

for (const cgroupDriver of ['systemd', 'cgroupfs'] as const)
  describe(`daemons in cgroup namespaces of their own, ${cgroupDriver} driver`, TIMEOUT, () => {
    it('capture pods of each QoS class, and refuse a pending one', TIMEOUT, async () => {
      const shop = await openShop({ lab: { cgroupDriver }, daemon: { ownCgroupNamespace: true } });
      await using lab: Lab = shop.lab;
      const { server, daemon1, daemon2 } = shop;
      const sink = await server.serve('sink', 8081);
      assert.match(await cgroupsOf(daemon1), /^0::\/$/m);
      for (const qos of ['guaranteed', 'burstable', 'besteffort'] as const) {
        const pod = await lab.pod({ name: `pod-${qos}`, node: 1, qos });
        await daemon1.waitState(pod, 'enrolled');
        assert.equal((await pod.send(server.ip, 8081, { first: randomBytes(64) })).error, '', qos);
        await daemon2.waitForAccess(`the record of ${qos}`, (line) => {
          const isTls = line['security'] === 'mutual_tls' && line['direction'] === 'inbound';
          return isTls && line['src.identity'] === `spiffe://cluster.local/ns/shop/sa/pod-${qos}`;
        });
      }
      const unborn = await makeUnborn(shop, 'unborn');
      await daemon2.waitState(unborn, 'pending');
      const connect = `exec 3<>/dev/tcp/${server.ip}/8081`;
      const { lines, exited } = await withoutPayload(sink, () =>
        LabProcess.start(['bash', '-c', connect], unborn.place),
      );
      await exited;
      assert.match(lines.join(), /not permitted/);
      await unborn.remove();
    });
  });

/** /proc/self/cgroup as the daemon reads it. */
async function cgroupsOf(daemon: LabDaemon): Promise<string> {
  const words = [
    'nsenter',
    '-C',
    '-t',
    String(daemon.process.pid),
    'cat',
    `/proc/${daemon.process.pid}/cgroup`,
  ];

  return must(words);
}
