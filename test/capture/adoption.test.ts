import assert from 'node:assert/strict';
import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Adoption } from '../../daemon/capture/adoption.ts';
import type { Adopting } from '../../daemon/capture/adoption.ts';
import type { Inventory } from '../../daemon/capture/inventory.ts';
import { createLog } from '../../daemon/observe/log.ts';
import { uid } from '../mesh/world.ts';
import { tempDir } from '../support/tmp.ts';

const EMPTY: Inventory = {
  pods: [],
  podCgroups: [],
  enrolledCgroups: [],
  netnsOfCgroup: new Map(),
  localPods: [],
  listeners: [],
  netnsLinks: [],
  guards: [],
  exempt: [],
  otherLayouts: [],
  podsElsewhere: [],
};

/** A kernel that holds `found`; `refuses` is asked before each removal. */
class FakeKernel implements Adopting {
  readonly removed: string[] = [];
  readonly #found: Inventory;
  refuses: (what: string) => boolean = () => false;

  constructor(found: Partial<Inventory>) {
    this.#found = { ...EMPTY, ...found };
  }

  inventory(): Inventory {
    if (this.refuses('inventory')) throw new Error('no inventory');
    return this.#found;
  }

  removeOtherLayouts(): string[] {
    this.#remove('other layouts');
    return ['v0'];
  }

  deletePod(cookie: bigint): void {
    this.#remove(`pod ${cookie}`);
  }

  deletePodCgroup(id: bigint): void {
    this.#remove(`cgroup ${id}`);
  }

  detachNetns(pod: string): void {
    this.#remove(`netns ${pod}`);
  }

  unguardPending(pod: string): void {
    this.#remove(`guard ${pod}`);
  }

  deleteLocalPod(ip: string): void {
    this.#remove(`address ${ip}`);
  }

  #remove(what: string): void {
    if (this.refuses(what)) throw new Error(`not ${what}`);
    this.removed.push(what);
  }
}

const [a, b] = [uid('aaaa'), uid('bbbb')];
const lines: string[] = [];
const log = createLog({ level: 'error', thread: 'test', destination: { write: (line) => lines.push(line) } });
const nobody = new Map<never, never>();

describe('what an earlier daemon left', () => {
  it('is removed when it is nobody’s, whatever one removal says; what failed is tried again until it works', () => {
    const found = { ...EMPTY, pods: [1n, 2n, 3n], guards: [a] };
    const kernel = new FakeKernel(found);
    const adoption = new Adoption(kernel, log, found);
    kernel.refuses = (what) => what === 'pod 2';
    for (let look = 0; look < 3; look++) adoption.settle(nobody, nobody, () => false);
    assert.deepEqual(kernel.removed.slice(0, 3), ['pod 1', 'pod 3', `guard ${a}`]);
    kernel.refuses = (what) => what === 'inventory';
    adoption.settle(nobody, nobody, () => false);
    kernel.refuses = () => false;
    kernel.removed.length = 0;
    adoption.settle(nobody, nobody, () => false);
    assert.ok(kernel.removed.includes('pod 2'));
    kernel.removed.length = 0;
    adoption.settle(nobody, nobody, () => false);
    assert.deepEqual(kernel.removed, [], 'once it has worked, it is over');
    assert.deepEqual(
      lines.map((line) => /not pod 2|no inventory/.exec(line)?.[0]),
      ['not pod 2', 'no inventory'],
      'what is told',
    );
  });

  it('stays for a pod that lives and that nobody has told of, and goes with it', async () => {
    await using folder = await tempDir('adoption');
    const cgroup = join(folder.path, 'a');
    mkdirSync(cgroup);
    const id = statSync(cgroup, { bigint: true }).ino;
    const found = {
      ...EMPTY,
      pods: [1n, 2n],
      podCgroups: [id, 77n],
      enrolledCgroups: [id, 77n],
      netnsOfCgroup: new Map([
        [id, 1n],
        [77n, 2n],
      ]),
      netnsLinks: [a, b],
    };
    const kernel = new FakeKernel(found);
    const adoption = new Adoption(kernel, log, found);
    adoption.settle(nobody, new Map([[a, cgroup]]), () => false);
    assert.deepEqual(kernel.removed, ['pod 2', 'cgroup 77', `netns ${b}`]);
    assert.equal(adoption.wasEnrolled(a, cgroup), true);
    kernel.removed.length = 0;
    adoption.settle(nobody, nobody, () => false);
    assert.deepEqual(kernel.removed, [
      'pod 1',
      'pod 2',
      `cgroup ${id}`,
      'cgroup 77',
      `netns ${a}`,
      `netns ${b}`,
    ]);
    assert.equal(adoption.wasEnrolled(a, cgroup), false);
  });
});
