import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { UnknownPods } from '../../daemon/capture/unknown-pods.ts';
import type { Guarding } from '../../daemon/capture/unknown-pods.ts';
import { cgroupId } from '../../daemon/capture/kubepods.ts';
import { parsePodUid } from '../../daemon/mesh/ids.ts';
import type { PodUid } from '../../daemon/mesh/ids.ts';
import { createLog } from '../../daemon/observe/log.ts';
import { tempDir } from '../support/tmp.ts';
import type { TempDir } from '../support/tmp.ts';

/** What is closed: cgroups whose connects are refused, pods that take no SYN. */
class FakeKernel implements Guarding {
  readonly refused = new Set<bigint>();
  readonly deaf = new Set<PodUid>();
  fails = false;

  setPodCgroup(id: bigint): void {
    this.refused.add(id);
  }

  deletePodCgroup(id: bigint): void {
    this.refused.delete(id);
  }

  guardPending(uid: PodUid): void {
    if (this.fails) throw new Error('no memory');
    this.deaf.add(uid);
  }

  unguardPending(uid: PodUid): void {
    this.deaf.delete(uid);
  }
}

const uidOf = (text: string): PodUid => {
  const uid = parsePodUid(text);
  assert.ok(uid !== undefined);
  return uid;
};
const OLD = uidOf('00000000-0000-4000-8000-000000000001');
const NEW = uidOf('00000000-0000-4000-8000-000000000002');
const STATIC = uidOf('0123456789abcdef0123456789abcdef');
const HOLD_MS = 10_000;

describe('a pod whose object has not been read', () => {
  let folder: TempDir;
  let kernel: FakeKernel;
  let unknown: UnknownPods;
  const lines: string[] = [];
  const known = new Set<PodUid>();
  const look = (uids: readonly PodUid[], nowMs: number): void =>
    unknown.look(new Map(uids.map((uid) => [uid, cgroupOf(uid)])), (uid) => known.has(uid), nowMs);
  const cgroupOf = (uid: PodUid): string => join(folder.path, uid);
  const isClosed = (uid: PodUid): boolean => {
    const [refused, deaf] = [kernel.refused.has(cgroupId(cgroupOf(uid))), kernel.deaf.has(uid)];
    assert.equal(refused, deaf, 'closed one way only');
    return refused;
  };

  beforeEach(async () => {
    folder = await tempDir('unknown');
    for (const uid of [OLD, NEW, STATIC]) mkdirSync(cgroupOf(uid));
    lines.length = 0;
    known.clear();
    kernel = new FakeKernel();
    const destination = { write: (line: string) => lines.push(line) };
    unknown = new UnknownPods(kernel, HOLD_MS, createLog({ level: 'warn', thread: 'test', destination }));
    look([OLD], 0);
  });
  afterEach(() => folder[Symbol.asyncDispose]());

  it('is closed from its cgroup’s appearance; what ran before us, and static pods, are left alone', () => {
    look([OLD, NEW, STATIC], 1);
    assert.deepEqual([OLD, NEW, STATIC].map(isClosed), [false, true, false]);
    assert.deepEqual([...unknown.uids], [NEW]);
  });

  it('is never closed when its object was there first', () => {
    known.add(NEW);
    look([OLD, NEW], 1);
    known.delete(NEW); // it is deleted before its cgroup goes
    look([OLD, NEW], 2);
    assert.equal(isClosed(NEW), false);
  });

  it('opens when it is known not to be ours, and stays open', () => {
    look([OLD, NEW], 1);
    unknown.release(NEW);
    look([OLD, NEW], 2);
    assert.equal(isClosed(NEW), false);
  });

  it('stays closed when it becomes ours: the guard goes with it', () => {
    look([OLD, NEW], 1);
    const guard = unknown.handOver(NEW);
    assert.equal(guard?.cgroup, cgroupOf(NEW));
    assert.equal(guard.ranBefore, false);
    look([OLD, NEW], HOLD_MS + 1);
    assert.equal(isClosed(NEW), true);
    assert.equal(unknown.handOver(NEW), undefined);
  });

  it('in which something ran before it was closed is told apart', () => {
    writeFileSync(join(cgroupOf(NEW), 'cgroup.procs'), '4711\n');
    look([OLD, NEW], 1);
    assert.equal(unknown.handOver(NEW)?.ranBefore, true);
  });

  it('opens after the time that it may be closed for, with a warning', () => {
    look([OLD, NEW], 1);
    assert.equal(unknown.deadlineMs, HOLD_MS + 1);
    look([OLD, NEW], HOLD_MS);
    assert.equal(isClosed(NEW), true);
    look([OLD, NEW], HOLD_MS + 1);
    look([OLD, NEW], HOLD_MS + 2);
    assert.equal(isClosed(NEW), false);
    assert.equal(unknown.deadlineMs, Infinity);
    assert.match(lines.join(''), /was not read in time/);
  });

  it('leaves nothing behind when its cgroup goes, nor when we leave', () => {
    look([OLD, NEW], 1);
    look([OLD], 2);
    assert.equal(isClosed(NEW), false);
    look([OLD, NEW], 3);
    unknown.releaseAll();
    assert.equal(isClosed(NEW), false);
    assert.deepEqual([...unknown.uids], []);
  });

  it('that the kernel does not let us close is half closed at no time, and tried again', () => {
    kernel.fails = true;
    look([OLD, NEW], 1);
    assert.equal(isClosed(NEW), false);
    assert.match(lines.join(''), /could not be guarded/);
    kernel.fails = false;
    look([OLD, NEW], 2);
    assert.equal(isClosed(NEW), true);
  });
});
