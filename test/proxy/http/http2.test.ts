import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { connect, constants, createServer } from 'node:http2';
import type {
  ClientHttp2Session,
  ClientHttp2Stream,
  Http2Server,
  IncomingHttpHeaders,
  OutgoingHttpHeaders,
  ServerHttp2Session,
  ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';
import { test } from 'node:test';
import { connectTo, gone, listening, openFront, Transcript } from './kit.ts';
import type { Front } from './kit.ts';

const {
  NGHTTP2_INADEQUATE_SECURITY,
  NGHTTP2_CANCEL,
  NGHTTP2_ENHANCE_YOUR_CALM,
  NGHTTP2_NO_ERROR,
  NGHTTP2_REFUSED_STREAM,
} = constants;

interface App extends AsyncDisposable {
  readonly port: number;
  readonly server: Http2Server;
  /** `method path authority` of each request. */
  readonly asked: string[];
  readonly session: Promise<ServerHttp2Session>;
  readonly sockets: Set<Socket>;
}

type Handler = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;

/** An app of HTTP/2. By default it says how many bytes came, and repeats the trailer. */
async function h2App(handle: Handler = count): Promise<App> {
  const server = createServer({ settings: { enableConnectProtocol: true } });
  const asked: string[] = [];
  const { promise, resolve } = Promise.withResolvers<ServerHttp2Session>();
  const sessions = new Set<ServerHttp2Session>();
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => sockets.add(socket));
  server.on('session', (session) => {
    session.on('error', () => undefined);
    sessions.add(session);
    resolve(session);
  });
  server.on('stream', (stream: ServerHttp2Stream, headers) => {
    stream.on('error', () => undefined);
    asked.push([':method', ':path', ':authority'].map((name) => String(headers[name])).join(' '));
    handle(stream, headers);
  });
  return {
    port: await listening(server),
    server,
    asked,
    session: promise,
    sockets,
    [Symbol.asyncDispose]: async () => {
      for (const session of sessions) session.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

function count(stream: ServerHttp2Stream): void {
  let bytes = 0;
  let sum: unknown = '-';
  stream.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
  });
  stream.on('trailers', (trailers: IncomingHttpHeaders) => {
    sum = trailers['x-sum'];
  });
  stream.on('end', () => {
    stream.respond({ ':status': 200 }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', 'x-sum': String(sum) }));
    stream.end(String(bytes));
  });
}

interface Client extends Disposable {
  readonly session: ClientHttp2Session;
}

function client(front: Front): Client {
  const session = connect('http://app:80', { port: front.port, host: '127.0.0.1' } as never);
  session.on('error', () => undefined);
  return { session, [Symbol.dispose]: () => session.destroy() };
}

interface Answer {
  readonly headers: IncomingHttpHeaders;
  readonly trailers: IncomingHttpHeaders;
  readonly interim: number[];
  readonly text: string;
  /** END_STREAM came. */
  readonly isWhole: boolean;
  readonly code: number;
}

async function answerTo(stream: ClientHttp2Stream): Promise<Answer> {
  let headers: IncomingHttpHeaders = {};
  let trailers: IncomingHttpHeaders = {};
  const interim: number[] = [];
  let text = '';
  let isWhole = false;
  stream.on('headers', (received) => interim.push(received[':status'] ?? 0));
  stream.on('response', (received) => {
    headers = received;
  });
  stream.on('trailers', (received) => {
    trailers = received;
  });
  stream.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
  });
  stream.on('end', () => {
    isWhole = true;
  });
  stream.on('error', () => undefined);
  await new Promise<void>((resolve) => stream.once('close', () => resolve()));
  // node's 'end' comes behind a broken connection too.
  isWhole &&= !stream.aborted && stream.rstCode === NGHTTP2_NO_ERROR;
  return { headers, trailers, interim, text, isWhole, code: stream.rstCode };
}

function tell(session: ClientHttp2Session, headers: OutgoingHttpHeaders, body?: Buffer): Promise<Answer> {
  const stream = session.request(headers, {
    endStream: body === undefined,
    waitForTrailers: body !== undefined,
  });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': 'three' }));
  if (body !== undefined) stream.end(body);
  return answerTo(stream);
}

