/** What must hold when one side's client reaches the other side's server: the same for both directions. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { until } from '../support/wait.ts';
import type { LogRecord } from '../lab/kit/daemon.ts';
import { carryBulk } from './bulk.ts';
import { check } from './results.ts';
import { BULK, identityOf, PORTS, SMALL } from './world.ts';
import type { Side, World } from './world.ts';
import { isOf } from './records.ts';

const HBONE = 15_008;
/** ztunnel serves 200 streams a tunnel, and opens 100. */
const CROWD = 450;

/** One connection as both proxies' logs have it. */
interface Records {
  readonly ours: LogRecord;
  readonly theirs: LogRecord;
}

/** From whom to whom. */
export interface Way {
  readonly name: string;
  readonly direction: 'toUs' | 'toPeer';
}

export const toUs: Way = { name: 'ztunnel → us', direction: 'toUs' };
export const toPeer: Way = { name: 'us → ztunnel', direction: 'toPeer' };

/** Client and server of a way. */
function ends(world: World, way: Way): { readonly client: Side; readonly server: Side } {
  const { ours, peer } = world;
  return way.direction === 'toUs' ? { client: peer, server: ours } : { client: ours, server: peer };
}

/**
 * Does `act`, which gives its client's `ip:port`, and gives the records that both proxies then write of it.
 * `port`: the server's own; `dialled`: the Service's, or the same.
 */
async function recorded(
  world: World,
  way: Way,
  { port, dialled }: { readonly port: number; readonly dialled: number },
  act: () => Promise<string>,
): Promise<Records> {
  const [ours, theirs] = way.direction === 'toUs' ? ['inbound', 'outbound'] : ['outbound', 'inbound'];
  const from = { ours: world.daemon.process.lines.length, theirs: world.ztunnel.mark };
  const local = await act();
  const isTheirs = (record: LogRecord): boolean =>
    record['direction'] === theirs && String(record['dst.hbone_addr']).endsWith(`:${port}`);
  const found = await world.ztunnel.waitForAccess('ztunnel’s access record', from.theirs, isTheirs);
  // Of its own client ztunnel tells us the address as it sees it: the redirect may have given it another port.
  const client = way.direction === 'toUs' ? String(found['src.addr']) : local;
  const to = `:${way.direction === 'toUs' ? port : dialled}`;
  const isOurs = (record: LogRecord): boolean =>
    record['direction'] === ours && isOf(record, { local: client, to });
  const what = `our access record of ${client}`;
  return { theirs: found, ours: await world.daemon.waitForAccess(what, isOurs, { from: from.ours }) };
}

function assertIdentities(world: World, way: Way, { ours, theirs }: Records): void {
  const { client, server } = ends(world, way);
  for (const [who, record] of [
    ['our', ours],
    ['ztunnel’s', theirs],
  ] as const) {
    assert.equal(record['src.identity'], identityOf(client.pod), `${who} record of the source`);
    assert.equal(record['dst.identity'], identityOf(server.pod), `${who} record of the destination`);
  }
  assert.equal(ours['reason'], 'OK', JSON.stringify(ours));
  assert.equal(ours['security'], 'mutual_tls');
  assert.equal(theirs['error'], undefined, JSON.stringify(theirs));
}

/** A request with a marker, captured on its way. */
async function request(world: World, way: Way, to: { host: string; port: number }): Promise<Records> {
  const { lab } = world;
  const { client, server } = ends(world, way);
  const points = [lab.fabricPoint, client.pod.capturePoint, server.pod.capturePoint];
  await using wire = await lab.capture(points, 'tcp');
  const marker = randomBytes(64);
  const before = (await server.http.stats()).received;
  const records = await recorded(world, way, { port: PORTS.http, dialled: to.port }, async () => {
    const reply = await client.pod.request(to.host, to.port, { body: marker });
    assert.equal(reply.status, 200, JSON.stringify(reply.result));
    assert.equal(reply.name, server.pod.name);
    const peer = reply.peer.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
    // Our side shows the app its client's own address; ztunnel does, too, where it may (ENABLE_ORIG_SRC).
    assert.ok(client.pod.ips.includes(peer) || way.direction === 'toPeer', `the app saw ${peer}`);
    return reply.result.local;
  });
  const received = (await server.http.stats()).received - before;
  assert.ok(received > marker.length, `the app counted ${received} bytes`);
  assert.deepEqual(await wire.seenAt(marker), [], 'clear text on the way');
  for (const [point, seen] of await wire.tls(HBONE))
    assert.ok(seen.applicationData > 0, `no TLS record seen at ${point}`);
  assertIdentities(world, way, records);
  assert.ok(Number(records.ours['bytes_sent']) > marker.length, JSON.stringify(records.ours));
  return records;
}

