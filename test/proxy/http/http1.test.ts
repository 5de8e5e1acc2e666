import { strict as assert } from 'node:assert';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { Agent, createServer, request as ask } from 'node:http';
import type { IncomingMessage, RequestOptions, Server } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import type { Socket } from 'node:net';
import { test } from 'node:test';
import { connectTo, listening, openFront, rawApp, Transcript } from './kit.ts';
import type { Front } from './kit.ts';

const GET = 'GET / HTTP/1.1\r\nHost: app\r\n\r\n';
const DENIED = 'GET /denied HTTP/1.1\r\nHost: app\r\n\r\n';
const LARGE_MEBIBYTES = process.env['CULVERT_LONG'] === '1' ? 1_000 : 20;
const EMPTY = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n';
const REFUSAL =
  'HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 14\r\nconnection: keep-alive\r\n\r\naccess denied\n';

/** An app that tells what it was asked, and how many bytes came with it. */
async function tellingApp(): Promise<{ server: Server; port: number; asked: string[] } & AsyncDisposable> {
  const asked: string[] = [];
  const server = createServer((request, response) => {
    let bytes = 0;
    asked.push(`${request.method ?? ''} ${request.url ?? ''}`);
    request.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    request.on('end', () => {
      response.setHeader('Trailer', 'X-Sum');
      response.write(`${bytes} ${request.trailers['x-sum'] ?? '-'}`);
      response.addTrailers({ 'X-Sum': String(bytes) });
      response.end();
    });
  });
  const port = await listening(server);
  return {
    server,
    port,
    asked,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

interface Told {
  readonly status: number;
  readonly text: string;
  readonly response: IncomingMessage;
}

async function tell(front: Front, agent: Agent, options: RequestOptions, body?: Buffer): Promise<Told> {
  const request = ask({ port: front.port, agent, ...options });
  request.end(body);
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  let text = '';
  for await (const chunk of response) text += String(chunk);
  return { status: response.statusCode ?? 0, text, response };
}

test('a denied request in the middle of a connection gets 403 and no hint, and the connection lives on', async () => {
  await using app = await tellingApp();
  await using front = await openFront(app.port);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const paths = ['/one', '/denied', '/two', '/denied/too', '/three'];
  const statuses: number[] = [];
  for (const path of paths) {
    const { status, text } = await tell(front, agent, { path, method: 'POST' }, Buffer.from('hello'));
    statuses.push(status);
    assert.equal(text, status === 200 ? '5 -' : 'access denied\n');
  }
  agent.destroy();
  assert.deepEqual(statuses, [200, 403, 200, 403, 200]);
  assert.deepEqual(app.asked, ['POST /one', 'POST /two', 'POST /three']);
  assert.equal(front.relays.length, 1);
  const result = await front.relays[0]?.done;
  assert.equal(result?.reason, 'OK');
  assert.equal(result.detail, 'requests denied: 2, last by AuthorizationPolicy test/kit rule 0');
});

test('pipelined requests are answered in order, one reaches the app at a time', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port);
  const client = await connectTo(front.port);
  const heard = new Transcript(client);
  client.write(GET + DENIED + GET);
  const upstream = await app.connection;
  await upstream.has(GET);
  assert.equal(heard.text, '');
  assert.equal(upstream.text, GET);
  upstream.socket.write(EMPTY);
  await heard.has(EMPTY + REFUSAL);
  await upstream.has(GET + GET);
  upstream.socket.write(EMPTY);
  await heard.has(EMPTY + REFUSAL + EMPTY);
});

test('a WebSocket is judged once, carried both ways, and cut when it is judged again and denied', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port);
  const client = await connectTo(front.port);
  const heard = new Transcript(client);
  const offer = 'GET /chat HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n';
  const taken = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n';
  // What comes early is kept: it is a frame if the app takes the offer.
  client.write(`${offer}frame one`);
  const upstream = await app.connection;
  await upstream.has(offer);
  assert.equal(upstream.text, offer);
  upstream.socket.write(`${taken}frame two`);
  await heard.has(`${taken}frame two`);
  await upstream.has(`${offer}frame one`);
  client.write(DENIED);
  await upstream.has(`${offer}frame one${DENIED}`);
  assert.equal(front.asked.length, 1);
  front.relays[0]?.rejudge();
  client.write('still open');
  await upstream.has(`${offer}frame one${DENIED}still open`);
  front.judge = () => false;
  front.relays[0]?.rejudge();
  const result = await front.relays[0]?.done;
  assert.equal(result?.reason, 'POLICY_DENIED');
  assert.equal(front.asked.at(-1)?.path, '/chat');
});