test('requests with bodies and trailers pass both ways on one connection, judged one by one', async () => {
  await using app = await h2App();
  await using front = await openFront(app.port);
  using ours = client(front);
  const post = { ':method': 'POST', ':path': '/a/../b?q' };
  const [one, two, three] = await Promise.all([
    tell(ours.session, post, Buffer.alloc(300_000)),
    tell(ours.session, { ':path': '/denied' }),
    tell(ours.session, { ':path': '/c' }),
  ]);
  assert.deepEqual([one.text, one.trailers['x-sum'], one.trailers['grpc-status']], ['300000', 'three', '0']);
  assert.deepEqual([two.headers[':status'], two.text, two.code], [403, 'access denied\n', NGHTTP2_NO_ERROR]);
  assert.equal(three.text, '0');
  assert.deepEqual(app.asked.sort(), ['GET /c app:80', 'POST /b?q app:80']);
  assert.deepEqual(front.asked.map((request) => request?.path).sort(), ['/b', '/c', '/denied']);
});

test('a denied gRPC call gets PERMISSION_DENIED, also while it still sends; the connection lives on', async () => {
  await using app = await h2App();
  await using front = await openFront(app.port);
  using ours = client(front);
  const call = {
    ':method': 'POST',
    ':path': '/denied/Call',
    'content-type': 'application/grpc+proto',
    te: 'trailers',
  };
  const stream = ours.session.request(call, { endStream: false });
  stream.write(Buffer.alloc(1 << 20));
  const { headers } = await answerTo(stream);
  assert.deepEqual([headers[':status'], headers['grpc-status']], [200, '7']);
  assert.equal((await tell(ours.session, { ':path': '/ok' })).text, '0');
  assert.deepEqual(app.asked, ['GET /ok app:80']);
});

test('a stream goes on both ways at once, message by message', async () => {
  await using app = await h2App((stream) => {
    stream.respond({ ':status': 200 });
    stream.pipe(stream);
  });
  await using front = await openFront(app.port);
  using ours = client(front);
  const stream = ours.session.request({ ':method': 'POST', ':path': '/echo' }, { endStream: false });
  for (const message of ['one', 'two', 'three']) {
    stream.write(message);
    const [echo] = (await once(stream, 'data')) as [Buffer];
    assert.equal(echo.toString(), message);
  }
  stream.end();
  assert.ok((await answerTo(stream)).isWhole);
});

test('interim answers pass', async () => {
  await using app = await h2App((stream) => {
    stream.additionalHeaders({ ':status': 103, link: '</x>' });
    stream.respond({ ':status': 204 }, { endStream: true });
  });
  await using front = await openFront(app.port);
  using ours = client(front);
  const { interim, headers } = await tell(ours.session, { ':path': '/' });
  assert.deepEqual([interim, headers[':status']], [[103], 204]);
});

test('resets go on with their code, and half an answer never passes for a whole one', async () => {
  const codes: number[] = [];
  await using app = await h2App((stream, headers) => {
    stream.on('close', () => codes.push(stream.rstCode));
    stream.respond({ ':status': 200 }, { waitForTrailers: true });
    stream.write('half');
    // Without trailers node sends no END_STREAM before its reset.
    if (headers[':path'] === '/app') setImmediate(() => stream.close(NGHTTP2_ENHANCE_YOUR_CALM));
  });
  await using front = await openFront(app.port);
  using ours = client(front);
  const answer = await tell(ours.session, { ':path': '/app' });
  assert.deepEqual([answer.isWhole, answer.code], [false, NGHTTP2_ENHANCE_YOUR_CALM]);
  const stream = ours.session.request(
    { ':method': 'POST', ':path': '/client' },
    { endStream: false, waitForTrailers: true },
  );
  stream.on('error', () => undefined);
  await once(stream, 'data');
  stream.close(NGHTTP2_CANCEL);
  while (codes.length < 2) await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(codes, [NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_CANCEL]);
});

test('an app that goes away in order lets its streams end, and tells the client', async () => {
  let release: () => void = () => undefined;
  await using app = await h2App((stream) => {
    stream.respond({ ':status': 200 });
    stream.write('half');
    release = () => stream.end(' and half');
  });
  await using front = await openFront(app.port);
  using ours = client(front);
  const left = once(ours.session, 'goaway');
  const stream = ours.session.request({ ':path': '/' });
  const answer = answerTo(stream);
  await once(stream, 'data');
  (await app.session).close();
  assert.equal((await left)[0], NGHTTP2_NO_ERROR);
  release();
  const { text, isWhole } = await answer;
  assert.deepEqual([text, isWhole], ['half and half', true]);
  assert.equal((await front.relays[0]?.done)?.reason, 'OK');
});

