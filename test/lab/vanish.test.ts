/** The tunnel's other node vanishes in the middle of a stream: the client hears of it in time, and the record says why. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import type { Sending, Server } from './kit/apps.ts';
import type { LogRecord } from './kit/daemon.ts';
import { ip } from './kit/net.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const FLAGS = ['--ping-interval', '500ms', '--ping-timeout', '1500ms', '--connect-timeout', '2s'];

describe('the other node vanishes mid-stream', { timeout: 300_000 }, () => {
  let shop: Shop;
  let echo: Server;
  before(async () => {
    shop = await openShop({ daemon: { flags: FLAGS } });
    echo = await shop.server.serve('echo', 8080);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  /** A connection that has carried bytes both ways and stays open: one silent, one in full flow. */
  async function openTwo(): Promise<readonly [Sending, Sending]> {
    const { client, server } = shop;
    const quiet = await client.startSend(server.ip, 8080, {
      first: randomBytes(64),
      halfClose: false,
      timeoutMs: 120_000,
    });
    const busy = await client.startSend(server.ip, 8080, { bytes: 2 ** 40, timeoutMs: 120_000 });
    for (const sending of [quiet, busy])
      await until('bytes both ways', async () => (await sending.progress()).received > 0);
    return [quiet, busy];
  }

  /** Expects both to be reset, with a record each that `isTheirs` takes. */
  async function endWithReset(
    sendings: readonly Sending[],
    from: number,
    isTheirs: (record: LogRecord) => boolean,
  ): Promise<void> {
    for (const sending of sendings) {
      const result = await sending.result(30_000);
      assert.equal(result.error, 'ECONNRESET', JSON.stringify({ ...result, head: '' }));
    }
    const fresh = (): LogRecord[] =>
      shop.daemon1
        .accessRecords()
        .slice(from)
        .filter((r) => r['direction'] === 'outbound');
    const detail = (): string => JSON.stringify(fresh(), undefined, 1);
    await until('a record for each', () => fresh().filter(isTheirs).length === sendings.length, { detail });
  }

  async function worksAgain(): Promise<void> {
    const { client, server } = shop;
    await until('new connections', async () => {
      const result = await client.send(server.ip, 8080, { first: randomBytes(64), timeoutMs: 10_000 });
      return result.error === '' && result.received === 64;
    });
  }

  it('its cable is pulled: both ends find out by PING, and it works again when it is back', async () => {
    const { lab, client, server, daemon1, daemon2 } = shop;
    const open = await openTwo();
    const from = daemon1.accessRecords().length;
    const fromServer = echo.closed().length;
    await ip(lab.fabricPoint.netns, ['link set n2 nomaster']);
    await endWithReset(
      open,
      from,
      (r) => r['reason'] === 'TUNNEL_LOST' && String(r['detail']).includes('no answer to PING'),
    );
    // A new connection is refused within the connect timeout, not left to hang.
    const refused = await client.send(server.ip, 8080, { first: randomBytes(64), timeoutMs: 30_000 });
    assert.equal(refused.error, 'ECONNRESET');
    await daemon1.waitForAccess('its record', (r) => r['reason'] === 'TUNNEL_CONNECT_FAILED');
    await until('the server to hear of it too', () => echo.closed().length === fromServer + 2);
    const lost = (r: LogRecord): boolean => r['direction'] === 'inbound' && r['reason'] === 'TUNNEL_LOST';
    await until('its records', () => daemon2.accessRecords().filter(lost).length === 2);

    await ip(lab.fabricPoint.netns, ['link set n2 master br0']);
    await worksAgain();
  });

  it('its daemon is killed: the client hears of it at once, and is refused until the next daemon', async () => {
    const { lab, client, server, daemon1 } = shop;
    const open = await openTwo();
    const from = daemon1.accessRecords().length;
    await shop.daemon2.stop('SIGKILL');
    await endWithReset(open, from, (r) => r['reason'] === 'TUNNEL_LOST');
    const refused = await client.send(server.ip, 8080, { first: randomBytes(64), timeoutMs: 30_000 });
    assert.equal(refused.error, 'ECONNRESET');
    shop = { ...shop, daemon2: await lab.startDaemon(2, { flags: FLAGS }) };
    await shop.daemon2.waitState(server, 'enrolled');
    await worksAgain();
  });

  it('its pod is deleted: the connections end, whatever its kernel found time to say', async () => {
    const { server, daemon1 } = shop;
    const open = await openTwo();
    await server.delete();
    const [quiet, busy] = await Promise.all(open.map((sending) => sending.result(30_000)));
    // The app had read all of the quiet one: its kernel ends that in order.
    assert.notEqual(quiet?.end, 'timeout', JSON.stringify(quiet));
    // EPIPE when the pod's kernel found time for a FIN before its reset.
    assert.match(busy?.error ?? '', /^(ECONNRESET|EPIPE)$/, JSON.stringify({ ...busy, head: '' }));
    // By their ports: records of the test before may still be on their way.
    const ports = [quiet, busy].map((result) => `:${result?.local.split(':').at(-1) ?? ''}`);
    const fresh = (): LogRecord[] =>
      daemon1
        .accessRecords()
        .filter(
          (r) => r['direction'] === 'outbound' && ports.some((port) => String(r['src.addr']).endsWith(port)),
        );
    const detail = (): string => JSON.stringify(fresh(), undefined, 1);
    await until('a record for each', () => fresh().length === 2, { detail });
    assert.ok(fresh().some((r) => ['TUNNEL_LOST', 'UPSTREAM_RESET'].includes(String(r['reason']))));
  });
});
