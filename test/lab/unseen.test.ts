/** A pod's object is not there (deleted with force, late, its file broken) while the pod lives on: it stays closed. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { QUICK, openShop } from './shop.ts';
import type { Shop } from './shop.ts';

/** Longer than a pod takes to leave, and several rescans. */
const LEFT_MS = 3_000;

describe('an enrolled pod that the cluster does not list', { timeout: 300_000 }, () => {
  let shop: Shop;
  before(async () => {
    shop = await openShop();
    await shop.server.serve('sink', 8081);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  /** Sends a marker from the client, and says where on the wire it was seen in the clear. */
  async function seenInTheClear(): Promise<unknown> {
    const { lab, client, server } = shop;
    await using wire = await lab.capture([lab.fabricPoint, client.capturePoint, server.capturePoint]);
    const marker = randomBytes(64);
    await client.send(server.ip, 8081, { first: marker, timeoutMs: 2_000 });
    return await wire.seenAt(marker);
  }

  it('stays captured while its processes run', async () => {
    const { lab, client, daemon1 } = shop;
    await lab.cluster.remove(client.object());
    await sleep(LEFT_MS);
    assert.deepEqual(await seenInTheClear(), []);
    await lab.cluster.apply(client.object());
    await daemon1.waitState(client, 'enrolled');
  });

  it('stays closed when the daemon starts and has not heard of it, until it has', async () => {
    const { lab, client, daemon1 } = shop;
    await daemon1.stop('SIGKILL');
    await lab.cluster.remove(client.object());
    Object.assign(shop, { daemon1: await lab.startDaemon(1, { flags: QUICK }) });
    await sleep(LEFT_MS);
    assert.deepEqual(await seenInTheClear(), []);
    await lab.cluster.apply(client.object());
    await shop.daemon1.waitState(client, 'enrolled');
    assert.equal((await client.send(shop.server.ip, 8081, { first: randomBytes(64) })).error, '');
  });

  it('is forgotten once it has ended', async () => {
    const { lab, client, daemon1 } = shop;
    await daemon1.stop('SIGKILL');
    await lab.cluster.remove(client.object());
    Object.assign(shop, { daemon1: await lab.startDaemon(1, { flags: QUICK }) });
    await client.delete({ keepObject: true });
    await sleep(LEFT_MS);
    const pins = await shop.daemon1.node.must(['ls', '/sys/fs/bpf/culvert/v1/netns']);
    assert.ok(!pins.includes(client.uid), pins);
  });
});
