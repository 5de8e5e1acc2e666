import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { within } from '../../daemon/capture/within.ts';

describe('a wait that ends', () => {
  it('says whether the work was done in time, and fails as it does', async () => {
    assert.equal(await within(60_000, Promise.resolve()), true);
    assert.equal(await within(1, new Promise(() => undefined)), false);
    await assert.rejects(within(60_000, Promise.reject(new Error('no'))), /no/);
  });

  it('is not troubled by work that fails after it was given up', async () => {
    const work = Promise.withResolvers<undefined>();
    assert.equal(await within(1, work.promise), false);
    work.reject(new Error('too late'));
    await new Promise((resolve) => setImmediate(resolve));
  });
});
