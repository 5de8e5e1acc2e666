/** Our own parts die or stand still: nothing goes in the clear, nothing is lost that need not be (issue 6, 'Us'). */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { LabDaemon } from './kit/daemon.ts';
import type { LabPod } from './kit/pod.ts';
import { IS_LONG, QUICK, openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const DEAD_MS = IS_LONG ? 300_000 : 60_000;
const KILLS = IS_LONG ? 20 : 3;

describe('the daemon is killed with -9', { timeout: 900_000 }, () => {
  let shop: Shop;
  let sink: Server;
  before(async () => {
    shop = await openShop();
    sink = await shop.server.serve('sink', 8081);
    await shop.server.serve('http', 8080);
    const grpc = await shop.server.spawn([process.execPath, 'test/lab/apps/grpc-health.ts', '9090']);
    await grpc.waitForLine('to listen', (line) => line.includes('listening') || undefined);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it('pod traffic is refused and never plain, while kubelet probes go on; a restart takes the pins over', async (context) => {
    const { lab, client, server } = shop;
    assert.equal((await client.request(server.ip, 8080)).status, 200);
    const outsider = await lab.outsider('outsider');
    await using wire = await lab.capture([lab.fabricPoint, client.capturePoint, server.capturePoint]);
    const before = (await sink.stats()).received;
    await Promise.all([shop.daemon1.stop('SIGKILL'), shop.daemon2.stop('SIGKILL')]);

    const markers: Buffer[] = [];
    let probes = 0;
    const deadlineMs = performance.now() + DEAD_MS;
    while (performance.now() < deadlineMs) {
      const marker = randomBytes(64);
      markers.push(marker);
      for (const from of [client, outsider]) {
        const result = await from.send(server.ip, 8081, { first: marker, timeoutMs: 1_000 });
        assert.notEqual(result.error, '', `${from.name} got through: ${JSON.stringify(result)}`);
      }
      for (const [kind, port] of [
        ['http', 8080],
        ['tcp', 8081],
        ['grpc', 9090],
      ] as const) {
        for (const ip of server.ips) assert.equal(await server.node.probe(kind, ip, port, 10_000), '', kind);
        probes += 1;
      }
      await sleep(1_000);
    }
    assert.ok(probes >= 9, `only ${probes} probes were made`);
    for (const marker of markers) assert.deepEqual(await wire.seenAt(marker), []);
    assert.equal((await sink.stats()).received, before, 'payload reached the app');
    context.diagnostic(
      `daemon dead for ${DEAD_MS / 1_000} s: ${probes * server.ips.length} probes succeeded (HTTP, TCP, gRPC), ${markers.length * 2} connections were refused, 0 bytes in the clear`,
    );

    await restart(shop);
    const marker = randomBytes(64);
    assert.equal((await client.send(server.ip, 8081, { first: marker })).error, '');
    await until('the payload', async () => (await sink.stats()).received === before + 64);
    assert.deepEqual(await wire.seenAt(marker), []);
    assert.ok(((await wire.tls(15_008)).get('bridge')?.applicationData ?? 0) > 0);
    await shop.daemon1.waitForAccess('the record over mTLS', (record) => record['security'] === 'mutual_tls');
  });

  it(`${KILLS} times in a row: closed while dead, healed after each start`, async (context) => {
    const { client, server } = shop;
    const healedMs: number[] = [];
    for (let round = 0; round < KILLS; round++) {
      const before = (await sink.stats()).received;
      await Promise.all([shop.daemon1.stop('SIGKILL'), shop.daemon2.stop('SIGKILL')]);
      const refused = await client.send(server.ip, 8081, { first: randomBytes(64), timeoutMs: 2_000 });
      assert.notEqual(refused.error, '', `round ${round}`);
      assert.equal((await sink.stats()).received, before);
      const startedMs = performance.now();
      await restart(shop);
      healedMs.push(Math.round(performance.now() - startedMs));
      const carried = await client.send(server.ip, 8081, { first: randomBytes(64) });
      assert.equal(carried.error, '', `round ${round}`);
      await until('the payload', async () => (await sink.stats()).received === before + 64);
    }
    context.diagnostic(
      `${KILLS} kills of both daemons in a row: from start to enrolled ${Math.min(...healedMs)} to ${Math.max(...healedMs)} ms`,
    );
    // One program per hook, whatever happened (RELIABILITY.md, kmesh 1204).
    const tree = await server.node.must(['bpftool', 'cgroup', 'tree', '/sys/fs/cgroup']);
    for (const name of ['culvert_connect4', 'culvert_sockops'])
      assert.equal(tree.split(/\s+/).filter((word) => word === name).length, 1, tree);
  });
});

/** Starts both daemons again and waits until they have their pods enrolled. */
async function restart(shop: Shop): Promise<void> {
  const { lab, client, server } = shop;
  const flags = QUICK;
  const [daemon1, daemon2] = await Promise.all([
    lab.startDaemon(1, { flags }),
    lab.startDaemon(2, { flags }),
  ]);
  Object.assign(shop, { daemon1, daemon2 });
  await Promise.all([daemon1.waitState(client, 'enrolled'), daemon2.waitState(server, 'enrolled')]);
}

describe('a thread of the daemon dies or stands still', { timeout: 600_000 }, () => {
  let shop: Shop;
  let http: Server;
  before(async () => {
    shop = await openShop({ daemon: { inspect: true, flags: ['--workers', '2'] } });
    http = await shop.server.serve('http', 8080);
    await shop.server.serve('echo', 8081, { quiet: true });
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it('a worker killed under load ends its own connections only; its replacement takes its share', async () => {
    const { client, web, daemon1 } = shop;
    await using idle = await client.idle(web.ip, 81, 60);
    assert.equal((await idle.opened()).ok, 60);
    const loop = await client.loop(web.ip, 80, { everyMs: 25 });
    await until('the load to run', async () => (await loop.stats()).ok > 20);
    const held = await heldBy(daemon1, 60);
    assert.ok(
      held.every((count) => count > 5),
      `an uneven share: ${held.join(' ')}`,
    );

    await using inspector = await daemon1.inspect();
    const first = await inspector.worker('worker-0');
    const inFlight = (await loop.stats()).inFlight;
    inspector.kill(first);
    await until('its connections to end', async () => (await idle.stats()).lost >= (held[0] ?? 0));
    await inspector.worker('worker-0', 1); // its replacement
    const soon = (await loop.stats()).ok;
    await until('new connections', async () => (await loop.stats()).ok > soon + 100, { timeoutMs: 30_000 });
    assert.equal((await idle.stats()).lost, held[0], 'connections of another worker were lost too');
    assert.deepEqual((await idle.ping()).ok, 60 - (held[0] ?? 0));

    const ended = await loop.stop();
    // What the dead worker had accepted and not answered is its own too.
    assert.ok(ended.failed <= inFlight + 3, `${JSON.stringify(ended)}, ${inFlight} in flight before`);
    await using more = await client.idle(web.ip, 81, 60);
    assert.equal((await more.opened()).ok, 60);
    const now = await heldBy(daemon1, 120 - (held[0] ?? 0));
    assert.ok((now[0] ?? 0) > 5, `the replacement has ${now.join(' ')}`);
    assert.equal((await daemon1.http(15_021, '/healthz')).status, 200);
  });

  it("a worker of the server's node killed under load ends its own connections only", async () => {
    const { client, web, daemon2 } = shop;
    await using idle = await client.idle(web.ip, 81, 60);
    assert.equal((await idle.opened()).ok, 60);
    const loop = await client.loop(web.ip, 80, { everyMs: 25 });
    await until('the load to run', async () => (await loop.stats()).ok > 20);
    const held = await heldBy(daemon2, 60, 'inbound');
    await using inspector = await daemon2.inspect();
    const victim = held[0] === 0 ? 1 : 0;
    const inFlight = (await loop.stats()).inFlight;
    inspector.kill(await inspector.worker(`worker-${victim}`));
    await until('its connections to end', async () => (await idle.stats()).lost >= (held[victim] ?? 0));
    await inspector.worker(`worker-${victim}`, 1); // its replacement
    const soon = (await loop.stats()).ok;
    await until('new connections', async () => (await loop.stats()).ok > soon + 100, { timeoutMs: 30_000 });
    assert.equal((await idle.stats()).lost, held[victim], 'connections of another worker were lost too');
    assert.equal((await idle.ping()).ok, 60 - (held[victim] ?? 0));
    const ended = await loop.stop();
    assert.ok(ended.failed <= inFlight + 3, `${JSON.stringify(ended)}, ${inFlight} in flight before`);
  });

  it('the main thread blocked for 2 s under load: no connection is lost or late', async () => {
    const { client, web, daemon1, daemon2 } = shop;
    await using one = await daemon1.inspect();
    await using two = await daemon2.inspect();
    const loop = await client.loop(web.ip, 80, { everyMs: 20 });
    await until('the load to run', async () => (await loop.stats()).ok > 20);
    await Promise.all([one.block(2_000), two.block(2_000)]);
    const counts = await loop.stop();
    assert.equal(counts.failed, 0, JSON.stringify(counts));
    // One that had waited for the main thread would have taken up to the 2 s.
    assert.ok(counts.slowestMs < 1_500, `the slowest took ${counts.slowestMs} ms`);
  });

  it('a meshed pod that starts while the main thread is blocked sends no clear byte', async () => {
    const { lab, server, daemon1, daemon2 } = shop;
    await using one = await daemon1.inspect();
    await using two = await daemon2.inspect();
    await using wire = await lab.capture([lab.fabricPoint, server.capturePoint]);
    const marker = randomBytes(64);
    const received = (await http.stats()).received;
    const blocked = [one.block(2_000), two.block(2_000)];
    const late = await lab.pod({ name: 'late', node: 1 });
    const reply = await insist(late, server.ip, 8080, marker);
    await Promise.all(blocked);
    assert.equal(reply.status, 200, JSON.stringify(reply.result));
    assert.ok((await http.stats()).received > received);
    assert.deepEqual(await wire.seenAt(marker), []);
    assert.ok(((await wire.tls(15_008)).get('bridge')?.applicationData ?? 0) > 0);
    await late.delete();
  });

  it('a pod that starts while the enrolment thread is blocked is counted as started unguarded, and cut', async () => {
    const { lab, server, daemon1 } = shop;
    await using inspector = await daemon1.inspect();
    assert.equal(await unguarded(daemon1), 0);
    const blocked = inspector.block(4_000, await inspector.worker('capture/thread.ts'));
    const early = await lab.pod({ name: 'early', node: 1 });
    const idle = await early.idle(server.ip, 8081, 10);
    assert.equal((await idle.opened()).ok, 10, 'it was guarded after all: the test proves nothing');
    await blocked;
    await until('its connections to be cut', async () => (await idle.stats()).lost === 10);
    await daemon1.waitState(early, 'enrolled');
    // The page is made anew every few seconds.
    await until('it to be counted', async () => (await unguarded(daemon1)) === 1);
    assert.equal((await early.request(server.ip, 8080)).status, 200);
    await early.delete();
  });
});

describe('a worker dies after the node was uninstalled', { timeout: 300_000 }, () => {
  it('the daemon lives on and answers; pods stay as they are, in the clear', async () => {
    const shop = await openShop({ daemon: { inspect: true, flags: ['--workers', '2'] } });
    await using lab = shop.lab;
    const { client, server, daemon1, daemon2 } = shop;
    await server.serve('http', 8080);
    assert.equal((await client.request(server.ip, 8080)).status, 200);
    const left = await Promise.all([daemon1.cli(['uninstall']), daemon2.cli(['uninstall'])]);
    for (const { code, output } of left) assert.equal(code, 0, output);
    await using inspector = await daemon1.inspect();
    inspector.kill(await inspector.worker('worker-0'));
    await inspector.worker('worker-0', 1);
    for (let request = 0; request < 5; request++)
      assert.equal((await client.request(server.ip, 8080)).status, 200);
    assert.match(JSON.stringify(await daemon1.admin('/status')), /"uninstall":"done","pods":\[\]/);
    assert.equal((await daemon1.http(15_021, '/healthz')).status, 200);
    assert.doesNotMatch(await lab.node(1).must(['find', '/sys/fs/bpf']), /culvert/);
  });
});

const OpenConnections = z.array(z.object({ connId: z.string(), direction: z.string(), dstAddr: z.string() }));

/** How many connections to port 81 each worker of a daemon holds, once it has `count`. */
async function heldBy(
  daemon: LabDaemon,
  count: number,
  way: 'outbound' | 'inbound' = 'outbound',
): Promise<number[]> {
  const held = await until('all connections to be listed', async () => {
    const open = OpenConnections.parse(await daemon.admin('/connections'));
    const ours = open.filter(
      ({ direction, dstAddr }) => direction === way && dstAddr.endsWith(way === 'outbound' ? ':81' : ':8081'),
    );
    return ours.length === count ? ours : undefined;
  });
  return [0, 1].map(
    (w) => held.filter(({ connId }) => connId.startsWith(`${daemon.node.name}-${w}-`)).length,
  );
}

/** A request of a pod that has just started: connects are refused while it is pending, as an app would see it. */
async function insist(
  pod: LabPod,
  host: string,
  port: number,
  body: Uint8Array,
): ReturnType<LabPod['request']> {
  let last: Awaited<ReturnType<LabPod['request']>> | undefined;
  return until(
    'the request to get through',
    async () => {
      last = await pod.request(host, port, { body });
      return last.status === 200 ? last : undefined;
    },
    { detail: () => JSON.stringify(last), timeoutMs: 30_000 },
  );
}

async function unguarded(daemon: LabDaemon): Promise<number> {
  const line = /^culvert_pods_started_unguarded_total(?:\{[^}]*\})? (\d+)$/m.exec(await daemon.metrics());
  return Number(line?.[1] ?? Number.NaN);
}
