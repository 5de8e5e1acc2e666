import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { basename } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { Sending, Server, httpRequest, sendArguments, serveArguments } from './kit/apps.ts';
import type { Inspector } from './kit/inspector.ts';
import { LabProcess } from './kit/process.ts';
import { tools } from './kit/tools.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { makeUnborn } from './unborn.ts';
import {
  bringCaBack,
  nodeStatus,
  recordTo,
  statesOf,
  statusOf,
  takeCaAway,
  waitReason,
  withoutPayload,
} from './watch.ts';

const TIMEOUT = { timeout: 300_000 };

describe('a pod that ran before its label', TIMEOUT, () => {
  it('joins, is enrolled, leaves, and is as it was', async () => {
    const shop = await openShop({ labelled: false });
    await using lab = shop.lab;
    const { client, server, daemon2 } = shop;
    await server.serve('http', 8080);
    await using loop = await client.loop(server.ip, 8080, { everyMs: 20 });
    await lab.cluster.label('shop', 'enabled');
    await lab.cluster.waitPublished([client, server], 'enrolled');
    await daemon2.waitState(server, 'enrolled');
    assert.equal((await daemon2.cli(['status'])).code, 0);
    await lab.cluster.label('shop', undefined);
    await lab.cluster.waitPublished([client, server], 'leaving');
    await lab.cluster.waitPublished([client, server], undefined);
    await daemon2.waitState(server, 'none');
    assert.deepEqual(statesOf(daemon2, server), ['joining', 'enrolled', 'leaving']);
    assert.equal((await client.request(server.ip, 8080)).status, 200);
    const counts = await loop.stop();
    assert.equal(counts.failed, 0, JSON.stringify(counts));
  });
});

