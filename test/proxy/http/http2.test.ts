import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { constants } from 'node:http2';
import type { ClientHttp2Stream, OutgoingHttpHeaders } from 'node:http2';
import { test } from 'node:test';
import { answerTo, client, count, h2App, tell } from './h2.kit.ts';
import { openFront } from './kit.ts';

const {
  NGHTTP2_INADEQUATE_SECURITY,
  NGHTTP2_CANCEL,
  NGHTTP2_ENHANCE_YOUR_CALM,
  NGHTTP2_NO_ERROR,
  NGHTTP2_REFUSED_STREAM,
} = constants;

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
