import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { judgeCapabilities, judgeKernel, judgeOpenFiles, preflight } from '../../daemon/capture/preflight.ts';

describe('preflight', () => {
  let root: string;
  beforeEach(() => (root = mkdtempSync(path.join(tmpdir(), 'culvert-preflight-'))));
  afterEach(() => rmSync(root, { recursive: true }));

  it('names each missing thing with its remedy, and never throws', () => {
    const found = preflight({ bpffs: root, cgroupRoot: root, kubepods: '', procRoot: root, objectDir: root });
    const failed = found.filter(({ ok }) => ok === false);
    assert.deepEqual(
      failed.map(({ id }) => id),
      ['kubepods', 'own-cgroup', 'host-namespace', 'bpf-object'],
    );
    const bpffs = found.find(({ id }) => id === 'bpffs');
    assert.equal(bpffs?.ok, 'warn', 'the daemon mounts one');
    for (const { id, detail, fix } of [...failed, bpffs]) assert.ok(detail !== '' && fix !== '', id);
  });

  it('names both paths when the daemon runs outside the pods’ cgroup', () => {
    mkdirSync(path.join(root, 'kubepods'));
    const found = preflight({ bpffs: root, cgroupRoot: root, kubepods: '', procRoot: '/proc' });
    const own = found.find(({ id }) => id === 'own-cgroup');
    assert.equal(own?.ok, false);
    assert.match(own.detail, /^own cgroup \/.* is not below .*kubepods$/);
  });

  it('is content with a daemon below the pods’ cgroup', () => {
    const cgroup = path.join(root, 'kubepods/pod1/daemon');
    mkdirSync(cgroup, { recursive: true });
    writeFileSync(path.join(cgroup, 'cgroup.procs'), `${process.pid}\n`);
    const found = preflight({ bpffs: root, cgroupRoot: root, kubepods: '', procRoot: '/proc' });
    assert.deepEqual(
      found.filter(({ ok }) => ok === false).map(({ id }) => id),
      [],
    );
  });

  it('knows the floor of the kernel', () => {
    for (const good of ['5.15.0-91-generic', '6.1.0', '10.0']) assert.equal(judgeKernel(good).ok, true, good);
    for (const bad of ['5.14.21', '4.19.0', 'x']) assert.equal(judgeKernel(bad).ok, false, bad);
  });

  it('knows which capabilities are missing', () => {
    assert.equal(judgeCapabilities('CapEff:\t000001fffeffffff\n').ok, true);
    assert.equal(judgeCapabilities('CapEff:\t0000000000281000\n').ok, true, 'SYS_ADMIN contains BPF');
    assert.match(judgeCapabilities('CapEff:\t0000008000001000\n').detail, /SYS_ADMIN, SYS_PTRACE$/);
    assert.match(judgeCapabilities('').detail, /BPF, NET_ADMIN, SYS_ADMIN, SYS_PTRACE/);
  });

  it('warns of a low open-file limit and says what it allows', () => {
    const low = judgeOpenFiles('Max open files            20000                20000                files\n');
    assert.equal(low.ok, 'warn');
    assert.match(low.detail, /15000 connections/);
    assert.equal(judgeOpenFiles('Max open files  1048576  1048576  files').ok, true);
    assert.equal(judgeOpenFiles('Max open files  unlimited  unlimited  files').ok, true);
    assert.equal(judgeOpenFiles('').ok, false);
  });
});