describe('a pod’s life under a label', TIMEOUT, () => {
  let shop: Shop;
  let ca: Inspector;
  let sink: Server;
  before(async () => {
    shop = await openShop({ daemon: { inspect: true, flags: ['--hold-timeout', '3s'] } });
    ca = await shop.daemon2.inspect();
    await shop.server.serve('http', 8080);
    sink = await shop.server.serve('sink', 8081);
  });
  afterEach(() => bringCaBack(ca));
  after(async () => {
    await ca[Symbol.asyncDispose]();
    await shop.lab[Symbol.asyncDispose]();
  });

  it('appearing after the label, it is enrolled without joining, and never clear', async () => {
    const { lab, server, daemon1 } = shop;
    await using wire = await lab.capture([lab.fabricPoint, server.capturePoint]);
    const marker = randomBytes(64);
    const late = await lab.pod({ name: 'late', node: 1 });
    // An app that starts at once sees its first connects held or refused, and never let through in the clear.
    const reply = await until('the request to get through', async () => {
      const tried = await late.request(server.ip, 8080, { body: marker });
      return tried.status === 200 ? tried : undefined;
    });
    assert.equal(reply.name, 'web');
    assert.deepEqual(await wire.seenAt(marker), []);
    assert.ok(((await wire.tls(15_008)).get('bridge')?.applicationData ?? 0) > 0);
    await daemon1.waitState(late, 'enrolled');
    const states = statesOf(daemon1, late);
    assert.ok(!states.includes('joining'), states.join());
    await late.delete();
    await daemon1.waitState(late, 'none');
  });

  it('pending: connects are refused and SYNs dropped; loopback and host probes go on', async () => {
    const { server, client, daemon2 } = shop;
    const unborn = await makeUnborn(shop, 'unborn');
    await daemon2.waitState(unborn, 'pending');
    assert.match((await statusOf(daemon2, unborn))?.reason ?? '', /^PENDING_SANDBOX/);
    assert.equal((await daemon2.cli(['status'])).code, 1);
    const { labapp } = await tools();
    const run = (words: string[]): Promise<LabProcess> => LabProcess.start([labapp, ...words], unborn.place);

    const words = sendArguments(server.ip, 8081, { first: randomBytes(64) });
    await using sending = new Sending(await run(words));
    const out = await withoutPayload(sink, () => sending.result());
    assert.deepEqual([out.connected, out.error], [false, 'EPERM']);
    await using app = await Server.listening(await run(serveArguments('http', 8090, {})), 8090);
    const host = server.node.addresses[0] ?? '';
    const into = await client.send(host, 8090, { first: randomBytes(64), timeoutMs: 1_500 });
    assert.notEqual(into.error, '', 'a SYN got through');
    assert.equal((await app.stats()).accepted, 0);
    const loopback = sendArguments('127.0.0.1', 8090, { first: httpRequest('/') });
    await using inside = new Sending(await run(loopback));
    assert.equal((await inside.result()).error, '');
    assert.equal(await server.node.probe('http', host, 8090), '');
    await unborn.remove();
    await daemon2.waitState(unborn, 'none');
  });

  it('opening: connections both ways are held until the certificate comes, then carried', async () => {
    const { lab, client, server, daemon2 } = shop;
    await takeCaAway(ca);
    const pod = await lab.pod({ name: 'opens', node: 2 });
    await using app = await pod.serve('http', 8080);
    await waitReason(daemon2, pod, 'OPENING_NO_CERTIFICATE');
    assert.equal(lab.cluster.publishedState(pod.uid), undefined);
    const out = pod.request(server.ip, 8080);
    const into = client.request(pod.ip, 8080);
    await until('the one to be held', async () =>
      JSON.stringify(await daemon2.admin('/connections')).includes(`${server.ip}:8080`),
    );
    assert.equal((await app.stats()).accepted, 0);
    await bringCaBack(ca);
    assert.equal((await out).status, 200);
    assert.equal((await into).status, 200);
    await daemon2.waitState(pod, 'enrolled');
    await pod.delete();
  });

  it('opening: without a certificate they are refused after holdTimeout, with the reason', async () => {
    const { lab, client, server, daemon2 } = shop;
    await takeCaAway(ca);
    const pod = await lab.pod({ name: 'stuck', node: 2 });
    await using app = await pod.serve('sink', 8082);
    const why = await waitReason(daemon2, pod, 'OPENING_NO_CERTIFICATE');
    assert.match(why, /held until the certificate arrives/);
    const first = randomBytes(64);
    const out = await withoutPayload(sink, () => pod.send(server.ip, 8081, { first }));
    assert.equal(out.end, 'error');
    assert.ok(out.totalUs > 2_500_000, `refused after ${out.totalUs} µs: not held`);
    assert.equal((await recordTo(daemon2, 'outbound', `${server.ip}:8081`))['reason'], 'POD_NOT_READY');
    const into = await withoutPayload(app, () => client.send(pod.ip, 8082, { first }));
    assert.equal(into.end, 'error');
    assert.equal((await recordTo(daemon2, 'inbound', `${pod.ip}:8082`))['reason'], 'POD_NOT_READY');
    await bringCaBack(ca);
    await daemon2.waitState(pod, 'enrolled');
    assert.equal((await pod.send(server.ip, 8081, { first })).error, '');
    await pod.delete();
  });

  it('joining without a certificate: nothing is promised, plaintext goes on both ways', async () => {
    const { lab, client, server, daemon2 } = shop;
    const pod = await lab.pod({ name: 'joins', node: 2, namespace: 'garden' });
    await pod.serve('http', 8080);
    await takeCaAway(ca);
    await lab.cluster.label('garden', 'enabled');
    await waitReason(daemon2, pod, 'JOINING_NO_CERTIFICATE');
    await lab.cluster.waitPublished([pod], 'joining');
    assert.equal((await client.request(pod.ip, 8080)).status, 200);
    assert.equal((await recordTo(daemon2, 'inbound', `${pod.ip}:8080`))['reason'], 'PLAINTEXT_JOINING');
    assert.equal((await pod.request(server.ip, 8080)).status, 200);
    const { code, output } = await daemon2.cli(['status']);
    assert.equal(code, 1);
    assert.match(output, /JOINING_NO_CERTIFICATE.*the CA is away/);
    await bringCaBack(ca);
    await daemon2.waitState(pod, 'enrolled');
    assert.deepEqual(statesOf(daemon2, pod), ['joining', 'enrolled']);
    await lab.cluster.label('garden', undefined);
    await pod.delete();
  });

  it('vanishing while it waits, opens or joins, it leaves nothing behind', async () => {
    const { lab, daemon2 } = shop;
    const old = await lab.pod({ name: 'old', node: 2, namespace: 'attic' });
    await takeCaAway(ca);
    const opening = await lab.pod({ name: 'brief', node: 2 });
    await lab.cluster.label('attic', 'enabled');
    const pending = await makeUnborn(shop, 'stillborn');
    await waitReason(daemon2, opening, 'OPENING_NO_CERTIFICATE');
    await waitReason(daemon2, old, 'JOINING_NO_CERTIFICATE');
    await daemon2.waitState(pending, 'pending');
    await Promise.all([opening.delete(), old.delete(), pending.remove()]);
    const gone = [opening, old, pending];
    for (const pod of gone) await daemon2.waitState(pod, 'none');
    const pins = await shop.server.node.must(['find', '/sys/fs/bpf', '-name', '*-*-*-*-*']);
    for (const { uid } of gone) assert.ok(!pins.includes(uid), `${uid} is pinned still`);
    assert.ok(pins.includes(shop.server.uid), 'no pod is pinned at all: the test proves nothing');
    const failures = daemon2.logs().filter(({ msg }) => String(msg).startsWith('enrolment failed'));
    assert.deepEqual(failures, []);
  });

  it('labelled again while it leaves, it stays reachable throughout', async () => {
    const { lab, client, server, daemon1, daemon2 } = shop;
    await using loop = await client.loop(server.ip, 8080, { everyMs: 20 });
    const from = statesOf(daemon2, server).length;
    await lab.cluster.label('shop', undefined);
    await daemon2.waitState(server, 'leaving');
    await lab.cluster.label('shop', 'enabled');
    await Promise.all([daemon1.waitState(client, 'enrolled'), daemon2.waitState(server, 'enrolled')]);
    assert.deepEqual(statesOf(daemon2, server).slice(from), ['leaving', 'joining', 'enrolled']);
    const counts = await loop.stop();
    assert.equal(counts.failed, 0, JSON.stringify(counts));
  });

  it('a broken file is named with its line and reason, and the last good state stays', async () => {
    const { lab, client, server, daemon2 } = shop;
    const broken = 'apiVersion: v1\nkind: Namespace\nmetadata: {name: shop\n';
    lab.cluster.writeFile(lab.cluster.folder('node-2'), 'namespace.shop.yaml', broken);
    const problem = await until('the problem to be told', async () =>
      (await nodeStatus(daemon2)).problems.find(({ where }) => basename(where) === 'namespace.shop.yaml'),
    );
    assert.ok((problem.line ?? 0) >= 3 && problem.reason !== '', JSON.stringify(problem));
    const { output } = await daemon2.cli(['status']);
    assert.ok(output.includes('namespace.shop.yaml'), output);
    assert.equal((await statusOf(daemon2, server))?.state, 'enrolled');
    assert.equal((await client.request(server.ip, 8080)).status, 200);
    await lab.cluster.label('shop', 'enabled'); // written whole again
    await until('the problem to go', async () => (await nodeStatus(daemon2)).problems.length === 0);
  });
});

