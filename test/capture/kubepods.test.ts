import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import * as kubepods from '../../daemon/capture/kubepods.ts';

const UID = '12345678-9abc-4def-8123-456789abcdef';
const ESCAPED = UID.replaceAll('-', '_');
const STATIC = '0123456789abcdef0123456789abcdef';

describe('names of cgroups', () => {
  it('tell the pod, in both drivers, in kind, for static pods', () => {
    const names: Readonly<Record<string, string | undefined>> = {
      [`pod${UID}`]: UID,
      [`pod${STATIC}`]: STATIC,
      [`kubepods-pod${ESCAPED}.slice`]: UID,
      [`kubepods-burstable-pod${ESCAPED}.slice`]: UID,
      [`kubepods-besteffort-pod${STATIC}.slice`]: STATIC,
      [`kubelet-kubepods-burstable-pod${ESCAPED}.slice`]: UID,
      'kubepods-burstable.slice': undefined,
      burstable: undefined,
      'kubepods.slice': undefined,
      'podman-1234.scope': undefined,
      'user-pod1.slice': undefined,
      [`cri-containerd-${STATIC}.scope`]: undefined,
      pod: undefined,
      'pod..': undefined,
    };
    for (const [name, uid] of Object.entries(names)) assert.equal(kubepods.podUidOf(name), uid, name);
  });

  it('tell kubepods', () => {
    for (const name of ['kubepods', 'kubepods.slice', 'kubelet-kubepods.slice'])
      assert.ok(kubepods.isKubepodsName(name), name);
    for (const name of ['kubepods-burstable.slice', 'mykubepods', 'kubelet.slice'])
      assert.ok(!kubepods.isKubepodsName(name), name);
  });
});

describe('files of /proc', () => {
  it('tell where cgroup v2 is mounted: alone, hybrid, with blanks, or not at all', () => {
    assert.equal(kubepods.parseCgroupRoot('cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n'), '/sys/fs/cgroup');
    const hybrid =
      'tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n';
    assert.equal(kubepods.parseCgroupRoot(hybrid), '/sys/fs/cgroup/unified');
    assert.equal(kubepods.parseCgroupRoot('cgroup2 /a\\040b cgroup2 rw 0 0\n'), '/a b');
    assert.equal(kubepods.parseCgroupRoot('cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n'), undefined);
  });

  it('tell the own cgroup, also in a hybrid layout', () => {
    assert.equal(kubepods.parseOwnCgroup('4:memory:/a\n0::/kubepods/podx/y\n'), '/kubepods/podx/y');
    assert.equal(kubepods.parseOwnCgroup('4:memory:/a\n'), undefined);
  });
});

describe('a tree of cgroups', () => {
  let root: string;
  beforeEach(() => (root = mkdtempSync(path.join(tmpdir(), 'culvert-cgroups-'))));
  afterEach(() => rmSync(root, { recursive: true }));

  function make(...directories: string[]): void {
    for (const directory of directories) mkdirSync(path.join(root, directory), { recursive: true });
  }

  it('that can not be listed is an error, not a node without pods', () => {
    mkdirSync(path.join(root, `pod${UID}`));
    const loop = path.join(root, 'loop');
    symlinkSync(loop, loop);
    assert.throws(() => kubepods.listPodCgroups(loop), /ELOOP/);
    assert.deepEqual(kubepods.listPodCgroups(path.join(root, 'gone')), []);
    assert.equal(kubepods.listPodCgroups(root).length, 1);
  });

  it('gives up its pods of every class, with the cgroupfs driver', () => {
    make(
      `kubepods/pod${UID}/c1`,
      `kubepods/burstable/pod${STATIC}/c2`,
      'kubepods/besteffort',
      'kubepods/init.scope',
    );
    const top = kubepods.searchKubepods(root);
    assert.equal(top, path.join(root, 'kubepods'));
    assert.deepEqual(
      kubepods.listPodCgroups(top).map((pod) => [pod.uid, path.relative(root, pod.path)]),
      [
        [STATIC, `kubepods/burstable/pod${STATIC}`],
        [UID, `kubepods/pod${UID}`],
      ],
    );
    assert.deepEqual(
      kubepods.podParents(top).map((parent) => path.relative(top, parent)),
      ['', 'besteffort', 'burstable'],
    );
  });

  it('gives up its pods with the systemd driver inside kind', () => {
    const slice = 'kubelet.slice/kubelet-kubepods.slice';
    make(`${slice}/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod${ESCAPED}.slice`);
    make(`${slice}/kubelet-kubepods-pod${STATIC}.slice`, 'system.slice');
    const top = kubepods.searchKubepods(root);
    assert.equal(top, path.join(root, slice));
    assert.deepEqual(
      kubepods.listPodCgroups(top).map((pod) => pod.uid),
      [UID, STATIC],
    );
  });

  it('finds the own process by its number, whatever /proc says', () => {
    make(`kubepods/burstable/pod${UID}/c1`, 'kubepods/besteffort');
    const own = path.join(root, `kubepods/burstable/pod${UID}/c1`);
    writeFileSync(path.join(own, 'cgroup.procs'), `1\n${process.pid}\n`);
    const found = kubepods.findKubepods({ cgroupRoot: root, kubepods: '' });
    assert.equal(found.own, own);
    assert.equal(kubepods.findKubepods({ cgroupRoot: root, kubepods: '/kubepods/burstable' }).own, own);
    assert.equal(kubepods.findKubepods({ cgroupRoot: root, kubepods: path.join(root, 'kubepods') }).own, own);
    assert.throws(() => kubepods.findKubepods({ cgroupRoot: root, kubepods: 'kubepods/besteffort' }), {
      code: 'CGROUP_NOT_FOUND',
    });
  });

  it('names the remedy when there is no kubepods', () => {
    make('system.slice');
    assert.throws(() => kubepods.searchKubepods(root), /--kubepods/);
    assert.deepEqual(kubepods.listPodCgroups(path.join(root, 'gone')), []);
  });
});