test('a request that awaits 100 gets it from the app, and then sends its body', async () => {
  await using app = await tellingApp();
  await using front = await openFront(app.port);
  const request = ask({
    port: front.port,
    method: 'PUT',
    headers: { Expect: '100-continue', 'Content-Length': '5' },
  });
  request.flushHeaders();
  await once(request, 'continue');
  request.end('hello');
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  assert.equal(String((await response.toArray())[0]), '5 -');
});

test('an app that refuses without 100 is sent no body: it could take that for a request', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port);
  const client = await connectTo(front.port);
  const heard = new Transcript(client);
  const head = `POST / HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: ${DENIED.length}\r\n\r\n`;
  client.write(head);
  const upstream = await app.connection;
  await upstream.has(head);
  upstream.socket.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab');
  await heard.has('HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nab');
  client.write(DENIED);
  upstream.socket.write('cd');
  await once(client, 'end');
  await front.relays[0]?.done;
  assert.equal(upstream.text, head);
});

test('chunks and trailers pass both ways', async () => {
  await using app = await tellingApp();
  await using front = await openFront(app.port);
  const request = ask({ port: front.port, method: 'POST', headers: { Trailer: 'X-Sum' } });
  request.write('abc');
  request.addTrailers({ 'X-Sum': 'three' });
  request.end();
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  assert.equal((await response.toArray()).join(''), '3 three');
  assert.equal(response.trailers['x-sum'], '3');
});

test('a large body arrives whole each way', async () => {
  const digest = createHash('sha256');
  const server = createServer((request, response) => {
    request.on('data', (chunk: Buffer) => digest.update(chunk));
    request.pipe(response);
  });
  await using front = await openFront(await listening(server));
  const request = ask({ port: front.port, method: 'POST' });
  const sent = createHash('sha256');
  const back = createHash('sha256');
  const answered = once(request, 'response').then(async ([response]: IncomingMessage[]) => {
    for await (const chunk of response ?? []) back.update(chunk as Buffer);
  });
  const block = randomBytes(1 << 20);
  for (let i = 0; i < LARGE_MEBIBYTES; i++) {
    block[0] = i;
    sent.update(block);
    if (!request.write(Buffer.from(block))) await once(request, 'drain');
  }
  request.end();
  await answered;
  const wanted = sent.digest('hex');
  assert.equal(digest.digest('hex'), wanted);
  assert.equal(back.digest('hex'), wanted);
  server.close();
});

test('an app that does not read its request stops the client, and little is held', async () => {
  const paused: Socket[] = [];
  const server = createTcpServer({ pauseOnConnect: true }, (socket) => paused.push(socket));
  await using front = await openFront(await listening(server));
  const client = await connectTo(front.port);
  const size = 64 << 20;
  client.write(`POST / HTTP/1.1\r\nHost: app\r\nContent-Length: ${size}\r\n\r\n`);
  const block = Buffer.alloc(1 << 16);
  let sent = 0;
  let still = 0;
  while (still < 20) {
    const before = client.bytesWritten - client.writableLength;
    if (client.writableLength < 1 << 20 && sent < size) {
      client.write(block);
      sent += block.length;
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
    still = client.bytesWritten - client.writableLength === before ? still + 1 : 0;
  }
  const upstreamHolds = front.upstreams[0]?.writableLength ?? 0;
  assert.ok(upstreamHolds < 1 << 20, `held ${upstreamHolds}`);
  assert.ok(sent < size, `${sent} were taken`);
  for (const socket of paused) socket.destroy();
  client.destroy();
  server.close();
});

test('a client that half-closes still gets its answer, and the app hears of it', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port);
  const client = await connectTo(front.port);
  const heard = new Transcript(client);
  client.end(GET);
  const upstream = await app.connection;
  await upstream.ended;
  upstream.socket.end('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate');
  await heard.ended;
  assert.match(heard.text, /late$/);
  assert.equal((await front.relays[0]?.done)?.reason, 'OK');
});

test('a half-closed connection whose app stays silent ends', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port, { halfClosedTimeoutMs: 100 });
  const client = await connectTo(front.port);
  client.end(GET);
  await (await app.connection).ended;
  assert.equal((await front.relays[0]?.done)?.reason, 'HALF_CLOSED_TIMEOUT');
});

test('an answer that comes before the request is complete is delivered, and is the last', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port);
  const client = await connectTo(front.port);
  const heard = new Transcript(client);
  client.write('POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 1000\r\n\r\nabc');
  const upstream = await app.connection;
  await upstream.has('POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 1000\r\n\r\nabc');
  upstream.socket.write('HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n');
  await heard.ended;
  assert.equal(
    heard.text,
    'HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n',
  );
});

