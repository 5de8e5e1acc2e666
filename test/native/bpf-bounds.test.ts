import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { ROLES } from '../../daemon/mesh/wiring.ts';
import { World, ipOf, run } from './bpf-world.ts';
import type { TestPod } from './bpf-world.ts';

/** bpf_map_update_batch: keys 1, 2, 3 … in their first bytes, until the map is full. */
const FILL = `
import ctypes, sys
path, key, value, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
lib = ctypes.CDLL('libbpf.so.1')
fd = lib.bpf_obj_get(path.encode())
assert fd >= 0, fd
keys = b''.join((i + 1).to_bytes(key, 'little') for i in range(count))
done = ctypes.c_uint32(count)
error = lib.bpf_map_update_batch(fd, keys, bytes(value * count), ctypes.byref(done), None)
print(error, done.value)
`;

describe('a map at its bound', { timeout: 120_000 }, () => {
  let world: World;
  let pod: TestPod;
  before(async () => {
    world = new World();
    pod = await world.addPod();
    world.enrol(pod);
  });
  after(async () => await world.close());

  /** Fills a pinned map. @returns how many keys went in. */
  function fill(name: string, keyBytes: number, valueBytes: number, count: number): number {
    const file = path.join(world.bpffs, 'culvert/v1/maps', name);
    const words = [file, keyBytes, valueBytes, count].map(String);
    const [error, done] = run('python3', '-c', FILL, ...words)
      .trim()
      .split(' ')
      .map(Number);
    assert.notEqual(error, 0, `${name} took ${count} keys: it has no bound`);
    return done ?? 0;
  }

  it('of original destinations: the connection reaches our listener without a record, counted, and none is believed', async () => {
    assert.equal(fill('original_by_tuple', 48, 32, 262_145), 262_144);
    const before = world.kernel.counters().NO_KERNEL_RECORD;
    const to = { family: 4, host: '203.0.113.9', port: 80, keep: 'c' };
    assert.equal((await pod.agent.call('connect', to)).ok, true);
    const taken = await world.take();
    // The worker refuses what has no record: it does not know where it was to go.
    assert.deepEqual([taken.role, taken.record], ['outbound', undefined]);
    assert.equal(world.kernel.counters().NO_KERNEL_RECORD, before + 1);
    assert.deepEqual(world.kernel.pendingOf(pod.cookie), { original: 0, client: 0, self: 0 });
  });

  it('of pods: one more is an error that names the map, and a pod without its entry stays refused by its guard', async () => {
    const late = await world.addPod();
    world.kernel.setPodCgroup(world.idOf(late), { state: 'pending', netnsCookie: 0n, allowNested: false });
    fill('pods', 8, 48, 5_000);
    assert.throws(() => world.enrol(late), { code: 'BPF_MAP_FAILED', message: /pods.*E2BIG/ });
    world.kernel.takeRefusals();
    const to = { family: 4, host: pod.v4, port: 8080, keep: 'c', timeout: 1 };
    assert.equal((await late.agent.call('connect', to))['error'], 'EPERM');
    const refused = { id: world.idOf(late), code: 'POD_PENDING', count: 1 };
    assert.deepEqual(world.kernel.takeRefusals(), [refused]);
  });

  it('of addresses: an unknown address of a steered pod is refused and counted', async () => {
    const client = await world.addPod();
    world.kernel.deleteLocalPod(pod.v4, pod.cookie);
    fill('localpods', 16, 16, 9_000);
    const set = (): void => world.kernel.setLocalPod(pod.v4, { cookie: pod.cookie, leaving: false });
    assert.throws(set, { code: 'BPF_MAP_FAILED' });
    await pod.agent.call('listen', { id: 'app', family: 6, host: '::', port: 8080 });
    world.kernel.takeRefusals();
    const to = { family: 4, host: pod.v4, port: 8080, keep: 'c', timeout: 1 };
    assert.equal((await client.agent.call('connect', to))['error'], 'ECONNREFUSED');
    assert.equal((await pod.agent.call('accept', { id: 'app', keep: 's', timeout: 0 })).ok, false);
    assert.deepEqual(world.kernel.takeRefusals(), [{ id: 0n, code: 'UNKNOWN_LOCAL_ADDRESS', count: 1 }]);
  });

  it('of listeners: one more is an error that names the map', () => {
    const { fd } = pod.listeners[0] ?? assert.fail('no listener');
    const fillers = Array.from({ length: 65_536 }, (_, i) =>
      ipOf(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`),
    );
    assert.throws(() => fillers.forEach((ip) => world.kernel.setListener(ip, ROLES.hbone, 0, fd)), {
      code: 'BPF_MAP_FAILED',
      message: /inl/,
    });
  });
});
