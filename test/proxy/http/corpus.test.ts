import { strict as assert } from 'node:assert';
import { createServer } from 'node:net';
import type { Socket } from 'node:net';
import { after, before, test } from 'node:test';
import { REQUEST_CASES } from './corpus/requests.ts';
import { RESPONSE_CASES } from './corpus/responses.ts';
import { connectTo, listening, openFront } from './kit.ts';
import type { Front } from './kit.ts';

/** What the app sends for each request that came whole, and what it got. */
interface App {
  port: number;
  /** Each connection's bytes. */
  got: string;
  expected: readonly string[];
  answer: string;
  /** It closes behind its first answer. */
  closes: boolean;
}

const app: App = { port: 0, got: '', expected: [], answer: '', closes: false };
const server = createServer({ allowHalfOpen: true }, (socket) => serve(socket));
let front: Front;

/** Knows what should come, so that it needs no parser of its own to answer. */
function serve(socket: Socket): void {
  let answered = 0;
  socket.on('error', () => undefined);
  socket.on('data', (chunk: Buffer) => {
    app.got += chunk.toString('latin1');
    while (answered < app.expected.length) {
      if (app.got.length < app.expected.slice(0, answered + 1).join('').length) return;
      answered += 1;
      socket.write(app.answer, 'latin1');
      if (app.closes) socket.end();
    }
  });
  socket.on('end', () => socket.end());
}

before(async () => {
  app.port = await listening(server);
  front = await openFront(app.port);
});
after(async () => {
  await front[Symbol.asyncDispose]();
  server.close();
});

/** Sends `bytes` and FIN. @returns all that came back until the other side was done. */
async function say(bytes: string): Promise<string> {
  const socket = await connectTo(front.port);
  let heard = '';
  socket.on('data', (chunk: Buffer) => {
    heard += chunk.toString('latin1');
  });
  const over = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  socket.end(Buffer.from(bytes, 'latin1'));
  await over;
  await front.relays.at(-1)?.done;
  return heard;
}

test('the corpus has at least 60 cases', () => assert.ok(REQUEST_CASES.length + RESPONSE_CASES.length >= 60));

for (const { name, bytes, forwarded, refused, isOpaque, isSpoiled } of REQUEST_CASES)
  test(`request: ${name}`, { timeout: 20_000 }, async () => {
    Object.assign(app, {
      got: '',
      expected: isSpoiled === true ? [] : forwarded,
      answer: 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n',
      closes: false,
    });
    const asked = front.asked.length;
    const heard = await say(bytes);
    if (isSpoiled === true) assert.ok(forwarded.join('').startsWith(app.got), app.got);
    else assert.equal(app.got, forwarded.join(''));
    const allowed = front.asked.slice(asked).filter((request) => front.judge(request));
    assert.equal(allowed.length, forwarded.length);
    const statuses = [...heard.matchAll(/^HTTP\/1\.1 (\d+)/gm)].map(([, status]) => Number(status));
    if (isOpaque === true) assert.equal(heard, '');
    else if (refused !== undefined) assert.equal(statuses.at(-1), refused);
    else
      assert.ok(statuses.every((status) => status === 200 || status === 403) && statuses.length > 0, heard);
  });

for (const { name, request, bytes, heard, closes } of RESPONSE_CASES)
  test(`answer: ${name}`, { timeout: 20_000 }, async () => {
    Object.assign(app, { got: '', expected: [request], answer: bytes, closes: closes === true });
    const all = await say(request);
    if (heard === 502) assert.match(all, /^HTTP\/1\.1 502 Bad Gateway\r\n/);
    else assert.equal(all, heard);
  });
