import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { cgroupsBelow, findSandbox, hasProcesses } from '../../daemon/capture/sandbox.ts';

const HOST = 900;

/** Namespaces as files' contents would be: pid → namespace; descriptors are 1000 + namespace. */
class FakeHot {
  readonly open = new Set<number>();
  readonly #of: ReadonlyMap<number, number>;
  onOpen: (pid: number) => void = () => undefined;

  constructor(of: Readonly<Record<number, number>>) {
    this.#of = new Map(Object.entries(of).map(([pid, netns]) => [Number(pid), netns]));
  }

  openNetns(file: string): number {
    const pid = Number(file.split('/').at(-3));
    const netns = this.#of.get(pid);
    this.onOpen(pid);
    if (netns === undefined) return -2;
    this.open.add(1_000 + netns);
    return 1_000 + netns;
  }

  sameNetns(a: number, b: number): boolean {
    return a % 1_000 === b % 1_000;
  }

  closeFd(fd: number): number {
    return this.open.delete(fd) ? 0 : -9;
  }
}

describe('the sandbox of a pod', () => {
  let root: string;
  beforeEach(() => (root = mkdtempSync(path.join(tmpdir(), 'culvert-sandbox-'))));
  afterEach(() => rmSync(root, { recursive: true }));

  function put(directory: string, ...pids: readonly number[]): void {
    mkdirSync(path.join(root, directory), { recursive: true });
    writeFileSync(path.join(root, directory, 'cgroup.procs'), pids.map((pid) => `${pid}\n`).join(''));
  }
  const find = (hot: FakeHot): ReturnType<typeof findSandbox> =>
    findSandbox(hot, '/proc', root, 1_000 + HOST);

  it('is a process in it or below that has a namespace of its own', () => {
    put('.');
    put('sandbox', 7, 8);
    const hot = new FakeHot({ 7: HOST, 8: 5 });
    assert.deepEqual(find(hot), { netnsFd: 1_005, pid: 8 });
    assert.deepEqual([...hot.open], [1_005], 'the host’s namespace was left open');
  });

  it('is none while there is no process, or only ones on their way in, or dead ones', () => {
    put('.');
    assert.equal(find(new FakeHot({})), undefined);
    assert.equal(hasProcesses(root), false);
    put('sandbox', 7, 9);
    const hot = new FakeHot({ 7: HOST });
    assert.equal(find(hot), undefined);
    assert.equal(hot.open.size, 0);
    assert.equal(hasProcesses(root), true);
  });

  it('is the oldest process, not one in a nested namespace; the one that was found stays it while it lives', () => {
    const proc = path.join(root, 'proc');
    for (const [pid, started] of [
      [7, 300],
      [8, 200],
      [9, 100],
    ] as const) {
      mkdirSync(path.join(proc, String(pid)), { recursive: true });
      const fields = Array.from({ length: 50 }, (_, i) => (i === 19 ? started : 0));
      writeFileSync(path.join(proc, String(pid), 'stat'), `${pid} (a) b) ${fields.join(' ')}\n`);
    }
    put('a-container', 7, 9);
    put('sandbox', 8);
    const hot = new FakeHot({ 7: 6, 8: 5, 9: HOST });
    const group = (known?: number): number | undefined =>
      findSandbox(hot, proc, root, 1_000 + HOST, known)?.pid;
    assert.equal(group(), 8);
    assert.equal(group(7), 7);
    put('sandbox');
    assert.equal(group(8), 7);
  });

  it('is not another pod’s process that got the pid of one that has just ended', () => {
    put('sandbox', 7);
    const hot = new FakeHot({ 7: 6 });
    hot.onOpen = () => put('sandbox');
    assert.equal(find(hot), undefined);
    assert.equal(hot.open.size, 0);
  });

  it('is looked for in a bounded depth, without complaint about what is gone', () => {
    mkdirSync(path.join(root, 'a/b/c/d/e/f/g/h'), { recursive: true });
    assert.equal(cgroupsBelow(root).length, 7);
    assert.deepEqual(cgroupsBelow(path.join(root, 'nowhere')), [path.join(root, 'nowhere')]);
    assert.equal(hasProcesses(path.join(root, 'nowhere')), false);
  });
});
