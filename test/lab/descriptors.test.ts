/** The daemon has no file descriptor left: it can't see, and what it can't see it does not let go (issue 6, 'Us'). */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Server } from './kit/apps.ts';
import type { LabDaemon } from './kit/daemon.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { statesOf } from './watch.ts';

const run = promisify(execFile);
/** Several rescans of everything. */
const SHORTAGE_MS = 4_000;

/** The daemon keeps what it has open, and gets no more. Returns the end of it. */
async function takeDescriptors(daemon: LabDaemon): Promise<() => Promise<void>> {
  const limit = (soft: number): Promise<unknown> =>
    run('prlimit', ['--pid', String(daemon.process.pid), `--nofile=${soft}:`]);
  await limit(3);
  return async () => {
    await limit(20_000);
  };
}

describe('the daemon is out of file descriptors', { timeout: 300_000 }, () => {
  let shop: Shop;
  let sink: Server;
  before(async () => {
    shop = await openShop();
    sink = await shop.server.serve('sink', 8081);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it('no pod is let go, nothing goes in the clear, probes pass, a pod that ends meanwhile ends nothing else', async () => {
    const { lab, client, server, daemon1, daemon2 } = shop;
    const brief = await lab.pod({ name: 'brief', node: 1 });
    await daemon1.waitState(brief, 'enrolled');
    await using wire = await lab.capture([lab.fabricPoint, client.capturePoint, server.capturePoint]);
    const giveBack = [await takeDescriptors(daemon1), await takeDescriptors(daemon2)];
    await sleep(SHORTAGE_MS / 2);
    await brief.delete();
    await sleep(SHORTAGE_MS / 2);
    const marker = randomBytes(64);
    await client.send(server.ip, 8081, { first: marker, timeoutMs: 2_000 });
    const probe = await server.node.probe('tcp', server.ip, 8081, 10_000);
    for (const end of giveBack) await end();

    assert.deepEqual(await wire.seenAt(marker), []);
    assert.equal(probe, '', "the kubelet's probe");
    await daemon1.waitState(client, 'enrolled');
    await daemon2.waitState(server, 'enrolled');
    for (const [daemon, pod] of [
      [daemon1, client],
      [daemon2, server],
    ] as const)
      assert.equal(statesOf(daemon, pod).at(-1), 'enrolled', 'it left and came back');
    const before = (await sink.stats()).received;
    assert.equal((await client.send(server.ip, 8081, { first: randomBytes(64) })).error, '');
    assert.ok((await sink.stats()).received >= before);
    await daemon1.waitState(brief, 'none');
  });
});