for (const how of ['reset', 'end'])
  test(`an app whose connection breaks takes the client connection with it: ${how}`, async () => {
    await using app = await h2App((stream) => {
      stream.respond({ ':status': 200 });
      stream.write('half');
    });
    await using front = await openFront(app.port);
    using ours = client(front);
    const stream = ours.session.request({ ':path': '/' });
    const answer = answerTo(stream);
    await once(stream, 'data');
    if (how === 'reset') front.upstreams[0]?.destroy();
    else for (const socket of app.sockets) socket.end();
    assert.equal((await answer).isWhole, false);
    assert.equal((await front.relays[0]?.done)?.reason, 'UPSTREAM_RESET');
  });

test('an app that does not read stops the client, and other streams go on', async () => {
  await using app = await h2App((stream, headers) => {
    if (headers[':path'] !== '/unread') count(stream);
  });
  await using front = await openFront(app.port);
  using ours = client(front);
  const stuck = ours.session.request({ ':method': 'POST', ':path': '/unread' }, { endStream: false });
  stuck.on('error', () => undefined);
  let taken = 0;
  const block = Buffer.alloc(1 << 16);
  const fill = (): void => {
    if (taken < 100 << 20)
      stuck.write(block, () => {
        taken += block.length;
        fill();
      });
  };
  fill();
  for (let i = 0, before = -1; i < 5; i = taken === before ? i + 1 : 0) {
    before = taken;
    assert.equal((await tell(ours.session, { ':method': 'POST', ':path': '/' }, block)).text, '65536');
  }
  assert.ok(taken < 4 << 20, `${taken} bytes were taken`);
});

test('what is ambiguous is refused with 400, CONNECT with 405, and never reaches the app', async () => {
  await using app = await h2App();
  await using front = await openFront(app.port);
  using ours = client(front);
  await once(ours.session, 'remoteSettings');
  const bad: [number, OutgoingHttpHeaders][] = [
    [400, { ':authority': 'app', host: 'other', ':path': '/' }],
    [400, { ':path': '/a%00' }],
    [400, { ':path': '/%c0%af' }],
    [400, { ':path': '/a#b' }],
    [400, { ':path': '*' }],
    [400, { ':path': 'http://app/' }],
    [400, { ':path': '/', ':authority': 'app@other' }],
    [400, { ':path': '/', ':scheme': 'ftp' }],
    [400, { ':path': '/', ':method': 'get' }],
    [405, { ':method': 'CONNECT', ':authority': 'app:80' }],
  ];
  for (const [status, headers] of bad) {
    const answer = await tell(ours.session, headers);
    // nghttp2 refuses some by itself, with a reset.
    if (answer.code !== constants.NGHTTP2_PROTOCOL_ERROR)
      assert.equal(answer.headers[':status'], status, JSON.stringify(headers));
  }
  assert.deepEqual(app.asked, []);
  assert.deepEqual(front.asked, []);
  assert.equal((await tell(ours.session, { ':path': '/', ':authority': 'APP', host: 'app' })).text, '0');
  assert.deepEqual(app.asked, ['GET / APP']);
});

test('a WebSocket over HTTP/2 is judged as the GET of its path', async () => {
  await using app = await h2App((stream, headers) => {
    assert.equal(headers[':protocol'], 'websocket');
    stream.respond({ ':status': 200 });
    stream.pipe(stream);
  });
  await using front = await openFront(app.port);
  using ours = client(front);
  // Offered once the app has offered it.
  while (ours.session.remoteSettings.enableConnectProtocol !== true)
    await once(ours.session, 'remoteSettings');
  const socket = (path: string): ClientHttp2Stream =>
    ours.session.request(
      { ':method': 'CONNECT', ':protocol': 'websocket', ':scheme': 'http', ':path': path },
      { endStream: false },
    );
  const open = socket('/chat/../live');
  open.write('frame');
  const [echo] = (await once(open, 'data')) as [Buffer];
  assert.equal(echo.toString(), 'frame');
  assert.equal((await answerTo(socket('/denied'))).headers[':status'], 403);
  assert.deepEqual(
    front.asked.map((request) => `${request?.method ?? ''} ${request?.path ?? ''}`),
    ['GET /live', 'GET /denied'],
  );
  assert.deepEqual(app.asked, ['CONNECT /live app:80']);
  open.destroy();
});

