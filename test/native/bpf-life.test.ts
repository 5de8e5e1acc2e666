import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { removePins } from '../../daemon/capture/layouts.ts';
import { MAX_GENERATIONS } from '../../daemon/capture/maps.ts';
import { KernelState } from '../../daemon/capture/programs.ts';
import { OBJECT_DIRECTORY } from '../../daemon/capture/object.ts';
import { cgroupId } from '../../daemon/capture/kubepods.ts';
import { MeshError } from '../../daemon/errors.ts';
import { World, run } from './bpf-world.ts';
import type { TestPod } from './bpf-world.ts';

/** A daemon's life in a process of its own: opens, says so, waits to be killed. */
const OTHER_DAEMON = `
const { KernelState } = await import(process.argv[1]);
const kernel = KernelState.open({ bpffs: process.argv[2], kubepods: process.argv[3] });
console.log(kernel.generation);
setInterval(() => {}, 60000);
`;

describe('life and death', { timeout: 120_000 }, () => {
  let world: World;
  let pod: TestPod;
  let peer: TestPod;

  beforeEach(async () => {
    world = new World();
    pod = await world.addPod();
    peer = await world.addPod();
    await pod.agent.call('listen', { id: 'app', family: 6, host: '::', port: 8080 });
    world.enrol(pod);
  });
  afterEach(async () => await world.close());

  /** Attach type → programs, on the test's kubepods cgroup and the kubelet's parent. */
  function attached(): string[] {
    const tree = [world.kubepods, path.dirname(world.kubeletCgroup)].flatMap((cgroup) => {
      // bpftool prints nothing at all when nothing is attached.
      const shown: unknown = JSON.parse(run('bpftool', '-j', 'cgroup', 'show', cgroup).trim() || '[]');
      assert(Array.isArray(shown));
      return shown.map((entry: { name?: unknown }) => String(entry.name));
    });
    return tree.sort();
  }
  const ALL = [
    'culvert_connect4',
    'culvert_connect6',
    'culvert_getpeername4',
    'culvert_getpeername6',
    'culvert_probe4',
    'culvert_probe6',
    'culvert_probe_flows',
    'culvert_sockops',
  ];

  async function otherDaemon(): Promise<ReturnType<typeof spawn>> {
    const programs = path.join(import.meta.dirname, '../../daemon/capture/programs.ts');
    const child = spawn(
      process.execPath,
      ['--input-type=module', '-e', OTHER_DAEMON, programs, world.bpffs, world.kubepods],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    await once(child.stdout, 'data');
    return child;
  }

  it('has one program at each hook, also after others opened and died by kill -9', async () => {
    assert.deepEqual(attached(), ALL);
    for (let i = 0; i < 3; i++) {
      const daemon = await otherDaemon();
      assert.deepEqual(attached(), ALL);
      const gone = once(daemon, 'exit');
      daemon.kill('SIGKILL');
      await gone;
      assert.deepEqual(attached(), ALL);
    }
    assert.deepEqual(world.kernel.inventory().netnsLinks, [pod.uid]);
  });

  it('stays closed while no daemon runs: no clear connection out or in, probes pass, then adopts and heals', async () => {
    const kubelet = await world.hostAgent();
    await peer.agent.call('listen', { id: 'app', family: 6, host: '::', port: 8080 });
    for (const { fd } of pod.listeners) world.hot.closeFd(fd);
    pod.listeners.length = 0;
    await world.closeServers();
    world.kernel.close();
    const out = { family: 4, host: peer.v4, port: 8080, keep: 'c', timeout: 1 };
    assert.equal((await pod.agent.call('connect', out))['error'], 'ECONNREFUSED');
    const into = { family: 4, host: pod.v4, port: 8080, keep: 'c', timeout: 1 };
    assert.equal((await peer.agent.call('connect', into))['error'], 'ECONNREFUSED');
    assert.equal((await kubelet.call('connect', into)).ok, true);
    assert.equal((await pod.agent.call('accept', { id: 'app', keep: 's' })).ok, true);

    world.kernel = world.openKernel();
    assert.deepEqual(attached(), ALL);
    assert.deepEqual(world.kernel.inventory().pods, [pod.cookie]);
    world.enrol(pod);
    assert.equal((await pod.agent.call('connect', out)).ok, true);
    assert.equal((await world.take()).record?.ip, peer.v4);
    assert.equal((await peer.agent.call('connect', into)).ok, true);
    assert.equal((await world.take()).role, 'plaintext');
    assert.deepEqual(world.kernel.pendingOf(pod.cookie), { original: 0, client: 0, self: 0 });
  });

  it('loses no connection while the next daemon swaps programs and listeners', async () => {
    const flood = pod.agent.call('flood', { family: 4, host: '203.0.113.9', port: 80, count: 1_500 });
    const before = world.kernel;
    world.kernel = world.openKernel();
    world.enrol(pod);
    assert.notEqual(world.kernel.generation, before.generation);
    assert.deepEqual((await flood)['seen'], { OK: 1_500 });
    before.close();
    for (let i = 0; i < 1_500; i++) assert.equal((await world.take()).role, 'outbound');
  });

  it('forgets the counts of pods that are gone, and finds what is left', () => {
    world.kernel.deletePod(pod.cookie);
    for (const ip of [pod.v4, pod.v6]) world.kernel.deleteLocalPod(ip, pod.cookie);
    world.kernel.detachNetns(pod.uid);
    world.kernel.detachNetns(pod.uid);
    world.kernel.deletePodCgroup(cgroupId(world.podCgroupOf(pod)));
    const found = world.kernel.inventory();
    assert.deepEqual([found.pods, found.podCgroups, found.localPods, found.netnsLinks], [[], [], [], []]);
    assert.deepEqual(found.exempt, [cgroupId(world.ownCgroup)]);
  });

  it('starts again and again: daemons whose cgroup is gone are exempt no more', () => {
    for (let id = 1n; world.kernel.inventory().exempt.length < 64; id++) world.kernel.setExempt(id, true);
    assert.throws(() => world.kernel.setExempt(9_999n, true), { code: 'BPF_MAP_FAILED' });
    world.kernel.close();
    world.kernel = world.openKernel();
    assert.deepEqual(world.kernel.inventory().exempt, [cgroupId(world.ownCgroup)]);
  });

  it('starts more often than there are generations of it in the kernel', () => {
    for (let start = 0; start <= MAX_GENERATIONS; start++) {
      world.kernel.close();
      world.kernel = world.openKernel();
      world.kernel.setWorkers(1, 1);
    }
  });

  it('keeps what an older layout pinned until told, is exempt there, and removes it alone or with everything', async () => {
    const base = path.join(world.bpffs, 'culvert');
    const older = world.idOf(peer);
    world.kernel.setExempt(older, true);
    world.kernel.close();
    renameSync(path.join(base, 'v1'), path.join(base, 'v0'));
    world.kernel = world.openKernel();
    const found = world.kernel.inventory();
    assert.deepEqual([found.otherLayouts, found.podsElsewhere, found.pods], [[0], [pod.uid], []]);
    assert.ok(found.exempt.includes(older), 'the draining daemon would be captured');
    assert.equal(attached().length, 2 * ALL.length);
    world.enrol(pod);
    assert.deepEqual(world.kernel.removeOtherLayouts(), [path.join(base, 'v0')]);
    assert.deepEqual(readdirSync(base), ['v1']);
    assert.deepEqual(attached(), ALL);
    const out = { family: 4, host: peer.v4, port: 8080, keep: 'c', timeout: 1 };
    assert.equal((await pod.agent.call('connect', out)).ok, true);
    assert.equal((await world.take()).record?.ip, peer.v4);

    world.kernel.close();
    renameSync(path.join(base, 'v1'), path.join(base, 'v7'));
    world.kernel = world.openKernel();
    assert.equal(removePins(world.bpffs).length, 2);
    assert.deepEqual([attached(), readdirSync(world.bpffs).includes('culvert')], [[], false]);
    world.kernel.close();
    world.kernel = world.openKernel();
  });

  it('knows its own cgroup and the level of kubepods at any depth, and refuses to run outside', () => {
    assert.equal(world.kernel.ownCgroup, cgroupId(world.ownCgroup));
    assert.equal(world.kernel.level, 2);
    const elsewhere = path.join(world.base, 'elsewhere');
    mkdirSync(elsewhere);
    const bpffs = path.join(world.bpffs, 'second');
    assert.throws(() => KernelState.open({ bpffs, kubepods: elsewhere }), { code: 'CGROUP_NOT_FOUND' });
    assert.deepEqual(run('bpftool', '-j', 'cgroup', 'show', elsewhere).trim() || '[]', '[]');
    removePins(bpffs);
  });

  it('removes everything, under traffic: no connect fails meanwhile, and the next ones are the kernel’s', async () => {
    await peer.agent.call('serve', { id: 'app', family: 6, host: '::', port: 8080 });
    const flood = pod.agent.call('flood', { family: 4, host: peer.v4, port: 8080, count: 4_000 });
    for (let i = 0; i < 20; i++) assert.equal((await world.take()).role, 'outbound');
    assert.equal(removePins(world.bpffs).length, 1);
    assert.deepEqual((await flood)['seen'], { OK: 4_000 });
    const { count } = await peer.agent.call('served', { id: 'app' });
    assert.ok(typeof count === 'number' && count > 0 && count < 4_000 - 20, `${String(count)} went directly`);
  });

  it('removes everything, guards too, and leaves connections to the kernel again', async () => {
    await peer.agent.call('listen', { id: 'app', family: 6, host: '::', port: 8080 });
    world.kernel.guardPending(peer.uid, world.podCgroupOf(peer));
    assert.equal(removePins(world.bpffs).length, 1);
    assert.deepEqual(attached(), []);
    assert.deepEqual(readdirSync(world.bpffs).includes('culvert'), false);
    world.kernel.close();
    const out = { family: 4, host: peer.v4, port: 8080, keep: 'c', timeout: 1 };
    assert.deepEqual((await pod.agent.call('connect', out))['peer'], [peer.v4, 8080]);
    assert.equal((await peer.agent.call('connect', { ...out, host: pod.v4 })).ok, true);
    world.kernel = world.openKernel();
  });

  it('refuses an object that is not what its checksum says, before the kernel sees it', () => {
    const objectDir = mkdtempSync(path.join(tmpdir(), 'culvert-object-'));
    try {
      cpSync(OBJECT_DIRECTORY, objectDir, { recursive: true });
      const file = path.join(objectDir, process.arch === 'arm64' ? 'arm64' : 'amd64', 'culvert.bpf.o');
      writeFileSync(file, 'x', { flag: 'a' });
      const open = (): unknown =>
        KernelState.open({ bpffs: world.bpffs, kubepods: world.kubepods, objectDir });
      assert.throws(open, (error) => error instanceof MeshError && error.code === 'BPF_OBJECT_CORRUPT');
    } finally {
      rmSync(objectDir, { recursive: true });
    }
  });
});
