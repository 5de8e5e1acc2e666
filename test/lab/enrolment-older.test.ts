import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { LabPod } from './kit/pod.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { recordTo, statusOf, takeCaAway, waitReason, withoutPayload } from './watch.ts';

const TIMEOUT = { timeout: 240_000 };

describe('connections older than the label, PERMISSIVE', TIMEOUT, () => {
  let shop: Shop;
  before(async () => {
    shop = await openShop({ labelled: false });
    await shop.server.serve('echo', 8080);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it('are counted and kept, in the clear; cut when the pod asks for it', async () => {
    const { lab, client, server, daemon1, daemon2 } = shop;
    await using idle = await client.idle(server.ip, 8080, 3);
    assert.equal((await idle.opened()).ok, 3);
    await lab.cluster.label('shop', 'enabled');
    await Promise.all([daemon1.waitState(client, 'enrolled'), daemon2.waitState(server, 'enrolled')]);
    assert.equal((await statusOf(daemon2, server))?.olderConnections, 3);
    assert.match((await daemon2.cli(['status'])).output, /shop +web +enrolled +\S+ +3 /);
    assert.equal((await idle.ping()).ok, 3);

    const { metadata, ...rest } = server.object();
    const annotations = { 'culvert.dev/cut-existing': 'true' };
    await lab.cluster.apply({ ...rest, metadata: { ...metadata, annotations } });
    await until('them to be cut', async () => (await idle.stats()).lost === 3);
    await until('none to be counted', async () => (await statusOf(daemon2, server))?.olderConnections === 0);
    assert.equal((await client.send(server.ip, 8080, { first: randomBytes(64) })).received, 64);
  });
});

describe('STRICT', TIMEOUT, () => {
  let shop: Shop;
  let sink: Server;
  let outsider: LabPod;
  before(async () => {
    const flags = ['--default-mode', 'strict', '--hold-timeout', '2s'];
    shop = await openShop({ labelled: false, daemon: { inspect: true, flags } });
    sink = await shop.server.serve('sink', 8080);
    await shop.server.serve('echo', 8081);
    outsider = await shop.lab.outsider('outsider');
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it('cuts connections older than the label once the pod is enrolled', async () => {
    const { lab, client, server, daemon1, daemon2 } = shop;
    await using idle = await outsider.idle(server.ip, 8081, 3);
    assert.equal((await idle.opened()).ok, 3);
    await lab.cluster.label('shop', 'enabled');
    await until('them to be cut', async () => (await idle.stats()).lost === 3);
    await Promise.all([daemon1.waitState(client, 'enrolled'), daemon2.waitState(server, 'enrolled')]);
    assert.equal((await statusOf(daemon2, server))?.olderConnections, 0);
  });

  it('refuses plaintext with no byte to the app, and says PLAINTEXT_DENIED; takes tunnels', async () => {
    const { client, server, daemon2 } = shop;
    const first = randomBytes(64);
    const out = await withoutPayload(sink, () => outsider.send(server.ip, 8080, { first }));
    assert.equal(out.end, 'error');
    const record = await recordTo(daemon2, 'inbound', `${server.ip}:8080`);
    assert.deepEqual([record['reason'], record['src.workload']], ['PLAINTEXT_DENIED', 'outsider']);
    assert.equal((await client.send(server.ip, 8080, { first })).error, '');
    assert.equal((await sink.stats()).received, 64);
  });

  it('holds a connection to a labelled pod that is not enrolled, then refuses it', async () => {
    const { lab, client, daemon1, daemon2 } = shop;
    await using ca = await daemon2.inspect();
    await takeCaAway(ca);
    const late = await lab.pod({ name: 'late', node: 2 });
    await using app = await late.serve('sink', 8080);
    await waitReason(daemon2, late, 'OPENING_NO_CERTIFICATE');
    await using wire = await lab.capture([lab.fabricPoint, late.capturePoint]);
    const marker = randomBytes(64);
    const out = await withoutPayload(app, () => client.send(late.ip, 8080, { first: marker }));
    assert.equal(out.end, 'error');
    assert.ok(out.totalUs > 1_800_000, `refused after ${out.totalUs} µs: not held`);
    const record = await recordTo(daemon1, 'outbound', `${late.ip}:8080`);
    assert.equal(record['reason'], 'DESTINATION_STRICT_NOT_ENROLLED');
    assert.deepEqual(await wire.seenAt(marker), []);
  });
});
