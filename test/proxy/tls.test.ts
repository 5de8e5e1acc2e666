import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { connect as connectTcp, createServer, Socket } from 'node:net';
import { connect as connectTls, createSecureContext } from 'node:tls';
import type { ConnectionOptions, TLSSocket } from 'node:tls';
import { test } from 'node:test';
import { issue, localIdentity, makeCa, MESH_TLS, selfSigned } from '../support/pki.ts';
import type { Issued } from '../support/pki.ts';
import { CLIENT_ID, identityOf, listen, openWire, OTHER_ID, SERVER_ID } from './hbone.kit.ts';
import type { Wire } from './hbone.kit.ts';

/** A client of its own making; it trusts anybody. */
function dialTls(wire: Wire, cert: Issued | undefined, options: ConnectionOptions = {}): TLSSocket {
  const socket = connectTls({
    host: '127.0.0.1',
    port: wire.port,
    rejectUnauthorized: false,
    ALPNProtocols: ['h2'],
    servername: '',
    ...(cert === undefined ? {} : { cert: cert.chainPem, key: cert.keyPem }),
    ...options,
  });
  socket.on('error', () => undefined);
  return socket;
}

/** The server must not get as far as a CONNECT. */
function forbidConnects(wire: Wire): { count: number } {
  const seen = { count: 0 };
  wire.onConnect = (connect) => {
    seen.count++;
    connect.refuse(503);
  };
  return seen;
}

/** Sends a CONNECT over whatever TLS was agreed, and waits for the end. */
async function insist(socket: TLSSocket): Promise<void> {
  const session = connectHttp2('https://x', { createConnection: () => socket });
  session.on('error', () => undefined);
  // Node's client hears of an alert by 'error' alone.
  const closed = new Promise((resolve) => {
    socket.once('close', resolve);
    socket.once('error', resolve);
  });
  const stream = session.request({ ':method': 'CONNECT', ':authority': '10.0.0.1:80' });
  stream.on('error', () => undefined);
  await closed;
}

test('a good peer is served, and proves its own identity', async () => {
  await using wire = await openWire();
  const opened = await wire.tunnels.open(wire.request());
  assert.ok(opened.ok);
  assert.equal(opened.peer, SERVER_ID);
});

test('a rogue self-signed certificate with the right SAN is refused', async () => {
  await using wire = await openWire();
  const seen = forbidConnects(wire);
  const refusal = wire.nextRefusal();
  await insist(dialTls(wire, selfSigned(CLIENT_ID)));
  assert.equal((await refusal).reason, 'PEER_CERTIFICATE_INVALID');
  assert.equal(seen.count, 0);
});

test('certificates of another root, expired, not yet valid, for servers only, or none are refused', async () => {
  await using wire = await openWire();
  const seen = forbidConnects(wire);
  const past = new Date(Date.now() - 60_000);
  const future = new Date(Date.now() + 3_600_000);
  const liars = [
    issue(makeCa(), CLIENT_ID),
    issue({ ...makeCa(), name: wire.ca.name }, CLIENT_ID),
    issue(wire.ca, CLIENT_ID, { notAfter: past }),
    issue(wire.ca, CLIENT_ID, { notBefore: future }),
    issue(wire.ca, CLIENT_ID, { usages: ['serverAuth'] }),
    undefined,
  ];
  for (const liar of liars) {
    const refusal = wire.nextRefusal();
    await insist(dialTls(wire, liar));
    assert.equal((await refusal).reason, 'PEER_CERTIFICATE_INVALID');
  }
  assert.equal(seen.count, 0);
});

test('a certificate that is no SVID is refused by the judge of identities', async () => {
  await using wire = await openWire();
  const seen = forbidConnects(wire);
  const refusal = wire.nextRefusal();
  await insist(dialTls(wire, issue(wire.ca, [CLIENT_ID, OTHER_ID])));
  assert.equal((await refusal).reason, 'PEER_CERTIFICATE_INVALID');
  assert.equal(seen.count, 0);
});

test('a saved TLS session opens nothing without its certificate, and is not resumed with it', async () => {
  await using wire = await openWire();
  wire.onConnect = (connect) => connect.refuse(503);
  const cert = issue(wire.ca, CLIENT_ID);
  const first = dialTls(wire, cert);
  const ticket = new Promise<Buffer>((resolve) => first.once('session', resolve));
  first.resume();
  const session = await ticket;
  const seen = forbidConnects(wire);

  const refusal = wire.nextRefusal();
  await insist(dialTls(wire, undefined, { session }));
  assert.equal((await refusal).ok, false);
  assert.equal(seen.count, 0);

  const again = dialTls(wire, cert, { session });
  await once(again, 'secureConnect');
  assert.equal(again.isSessionReused(), false);
});

