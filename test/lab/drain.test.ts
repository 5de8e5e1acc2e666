/** A daemon that is stopped: it drains for as long as another one has its node, and ends at once when none has. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import type { LabDaemon } from './kit/daemon.ts';
import { QUICK, openShop } from './shop.ts';
import { withoutPayload } from './watch.ts';

const LIMITS = { timeout: 240_000 };
/** Longer than any test here may take: who drains for so long has not heard that it is alone. */
const FLAGS = ['--default-mode', 'strict', '--drain-seconds', '1h'];

describe('a daemon that is told to stop, with long connections open', LIMITS, () => {
  it('and nobody in its place: cuts them with that reason and ends; pods are closed until the next one is there', async () => {
    const shop = await openShop({ daemon: { flags: FLAGS } });
    await using lab = shop.lab;
    const { client, server, daemon1, daemon2 } = shop;
    await server.serve('echo', 8081, { quiet: true });
    const sink = await server.serve('sink', 8082);
    await using held = await client.idle(server.ip, 8081, 10);
    assert.equal((await held.opened()).ok, 10);
    assert.equal((await daemon1.stop('SIGTERM')).code, 0);
    await until('them to be cut', async () => (await held.stats()).lost === 10);
    assert.equal(await lastWord(daemon1), 10);
    await cutAlone(daemon1);
    const first = randomBytes(64);
    const refused = await withoutPayload(sink, () => client.send(server.ip, 8082, { first }));
    assert.notEqual(refused.error, '');
    const next = await lab.startDaemon(1, { flags: [...QUICK, ...FLAGS] });
    await next.waitState(client, 'enrolled');
    assert.equal((await client.send(server.ip, 8082, { first })).error, '');
    await daemon2.waitForAccess(
      'the record',
      ({ security, reason }) => security === 'mutual_tls' && reason === 'OK',
    );
  });

  it('and another one in its place: they live, until that one is told to stop too', async () => {
    const shop = await openShop({ daemon: { flags: FLAGS } });
    await using lab = shop.lab;
    const { client, server, daemon1 } = shop;
    await server.serve('echo', 8081, { quiet: true });
    await using held = await client.idle(server.ip, 8081, 10);
    assert.equal((await held.opened()).ok, 10);
    const next = await lab.startNextDaemon(1, 'culvert-next', { flags: [...QUICK, ...FLAGS] });
    await next.waitState(client, 'enrolled');
    daemon1.process.signal('SIGTERM');
    await daemon1.waitForLog('that it drains', ({ msg }) => String(msg).startsWith('stopping:'));
    await using later = await client.idle(server.ip, 8081, 5);
    assert.equal((await later.opened()).ok, 5);
    assert.equal((await held.ping()).ok, 10);
    assert.equal(isAlone(daemon1), false);
    assert.equal((await next.stop('SIGTERM')).code, 0);
    assert.equal(await lastWord(daemon1), 10);
    await cutAlone(daemon1);
    await until('all to be cut', async () => (await held.stats()).lost + (await later.stats()).lost === 15);
  });

  it('and another one that crashes: they live, since that one starts again by itself', async () => {
    const shop = await openShop({ daemon: { flags: FLAGS } });
    await using lab = shop.lab;
    const { client, server, daemon1 } = shop;
    await server.serve('echo', 8081, { quiet: true });
    await server.serve('sink', 8082);
    await using held = await client.idle(server.ip, 8081, 10);
    assert.equal((await held.opened()).ok, 10);
    const next = await lab.startNextDaemon(1, 'culvert-next', { flags: [...QUICK, ...FLAGS] });
    await next.waitState(client, 'enrolled');
    daemon1.process.signal('SIGTERM');
    await daemon1.waitForLog('that it drains', ({ msg }) => String(msg).startsWith('stopping:'));
    await next.stop('SIGKILL');
    const again = await lab.startNextDaemon(1, 'culvert-again', { flags: [...QUICK, ...FLAGS] });
    await again.waitState(client, 'enrolled');
    assert.equal((await client.send(server.ip, 8082, { first: randomBytes(64) })).error, '');
    assert.equal((await held.ping()).ok, 10);
    assert.equal(isAlone(daemon1), false);
  });
});

const ALONE = 'no other daemon has this node, and none can start before this one has ended';

function isAlone(daemon: LabDaemon): boolean {
  return daemon.logs().some(({ msg }) => msg === ALONE);
}

/** How many connections it says that it cut. */
async function lastWord(daemon: LabDaemon): Promise<unknown> {
  const { cut } = await daemon.waitForLog('its last word', ({ msg }) => String(msg).startsWith('stopped;'));
  return cut;
}

async function cutAlone(daemon: LabDaemon): Promise<void> {
  await daemon.waitForAccess('a connection that was cut', (record) => {
    return record['reason'] === 'DRAINED' && String(record['detail']).includes('no other one in its place');
  });
}
