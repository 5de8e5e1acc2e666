import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { connect as connectHttp2, constants } from 'node:http2';
import type { ClientHttp2Session, OutgoingHttpHeaders } from 'node:http2';
import { connect as connectTls } from 'node:tls';
import { test } from 'node:test';
import { parseAuthority, parseConnect, parseForwarded } from '../../daemon/proxy/hbone/connect.ts';
import type { IncomingConnect } from '../../daemon/proxy/seams.ts';
import { issue } from '../support/pki.ts';
import { CLIENT_ID, echo, openWire } from './hbone.kit.ts';
import type { Wire } from './hbone.kit.ts';

/** A right certificate, and no manners. */
async function rawSession(wire: Wire): Promise<ClientHttp2Session> {
  const cert = issue(wire.ca, CLIENT_ID);
  const socket = connectTls({
    host: '127.0.0.1',
    port: wire.port,
    rejectUnauthorized: false,
    ALPNProtocols: ['h2'],
    servername: '',
    cert: cert.chainPem,
    key: cert.keyPem,
  });
  socket.on('error', () => undefined);
  await once(socket, 'secureConnect');
  const session = connectHttp2('https://x', { createConnection: () => socket });
  session.on('error', () => undefined);
  await once(session, 'remoteSettings');
  return session;
}

/** The status of the answer, or the code of the reset. */
async function ask(session: ClientHttp2Session, headers: OutgoingHttpHeaders): Promise<number | string> {
  const stream = session.request(headers, { endStream: false });
  stream.on('error', () => undefined);
  return new Promise((resolve) => {
    stream.once('response', (answer) => {
      resolve(Number(answer[':status']));
      stream.destroy();
    });
    stream.once('close', () => resolve(`reset ${stream.rstCode}`));
  });
}

const CONNECT = { ':method': 'CONNECT', ':authority': '10.0.0.1:80' };

test('authorities are literal addresses with ports, in canonical form', () => {
  for (const good of ['10.0.0.1:80', '[fd00::1]:65535', '[::1]:1'])
    assert.ok(parseAuthority(good), `${good} is refused`);
  const bad = [
    '', ':80', '10.0.0.1', '10.0.0.1:', '10.0.0.1:0', '10.0.0.1:080', '10.0.0.1:65536', '10.0.0.1:+80',
    '10.0.0.1:80 ', '10.0.1:80', '010.0.0.1:80', '0x7f.1:80', '2130706433:80', 'localhost:80', 'web.shop:80',
    '[10.0.0.1]:80', 'fd00::1:80', '[fd00::1%eth0]:80', '[FD00::1]:80', '[fd00:0::1]:80', '[::ffff:10.0.0.1]:80',
    'user@10.0.0.1:80', '10.0.0.1:80/x', '10.0.0.1:80\n', `[${'0'.repeat(100)}::1]:80`,
  ]; // biome-ignore format: one line says more
  for (const text of bad) assert.equal(parseAuthority(text), undefined, `${text} is taken`);
});

test('forwarded is read strictly, or not at all', () => {
  assert.deepEqual(parseForwarded('for="10.0.0.1:80";host=web.shop'), { ip: '10.0.0.1', port: 80 });
  assert.deepEqual(parseForwarded('for="[fd00::1]:80"'), { ip: 'fd00::1', port: 80 });
  for (const odd of [
    undefined,
    '',
    'for=unknown',
    'for="a:1"',
    'for="10.0.0.1:80";for="10.0.0.2:80"',
    'for="10.0.0.1:80",for="x"',
    `for="10.0.0.1:80";host=${'x'.repeat(5_000)}`,
  ])
    assert.equal(parseForwarded(odd), undefined, `${odd}`);
});

test('extended CONNECT and requests with a path are no CONNECT', () => {
  assert.ok(parseConnect(CONNECT));
  for (const extra of [{ ':path': '/' }, { ':scheme': 'https' }, { ':protocol': 'websocket' }])
    assert.equal(parseConnect({ ...CONNECT, ...extra }), undefined);
});

test('what is no plain CONNECT to an address gets 400 and reaches nobody', async () => {
  await using wire = await openWire();
  let connects = 0;
  wire.onConnect = (connect) => {
    connects++;
    connect.refuse(401);
  };
  const session = await rawSession(wire);
  const wrong: OutgoingHttpHeaders[] = [
    { ':method': 'CONNECT', ':authority': 'web.shop.svc:80' },
    { ':method': 'CONNECT', ':authority': '10.0.0.1' },
    { ':method': 'GET', ':authority': '10.0.0.1:80', ':path': '/', ':scheme': 'https' },
    { ':method': 'POST', ':authority': '10.0.0.1:80', ':path': '/', ':scheme': 'http' },
  ];
  for (const headers of wrong) assert.equal(await ask(session, headers), 400);
  assert.equal(connects, 0);
  assert.equal(await ask(session, CONNECT), 401);
  assert.deepEqual(
    wire.refused.map((refusal) => refusal.reason),
    wrong.map(() => 'CONNECT_MALFORMED'),
  );
  session.destroy();
});

