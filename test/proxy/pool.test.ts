import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { createSecureServer } from 'node:http2';
import type { Http2SecureServer, ServerHttp2Session, ServerHttp2Stream } from 'node:http2';
import { connect, createServer, Socket } from 'node:net';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import type { Config } from '../../daemon/config.ts';
import { parsePodUid } from '../../daemon/mesh/ids.ts';
import { createTunnels } from '../../daemon/proxy/hbone/pool.ts';
import type { TunnelRequest, Tunnels } from '../../daemon/proxy/seams.ts';
import { issue, makeCa } from '../support/pki.ts';
import {
  CLIENT_ID,
  echo,
  identityOf,
  judge,
  listen,
  openWire,
  requestOf,
  SERVER_ID,
  testConfig,
} from './hbone.kit.ts';

async function shrinksTo(tunnels: Tunnels, size: number): Promise<void> {
  while (tunnels.size > size) await new Promise((resolve) => setTimeout(resolve, 5));
}

test('concurrent first requests share one dial; a full tunnel makes another', async () => {
  await using wire = await openWire({ maxStreamsPerTunnel: 5 });
  const first = await Promise.all(Array.from({ length: 5 }, () => wire.tunnels.open(wire.request())));
  assert.ok(first.every((opened) => opened.ok));
  assert.equal(wire.tunnels.size, 1);
  const more = await Promise.all(Array.from({ length: 6 }, () => wire.tunnels.open(wire.request())));
  assert.ok(more.every((opened) => opened.ok));
  assert.equal(wire.tunnels.size, 3);
});

test('streams of another pod or identity never share a tunnel', async () => {
  await using wire = await openWire();
  const uid = parsePodUid('33333333-3333-3333-3333-333333333333');
  assert.ok(uid);
  const key = wire.request().key;
  assert.ok((await wire.tunnels.open(wire.request())).ok);
  assert.ok((await wire.tunnels.open(wire.request({ key: { ...key, podUid: uid } }))).ok);
  assert.equal(wire.tunnels.size, 2);
  wire.tunnels.closePod(uid, true);
  await shrinksTo(wire.tunnels, 1);
});

test('a rotated certificate gets new tunnels; the old one lives as long as its streams', async () => {
  await using wire = await openWire();
  const old = await wire.tunnels.open(wire.request());
  assert.ok(old.ok);
  const renewed = identityOf(wire.ca, CLIENT_ID, 2);
  assert.ok((await wire.tunnels.open(wire.request({ identity: renewed }))).ok);
  assert.equal(wire.tunnels.size, 2);
  old.stream.end('bye');
  assert.equal(String(await once(old.stream, 'data')), 'bye');
  old.stream.resume();
  await shrinksTo(wire.tunnels, 1);
});

