/** Streams of every shape arrive whole, through two real daemons (issue 6, 'Streams'). */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import { settle } from './ledger.ts';
import type { Ledger } from './ledger.ts';
import { IS_LONG, openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const MEBIBYTE = 1_048_576;
const BULK = (IS_LONG ? 1_024 : 64) * MEBIBYTE;
const TIMEOUT_MS = 300_000;

describe('a stream between two nodes', { timeout: 1_200_000 }, () => {
  let shop: Shop;
  before(async () => {
    shop = await openShop();
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  const recorded = (port: number, count: number): Promise<Ledger> =>
    settle({ client: shop.daemon1, server: shop.daemon2 }, port, count);

  it(`${BULK / MEBIBYTE} MiB each way at once arrive unchanged`, async (context) => {
    const { client, server } = shop;
    const echo = await server.serve('echo', 9001);
    const result = await client.send(server.ip, 9001, { bytes: BULK, timeoutMs: TIMEOUT_MS });
    assert.deepEqual([result.error, result.sent, result.received], ['', BULK, BULK]);
    assert.equal(result.receivedDigest, result.sentDigest);
    const seen = await echo.waitForClosed();
    assert.deepEqual([seen.receivedDigest, seen.sentDigest], [result.sentDigest, result.sentDigest]);
    const { outbound, inbound } = await recorded(9001, 1);
    for (const [record] of [outbound, inbound]) {
      assert.deepEqual([record?.['bytes_sent'], record?.['bytes_recv']], [BULK, BULK]);
      assert.equal(record?.['security'], 'mutual_tls');
    }
    context.diagnostic(
      `${BULK / MEBIBYTE} MiB each way at once in ${Math.round(result.totalUs / 1_000)} ms, digests and counts equal`,
    );
  });

  it('eight bulk streams at once arrive unchanged', async () => {
    const { client, server } = shop;
    const bytes = BULK / 8;
    await server.serve('echo', 9002);
    const results = await Promise.all(
      Array.from({ length: 8 }, () => client.send(server.ip, 9002, { bytes, timeoutMs: TIMEOUT_MS })),
    );
    for (const result of results) {
      assert.deepEqual([result.error, result.received], ['', bytes]);
      assert.equal(result.receivedDigest, result.sentDigest);
    }
    await recorded(9002, 8);
  });

  it('the client ends its direction; the whole answer comes late, and then the end', async () => {
    const { client, server } = shop;
    const app = await server.serve('reply', 9003, { bytes: 3 * MEBIBYTE, delayMs: 1_500 });
    const result = await client.send(server.ip, 9003, { bytes: MEBIBYTE });
    assert.deepEqual([result.error, result.end, result.received], ['', 'eof', 3 * MEBIBYTE]);
    const seen = await app.waitForClosed();
    assert.deepEqual([seen.error, seen.receivedDigest], ['', result.sentDigest]);
    assert.equal(seen.sentDigest, result.receivedDigest);
    await recorded(9003, 1);
  });

  it('the server ends its direction first; what the client says afterwards arrives', async () => {
    const { client, server } = shop;
    const app = await server.serve('source', 9004, { bytes: MEBIBYTE });
    // The client ends its own direction only when it has sent everything.
    const result = await client.send(server.ip, 9004, { bytes: 8 * MEBIBYTE, timeoutMs: TIMEOUT_MS });
    assert.deepEqual([result.error, result.received], ['', MEBIBYTE]);
    assert.equal((await app.waitForClosed()).receivedDigest, result.sentDigest);
    await recorded(9004, 1);
  });

  it('the server speaks first', async () => {
    const { client, server } = shop;
    await server.serve('hello', 9005);
    const sending = await client.startSend(server.ip, 9005, { halfClose: false });
    const greeting = 'hello from web\n'.length;
    await until('the greeting', async () => (await sending.progress()).received === greeting);
    assert.equal((await sending.progress()).sent, 0);
    await sending[Symbol.asyncDispose]();
    await recorded(9005, 1);
  });

  it('single bytes to and fro', async () => {
    const { client, server } = shop;
    await server.serve('echo', 9006);
    const idle = await client.idle(server.ip, 9006, 1);
    assert.equal((await idle.opened()).ok, 1);
    for (let round = 0; round < 300; round++) assert.deepEqual((await idle.ping()).ok, 1, `round ${round}`);
    await idle[Symbol.asyncDispose]();
    const { outbound } = await recorded(9006, 1);
    assert.deepEqual([outbound[0]?.['bytes_sent'], outbound[0]?.['bytes_recv']], [301, 301]);
  });

  it('a connection without a byte', async () => {
    const { client, server } = shop;
    const app = await server.serve('sink', 9007);
    assert.equal((await client.send(server.ip, 9007)).error, '');
    assert.deepEqual((await app.waitForClosed()).error, '');
    await recorded(9007, 1);
  });

  it('a reset of the client reaches the server, and one of the server the client', async () => {
    const { client, server, daemon1, daemon2 } = shop;
    const app = await server.serve('source', 9008, { bytes: 512 * MEBIBYTE });
    const stalled = await client.startSend(server.ip, 9008, { stall: true, halfClose: false });
    await until('the stream to fill', async () => (await app.stats()).open === 1);
    // Its kernel has bytes that nobody read: the end of the process is a reset.
    await stalled[Symbol.asyncDispose]();
    assert.match((await app.waitForClosed()).error, /^(ECONNRESET|EPIPE)$/);
    const first = await recorded(9008, 1);
    for (const [record] of [first.outbound, first.inbound]) assert.equal(record?.['reason'], 'CLIENT_RESET');

    const dying = await server.serve('stall', 9009);
    const sending = await client.startSend(server.ip, 9009, { bytes: 4 * MEBIBYTE });
    await until('bytes under way', async () => (await sending.progress()).sent > 0);
    await until('the connection', async () => (await dying.stats()).open === 1);
    await dying[Symbol.asyncDispose]();
    assert.equal((await sending.result()).error, 'ECONNRESET');
    const other = await recorded(9009, 1);
    for (const [record] of [other.outbound, other.inbound])
      assert.equal(record?.['reason'], 'UPSTREAM_RESET');
    for (const daemon of [daemon1, daemon2]) assert.equal(daemon.process.exit, undefined);
  });

  it('IPv4, IPv6, and names with both: by pod and by Service, each over mTLS', async () => {
    const { client, server, web } = shop;
    const both = await server.serve('http', 8085);
    for (const host of [...server.ips, web.ip, web.ip6]) {
      const port = server.ips.includes(host) ? 8085 : 85;
      const reply = await client.request(host, port, { body: randomBytes(64) });
      assert.equal(reply.status, 200, `${host}: ${JSON.stringify(reply.result)}`);
      const own = host.includes(':') ? `[${client.ip6}]:` : `${client.ip}:`;
      assert.ok(reply.peer.startsWith(own), `the app saw ${reply.peer} when ${host} was dialled`);
    }
    assert.equal((await both.stats()).accepted, 4);
    const inbound = await until('its records', () => {
      const found = shop.daemon2
        .accessRecords()
        .filter((r) => r['direction'] === 'inbound' && String(r['dst.addr']).endsWith(':8085'));
      return found.length >= 4 ? found : undefined;
    });
    assert.deepEqual(
      inbound.map((record) => [record['security'], record['reason']]),
      Array.from({ length: 4 }, () => ['mutual_tls', 'OK']),
    );
  });

  it('pods that have one family only: reached on it, and reach others on it', async () => {
    const { lab, client, server, daemon1, daemon2 } = shop;
    await server.serve('http', 8086);
    for (const [name, own, to] of [
      ['four', '10.244.2.77', server.ip],
      ['six', 'fd00:244:2::77', server.ip6],
    ] as const) {
      const pod = await lab.pod({ name, node: 2, ips: [own] });
      await pod.serve('http', 8087);
      await daemon2.waitState(pod, 'enrolled');
      await daemon1.waitHeard(pod);
      const from = daemon1.process.lines.length;
      assert.equal((await client.request(own, 8087)).name, name);
      const record = await daemon1.waitForAccess('its record', (r) => r['dst.workload'] === name, { from });
      assert.equal(record['security'], 'mutual_tls');
      // To a pod of the same node too, through the tunnel.
      const reply = await pod.request(to, 8086);
      assert.equal(reply.status, 200, JSON.stringify(reply.result));
      assert.ok(reply.peer.startsWith(own.includes(':') ? `[${own}]:` : `${own}:`), reply.peer);
      await pod.delete();
    }
  });

  it('an app that listens on one family only is reached on that, and refused on the other', async () => {
    const { client, server } = shop;
    await server.serve('http', 9010, { address: '0.0.0.0' });
    assert.equal((await client.request(server.ip, 9010)).status, 200);
    const refused = await client.send(server.ip6, 9010, { first: randomBytes(64) });
    assert.equal(refused.error, 'ECONNRESET', JSON.stringify(refused));
    const { inbound } = await recorded(9010, 2);
    assert.deepEqual(inbound.map((record) => record['reason']).sort(), ['OK', 'UPSTREAM_CONNECT_FAILED']);
  });

  it('an app that listens on 127.0.0.1 only stays out of reach, as without a mesh; the records say why', async () => {
    const { client, server } = shop;
    const app = await server.serve('sink', 9011, { address: '127.0.0.1' });
    for (const host of server.ips) {
      const result = await client.send(host, 9011, { first: randomBytes(64) });
      assert.equal(result.error, 'ECONNRESET', JSON.stringify(result));
    }
    assert.deepEqual([(await app.stats()).accepted, (await app.stats()).received], [0, 0]);
    const { outbound, inbound } = await recorded(9011, 2);
    for (const record of outbound) assert.equal(record['reason'], 'TUNNEL_UPSTREAM_FAILED');
    for (const record of inbound) assert.equal(record['reason'], 'UPSTREAM_CONNECT_FAILED');
    // Inside the pod it is there.
    assert.equal((await server.send('127.0.0.1', 9011, { first: randomBytes(64) })).error, '');
  });
});

describe('two pods of one service account, one on each node', { timeout: 300_000 }, () => {
  let shop: Shop;
  before(async () => {
    shop = await openShop();
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it('reach each other and are reached, each as itself', async () => {
    const { lab, client, daemon1, daemon2 } = shop;
    const one = await lab.pod({ name: 'twin-1', node: 1, serviceAccount: 'twin' });
    const two = await lab.pod({ name: 'twin-2', node: 2, serviceAccount: 'twin' });
    const service = await lab.cluster.service({
      namespace: 'shop',
      name: 'twin',
      ports: [{ port: 80, targetPort: 8080 }],
      pods: [one, two],
    });
    const apps: Server[] = [await one.serve('http', 8080), await two.serve('http', 8080)];
    await Promise.all([daemon1.waitState(one, 'enrolled'), daemon2.waitState(two, 'enrolled')]);
    await Promise.all([daemon1.waitHeard(one, two), daemon2.waitHeard(one, two)]);

    for (const [from, to] of [
      [one, two],
      [two, one],
      [client, one],
      [client, two],
    ] as const) {
      const reply = await from.request(to.ip, 8080);
      assert.deepEqual([reply.status, reply.name], [200, to.name]);
      assert.ok(reply.peer.startsWith(`${from.ip}:`), `${to.name} saw ${reply.peer}`);
    }
    const id = 'spiffe://cluster.local/ns/shop/sa/twin';
    const betweenTwins = (record: Readonly<Record<string, unknown>>): boolean =>
      record['direction'] === 'inbound' && record['src.identity'] === id && record['dst.identity'] === id;
    await daemon1.waitForAccess('a record of both identities', betweenTwins);
    await daemon2.waitForAccess('a record of both identities', betweenTwins);

    const answered = new Set<string>();
    await until('both to answer for the Service', async () => {
      const reply = await client.request(service.ip, 80);
      assert.equal(reply.status, 200);
      answered.add(reply.name);
      return answered.size === 2;
    });
    for (const app of apps) assert.ok((await app.stats()).accepted > 2);
  });
});