test('streams that are denied while they are open are reset, others go on', async () => {
  await using app = await h2App((stream) => {
    stream.respond({ ':status': 200 });
    stream.pipe(stream);
  });
  await using front = await openFront(app.port);
  using ours = client(front);
  const open = ['/one', '/two'].map((path) =>
    ours.session.request({ ':method': 'POST', ':path': path }, { endStream: false }),
  );
  for (const stream of open) {
    stream.write('x');
    await once(stream, 'data');
  }
  front.judge = (request) => request?.path !== '/one';
  const [first, second] = open;
  assert.ok(first !== undefined && second !== undefined);
  const cut = answerTo(first);
  front.relays[0]?.rejudge();
  const { isWhole, code } = await cut;
  assert.deepEqual([isWhole, code], [false, NGHTTP2_INADEQUATE_SECURITY]);
  second.write('still');
  assert.equal(String((await once(second, 'data'))[0]), 'still');
  second.destroy();
});

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1');

function frame(type: number, flags: number, stream: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

const SETTINGS = frame(4, 0, 0);
/** `:method GET`, `:scheme http`, `:path /denied`, `:authority app`, in HPACK without Huffman. */
const DENIED_BLOCK = Buffer.concat([
  Buffer.from([0x82, 0x86, 0x04, 7]),
  Buffer.from('/denied'),
  Buffer.from([0x01, 3]),
  Buffer.from('app'),
]);

const FLOODS: readonly { readonly name: string; readonly frames: () => Buffer }[] = [
  {
    name: 'streams that are reset at once (CVE-2023-44487)',
    frames: () =>
      Buffer.concat(
        Array.from({ length: 5_000 }, (_, i) =>
          Buffer.concat([
            frame(1, 5, 2 * i + 1, DENIED_BLOCK),
            frame(3, 0, 2 * i + 1, Buffer.from([0, 0, 0, 8])),
          ]),
        ),
      ),
  },
  {
    name: 'CONTINUATION without end (CVE-2024-27316)',
    frames: () =>
      Buffer.concat([
        frame(1, 1, 1, DENIED_BLOCK),
        ...Array.from({ length: 5_000 }, () => frame(9, 0, 1, Buffer.from([0, 1, 0x61, 1, 0x62]))),
      ]),
  },
  {
    name: 'PING without end, answers not read',
    frames: () => Buffer.concat(Array.from({ length: 50_000 }, () => frame(6, 0, 0, Buffer.alloc(8)))),
  },
  {
    name: 'SETTINGS without end, answers not read',
    frames: () => Buffer.concat(Array.from({ length: 50_000 }, () => SETTINGS)),
  },
  {
    name: 'a header list beyond the bound',
    frames: () =>
      frame(
        1,
        5,
        1,
        Buffer.concat([
          DENIED_BLOCK,
          ...Array.from({ length: 1_000 }, () => Buffer.from([0, 1, 0x61, 1, 0x62])),
        ]),
      ),
  },
];

for (const { name, frames } of FLOODS)
  test(`a flood is bounded: ${name}`, async () => {
    await using app = await h2App();
    await using front = await openFront(app.port);
    const socket = await connectTo(front.port);
    const heard = new Transcript(socket);
    if (name.endsWith('not read')) socket.pause();
    const before = process.memoryUsage().rss;
    socket.write(Buffer.concat([PREFACE, SETTINGS, frames()]));
    if (name.endsWith('bound')) {
      // That stream is reset; the connection may live on.
      while (!heard.text.includes('\x00\x00\x04\x03\x00\x00\x00\x00\x01'))
        await Promise.race([once(socket, 'data'), gone(socket)]);
    } else assert.equal((await (await front.opened).done).reason, 'HTTP_AMBIGUOUS');
    assert.ok(process.memoryUsage().rss - before < 128 << 20);
    assert.deepEqual(app.asked, []);
    socket.destroy();
  });

test('a stream that comes while the app is leaving is refused, so that the client may ask elsewhere', async () => {
  await using app = await h2App((stream) => stream.respond({ ':status': 200 }));
  await using front = await openFront(app.port);
  using ours = client(front);
  const stream = ours.session.request({ ':method': 'POST', ':path': '/' }, { endStream: false });
  stream.on('error', () => undefined);
  await once(stream, 'response');
  (await app.session).goaway(NGHTTP2_NO_ERROR, 1);
  const late = ours.session.request({ ':path': '/late' });
  const { code } = await answerTo(late);
  assert.ok(code === NGHTTP2_REFUSED_STREAM || code === NGHTTP2_CANCEL, String(code));
  assert.deepEqual(app.asked, ['POST / app:80']);
});

test('a client that stays when the app has left is left too', async () => {
  await using app = await h2App();
  await using front = await openFront(app.port, { limits: { lingerMs: 50 } });
  const socket = await connectTo(front.port);
  socket.resume();
  socket.write(Buffer.concat([PREFACE, SETTINGS]));
  (await app.session).close();
  assert.equal((await (await front.opened).done).reason, 'OK');
});
