import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { test } from 'node:test';
import { h2App } from './h2.kit.ts';
import { connectTo, gone, openFront, Transcript } from './kit.ts';

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

test('a client that stays when the app has left is left too', async () => {
  await using app = await h2App();
  await using front = await openFront(app.port, { limits: { lingerMs: 50 } });
  const socket = await connectTo(front.port);
  socket.resume();
  socket.write(Buffer.concat([PREFACE, SETTINGS]));
  (await app.session).close();
  assert.equal((await (await front.opened).done).reason, 'OK');
});