async function bulk(world: World, way: Way, port: number, late: boolean): Promise<void> {
  const { client, server } = ends(world, way);
  const process = server.bulk.get(port);
  if (process === undefined) throw new Error(`no bulk server at ${port}`);
  const bytes = port === PORTS.bulk ? BULK : SMALL;
  const records = await recorded(world, way, { port, dialled: port }, async () => {
    const to = { host: server.pod.ip, port, server: process };
    const carried = await carryBulk(client.pod, to, { bytes, late });
    assert.equal(carried.server.error, '');
    for (const [sender, receiver] of [
      [carried.client, carried.server],
      [carried.server, carried.client],
    ] as const) {
      assert.equal(sender.sent, bytes);
      assert.equal(receiver.received, bytes);
      assert.equal(receiver.receivedSha256, sender.sentSha256);
    }
    return carried.client.local;
  });
  assertIdentities(world, way, records);
  assert.equal(records.ours['bytes_sent'], bytes);
  assert.equal(records.ours['bytes_recv'], bytes);
}

/** 60 connections, one after another: all answered, and few tunnels for them. */
async function many(world: World, way: Way): Promise<void> {
  const { client, server } = ends(world, way);
  await using wire = await world.lab.capture([world.lab.fabricPoint], `tcp port ${HBONE}`);
  const loop = await client.pod.loop(server.service.ip, PORTS.service, { everyMs: 5 });
  let counts = await loop.stats();
  while (counts.ok + counts.failed < 60) counts = await loop.stats();
  const { ok, failed, errors } = await loop.stop();
  assert.equal(failed, 0, JSON.stringify(errors));
  const seen = (await wire.tls(HBONE)).get('bridge');
  assert.ok(ok >= 60 && (seen?.handshakes ?? 99) < 10, `${seen?.handshakes ?? '?'} handshake records`);
}

/** More connections at once than either side's tunnels take streams: all are open, each carries its own bytes. */
async function atOnce(world: World, way: Way): Promise<void> {
  const { client, server } = ends(world, way);
  await using idle = await client.pod.idle(server.pod.ip, PORTS.echo, CROWD);
  const opened = await idle.opened();
  assert.deepEqual([opened.ok, opened.errors], [CROWD, {}]);
  assert.equal((await idle.ping()).ok, CROWD);
}

async function serverFirst(world: World, way: Way): Promise<void> {
  const { client, server } = ends(world, way);
  const result = await client.pod.send(server.pod.ip, PORTS.hello, { first: Buffer.from('and back') });
  assert.equal(result.end, 'eof', result.error);
  const text = result.head.toString();
  assert.ok(text.length > 'and back'.length && text.endsWith('and back'), text);
}

/**
 * The client's process dies with bytes unread, so that its kernel sends RST. The app behind ztunnel, or behind us when
 * ztunnel is the one that tells it, hears of an end: ztunnel makes no difference between the two.
 */
async function cutOff(world: World, way: Way): Promise<void> {
  const { client, server } = ends(world, way);
  const before = server.hello.process.lines.length;
  const from = world.daemon.process.lines.length;
  const options = { bytes: 200_000, halfClose: false, stall: true };
  await using sending = await client.pod.startSend(server.pod.ip, PORTS.hello, options);
  await until('bytes on their way', async () => (await sending.progress()).sent > 100_000);
  await sending.process.stop('SIGKILL');
  await server.hello.waitForClosed(before);
  const isOurs = (record: LogRecord): boolean =>
    Number(record['bytes_sent']) > 100_000 && String(record['dst.addr']).endsWith(`:${PORTS.hello}`);
  const ours = await world.daemon.waitForAccess('our record of its end', isOurs, { from });
  if (way.direction === 'toPeer') assert.equal(ours['reason'], 'CLIENT_RESET', JSON.stringify(ours));
}

/** Registers the cases of one direction. */
export function carries(way: Way, world: () => World): void {
  const serverOf = (): Side => ends(world(), way).server;
  check(
    `${way.name}: a request to the pod's address; no clear text on the way; identities at both ends`,
    async () => {
      await request(world(), way, { host: serverOf().pod.ip, port: PORTS.http });
    },
  );
  check(`${way.name}: the same to the Service's address; the Service named at the client's end`, async () => {
    const { service } = serverOf();
    const records = await request(world(), way, { host: service.ip, port: PORTS.service });
    const named = way.direction === 'toUs' ? records.theirs : records.ours;
    const name = `${service.name}.${service.namespace}`;
    assert.ok(String(named['dst.service']).startsWith(name), JSON.stringify(named));
  });
  check(`${way.name}: the same to the pod's IPv6 address`, async () => {
    await request(world(), way, { host: serverOf().pod.ip6, port: PORTS.http });
  });
  check(`${way.name}: the same to the Service's IPv6 address`, async () => {
    await request(world(), way, { host: serverOf().service.ip6, port: PORTS.service });
  });
  check(`${way.name}: 60 connections in a row share a tunnel`, () => many(world(), way));
  check(`${way.name}: ${CROWD} connections at once, each with bytes of its own`, () => atOnce(world(), way));
  check(`${way.name}: a server that speaks first`, () => serverFirst(world(), way));
  check(`${way.name}: a client that dies under its connection: the server’s ends, too`, () =>
    cutOff(world(), way),
  );
  check(`${way.name}: half-close: the client ends first, the reply comes late`, () =>
    bulk(world(), way, PORTS.lateServer, false),
  );
  check(`${way.name}: half-close: the server ends first, the client sends late`, () =>
    bulk(world(), way, PORTS.small, true),
  );
  check(`${way.name}: 100 MB each way at once, SHA-256 equal at both ends`, () =>
    bulk(world(), way, PORTS.bulk, false),
  );
}
