/** What is said of a machine that a cluster can't be made on. */
import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import { describe, it } from 'node:test';
import { missing } from '../../lab/kit/preflight.ts';
import { CACHE_ROOT } from './cache.ts';
import { missingForKube } from './needs.ts';
import type { Machine } from './needs.ts';

const GB = 1e9;
const LARGE: Machine = {
  freeMemoryBytes: 16 * GB,
  disk: () => ({ device: 1, freeBytes: 100 * GB }),
  has: () => true,
};
/** What the lab lacks here is no matter of these tests. */
const lacks = (toBeMade: number, machine: Partial<Machine>): string[] =>
  missingForKube(toBeMade, { ...LARGE, ...machine }).slice(missing().length);

describe('what a cluster needs', () => {
  it('is nothing more on a machine that has it', () => {
    assert.deepEqual(lacks(6 * GB, {}), []);
  });

  it('names programs with their packages, and memory', () => {
    const found = lacks(0, { has: (program) => program !== 'buildah', freeMemoryBytes: 1.5 * GB });
    assert.deepEqual(found, [
      'buildah: run make kube-packages, or apt-get install buildah',
      'memory: a cluster needs 3.0 GB, 1.5 GB is free',
    ]);
  });

  it('counts what goes on the same disk together, and says where', () => {
    const one = lacks(6 * GB, { disk: () => ({ device: 1, freeBytes: 7 * GB }) });
    assert.deepEqual(one, [`disk: 8.0 GB is needed in ${CACHE_ROOT} and ${tmpdir()}, 7.0 GB is free`]);
    const two: Machine['disk'] = (folder) => ({ device: folder === CACHE_ROOT ? 1 : 2, freeBytes: 7 * GB });
    assert.deepEqual(lacks(6 * GB, { disk: two }), []);
  });

  it('is less when all is made already', () => {
    assert.deepEqual(lacks(0, { disk: () => ({ device: 1, freeBytes: 3 * GB }) }), []);
  });
});