test('TLS 1.2 and other ALPN are refused', async () => {
  await using wire = await openWire();
  const cert = issue(wire.ca, CLIENT_ID);
  const cases: [ConnectionOptions, string][] = [
    [{ minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' }, 'TLS_HANDSHAKE_FAILED'],
    [{ ALPNProtocols: ['http/1.1'] }, 'NOT_HBONE'],
    [{ ALPNProtocols: [] }, 'NOT_HBONE'],
  ];
  for (const [options, reason] of cases) {
    const refusal = wire.nextRefusal();
    const socket = dialTls(wire, cert, options);
    assert.equal((await refusal).reason, reason);
    socket.destroy();
  }
});

test('plaintext and garbage to the mTLS listener are refused', async () => {
  await using wire = await openWire();
  const seen = forbidConnects(wire);
  const plaintexts = [
    'GET / HTTP/1.1\r\nHost: x\r\n\r\n',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    '\x00'.repeat(600),
  ];
  for (const bytes of plaintexts) {
    const refusal = wire.nextRefusal();
    const socket = connectTcp(wire.port, '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write(bytes);
    assert.equal((await refusal).reason, 'TLS_HANDSHAKE_FAILED');
    socket.destroy();
  }
  assert.equal(seen.count, 0);
});

test('a client that says nothing is cut after handshakeTimeout, and after requestTimeout', async () => {
  await using wire = await openWire({ handshakeTimeout: 200, requestTimeout: 200 });
  let refusal = wire.nextRefusal();
  const silent = connectTcp(wire.port, '127.0.0.1');
  silent.on('error', () => undefined);
  assert.equal((await refusal).reason, 'TLS_HANDSHAKE_TIMEOUT');
  refusal = wire.nextRefusal();
  const secured = dialTls(wire, issue(wire.ca, CLIENT_ID));
  secured.resume();
  assert.deepEqual(await refusal, { ok: false, reason: 'NOT_HBONE', detail: 'no CONNECT came' });
  await once(secured, 'close');
  assert.equal(wire.server.size, 0);
});

test('handshakes in flight are limited, and the places come back', async () => {
  await using wire = await openWire({ maxHandshakesPerPod: 2 });
  const silent = [0, 1].map(() => connectTcp(wire.port, '127.0.0.1'));
  for (const socket of silent) socket.on('error', () => undefined);
  while (wire.accepted.length < 2) await new Promise((resolve) => setImmediate(resolve));
  const refusal = wire.nextRefusal();
  const third = connectTcp(wire.port, '127.0.0.1');
  third.on('error', () => undefined);
  assert.equal((await refusal).reason, 'HANDSHAKE_LIMIT');
  const released = Promise.all([wire.nextRefusal(), wire.nextRefusal()]);
  for (const socket of silent) socket.destroy();
  await released;
  assert.ok((await wire.tunnels.open(wire.request())).ok);
});

test('a source address that floods handshakes keeps no other from the pod, and its places come back', async () => {
  await using wire = await openWire({ maxHandshakesPerSource: 3, maxHandshakesPerPod: 8 });
  const flood: Socket[] = [];
  const connect = (): Socket => {
    const socket = connectTcp({ port: wire.port, host: '127.0.0.1', localAddress: '127.0.0.66' });
    socket.on('error', () => undefined);
    flood.push(socket);
    return socket;
  };
  for (let place = 0; place < 3; place++) connect();
  while (wire.accepted.length < 3) await new Promise((resolve) => setImmediate(resolve));
  for (let beyond = 0; beyond < 20; beyond++) {
    const refusal = wire.nextRefusal();
    connect();
    assert.equal((await refusal).reason, 'HANDSHAKE_LIMIT');
  }
  assert.equal(wire.server.handshakes, 3);
  assert.ok((await wire.tunnels.open(wire.request())).ok, 'another source was kept out');
  const released = Promise.all([wire.nextRefusal(), wire.nextRefusal(), wire.nextRefusal()]);
  for (const socket of flood) socket.destroy();
  await released;
  const again = wire.accepted.length;
  connect();
  while (wire.accepted.length === again) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(wire.server.handshakes, 1);
});

test('one source address has at most half of the handshakes of a worker, whatever pods it dials', async () => {
  await using wire = await openWire({ maxHandshakes: 4, maxHandshakesPerSource: 3 });
  const flood = [0, 1, 2].map(() => {
    const socket = connectTcp({ port: wire.port, host: '127.0.0.1', localAddress: '127.0.0.66' });
    socket.on('error', () => undefined);
    return socket;
  });
  assert.equal((await wire.nextRefusal()).reason, 'HANDSHAKE_LIMIT');
  assert.equal(wire.server.handshakes, 2);
  for (const socket of flood) socket.destroy();
});

test('our client refuses a server of the right root and the wrong identity', async () => {
  await using wire = await openWire();
  const seen = forbidConnects(wire);
  wire.presents = identityOf(wire.ca, OTHER_ID);
  const opened = await wire.tunnels.open(wire.request());
  assert.ok(!opened.ok);
  assert.equal(opened.reason, 'PEER_IDENTITY_MISMATCH');
  assert.equal(seen.count, 0);
});

test('our client refuses a self-signed server with the right SAN', async () => {
  await using wire = await openWire();
  const seen = forbidConnects(wire);
  wire.presents = localIdentity(SERVER_ID, selfSigned(SERVER_ID), wire.ca.certPem, 2);
  const opened = await wire.tunnels.open(wire.request());
  assert.ok(!opened.ok);
  assert.equal(opened.reason, 'PEER_CERTIFICATE_INVALID');
  assert.equal(seen.count, 0);
});

test('a server that rejects our certificate after the handshake is TUNNEL_RESET, and not tried again', async () => {
  await using wire = await openWire();
  forbidConnects(wire);
  const liar = localIdentity(CLIENT_ID, selfSigned(CLIENT_ID), wire.ca.certPem);
  const opened = await wire.tunnels.open(wire.request({ identity: liar }));
  assert.ok(!opened.ok);
  assert.equal(opened.reason, 'TUNNEL_RESET');
  assert.equal(wire.accepted.length, 1);
});

test('a server that refuses our certificate by an alert is TUNNEL_RESET at once', async () => {
  await using wire = await openWire();
  const bare = createSecureContext({ ...MESH_TLS, ca: wire.ca.certPem });
  const opened = await wire.tunnels.open(
    wire.request({ identity: { ...wire.clientIdentity, context: bare } }),
  );
  assert.ok(!opened.ok);
  assert.deepEqual(
    [opened.reason, opened.detail],
    ['TUNNEL_RESET', 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED'],
  );
});

test('a closed port, a silent one and a plain one are told apart', async () => {
  await using wire = await openWire({ handshakeTimeout: 200 });
  const closed = createServer();
  const port = await listen(closed);
  closed.close();
  const { createTunnels } = await import('../../daemon/proxy/hbone/pool.ts');
  const { judge } = await import('./hbone.kit.ts');
  const dial = (to: number) =>
    createTunnels({ config: wire.config, identities: judge, port: to }).open(wire.request());
  const refusedDial = await dial(port);
  assert.ok(!refusedDial.ok);
  assert.deepEqual([refusedDial.reason, refusedDial.detail], ['TUNNEL_CONNECT_FAILED', 'ECONNREFUSED']);
  for (const [answer, reason] of [
    [undefined, 'TLS_HANDSHAKE_TIMEOUT'],
    ['HTTP/1.1 400 Bad Request\r\n\r\n', 'TLS_HANDSHAKE_FAILED'],
  ] as const) {
    const open = new Set<Socket>();
    const server = createServer((socket) => {
      open.add(socket);
      socket.on('error', () => undefined);
      if (answer !== undefined) socket.write(answer);
    });
    const outcome = await dial(await listen(server));
    assert.ok(!outcome.ok);
    assert.equal(outcome.reason, reason);
    for (const socket of open) socket.destroy();
    server.close();
  }
});

test('a new certificate serves new connections while old tunnels go on', async () => {
  await using wire = await openWire();
  const before = await wire.tunnels.open(wire.request());
  assert.ok(before.ok);
  const renewed = issue(wire.ca, SERVER_ID);
  wire.presents = localIdentity(SERVER_ID, renewed, wire.ca.certPem, 2);
  const socket = dialTls(wire, issue(wire.ca, CLIENT_ID));
  await once(socket, 'secureConnect');
  assert.deepEqual(socket.getPeerX509Certificate()?.raw, Buffer.from(renewed.der));
  socket.destroy();
  before.stream.write('still here');
  const echoed: string = String(await once(before.stream, 'data'));
  assert.equal(echoed, 'still here');
});