test('an app that breaks off its answer is not taken for one that ended it', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port);
  const client = await connectTo(front.port);
  const broken = once(client, 'error');
  client.write(GET);
  const upstream = await app.connection;
  await upstream.has(GET);
  upstream.socket.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf');
  await once(client, 'data');
  upstream.socket.end();
  const [error] = (await broken) as [NodeJS.ErrnoException];
  assert.equal(error.code, 'ECONNRESET');
  assert.equal((await front.relays[0]?.done)?.reason, 'UPSTREAM_RESET');
});

test('an app that hangs up, or speaks unasked, between requests ends the connection', async () => {
  for (const farewell of ['', EMPTY]) {
    await using app = await rawApp();
    await using front = await openFront(app.port);
    const client = await connectTo(front.port);
    const heard = new Transcript(client);
    client.write(GET);
    const upstream = await app.connection;
    await upstream.has(GET);
    upstream.socket.write(EMPTY);
    await heard.has(EMPTY);
    if (farewell === '') upstream.socket.end();
    else upstream.socket.write(farewell);
    await heard.ended;
    assert.equal(heard.text, EMPTY);
  }
});

test('a denied body beyond the bound, or one that does not come, ends the connection', async () => {
  await using app = await rawApp();
  const bodies = [
    ['Content-Length: 2000\r\n\r\n', 'close'],
    ['Transfer-Encoding: chunked\r\n\r\n7d0\r\n'.concat('x'.repeat(2_000)), 'keep-alive'],
    ['Content-Length: 500\r\n\r\nabc', 'keep-alive'],
  ] as const;
  for (const [body, connection] of bodies) {
    const discardTimeoutMs = body.endsWith('abc') ? 50 : 60_000;
    await using front = await openFront(app.port, { limits: { discardedBytes: 1_000, discardTimeoutMs } });
    const client = await connectTo(front.port);
    const heard = new Transcript(client);
    client.write(`POST /denied HTTP/1.1\r\nHost: app\r\n${body}`);
    await heard.ended;
    assert.equal(heard.text, REFUSAL.replace('keep-alive', connection));
    client.end();
    assert.equal((await front.relays.at(-1)?.done)?.bytesSent, 0);
  }
});

test('a head that does not come in time is refused', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port, { limits: { headTimeoutMs: 50 } });
  const client = await connectTo(front.port);
  const heard = new Transcript(client);
  client.write('GET / HTTP/1.1\r\nHost:');
  await heard.ended;
  assert.match(heard.text, /^HTTP\/1\.1 408 /);
});

test('an answer that lasts is cut when its request is denied meanwhile', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port);
  const client = await connectTo(front.port);
  const heard = new Transcript(client);
  client.write(GET);
  const upstream = await app.connection;
  await upstream.has(GET);
  upstream.socket.write('HTTP/1.1 200 OK\r\n\r\nevent');
  await heard.has('HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nevent');
  front.judge = () => false;
  front.relays[0]?.rejudge();
  assert.equal((await front.relays[0]?.done)?.reason, 'POLICY_DENIED');
});

test('what is judged: method, normalised path, host as sent, headers joined under their names in lower case', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port, { normalization: 'DECODE_AND_MERGE_SLASHES' });
  const client = await connectTo(front.port);
  client.write(
    'GET /a%2f%2E%2e//b?q HTTP/1.1\r\nHost: App:80\r\nX-One: a\r\nx-one: b\r\nX-Utf: \xc3\xa4\r\n\r\n',
    'latin1',
  );
  const upstream = await app.connection;
  await upstream.has('GET /b?q HTTP/1.1\r\nHost: App:80\r\nX-One: a\r\nx-one: b\r\nX-Utf: \xc3\xa4\r\n\r\n');
  const request = front.asked[0];
  assert.deepEqual([request?.method, request?.path, request?.host], ['GET', '/b', 'App:80']);
  assert.equal(request?.headers.get('x-one'), 'a,b');
  assert.equal(request.headers.get('x-utf'), 'ä');
});

test('a client that resets takes its request with it', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port);
  const client = await connectTo(front.port);
  client.write(GET);
  const upstream = await app.connection;
  await upstream.has(GET);
  const broken = once(upstream.socket, 'error');
  client.resetAndDestroy();
  await broken;
  assert.equal((await front.relays[0]?.done)?.reason, 'CLIENT_RESET');
});

test('cut ends both ends with its reason', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port);
  const client = await connectTo(front.port);
  client.write(GET);
  const upstream = await app.connection;
  await upstream.has(GET);
  const broken = Promise.all([once(client, 'error'), once(upstream.socket, 'error')]);
  front.relays[0]?.cut('POLICY_CHANGED', 'a test');
  await broken;
  const result = await front.relays[0]?.done;
  assert.deepEqual([result?.reason, result?.detail], ['POLICY_CHANGED', 'a test']);
});
