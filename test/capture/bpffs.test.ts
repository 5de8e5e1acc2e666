/** A node that has no BPF file system: a mount namespace of a process of ours stands for its pid 1's. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { ensureBpffs, isBpffs } from '../../daemon/capture/bpffs.ts';
import { MeshError } from '../../daemon/errors.ts';
import { loadHot } from '../../native/hot/index.ts';
import { must } from '../support/run.ts';
import type { TempDir } from '../support/tmp.ts';
import { tempDir } from '../support/tmp.ts';

const hot = loadHot();

describe('the BPF file system of a node', () => {
  let dir: TempDir;
  let init: ChildProcess;
  let [bpffs, procRoot] = ['', ''];
  beforeEach(async () => {
    dir = await tempDir('bpffs');
    [bpffs, procRoot] = [path.join(dir.path, 'bpf'), path.join(dir.path, 'proc')];
    mkdirSync(bpffs);
    mkdirSync(path.join(procRoot, '1/ns'), { recursive: true });
  });
  afterEach(async () => {
    await must(['sh', '-c', 'umount "$0" 2>/dev/null; umount "$1" 2>/dev/null; true', bpffs, dir.path]);
    init.kill('SIGKILL');
    await once(init, 'exit');
    await dir[Symbol.asyncDispose]();
  });

  /** Its pid 1; `propagation`: whether what is mounted there is seen here. */
  async function startNode(propagation: 'private' | 'shared'): Promise<void> {
    // Nothing propagates from a folder that is no mount of its own.
    await must(['mount', '--bind', dir.path, dir.path]);
    await must(['mount', `--make-${propagation}`, dir.path]);
    init = spawn('unshare', ['-m', '--propagation', 'unchanged', 'sh', '-c', 'echo up; exec sleep 600'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    assert.ok(init.stdout && init.pid);
    await once(init.stdout, 'data');
    symlinkSync(`/proc/${init.pid}/ns/mnt`, path.join(procRoot, '1/ns/mnt'));
  }

  /** What the node has mounted there. */
  async function there(): Promise<string> {
    return (await must(['nsenter', '-t', String(init.pid), '-m', 'stat', '-f', '-c', '%T', bpffs])).trim();
  }

  it('is mounted where there is none, by a process with many threads, and once', async () => {
    await startNode('shared');
    assert.equal(isBpffs(bpffs), false);
    assert.equal(ensureBpffs(hot, { bpffs, procRoot }), true);
    assert.equal(await there(), 'bpf_fs');
    assert.equal(isBpffs(bpffs), true);
    assert.equal(ensureBpffs(hot, { bpffs, procRoot }), false);
    const mounts = await must(['nsenter', '-t', String(init.pid), '-m', 'cat', '/proc/self/mounts']);
    const ours = mounts.split('\n').filter((line) => line.split(' ')[1] === bpffs);
    assert.equal(ours.length, 1, mounts);
    assert.match(ours[0] ?? '', / bpf rw,nosuid,nodev,noexec,relatime,mode=700 /);
  });

  it('that this container does not see is there for its next start, mounted once', async () => {
    await startNode('private');
    for (let start = 0; start < 2; start++)
      assert.throws(
        () => ensureBpffs(hot, { bpffs, procRoot }),
        (error) =>
          error instanceof MeshError && /does not see yet: it has to start again/.test(error.message),
      );
    assert.equal(await there(), 'bpf_fs');
    const mounts = await must(['nsenter', '-t', String(init.pid), '-m', 'cat', '/proc/self/mounts']);
    assert.equal(mounts.split('\n').filter((line) => line.split(' ')[1] === bpffs).length, 1);
  });

  it('that can’t be mounted is named, with what it takes', async () => {
    await startNode('shared');
    const where = { bpffs, procRoot: path.join(dir.path, 'nowhere') };
    assert.throws(
      () => ensureBpffs(hot, where),
      (error) =>
        error instanceof MeshError &&
        error.code === 'PREFLIGHT_FAILED' &&
        /SYS_CHROOT.*ENOENT/.test(error.message),
    );
    assert.notEqual(await there(), 'bpf_fs');
  });
});
