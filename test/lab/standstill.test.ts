/** A thread of the daemon stands still, and the daemon is told to stop. */
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LogRecord } from './kit/daemon.ts';
import { openShop } from './shop.ts';

describe('a worker stands still while the daemon stops', { timeout: 120_000 }, () => {
  it('the daemon ends all the same, soon after its drain time', async () => {
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
