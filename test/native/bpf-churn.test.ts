import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { World } from './bpf-world.ts';

describe('pods that come and go', { timeout: 120_000 }, () => {
  let world: World;
  beforeEach(() => (world = new World()));
  afterEach(async () => await world.close());

  it('leave nothing behind: one more than the maps hold can be captured, one after the other', () => {
    const settings = { capture: true, noGlobalV6: false, ports: [61_001], maxPending: 16 };
    for (let i = 1; i <= 4_200; i++) {
      const cookie = 1_000_000n + BigInt(i);
      world.kernel.setPod(cookie, settings);
      world.kernel.deletePod(cookie);
      if (i % 100 === 0) world.kernel.forgetGone();
    }
    assert.deepEqual(world.kernel.inventory().pods, []);
  });
});
