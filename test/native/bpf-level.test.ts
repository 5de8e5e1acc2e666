import assert from 'node:assert/strict';
import path from 'node:path';
import { describe, it } from 'node:test';
import { cgroupId } from '../../daemon/capture/kubepods.ts';
import { World, run } from './bpf-world.ts';

/** A daemon's start in a cgroup namespace of its own: what /proc tells it, and what the kernel told the probe. */
const INNER = `
const { readFileSync } = await import('node:fs');
const { KernelState } = await import(process.argv[1]);
const kernel = KernelState.open({ bpffs: process.argv[2], kubepods: process.argv[3] });
const own = readFileSync('/proc/self/cgroup', 'utf8').match(/^0::.*$/m)[0];
console.log(JSON.stringify([own, kernel.level, String(kernel.ownCgroup)]));
`;
const PROGRAMS = path.join(import.meta.dirname, '../../daemon/capture/programs.ts');

describe('the level of the pods’ cgroups', { timeout: 180_000 }, () => {
  for (const driver of ['cgroupfs', 'systemd'] as const)
    for (const depth of [1, 4])
      it(`kubepods at level ${depth}, named as the ${driver} driver does: each QoS class is captured, and refused while pending`, async () => {
        const world = new World({ depth, driver });
        try {
          assert.equal(world.kernel.level, depth);
          for (const qos of ['guaranteed', 'burstable', 'besteffort'] as const) {
            const pod = await world.addPod(qos);
            const connect = { family: 4, host: '203.0.113.9', port: 80, keep: 'c', timeout: 1 };
            const entry = { state: 'pending', netnsCookie: 0n, allowNested: false } as const;
            world.kernel.setPodCgroup(world.idOf(pod), entry);
            assert.equal((await pod.agent.call('connect', connect))['error'], 'EPERM', qos);
            const refused = { id: world.idOf(pod), code: 'POD_PENDING', count: 1 };
            assert.deepEqual(world.kernel.takeRefusals(), [refused], qos);
            world.enrol(pod);
            assert.equal((await pod.agent.call('connect', connect)).ok, true, qos);
            assert.equal((await world.take()).record?.netns, pod.cookie, qos);
            const nested = await world.agent(pod.cgroup, world.addNetns(`n-${qos}`));
            assert.equal((await nested.call('connect', connect))['error'], 'EPERM', qos);
            world.kernel.takeRefusals();
          }
        } finally {
          await world.close();
        }
      });

  it('is found in a cgroup namespace of the daemon’s own, where /proc names none', async () => {
    const world = new World({ depth: 4, driver: 'systemd' });
    try {
      const node = ['-C', process.execPath, '--input-type=module', '-e', INNER];
      const args = [...node, PROGRAMS, world.bpffs, world.kubepods];
      assert.deepEqual(JSON.parse(run('unshare', ...args)), ['0::/', 4, String(cgroupId(world.ownCgroup))]);
    } finally {
      await world.close();
    }
  });
});
