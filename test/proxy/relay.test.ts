import { strict as assert } from 'node:assert';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { constants } from 'node:http2';
import type { Http2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import { relay } from '../../daemon/proxy/relay.ts';
import type { Relay, RelayResult } from '../../daemon/proxy/seams.ts';
import { echo, openWire, socketPair } from './hbone.kit.ts';
import type { Wire } from './hbone.kit.ts';

interface Path {
  /** The app that asked. */
  readonly client: Socket;
  /** The app that was asked. */
  readonly server: Socket;
  readonly nearRelay: Relay;
  readonly farRelay: Relay;
}

let lastPort = 1_000;

/** client app ─ relay ─ tunnel ─ relay ─ server app. Any number may be opened at once. */
async function openPath(wire: Wire, halfClosedTimeoutMs = 60_000): Promise<Path> {
  const [left, right] = await Promise.all([socketPair(), socketPair()]);
  const port = ++lastPort;
  const others = wire.onConnect;
  const farRelay = new Promise<Relay>((resolve) => {
    wire.onConnect = (connect) => {
      if (connect.target.port !== port) others(connect);
      else resolve(relay(connect.accept(), right.near, { halfClosedTimeoutMs }));
    };
  });
  const opened = await wire.tunnels.open(wire.request({ authority: `10.0.0.1:${port}` }));
  assert.ok(opened.ok);
  const nearRelay = relay(left.far, opened.stream, { halfClosedTimeoutMs });
  return { client: left.near, server: right.far, nearRelay, farRelay: await farRelay };
}

/** Writes `size` random bytes and FIN. @returns their sha256. */
async function send(socket: Duplex, size: number): Promise<string> {
  const block = randomBytes(1 << 16);
  const hash = createHash('sha256');
  for (let left = size; left > 0; left -= block.length) {
    const chunk = block.subarray(0, Math.min(left, block.length));
    block[0] = left & 0xff;
    hash.update(chunk);
    if (!socket.write(Buffer.from(chunk))) await once(socket, 'drain');
  }
  socket.end();
  return hash.digest('hex');
}

async function receive(socket: Duplex): Promise<{ size: number; sha256: string }> {
  const hash = createHash('sha256');
  let size = 0;
  socket.on('data', (chunk: Buffer) => {
    size += chunk.length;
    hash.update(chunk);
  });
  await once(socket, 'end');
  return { size, sha256: hash.digest('hex') };
}

test('8 echoes of 20 MB with half-close on one tunnel come back whole', async () => {
  await using wire = await openWire();
  const size = 20_000_000;
  const one = async (): Promise<void> => {
    const path = await openPath(wire);
    echo(path.server);
    const [sent, received] = await Promise.all([send(path.client, size), receive(path.client)]);
    assert.deepEqual(received, { size, sha256: sent });
    const [near, far] = await Promise.all([path.nearRelay.done, path.farRelay.done]);
    const expected = { bytesSent: size, bytesReceived: size, reason: 'OK', detail: undefined };
    assert.deepEqual([near, far], [expected, expected]);
  };
  await Promise.all(Array.from({ length: 8 }, one));
  assert.equal(wire.tunnels.size, 1);
});

test('a socket that was accepted paused is read', async () => {
  await using wire = await openWire();
  const { near, far } = await socketPair();
  far.pause();
  const opened = await wire.tunnels.open(wire.request());
  assert.ok(opened.ok);
  const carried = relay(far, opened.stream, { halfClosedTimeoutMs: 60_000 });
  near.end('hello');
  assert.equal((await receive(near)).size, 5);
  assert.equal((await carried.done).reason, 'OK');
});

test('64 MiB each way at once arrive with the same checksum', async () => {
  await using wire = await openWire();
  const path = await openPath(wire);
  const size = 64 << 20;
  const [up, down, atServer, atClient] = await Promise.all([
    send(path.client, size),
    send(path.server, size),
    receive(path.server),
    receive(path.client),
  ]);
  assert.deepEqual(atServer, { size, sha256: up });
  assert.deepEqual(atClient, { size, sha256: down });
});

test('a late reply arrives after a half-close', async () => {
  await using wire = await openWire();
  const path = await openPath(wire);
  path.client.end('question');
  const asked = await receive(path.server);
  assert.equal(asked.size, 8);
  const answer = receive(path.client);
  for (let i = 0; i < 10; i++) await new Promise((resolve) => path.server.write(Buffer.alloc(1000), resolve));
  path.server.end();
  assert.equal((await answer).size, 10_000);
  assert.equal((await path.nearRelay.done).reason, 'OK');
});

test('a half-closed silent connection ends, and a half-closed busy one does not', async () => {
  await using wire = await openWire();
  const silent = await openPath(wire, 300);
  silent.client.end();
  silent.server.resume();
  const result = await silent.nearRelay.done;
  assert.equal(result.reason, 'HALF_CLOSED_TIMEOUT');

  const busy = await openPath(wire, 300);
  busy.client.end();
  busy.server.resume();
  const received = receive(busy.client);
  // Longer than the timeout in all, never silent for as long.
  for (let i = 0; i < 10; i++) {
    busy.server.write('x');
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
  busy.server.end();
  assert.equal((await received).size, 10);
  assert.equal((await busy.nearRelay.done).reason, 'OK');
});

test('a reset of one side resets the other, each way, and does not pass for an end', async () => {
  await using wire = await openWire();
  for (const breaker of ['client', 'server'] as const) {
    const path = await openPath(wire);
    const victim = breaker === 'client' ? path.server : path.client;
    victim.write('x');
    await once(path[breaker], 'data');
    path[breaker].write('half an answer');
    await once(victim, 'data');
    let ended = false;
    victim.once('end', () => {
      ended = true;
    });
    path[breaker].resetAndDestroy();
    assert.equal(await failure(victim), 'ECONNRESET');
    assert.equal(ended, false);
    const results = await Promise.all([path.nearRelay.done, path.farRelay.done]);
    const reason = breaker === 'client' ? 'CLIENT_RESET' : 'UPSTREAM_RESET';
    assert.deepEqual(
      results.map((result) => result.reason),
      [reason, reason],
    );
  }
  assert.equal(wire.tunnels.size, 1);
});

/** The code with which a socket breaks. */
async function failure(socket: Socket): Promise<string | undefined> {
  return new Promise((resolve) =>
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code)),
  );
}

