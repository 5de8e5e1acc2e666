/**
 * Requests of HTTP/1, whole and mutilated, in random pieces, through the HTTP relay to a node server: what that one's own
 * parser sees, and what ours reads in the bytes that reached it, are the requests that were allowed. CULVERT_FUZZ sets
 * the number of inputs.
 */
import { strict as assert } from 'node:assert';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { bodyReader } from '../../daemon/proxy/http/body.ts';
import { HeadReader } from '../../daemon/proxy/http/head.ts';
import { HTTP_LIMITS } from '../../daemon/proxy/http/limits.ts';
import { parseRequest } from '../../daemon/proxy/http/request.ts';
import { connectTo, gone, listening, openFront } from '../proxy/http/kit.ts';
import type { Front } from '../proxy/http/kit.ts';

const numRuns = Number(process.env['CULVERT_FUZZ'] ?? 300);

const HOST = 'Host: a\r\n';
const REQUESTS = [
  `GET / HTTP/1.1\r\n${HOST}\r\n`,
  `GET /x/../y?q HTTP/1.1\r\n${HOST}X: 1\r\n\r\n`,
  `GET /denied HTTP/1.1\r\n${HOST}\r\n`,
  `POST /length HTTP/1.1\r\n${HOST}Content-Length: 5\r\n\r\nhello`,
  `POST /chunks HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-T: 1\r\n\r\n`,
  `POST /denied/chunks HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`,
  `POST /denied/length HTTP/1.1\r\n${HOST}Content-Length: 5\r\n\r\nhello`,
  `HEAD /head HTTP/1.1\r\n${HOST}\r\n`,
  `GET /upgrade HTTP/1.1\r\n${HOST}Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n\r\n`,
];
const TOKENS = [
  ...[
    '\r',
    '\n',
    '\r\n',
    '\0',
    ' ',
    '\t',
    ':',
    ';',
    ',',
    '0',
    '%00',
    '%2e%2e/',
    'chunked',
    '\xff',
    '\r\n\r\n',
    '0\r\n\r\n',
  ],
  'Transfer-Encoding: chunked\r\n',
  'Content-Length: 5\r\n',
  'Content-Length: 0\r\n',
  'Host: b\r\n',
  'Connection: close\r\n',
  'Expect: 100-continue\r\n',
  `GET /denied HTTP/1.1\r\n${HOST}\r\n`,
];

interface Cut {
  readonly at: number;
  readonly drop: number;
  readonly put: string;
}

const cut: fc.Arbitrary<Cut> = fc.record({
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  drop: fc.nat({ max: 3 }),
  put: fc.constantFrom('', ...TOKENS),
});
const input = fc.record({
  requests: fc.array(fc.constantFrom(...REQUESTS), { minLength: 1, maxLength: 5 }),
  cuts: fc.array(cut, { maxLength: 3 }),
  splits: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 6 }),
});

function mutilate(text: string, cuts: readonly Cut[]): string {
  return cuts.reduce((was, { at, drop, put }) => {
    const from = Math.floor(at * was.length);
    return was.slice(0, from) + put + was.slice(from + drop);
  }, text);
}

/** What node's parser saw on the connection at hand, and the bytes of it. */
let seen: string[] = [];
let raw: Buffer[] = [];
let errors: string[] = [];
const server = createServer((request, response) => {
  seen.push(`${request.method ?? ''} ${(request.url ?? '').replace(/\?.*/, '')}`);
  request.resume();
  request.on('error', () => undefined);
  request.on('end', () => response.end('ok'));
});
server.on('connection', (socket) => socket.on('data', (chunk: Buffer) => raw.push(chunk)));
server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
  errors.push(error.code ?? error.message);
  socket.destroy();
});
let front: Front;
before(async () => {
  server.keepAliveTimeout = 0;
  front = await openFront(await listening(server), { sniffTimeoutMs: 1_000 });
  // node's parser knows these methods; what it does not know is no request to it.
  front.judge = (request) =>
    request !== undefined && /^(GET|POST|HEAD)$/.test(request.method) && !request.path.startsWith('/denied');
});
after(async () => {
  await front[Symbol.asyncDispose]();
  server.closeAllConnections();
  server.close();
});

/** The requests that our own parser finds in bytes; what follows one that is not whole is not read. */
function read(bytes: Buffer): string[] {
  const found: string[] = [];
  for (let rest: Buffer | undefined = bytes; rest !== undefined; ) {
    const head = new HeadReader(HTTP_LIMITS).push(rest);
    if (head === undefined) break;
    assert.ok(head.ok);
    const request = parseRequest(head.lines, 'NONE', HTTP_LIMITS);
    assert.ok(request.ok, 'what goes upstream is never refused here');
    found.push(`${request.http.method} ${request.http.path}`);
    const body = bodyReader(request.framing, HTTP_LIMITS);
    rest = head.rest;
    if (body.done) continue;
    const taken = body.push(rest ?? Buffer.alloc(0));
    assert.ok(taken.ok);
    rest = taken.done ? taken.rest : undefined;
  }
  return found;
}

test('an app sees the requests that were allowed, and no others', { timeout: 3_600_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(input, async ({ requests, cuts, splits }) => {
      [seen, raw, errors] = [[], [], []];
      front.asked.length = 0;
      front.relays.length = 0;
      const bytes = Buffer.from(mutilate(requests.join(''), cuts), 'latin1');
      const socket = await connectTo(front.port);
      socket.resume();
      let from = 0;
      for (const end of [...splits.map((at) => Math.floor(at * bytes.length)), bytes.length].sort(
        (a, b) => a - b,
      )) {
        if (end > from) socket.write(bytes.subarray(from, end));
        from = end;
        await new Promise((resolve) => setImmediate(resolve));
      }
      socket.end();
      await gone(socket);
      const result = await front.relays[0]?.done;
      const allowed = front.asked
        .filter((request) => front.judge(request))
        .map((request) => `${request?.method ?? ''} ${request?.path ?? ''}`);
      // A request whose connection broke may not have arrived; nothing else may be missing, nothing be there besides.
      const arrived = result?.reason === 'OK' ? allowed.length : Math.min(seen.length, allowed.length);
      assert.deepEqual(seen, allowed.slice(0, arrived));
      const ours = read(Buffer.concat(raw));
      assert.deepEqual(ours, allowed.slice(0, ours.length));
      if (result?.reason === 'OK') assert.equal(ours.length, allowed.length);
      assert.deepEqual(
        errors.filter((code) => !['ECONNRESET', 'HPE_INVALID_EOF_STATE'].includes(code)),
        [],
      );
    }),
    { numRuns },
  );
});
