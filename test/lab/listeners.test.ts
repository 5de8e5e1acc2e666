/** Our own listeners as a target, for each role, and pods that flood them (issue 6, 'Liars'). */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { LogRecord } from './kit/daemon.ts';
import type { LabPod } from './kit/pod.ts';
import { Liar, issuedBy } from './liar.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const WORKERS = 2;
const PER_POD = 200;
const FLAGS = ['--default-mode', 'strict', '--handshake-timeout', '2s', '--workers', String(WORKERS)];

describe("the mesh's own listeners are the target", { timeout: 300_000 }, () => {
  let shop: Shop;
  let sink: Server;
  let outsider: LabPod;
  /** Of every role and worker, in `server`. */
  let ports: readonly number[];
  before(async () => {
    shop = await openShop({ daemon: { flags: FLAGS } });
    sink = await shop.server.serve('sink', 8080);
    outsider = await shop.lab.pod({ name: 'outsider', namespace: 'wild', node: 1 });
    ports = await listeningPorts(shop.server);
    assert.equal(ports.length, 3 * WORKERS, ports.join(' '));
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  /** Does `act` for each port (or the given ones); gives the records that the server's daemon wrote for them. */
  async function recordsOf(
    direction: string,
    targets: readonly number[],
    act: (port: number) => Promise<unknown>,
  ): Promise<LogRecord[]> {
    const from = shop.daemon2.accessRecords().length;
    for (const port of targets) await act(port);
    const found = await until('a record for each', () => {
      const fresh = shop.daemon2.accessRecords().slice(from);
      const ours = fresh.filter((record) => record['direction'] === direction);
      return ours.length >= targets.length ? ours : undefined;
    });
    assert.equal(found.length, targets.length, JSON.stringify(found, undefined, 1));
    assert.equal((await sink.stats()).received, 0, 'payload reached the app');
    return found;
  }

  it('by CONNECT: of each role, and port 15008 itself', async () => {
    const { lab, server } = shop;
    const liar = await Liar.start(outsider);
    const certificate = await issuedBy(lab, 'spiffe://cluster.local/ns/wild/sa/outsider');
    for (const [host, authority] of [
      [server.ip, server.ip],
      [server.ip6, `[${server.ip6}]`],
    ] as const) {
      const records = await recordsOf('inbound', [...ports, 15_008], async (port) => {
        const lie = { authority: `${authority}:${port}`, payload: randomBytes(64) };
        assert.equal((await liar.tunnel(host, certificate, lie)).status, 503);
      });
      assert.deepEqual(reasonsOf(records), { OWN_LISTENER: ports.length + 1 });
    }
  });

  it('by CONNECT of an enrolled client, which is reset', async () => {
    const { client, server, daemon1 } = shop;
    const from = daemon1.process.lines.length;
    const records = await recordsOf('inbound', ports, async (port) => {
      const result = await client.send(server.ip, port, { first: randomBytes(64) });
      assert.equal(result.error, 'ECONNRESET', JSON.stringify(result));
    });
    assert.deepEqual(reasonsOf(records), { OWN_LISTENER: ports.length });
    await daemon1.waitForAccess('its own record', (r) => r['reason'] === 'TUNNEL_UPSTREAM_FAILED', { from });
    // 15008 is not even tried: the client's own daemon says so.
    const result = await client.send(server.ip, 15_008, { first: randomBytes(64) });
    assert.equal(result.error, 'ECONNRESET');
    await daemon1.waitForAccess('its own record', (r) => r['reason'] === 'OWN_LISTENER', { from });
  });

  it('by plaintext from outside', async () => {
    const { server } = shop;
    for (const host of server.ips) {
      const records = await recordsOf('inbound', ports, async (port) => {
        const result = await outsider.send(host, port, { first: randomBytes(64) });
        assert.equal(result.error, 'ECONNRESET', JSON.stringify(result));
      });
      assert.deepEqual(reasonsOf(records), { OWN_LISTENER: ports.length });
    }
  });

  it("by the pod's own process, over loopback and its own address", async () => {
    const { server } = shop;
    for (const host of ['127.0.0.1', '127.64.0.7', '::1', ...server.ips]) {
      const from = shop.daemon2.accessRecords().length;
      const reach = async (port: number): Promise<void> => {
        const result = await server.send(host, port, { first: randomBytes(64) });
        assert.equal(result.error, 'ECONNRESET', `${host}:${port} ${JSON.stringify(result)}`);
      };
      for (const port of ports) await reach(port);
      const records = await until('a record for each', () => {
        const fresh = shop.daemon2.accessRecords().slice(from);
        return fresh.length >= ports.length ? fresh : undefined;
      });
      // Each role says it in its own way: the outbound one has no kernel record of where it should go.
      assert.deepEqual(reasonsOf(records), { NO_KERNEL_RECORD: WORKERS, OWN_LISTENER: 2 * WORKERS }, host);
    }
    assert.equal((await sink.stats()).received, 0);
    // Nothing of ours is bound to 15008: inside the pod it is the app's own port.
    assert.equal((await server.send('127.0.0.1', 15_008)).error, 'ECONNREFUSED');
    assert.equal((await server.send(server.ip, 15_008)).error, 'ECONNREFUSED');
  });
});

describe('a pod floods', { timeout: 300_000 }, () => {
  let shop: Shop;
  let flooder: LabPod;
  before(async () => {
    const limits = [
      ...['--max-connections-per-pod', String(PER_POD), '--max-connections', String(3 * PER_POD)],
      // Few and slow, so that a handshake that finds no room is no matter of luck.
      ...['--max-handshakes-per-pod', '8', '--max-handshakes', '32', '--handshake-timeout', '10s'],
    ];
    shop = await openShop({ daemon: { flags: [...FLAGS, ...limits] } });
    const { lab, server, daemon1 } = shop;
    await server.serve('http', 8080);
    flooder = await lab.pod({ name: 'flooder', node: 1 });
    await daemon1.waitState(flooder, 'enrolled');
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it('connects, and holds them: its neighbour loses none', async () => {
    const { lab, client, server, daemon1, daemon2 } = shop;
    const far = await lab.pod({ name: 'far', node: 2 });
    await far.serve('echo', 8080, { quiet: true });
    await daemon2.waitState(far, 'enrolled');
    const loop = await client.loop(server.ip, 8080, { everyMs: 20 });
    await until('the neighbour to run', async () => (await loop.stats()).ok > 10);
    await using flood = await flooder.idle(far.ip, 8080, 10 * PER_POD, 512);
    const opened = await flood.opened();
    const soon = (await loop.stats()).ok;
    await until('the neighbour to go on', async () => (await loop.stats()).ok > soon + 20);
    const counts = await loop.stop();
    assert.equal(counts.failed, 0, JSON.stringify(counts));
    assert.ok(opened.ok > 0 && opened.ok <= PER_POD, `the flooder holds ${opened.ok}`);
    await daemon1.waitForAccess(
      'its refusals',
      (r) => r['reason'] === 'CONNECTION_LIMIT' && r['src.workload'] === 'flooder',
    );
  });

  it('connects and hangs up, as fast as it can: its neighbour loses none', async () => {
    const { client, server, lab } = shop;
    const outside = await lab.outside();
    await using flood = await flooder.loop(outside.ip, 9, { everyMs: 0, timeoutMs: 2_000 });
    await until('the flood', async () => (await flood.stats()).started > 500);
    const loop = await client.loop(server.ip, 8080, { everyMs: 20 });
    await until('the neighbour', async () => (await loop.stats()).started > 150, { timeoutMs: 60_000 });
    const counts = await loop.stop();
    assert.equal(counts.failed, 0, JSON.stringify(counts));
    assert.ok(counts.ok >= 150);
  });

  it("opens silent connections to one pod's port 15008: the pod beside it loses none", async () => {
    const { lab, client, server, daemon2 } = shop;
    const attacker = await lab.pod({ name: 'attacker', namespace: 'wild', node: 1 });
    const victim = await lab.pod({ name: 'victim', node: 2 });
    await daemon2.waitState(victim, 'enrolled');
    await using flood = await attacker.loop(victim.ip, 15_008, {
      everyMs: 5,
      first: Buffer.from('\x16'),
      timeoutMs: 60_000,
    });
    await daemon2.waitForAccess('its refusals', (r) => r['reason'] === 'HANDSHAKE_LIMIT');
    const refused = (await flood.stats()).failed;
    await until(
      'more refusals than the node has room',
      async () => (await flood.stats()).failed > refused + 100,
    );
    // A client without a tunnel yet: its handshake must find room.
    const late = await lab.pod({ name: 'late', node: 1 });
    await shop.daemon1.waitState(late, 'enrolled');
    for (const from of [late, client]) {
      const loop = await from.loop(server.ip, 8080, { everyMs: 20 });
      await until('requests', async () => (await loop.stats()).started > 100, { timeoutMs: 60_000 });
      const counts = await loop.stop();
      assert.equal(counts.failed, 0, `${from.name}: ${JSON.stringify(counts)}`);
    }
    assert.ok((await flood.stats()).started > 100);
  });
});

/** What listens in a pod on the ports that are ours. */
async function listeningPorts(pod: LabPod): Promise<number[]> {
  const { lines } = await pod.exec(['ss', '-Hltn']);
  const ports = lines.map((line) =>
    Number(/:(\d+)\s/.exec(line.trim().split(/\s+/).slice(3).join(' '))?.[1]),
  );
  return [...new Set(ports)].filter((port) => port >= 61_001).sort((a, b) => a - b);
}

function reasonsOf(records: readonly LogRecord[]): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const record of records) {
    const reason = String(record['reason']);
    counts[reason] = (counts[reason] ?? 0) + 1;
  }
  return counts;
}
