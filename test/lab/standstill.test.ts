/** A thread of the daemon stands still: new connections go to the others, and the daemon ends when it is told to. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../support/wait.ts';
import type { LogRecord } from './kit/daemon.ts';
import { openShop } from './shop.ts';

const isStill = (record: LogRecord): boolean =>
  String(record['msg']).startsWith('workers that stand still') && JSON.stringify(record['workers']) === '[0]';
const isTurning = (record: LogRecord): boolean =>
  String(record['msg']).startsWith('workers that stand still') && JSON.stringify(record['workers']) === '[]';

describe('a worker stands still', { timeout: 300_000 }, () => {
  it('for a while: new connections go past it, and to it again when it turns', async () => {
    const shop = await openShop({ daemon: { inspect: true, flags: ['--workers', '2'] } });
    await using lab = shop.lab;
    const { client, server, daemon1, daemon2 } = shop;
    await server.serve('http', 8080, { quiet: true });
    assert.equal((await client.request(server.ip, 8080)).status, 200);
    await using one = await daemon1.inspect();
    await using two = await daemon2.inspect();
    const blocked = [
      one.block(20_000, await one.worker('worker-0')),
      two.block(20_000, await two.worker('worker-0')),
    ];
    const over = Promise.all(blocked);
    over.catch(() => undefined); // whoever waits for it hears of it
    for (const daemon of [daemon1, daemon2]) await daemon.waitForLog('that it is noticed', isStill);
    const metric = /^culvert_kernel_events_total\{[^}]*workers_stood_still[^}]*\} 1$/m;
    await until('the metric', async () => metric.test(await daemon1.metrics()));
    // Both ends choose among workers: half of these would be lost, or wait for the end of it.
    for (let request = 0; request < 20; request++) {
      const reply = await client.request(server.ip, 8080, { timeoutMs: 10_000 });
      assert.equal(reply.status, 200, JSON.stringify(reply.result));
    }
    assert.ok(!daemon1.logs().some(isTurning), 'it turned already: the test proves nothing');
    const late = await lab.pod({ name: 'late', node: 1 });
    await daemon1.waitState(late, 'enrolled');
    await over;
    for (const daemon of [daemon1, daemon2]) await daemon.waitForLog('that it turns again', isTurning);
    await using idle = await client.idle(server.ip, 8080, 40);
    await until('it to have its share again', async () => {
      const open = JSON.stringify(await daemon1.admin('/connections'));
      return open.includes(`"${daemon1.node.name}-0-`);
    });
    assert.equal((await idle.stats()).failed, 0);
  });

  it('while the daemon stops: the daemon ends all the same, soon after its drain time', async () => {
    const flags = ['--workers', '2', '--drain-seconds', '1s'];
    const shop = await openShop({ daemon: { inspect: true, flags } });
    try {
      await using inspector = await shop.daemon1.inspect();
      void inspector.block(40_000, await inspector.worker('worker-0')).catch(() => undefined);
      await sleep(500);
      // Not its exit: node waits for the inspector first.
      shop.daemon1.process.signal('SIGTERM');
      const isOver = (record: LogRecord): boolean => String(record['msg']).startsWith('stopped;');
      await shop.daemon1.waitForLog('the end', isOver, { timeoutMs: 20_000 });
    } finally {
      await shop.lab[Symbol.asyncDispose]();
    }
  });
});