test('too many header bytes or pairs cost the stream, not the process', async () => {
  await using wire = await openWire();
  let connects = 0;
  wire.onConnect = (connect) => {
    connects++;
    connect.refuse(401);
  };
  const fat: OutgoingHttpHeaders = { ...CONNECT };
  for (let i = 0; i < 20; i++) fat[`x-${i}`] = 'y'.repeat(1_000);
  const many: OutgoingHttpHeaders = { ...CONNECT };
  for (let i = 0; i < 100; i++) many[`x-${i}`] = 'y';
  for (const headers of [fat, many]) {
    const session = await rawSession(wire);
    assert.match(String(await ask(session, headers)), /^reset /);
    session.destroy();
  }
  assert.equal(connects, 0);
  const polite = await wire.tunnels.open(wire.request());
  assert.ok(!polite.ok);
  assert.equal(polite.reason, 'TUNNEL_REFUSED');
});

test('streams over MAX_CONCURRENT_STREAMS are not served', async () => {
  await using wire = await openWire({ maxStreamsServed: 4 });
  const held: IncomingConnect[] = [];
  wire.onConnect = (connect) => held.push(connect);
  const session = await rawSession(wire);
  assert.equal(session.remoteSettings.maxConcurrentStreams, 4);
  const answers = Array.from({ length: 12 }, () => ask(session, CONNECT));
  while (held.length < 4) await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => session.ping(resolve));
  assert.equal(held.length, 4);
  session.destroy();
  await Promise.all(answers);
});

test('10,000 honest resets pass; a rapid reset flood ends its own tunnel only', async () => {
  await using wire = await openWire();
  wire.onConnect = (connect) => echo(connect.accept());
  const honest = await wire.tunnels.open(wire.request());
  assert.ok(honest.ok);
  const flood = await rawSession(wire);
  const closed = new Promise((resolve) => flood.once('close', resolve));
  let sent = 0;
  while (!flood.destroyed && sent < 40_000) {
    for (let i = 0; i < 100 && !flood.closed; i++, sent++) {
      const stream = flood.request(CONNECT, { endStream: false });
      stream.on('error', () => undefined);
      stream.close(constants.NGHTTP2_CANCEL);
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  await closed;
  assert.ok(sent > 10_000 && sent < 40_000, `${sent} resets`);
  honest.stream.write('alive');
  assert.equal(String(await once(honest.stream, 'data')), 'alive');
});

test('a dead tunnel is found by PING, and its streams end as TUNNEL_LOST', async () => {
  await using wire = await openWire({ pingInterval: 100, pingTimeout: 200 });
  const opened = await wire.tunnels.open(wire.request());
  assert.ok(opened.ok);
  const failure = new Promise<NodeJS.ErrnoException>((resolve) => opened.stream.once('error', resolve));
  // The far node stops answering: its socket is not read any more.
  const handle: unknown = Reflect.get(wire.accepted[0] ?? {}, '_handle');
  assert.ok(typeof handle === 'object' && handle !== null && 'readStop' in handle);
  assert.ok(typeof handle.readStop === 'function');
  Reflect.apply(handle.readStop, handle, []);
  assert.equal((await failure).code, 'TUNNEL_LOST');
  while (wire.tunnels.size > 0) await new Promise((resolve) => setTimeout(resolve, 10));
});

test('a peer that goes away before the answer aborts the CONNECT', async () => {
  await using wire = await openWire();
  const arrived = new Promise<IncomingConnect>((resolve) => {
    wire.onConnect = resolve;
  });
  const gone = new AbortController();
  const opening = wire.tunnels.open(wire.request({ signal: gone.signal }));
  const connect = await arrived;
  const aborted = new Promise<void>((resolve) => connect.signal.addEventListener('abort', resolve));
  gone.abort();
  const outcome = await opening;
  assert.ok(!outcome.ok);
  assert.equal(outcome.reason, 'CLIENT_RESET');
  await aborted;
  connect.refuse(503);
  connect.accept().destroy();
});

test('served tunnels are limited: an idle one makes room, a busy one does not', async () => {
  await using wire = await openWire({ maxTunnelsPerPod: 2 });
  wire.onConnect = (connect) => echo(connect.accept());
  const idle = await rawSession(wire);
  const idleClosed = once(idle, 'close');
  assert.equal(await ask(idle, CONNECT), 200);
  const busy = [await rawSession(wire), await rawSession(wire)];
  for (const session of busy) session.request(CONNECT, { endStream: false }).on('error', () => undefined);
  await idleClosed;
  for (const session of busy) await new Promise((resolve) => session.ping(resolve));
  const refusal = wire.nextRefusal();
  await assert.rejects(rawSession(wire).then((session) => once(session, 'never')));
  assert.equal((await refusal).reason, 'TUNNEL_LIMIT');
  for (const session of busy) session.destroy();
});

test('drain says GOAWAY, lets streams end, and takes no more connections', async () => {
  await using wire = await openWire();
  wire.onConnect = (connect) => echo(connect.accept());
  const opened = await wire.tunnels.open(wire.request());
  assert.ok(opened.ok);
  wire.server.drain();
  const late = await wire.tunnels.open(wire.request());
  assert.ok(!late.ok);
  opened.stream.end('still whole');
  let text = '';
  for await (const chunk of opened.stream) text += String(chunk);
  assert.equal(text, 'still whole');
  while (wire.server.size + wire.tunnels.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
});
