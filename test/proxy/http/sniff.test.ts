import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { duplexPair } from 'node:stream';
import { readHello } from '../../../daemon/proxy/http/sni.ts';
import { connectTo, gone, openFront, rawApp, Transcript } from './kit.ts';

/** The ClientHello that node's TLS sends. */
async function helloFor(servername: string | undefined): Promise<Buffer> {
  const [near, far] = duplexPair();
  const tls = connectTls({ socket: near, ...(servername === undefined ? {} : { servername }) });
  tls.on('error', () => undefined);
  const [first] = (await once(far, 'data')) as [Buffer];
  tls.destroy();
  return first;
}

/** The same message in records of `size` bytes. */
function inRecords(hello: Buffer, size: number): Buffer {
  const message = hello.subarray(5);
  const records: Buffer[] = [];
  for (let at = 0; at < message.length; at += size) {
    const part = message.subarray(at, at + size);
    records.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 0xff]), part);
  }
  return Buffer.concat(records);
}

test('bytes that are not HTTP are cut when that is denied, and none reach the app', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port);
  const tls = await helloFor('app.example');
  for (const bytes of [Buffer.from('SSH-2.0-x\r\n'), tls, Buffer.from([0, 1, 2]), Buffer.from('hello\n')]) {
    const client = await connectTo(front.port);
    const broken = gone(client);
    client.write(bytes);
    await broken;
    const result = await front.relays.at(-1)?.done;
    assert.equal(result?.reason, 'POLICY_DENIED');
    assert.equal(result.bytesSent, 0);
  }
  assert.deepEqual(front.asked, [undefined, undefined, undefined, undefined]);
  assert.deepEqual(front.servers, [undefined, 'app.example', undefined, undefined]);
});

test('where they are allowed they are carried from the first byte on, also a whole half-closed message', async () => {
  for (const bytes of ['hello\n', 'no line end', '']) {
    await using app = await rawApp();
    await using front = await openFront(app.port);
    front.judge = () => true;
    const client = await connectTo(front.port);
    const heard = new Transcript(client);
    client.end(bytes);
    const upstream = await app.connection;
    await upstream.ended;
    assert.equal(upstream.text, bytes);
    upstream.socket.end('bye');
    await heard.ended;
    assert.equal(heard.text, 'bye');
    const result = await front.relays[0]?.done;
    assert.deepEqual([result?.reason, result?.bytesSent, result?.bytesReceived], ['OK', bytes.length, 3]);
  }
});

test('an app that speaks first is not HTTP: judged before the client hears it', async () => {
  for (const allowed of [true, false]) {
    await using app = await rawApp();
    await using front = await openFront(app.port);
    front.judge = () => allowed;
    const client = await connectTo(front.port);
    const heard = new Transcript(client);
    const upstream = await app.connection;
    upstream.socket.write('220 ready\r\n');
    if (allowed) await heard.has('220 ready\r\n');
    else await gone(client);
    assert.equal(heard.text, allowed ? '220 ready\r\n' : '');
  }
});

test('a client that stays silent is not HTTP after sniffTimeout', async () => {
  for (const first of ['', 'GET / HT']) {
    await using app = await rawApp();
    await using front = await openFront(app.port, { sniffTimeoutMs: 50 });
    const client = await connectTo(front.port);
    client.write(first);
    await gone(client);
    assert.deepEqual(front.asked, [undefined]);
    assert.equal((await front.relays[0]?.done)?.bytesSent, 0);
  }
});

test('a tunnel of bytes that are not HTTP is judged again with the name that TLS asked for', async () => {
  await using app = await rawApp();
  await using front = await openFront(app.port);
  front.judge = () => true;
  const client = await connectTo(front.port);
  client.write(await helloFor('One.Example'));
  const upstream = await app.connection;
  await once(upstream.socket, 'data');
  front.judge = () => false;
  front.relays[0]?.rejudge();
  assert.equal((await front.relays[0]?.done)?.reason, 'POLICY_DENIED');
  assert.deepEqual(front.servers, ['one.example', 'one.example']);
});

test('a ClientHello that is cut up is read all the same; one that does not come whole is refused', async () => {
  const hello = await helloFor('app.example');
  for (const size of [1, 3, 5, 100]) {
    const records = inRecords(hello, size);
    assert.deepEqual(readHello(records, 65_536), { kind: 'hello', name: 'app.example' });
    for (let end = 0; end < records.length; end += 97)
      assert.deepEqual(readHello(records.subarray(0, end), 65_536), { kind: 'more' });
  }
  assert.deepEqual(readHello(await helloFor(undefined), 65_536), { kind: 'hello', name: undefined });
  assert.deepEqual(readHello(hello, 100), { kind: 'broken' });
  await using app = await rawApp();
  await using front = await openFront(app.port, { sniffTimeoutMs: 50 });
  front.judge = () => true;
  const client = await connectTo(front.port);
  client.write(hello.subarray(0, 40));
  await gone(client);
  const result = await front.relays[0]?.done;
  assert.deepEqual([result?.reason, result?.bytesSent, front.asked.length], ['HTTP_AMBIGUOUS', 0, 0]);
});