test('an idle tunnel is closed after tunnelIdle, a used one is not', async () => {
  await using wire = await openWire({ tunnelIdle: 200 });
  const opened = await wire.tunnels.open(wire.request());
  assert.ok(opened.ok);
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(wire.tunnels.size, 1);
  opened.stream.end();
  opened.stream.resume();
  while (wire.tunnels.size + wire.server.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
});

test('statuses of the far proxy are told apart', async () => {
  await using wire = await openWire();
  for (const [status, reason] of [
    [401, 'TUNNEL_REFUSED'],
    [403, 'TUNNEL_REFUSED'],
    [400, 'TUNNEL_BAD_REQUEST'],
    [503, 'TUNNEL_UPSTREAM_FAILED'],
  ] as const) {
    wire.onConnect = (connect) => connect.refuse(status);
    const outcome = await wire.tunnels.open(wire.request());
    assert.deepEqual(outcome, { ok: false, reason, detail: `status ${status}` });
  }
  assert.equal(wire.tunnels.size, 1);
});

test('no answer to CONNECT is CONNECT_TIMEOUT', async () => {
  await using wire = await openWire({ answerTimeout: 100 });
  wire.onConnect = () => undefined;
  const outcome = await wire.tunnels.open(wire.request());
  assert.deepEqual(outcome, { ok: false, reason: 'CONNECT_TIMEOUT', detail: undefined });
});

interface Peer {
  readonly port: number;
  readonly tunnels: Tunnels;
  readonly sessions: ServerHttp2Session[];
  readonly request: () => ReturnType<typeof requestOf>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** A far proxy that is not ours; `onStream` misbehaves. */
async function foreignPeer(
  onStream: (stream: ServerHttp2Stream, session: ServerHttp2Session, number: number) => void,
  config: Partial<Config> = {},
): Promise<Peer> {
  const ca = makeCa();
  const cert = issue(ca, SERVER_ID);
  const server: Http2SecureServer = createSecureServer({
    key: cert.keyPem,
    cert: cert.chainPem,
    ca: ca.certPem,
    requestCert: true,
    minVersion: 'TLSv1.3',
  });
  const sessions: ServerHttp2Session[] = [];
  let number = 0;
  server.on('session', (session) => {
    sessions.push(session);
    session.on('error', () => undefined);
    session.on('stream', (stream) => {
      stream.on('error', () => undefined);
      onStream(stream, session, ++number);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address: AddressInfo | string | null = server.address();
  assert.ok(address !== null && typeof address !== 'string');
  const identity = identityOf(ca, CLIENT_ID);
  const tunnels = createTunnels({ config: testConfig(config), identities: judge, port: address.port });
  return {
    port: address.port,
    tunnels,
    sessions,
    request: () => requestOf(identity),
    async [Symbol.asyncDispose]() {
      tunnels.closePod(requestOf(identity).key.podUid, true);
      for (const session of sessions) session.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

const REFUSED_STREAM = 7;
const INTERNAL_ERROR = 2;

test('a refused stream is asked again, once', async () => {
  const seen: number[] = [];
  await using peer = await foreignPeer((stream, _session, number) => {
    seen.push(number);
    if (number % 3 === 0) {
      stream.respond({ ':status': 200 });
      echo(stream);
    } else stream.close(REFUSED_STREAM);
  });
  const twice = await peer.tunnels.open(peer.request());
  assert.ok(!twice.ok);
  assert.deepEqual(seen, [1, 2]);
  assert.ok((await peer.tunnels.open(peer.request())).ok);
});

test('a CONNECT above the last-stream-id of a GOAWAY is asked again on a fresh tunnel', async () => {
  await using peer = await foreignPeer((stream, session, number) => {
    // Streams 1 (served) and 3; the GOAWAY says that nothing after 1 was processed.
    if (number === 2) session.goaway(0, 1);
    else {
      stream.respond({ ':status': 200 });
      echo(stream);
    }
  });
  assert.ok((await peer.tunnels.open(peer.request())).ok);
  const opened = await peer.tunnels.open(peer.request());
  assert.ok(opened.ok);
  assert.equal(peer.sessions.length, 2);
});

test('a CONNECT whose tunnel is cut before an answer is asked again, once, and on a fresh tunnel', async () => {
  let streams = 0;
  await using peer = await foreignPeer((stream, session) => {
    streams++;
    if (streams === 2 || streams >= 4) session.socket.destroy();
    else {
      stream.respond({ ':status': 200 });
      echo(stream);
    }
  });
  assert.ok((await peer.tunnels.open(peer.request())).ok);
  assert.ok((await peer.tunnels.open(peer.request())).ok, 'the cut lost a connection');
  assert.deepEqual([streams, peer.sessions.length], [3, 2]);
  const lost = await peer.tunnels.open(peer.request());
  assert.ok(!lost.ok);
  assert.equal(lost.reason, 'TUNNEL_RESET');
  assert.deepEqual([streams, peer.sessions.length], [5, 3], 'asked more than once more');
});

test('a CONNECT that the far side has reset is not asked again', async () => {
  let streams = 0;
  await using peer = await foreignPeer((stream) => {
    streams++;
    stream.close(INTERNAL_ERROR);
  });
  const outcome = await peer.tunnels.open(peer.request());
  assert.ok(!outcome.ok);
  assert.equal(outcome.reason, 'TUNNEL_RESET');
  assert.equal(streams, 1);
});

test('a tunnel that left a CONNECT without an answer gets no other until it answers a PING', async () => {
  const links: { near: Socket; far: Socket }[] = [];
  let streams = 0;
  await using peer = await foreignPeer((stream) => {
    // Dead, as far as anybody can tell: its kernel takes what we send, and nothing comes back.
    if (++streams === 1) links[0]?.near.unpipe().pause();
    else stream.respond({ ':status': 200 });
  });
  const between = createServer((near) => {
    const far = connect(peer.port, '127.0.0.1');
    for (const end of [near, far]) end.on('error', () => undefined);
    near.pipe(far).pipe(near);
    links.push({ near, far });
  });
  const config = testConfig({ answerTimeout: 200 });
  const tunnels = createTunnels({ config, identities: judge, port: await listen(between) });
  const silent = await tunnels.open(peer.request());
  assert.deepEqual(silent, { ok: false, reason: 'CONNECT_TIMEOUT', detail: undefined });
  assert.ok((await tunnels.open(peer.request())).ok, 'it was sent into the dead tunnel');
  assert.equal(links.length, 2);
  for (const { near, far } of links) for (const end of [near, far]) end.destroy();
  between.close();
});

test('a tunnel whose app was slow to answer is used again', async () => {
  let streams = 0;
  await using peer = await foreignPeer(
    (stream) => {
      streams++;
      if (streams > 1) stream.respond({ ':status': 200 });
    },
    { answerTimeout: 200 },
  );
  const slow = await peer.tunnels.open(peer.request());
  assert.deepEqual(slow, { ok: false, reason: 'CONNECT_TIMEOUT', detail: undefined });
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok((await peer.tunnels.open(peer.request())).ok);
  assert.equal(peer.sessions.length, 1);
});

test('tunnels per pod are limited: idle ones make room', async () => {
  await using wire = await openWire({ maxTunnelsPerPod: 1, maxStreamsPerTunnel: 1 });
  const first = await wire.tunnels.open(wire.request());
  assert.ok(first.ok);
  assert.deepEqual(await wire.tunnels.open(wire.request()), {
    ok: false,
    reason: 'TUNNEL_LIMIT',
    detail: undefined,
  });
  first.stream.end();
  first.stream.resume();
  await once(first.stream, 'close');
  const renewed = identityOf(wire.ca, CLIENT_ID, 2);
  assert.ok((await wire.tunnels.open(wire.request({ identity: renewed }))).ok);
});

test('an idle tunnel closes for others, the one used longest ago first; both ends hear of it on their sockets', async () => {
  await using wire = await openWire();
  const other = parsePodUid('33333333-3333-3333-3333-333333333333');
  assert.ok(other);
  const closed: string[] = [];
  const openFor = async (name: string, changes: Partial<TunnelRequest>): Promise<Duplex> => {
    const dial = (): { ok: true; socket: Socket } => {
      const socket = new Socket();
      socket.once('close', () => closed.push(name));
      return { ok: true, socket };
    };
    const opened = await wire.tunnels.open(wire.request({ ...changes, dial }));
    assert.ok(opened.ok);
    return opened.stream;
  };
  const end = async (stream: Duplex): Promise<void> => {
    stream.end();
    stream.resume();
    await once(stream, 'close');
  };
  const first = await openFor('first', {});
  const second = await openFor('second', { key: { ...wire.request().key, podUid: other } });
  assert.equal(wire.tunnels.closeIdle(undefined), false, 'a tunnel in use was closed');
  await end(second);
  await end(first);
  assert.equal(wire.tunnels.closeIdle(other), true);
  assert.equal(wire.tunnels.closeIdle(other), false, 'it was closed twice, or another for it');
  const ended = wire.accepted.map((socket) => once(socket, 'close'));
  await Promise.race(ended);
  while (closed.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.deepEqual(closed, ['second']);
  assert.equal(wire.tunnels.closeIdle(undefined), true);
  await Promise.all(ended);
  while (closed.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
});
