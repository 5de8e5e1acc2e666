/** What a node lacks is named by `culvert check`, and the daemon does not start without it (issue 6, preflight). */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { join } from 'node:path';
import { z } from 'zod';
import { tempDir } from '../support/tmp.ts';
import { Lab } from './kit/lab.ts';
import type { LabPod } from './kit/pod.ts';
import { REPOSITORY } from './kit/tools.ts';

const COMMAND = join(REPOSITORY, 'daemon/cli/culvert');
const OBJECT = join(
  REPOSITORY,
  `native/bpf/prebuilt/${process.arch === 'arm64' ? 'arm64' : 'amd64'}/culvert.bpf.o`,
);

const Findings = z.array(
  z.object({
    id: z.string(),
    ok: z.union([z.boolean(), z.literal('warn')]),
    detail: z.string(),
    fix: z.string(),
  }),
);
type Finding = z.infer<typeof Findings>[number];

describe('culvert check on a node that lacks something', { timeout: 180_000 }, () => {
  let lab: Lab;
  let pod: LabPod;
  before(async () => {
    lab = await Lab.create({ nodes: 1 });
    pod = await lab.pod({ name: 'culvert', node: 1, namespace: 'culvert-system', spec: { hostPID: true } });
  });
  after(() => lab[Symbol.asyncDispose]());

  /** All that `culvert check` says, run after `spoil` in a mount namespace of its own. */
  async function findings(spoil: string, under: string): Promise<Finding[]> {
    const script = `${spoil}\nexec ${under} '${COMMAND}' check --json`;
    const { code, lines } = await pod.exec(['unshare', '-m', 'sh', '-ec', script]);
    const found = Findings.parse(JSON.parse(lines.join('\n')));
    assert.equal(code, found.some(({ ok }) => ok === false) ? 1 : 0);
    return found;
  }

  /** What it finds amiss. */
  async function amiss(spoil: string, under = ''): Promise<Finding[]> {
    const found = (await findings(spoil, under)).filter(({ ok }) => ok === false);
    for (const { fix } of found) assert.notEqual(fix, '');
    return found;
  }

  const ids = (found: readonly Finding[]): string[] => found.map(({ id }) => id);

  it('nothing: it is content', async () => {
    assert.deepEqual(await amiss(':'), []);
  });

  it('no BPF file system: that is said, and no obstacle, for the daemon mounts one', async () => {
    const bpffs = (await findings('umount /sys/fs/bpf', '')).find(({ id }) => id === 'bpffs');
    assert.equal(bpffs?.ok, 'warn');
    assert.match(bpffs.detail, /no BPF file system: the daemon mounts one/);
  });

  it('a BPF file system that is mounted read-only', async () => {
    const found = await amiss('mount -o remount,bind,ro /sys/fs/bpf');
    assert.deepEqual(ids(found), ['bpffs']);
    assert.match(found[0]?.detail ?? '', /EROFS/);
  });

  it('cgroup version 2', async () => {
    const found = await amiss('umount -l /sys/fs/cgroup');
    assert.deepEqual(ids(found), ['cgroup2', 'kubepods', 'own-cgroup']);
    for (const { detail } of found) assert.match(detail, /cgroup v1 only is not supported/);
  });

  it('a capability', async () => {
    for (const name of ['net_admin', 'sys_ptrace']) {
      const found = await amiss(':', `setpriv --bounding-set -${name} --inh-caps -${name}`);
      const lacks = found.find(({ id }) => id === 'capabilities');
      assert.equal(lacks?.detail, `missing: ${name.toUpperCase()}`);
    }
    const all = await amiss(':', 'setpriv --bounding-set -all --inh-caps -all');
    assert.ok(ids(all).includes('capabilities') && ids(all).includes('bpf'), JSON.stringify(all));
  });

  it('an intact BPF object: check and daemon name it in one sentence, and nothing is pinned', async () => {
    await using dir = await tempDir('object');
    const bad = join(dir.path, 'culvert.bpf.o');
    const spoil = `cp '${OBJECT}' '${bad}' && printf x >>'${bad}' && mount --bind '${bad}' '${OBJECT}'`;
    const found = await amiss(spoil);
    assert.deepEqual(ids(found), ['bpf-object']);
    assert.match(found[0]?.detail ?? '', /has SHA-256 \w+, SHA256SUMS says \w+/);

    const folders = `--cluster-dir '${lab.cluster.folder('node-1')}' --ca-dir '${join(dir.path, 'ca')}'`;
    const daemon = `exec '${COMMAND}' daemon --node-name node-1 ${folders}`;
    const { code, lines } = await pod.exec(['unshare', '-m', 'sh', '-ec', `${spoil}\n${daemon}`]);
    assert.equal(code, 1);
    const said = lines.filter((line) => line.includes('BPF_OBJECT_CORRUPT'));
    assert.equal(said.length, 1, lines.join('\n'));
    assert.ok(said.join().includes(OBJECT), said.join());
    assert.ok(!lines.some((line) => line.includes('    at ')), 'a stack trace');
    assert.ok(!(await lab.node(1).must(['ls', '/sys/fs/bpf'])).includes('culvert'));
  });
});
