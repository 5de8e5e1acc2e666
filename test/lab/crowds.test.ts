/** Peers that stop reading, and very many connections at once: memory stays bounded, all others go on. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import type { Sending } from './kit/apps.ts';
import type { LabDaemon } from './kit/daemon.ts';
import { settle } from './ledger.ts';
import { IS_LONG, openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const MEBIBYTE = 1_048_576;
const BULK = (IS_LONG ? 1_024 : 64) * MEBIBYTE;
/** Of streams that stall at once: each may make each daemon hold no more than its window and a few chunks. */
const STALLED = 8;
const STREAM_WINDOW = 4 * MEBIBYTE;
const CROWD = IS_LONG ? 15_000 : 1_000;

describe('a peer stops reading in the middle of a stream', { timeout: 1_200_000 }, () => {
  let shop: Shop;
  before(async () => {
    shop = await openShop();
    await shop.server.serve('http', 8080);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it(`the server, in ${STALLED} streams of ${BULK / MEBIBYTE} MiB: memory is bounded, others go on, all arrives`, async (context) => {
    const { client, server } = shop;
    const sink = await server.serve('sink', 9001);
    const before_ = memoryOf(shop);
    const sendings = await Promise.all(
      Array.from({ length: STALLED }, () =>
        client.startSend(server.ip, 9001, { bytes: BULK, timeoutMs: 600_000 }),
      ),
    );
    await until('the middle of the streams', async () => (await sink.stats()).received > STALLED * MEBIBYTE);
    process.kill(sink.process.pid, 'SIGSTOP');
    const stopped = await untilStill(sendings);
    assert.ok(
      stopped.every((sent) => sent < BULK),
      'a stream was sent whole to a peer that does not read',
    );
    context.diagnostic(assertBounded(shop, before_));
    for (let request = 0; request < 20; request++) {
      const reply = await client.request(server.ip, 8080, { body: randomBytes(64) });
      assert.equal(reply.status, 200, JSON.stringify(reply.result));
    }
    process.kill(sink.process.pid, 'SIGCONT');
    for (const sending of sendings) {
      const result = await sending.result(600_000);
      assert.deepEqual([result.error, result.sent], ['', BULK]);
    }
    const digests = new Set(sink.closed().map((seen) => seen.receivedDigest));
    const sent = new Set(await Promise.all(sendings.map(async (one) => (await one.result()).sentDigest)));
    assert.deepEqual(digests, sent);
    await settle({ client: shop.daemon1, server: shop.daemon2 }, 9001, STALLED);
  });

  it(`the client, in ${STALLED} streams of ${BULK / MEBIBYTE} MiB: memory is bounded, others go on, all arrives`, async (context) => {
    const { client, server } = shop;
    const source = await server.serve('source', 9002, { bytes: BULK });
    const before_ = memoryOf(shop);
    const sendings = await Promise.all(
      Array.from({ length: STALLED }, () => client.startSend(server.ip, 9002, { timeoutMs: 600_000 })),
    );
    const received = async (): Promise<number[]> =>
      Promise.all(sendings.map(async (one) => (await one.progress()).received));
    await until('the middle of the streams', async () => (await received()).every((bytes) => bytes > 0));
    for (const sending of sendings) process.kill(sending.process.pid, 'SIGSTOP');
    await untilMemoryIsStill(shop);
    context.diagnostic(assertBounded(shop, before_));
    const other = await shop.lab.pod({ name: `other-${randomBytes(2).toString('hex')}`, node: 1 });
    await shop.daemon1.waitState(other, 'enrolled');
    for (const from of [client, other])
      for (let request = 0; request < 10; request++)
        assert.equal((await from.request(server.ip, 8080)).status, 200);
    for (const sending of sendings) process.kill(sending.process.pid, 'SIGCONT');
    for (const sending of sendings) {
      const result = await sending.result(600_000);
      assert.deepEqual([result.error, result.received], ['', BULK]);
    }
    await until('all to be closed', () => source.closed().length === STALLED);
    for (const seen of source.closed()) assert.equal(seen.error, '');
    await settle({ client: shop.daemon1, server: shop.daemon2 }, 9002, STALLED);
  });
});

describe('very many connections at once', { timeout: 1_200_000 }, () => {
  let shop: Shop;
  before(async () => {
    shop = await openShop();
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it(`${CROWD}, or what the open-file limit allows: all are answered, stay, and end with a record each`, async (context) => {
    const { client, server, daemon1, daemon2 } = shop;
    await server.serve('echo', 9003, { quiet: true });
    const before_ = memoryOf(shop);
    const count = Math.min(CROWD, await allowed(daemon1), await allowed(daemon2));
    const idle = await client.idle(server.ip, 9003, count, 64);
    const startedMs = performance.now();
    const opened = await idle.opened(600_000);
    const tookMs = Math.round(performance.now() - startedMs);
    assert.deepEqual([opened.ok, opened.failed], [count, 0], JSON.stringify(opened));
    const pinged = await idle.ping();
    assert.deepEqual([pinged.ok, pinged.open], [count, count]);
    const [client_, server_] = memoryOf(shop).map((kb, index) => kb - (before_[index] ?? 0));
    context.diagnostic(
      `${count} connections held of ${CROWD}, opened in ${tookMs} ms; they took ${client_} KiB at the client's daemon, ${server_} KiB at the server's`,
    );
    await idle[Symbol.asyncDispose]();
    await settle({ client: daemon1, server: daemon2 }, 9003, count);
  });
});

/** Resident memory of both daemons, KiB. */
function memoryOf({ daemon1, daemon2 }: Shop): readonly number[] {
  return [daemon1.process.rssKb(), daemon2.process.rssKb()];
}

/** What eight windows and the allocator's slack explain, and eight whole streams would not. Says how much it was. */
function assertBounded(shop: Shop, before_: readonly number[]): string {
  const grown = memoryOf(shop).map((kb, index) => (kb - (before_[index] ?? 0)) / 1_024);
  const most = (2 * STALLED * STREAM_WINDOW) / MEBIBYTE + 64;
  const text = `the daemons grew by ${grown.map((g) => Math.round(g)).join(' and ')} MiB`;
  assert.ok(
    grown.every((mebibytes) => mebibytes < most),
    `${text}, more than ${most}`,
  );
  return text;
}

/** Waits until neither daemon has grown by a MiB in a second: nothing flows in any more. */
async function untilMemoryIsStill(shop: Shop): Promise<void> {
  let last: readonly number[] = [0, 0];
  const isStill = (): boolean => {
    const now = memoryOf(shop);
    const same = now.every((kb, index) => kb - (last[index] ?? 0) < 1_024);
    last = now;
    return same;
  };
  await until('the daemons to stand still', isStill, { everyMs: 1_000, timeoutMs: 60_000 });
}

/** Waits until no stream has moved for a second; gives how far each came. */
async function untilStill(sendings: readonly Sending[]): Promise<number[]> {
  let last: number[] = [];
  const isStill = async (): Promise<boolean> => {
    const now = await Promise.all(sendings.map(async (sending) => (await sending.progress()).sent));
    const same = now.every((sent, index) => sent === last[index]);
    last = now;
    return same;
  };
  await until('the streams to stand still', isStill, { everyMs: 1_000, timeoutMs: 60_000 });
  return last;
}

/** How many connections a daemon takes from one pod. */
async function allowed(daemon: LabDaemon): Promise<number> {
  const line = /^Max open files\s+(\d+)/m.exec(
    (await daemon.pod.exec(['cat', '/proc/self/limits'])).lines.join('\n'),
  );
  // A share of it is the daemon's own, and a tenth is other pods'.
  return Math.floor(0.85 * (Number(line?.[1]) - 1_024));
}