describe('an enrolment that fails', TIMEOUT, () => {
  it('says why, leaves nothing open, does not stop others, and is tried again', async () => {
    // Six ports are as many as a pod's listeners need: one taken by the app is one too many.
    const flags = ['--workers', '2', '--listener-port-max', '61006'];
    const shop = await openShop({ daemon: { flags } });
    await using lab = shop.lab;
    const { server, daemon2 } = shop;
    await using sink = await server.serve('sink', 8081);
    const full = await lab.pod({ name: 'full', node: 2, namespace: 'crowd' });
    const squatter = await full.serve('sink', 61_003);
    await lab.cluster.label('crowd', 'enabled');
    assert.match(await waitReason(daemon2, full, 'NETNS_FAILED'), /--listener-port-min/);
    assert.equal((await daemon2.cli(['status'])).code, 1);
    // One that starts under the label is guarded from its first moment, and stays so.
    const closed = await lab.pod({ name: 'closed', node: 2, namespace: 'crowd', ports: [61_001] });
    await waitReason(daemon2, closed, 'NETNS_FAILED');
    const first = randomBytes(64);
    const out = await withoutPayload(sink, () => closed.send(server.ip, 8081, { first }));
    assert.equal(out.error, 'EPERM');
    const other = await lab.pod({ name: 'other', node: 2, namespace: 'crowd' });
    await daemon2.waitState(other, 'enrolled');
    await squatter[Symbol.asyncDispose]();
    await daemon2.waitState(full, 'enrolled');
    assert.equal((await statusOf(daemon2, server))?.state, 'enrolled');
  });
});