test('a peer that stops reading stops its sender, and holds a bounded number of bytes', async () => {
  await using wire = await openWire();
  const path = await openPath(wire);
  path.server.pause();
  const block = Buffer.alloc(1 << 16);
  let written = 0;
  // Until nothing has moved for a while: user space and the kernel are full.
  for (let still = 0; still < 10; ) {
    if (path.client.writableLength < 1 << 20) {
      path.client.write(block);
      written += block.length;
    }
    const before = path.nearRelay.bytesSent;
    await new Promise((resolve) => setTimeout(resolve, 10));
    still = path.nearRelay.bytesSent === before && path.client.writableLength >= 1 << 20 ? still + 1 : 0;
  }
  // What the near side took minus what the app's kernel buffer took is what the two proxies hold.
  const held = path.nearRelay.bytesSent - path.farRelay.bytesSent;
  assert.ok(held < wire.config.streamWindow + (4 << 20), `held ${held}`);
  assert.ok(path.nearRelay.bytesSent < written);
  // Another stream of the same tunnel is not held up.
  const other = await openPath(wire);
  echo(other.server);
  const [sent, received] = await Promise.all([send(other.client, 1 << 20), receive(other.client)]);
  assert.equal(received.sha256, sent);
  // And the stalled one goes on when its reader does.
  const all = receive(path.server);
  path.client.end();
  path.server.resume();
  assert.equal((await all).size, written);
});

test('100,000 one-byte writes pass on one tunnel', async () => {
  await using wire = await openWire();
  const opened = new Promise<Duplex>((resolve) => {
    wire.onConnect = (connect) => resolve(connect.accept());
  });
  const near = await wire.tunnels.open(wire.request());
  assert.ok(near.ok);
  const received = receive(await opened);
  const one = Buffer.from('x');
  for (let i = 0; i < 100_000; i++)
    // A write's own callback: each byte is its own DATA frame.
    await new Promise((resolve) => near.stream.write(one, resolve));
  near.stream.end();
  assert.equal((await received).size, 100_000);
});

test('cut ends both sides with its reason', async () => {
  await using wire = await openWire();
  const path = await openPath(wire);
  const gone = Promise.all([failure(path.client), failure(path.server)]);
  path.nearRelay.cut('POLICY_CHANGED', 'a test');
  assert.deepEqual(await path.nearRelay.done, {
    bytesSent: 0,
    bytesReceived: 0,
    reason: 'POLICY_CHANGED',
    detail: 'a test',
  });
  assert.deepEqual(await gone, ['ECONNRESET', 'ECONNRESET']);
});

test('a tunnel that breaks is TUNNEL_LOST at both ends, not an end of file', async () => {
  await using wire = await openWire();
  const path = await openPath(wire);
  path.client.write('x');
  await once(path.server, 'data');
  const broken = Promise.all([failure(path.client), failure(path.server)]);
  for (const socket of wire.accepted) socket.destroy();
  assert.deepEqual(await broken, ['ECONNRESET', 'ECONNRESET']);
  const results = await Promise.all([path.nearRelay.done, path.farRelay.done]);
  assert.deepEqual(
    results.map((result) => result.reason),
    ['TUNNEL_LOST', 'TUNNEL_LOST'],
  );
});

test('two plain sockets are relayed alike: late reply, reset', async () => {
  const [left, right] = await Promise.all([socketPair(), socketPair()]);
  const carried = relay(left.far, right.near, { halfClosedTimeoutMs: 60_000 });
  echo(right.far);
  const [sent, received] = await Promise.all([send(left.near, 5_000_000), receive(left.near)]);
  assert.equal(received.sha256, sent);
  assert.deepEqual(await carried.done, {
    bytesSent: 5_000_000,
    bytesReceived: 5_000_000,
    reason: 'OK',
    detail: undefined,
  });
  const [client, server] = await Promise.all([socketPair(), socketPair()]);
  const cut = relay(client.far, server.near, { halfClosedTimeoutMs: 60_000 });
  const broken = failure(client.near);
  server.far.resetAndDestroy();
  assert.equal(await broken, 'ECONNRESET');
  assert.equal((await cut.done).reason, 'UPSTREAM_RESET');
});

test('a client that has sent all and then cancels is named, not the app that it does not listen to', async () => {
  await using wire = await openWire();
  const app = await socketPair();
  app.near.on('error', () => undefined).resume();
  const ended = Promise.withResolvers<RelayResult>();
  wire.onConnect = (connect) => {
    void relay(connect.accept(), app.far, { halfClosedTimeoutMs: 60_000 }).done.then(ended.resolve);
  };
  const opened = await wire.tunnels.open(wire.request());
  assert.ok(opened.ok && isHttp2(opened.stream));
  opened.stream.on('error', () => undefined);
  opened.stream.write('hello');
  app.near.write('hi');
  await once(opened.stream, 'data');
  // As a ztunnel that dies does to its streams.
  opened.stream.close(constants.NGHTTP2_CANCEL);
  assert.equal((await ended.promise).reason, 'CLIENT_RESET');
});

function isHttp2(stream: Duplex): stream is Duplex & Http2Stream {
  return 'rstCode' in stream;
}
