/** A pod starts before its object has been read: what it is nobody knows, so that it is closed until somebody does. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { LabPod } from './kit/pod.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { nodeStatus, statesOf, withoutPayload } from './watch.ts';

const HOLD = ['--unknown-pod-hold', '3s'];

describe('a pod that starts before its object has been read', { timeout: 300_000 }, () => {
  let shop: Shop;
  let sink: Server;
  before(async () => {
    // A minute is more than any of these tests takes: what opens does so because it is known.
    shop = await openShop({ daemon: { flags: ['--unknown-pod-hold', '60s'] } });
    sink = await shop.server.serve('sink', 8081);
    await shop.server.serve('http', 8080);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  const guards = async (): Promise<string> =>
    await shop.client.node.must(['find', '/sys/fs/bpf/culvert', '-path', '*pending*']);
  const isGuarded = async (pod: LabPod): Promise<boolean> => (await guards()).includes(pod.uid);

  const statusText = async (): Promise<string> => JSON.stringify(await nodeStatus(shop.daemon1));

  async function startUnlisted(name: string, namespace: string): Promise<LabPod> {
    const pod = await shop.lab.pod({ name, namespace, node: 1, listed: false });
    await until('the new pod to be guarded', () => isGuarded(pod));
    return pod;
  }

  it('it reaches nobody, and nobody reaches it', async () => {
    const pod = await startUnlisted('early', 'shop');
    await using own = await pod.serve('sink', 8082);
    const out = await withoutPayload(sink, () => pod.send(shop.server.ip, 8081, { first: randomBytes(64) }));
    assert.equal(out.error, 'EPERM');
    const into = await withoutPayload(own, () =>
      shop.client.send(pod.ip, 8082, { first: randomBytes(64), timeoutMs: 1_500 }),
    );
    assert.notEqual(into.error, '');
    await pod.delete();
    await until('its guard to go', async () => !(await isGuarded(pod)));
  });

  it('once it is known to be of the mesh, it is enrolled without joining, and was never clear', async () => {
    const { lab, client, server, daemon1 } = shop;
    const pod = await startUnlisted('late', 'shop');
    await using wire = await lab.capture([lab.fabricPoint, client.capturePoint, server.capturePoint]);
    const marker = randomBytes(64);
    const reply = until('the request to get through', async () => {
      const tried = await pod.request(server.ip, 8080, { body: marker });
      return tried.status === 200 ? tried : undefined;
    });
    await lab.cluster.apply(pod.object());
    assert.equal((await reply).name, 'web');
    assert.deepEqual(await wire.seenAt(marker), []);
    assert.ok(((await wire.tls(15_008)).get('bridge')?.applicationData ?? 0) > 0);
    await daemon1.waitState(pod, 'enrolled');
    assert.ok(!statesOf(daemon1, pod).includes('joining'), statesOf(daemon1, pod).join());
    assert.match(await daemon1.metrics(), /^culvert_pods_started_unguarded_total 0$/m);
    await pod.delete();
  });

  it('once it is known not to be of the mesh, it goes on in the clear', async () => {
    const pod = await startUnlisted('plain', 'default');
    await shop.lab.cluster.apply(pod.object());
    await until('its guard to go', async () => !(await isGuarded(pod)));
    assert.equal((await pod.request(shop.server.ip, 8080)).status, 200);
    await pod.delete();
  });

  it('a namespace that nobody has read says nothing either', async () => {
    const { lab, server } = shop;
    const pod = await startUnlisted('nowhere', 'shop');
    const object = pod.object();
    await lab.cluster.apply({ ...object, metadata: { ...object.metadata, namespace: 'unread' } });
    await until('its object to be read', async () => (await statusText()).includes('Namespace unread'));
    const out = await withoutPayload(sink, () => pod.send(server.ip, 8081, { first: randomBytes(64) }));
    assert.equal(out.error, 'EPERM');
    await lab.cluster.namespace('unread', {});
    await until('its guard to go', async () => !(await isGuarded(pod)));
    await pod.delete({ keepObject: true });
  });

  it('a pod that nobody ever tells of opens after --unknown-pod-hold, and the log says so', async () => {
    const { lab } = shop;
    await shop.daemon1.stop('SIGKILL');
    Object.assign(shop, { daemon1: await lab.startDaemon(1, { flags: HOLD }) });
    const pod = await startUnlisted('stray', 'shop');
    await shop.daemon1.waitForLog(
      'the warning',
      ({ msg, pod: uid }) => uid === pod.uid && String(msg).includes('was not read in time'),
    );
    await until('its guard to go', async () => !(await isGuarded(pod)));
    await pod.delete();
  });
});
