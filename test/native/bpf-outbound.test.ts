import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { cgroupId } from '../../daemon/capture/kubepods.ts';
import { World } from './bpf-world.ts';
import type { Agent, Answer, TestPod } from './bpf-world.ts';

describe('outbound capture', { timeout: 120_000 }, () => {
  let world: World;
  let pod: TestPod;
  let other: TestPod;

  before(async () => {
    world = new World();
    pod = await world.addPod('burstable');
    other = await world.addPod('guaranteed');
    world.enrol(pod);
  });
  after(async () => await world.close());

  async function connect(agent: Agent, options: Record<string, unknown>): Promise<Answer> {
    return await agent.call('connect', { family: 4, keep: 'c', timeout: 3, ...options });
  }

  it('takes an IPv4 connect, tells the daemon where it wanted to go and the app whom it asked for', async () => {
    const answer = await connect(pod.agent, { host: '203.0.113.9', port: 4321 });
    assert.deepEqual(answer['peer'], ['203.0.113.9', 4321]);
    const taken = await world.take();
    assert.equal(taken.role, 'outbound');
    assert.deepEqual(
      {
        ip: taken.record?.ip,
        port: taken.record?.port,
        family: taken.record?.family,
        netns: taken.record?.netns,
      },
      { ip: '203.0.113.9', port: 4321, family: 2, netns: pod.cookie },
    );
    // The daemon's own socket shows its true peer.
    assert.equal(taken.socket.remoteAddress, '::ffff:127.0.0.1');
  });

  it('takes IPv6 and IPv4-mapped connects', async () => {
    const native = await connect(pod.agent, { family: 6, host: '2001:db8::7', port: 80 });
    assert.deepEqual(native['peer'], ['2001:db8::7', 80]);
    const first = await world.take();
    assert.deepEqual([first.record?.ip, first.record?.port, first.record?.family], ['2001:db8::7', 80, 10]);
    const mapped = await connect(pod.agent, { family: 6, host: '::ffff:203.0.113.8', port: 81 });
    assert.deepEqual(mapped['peer'], ['::ffff:203.0.113.8', 81]);
    const second = await world.take();
    assert.deepEqual([second.record?.ip, second.record?.port], ['203.0.113.8', 81]);
  });

  it('takes connects that are bound, non-blocking, fast open or MPTCP', async () => {
    const cases: Record<string, unknown>[] = [
      { bind: pod.v4 },
      { family: 6, bind: pod.v6, host: '2001:db8::8' },
      { nonblocking: true },
      { fastopen: true },
      { proto: 262 },
    ];
    for (const options of cases) {
      const host = typeof options['host'] === 'string' ? options['host'] : '203.0.113.10';
      const answer = await connect(pod.agent, { host, port: 99, ...options });
      assert.equal(answer.ok, true, JSON.stringify([options, answer]));
      const taken = await world.take();
      assert.deepEqual([taken.record?.ip, taken.record?.port], [host, 99], JSON.stringify(options));
    }
  });

  it('uses both workers, and only the live ones', async () => {
    const seen = new Set<number>();
    await pod.agent.call('flood', { family: 4, host: '203.0.113.9', port: 1, count: 40 });
    for (let i = 0; i < 40; i++) seen.add((await world.take()).worker);
    assert.deepEqual([...seen].sort(), [0, 1]);
    world.kernel.setWorkers(0b10, 2);
    await pod.agent.call('flood', { family: 4, host: '203.0.113.9', port: 1, count: 20 });
    for (let i = 0; i < 20; i++) assert.equal((await world.take()).worker, 1);
    world.kernel.setWorkers(0, 2);
    world.kernel.takeRefusals();
    assert.equal((await connect(pod.agent, { host: '203.0.113.9', port: 1 }))['error'], 'EPERM');
    assert.deepEqual(world.kernel.takeRefusals(), [{ id: pod.cookie, code: 'NO_WORKER', count: 1 }]);
    assert.deepEqual(world.kernel.takeRefusals(), [], 'told twice');
    world.kernel.setWorkers(0b11, 2);
  });

  it('leaves loopback, the own address, exclusions and UDP alone', async () => {
    await pod.agent.call('listen', { id: 'l', family: 6, host: '::', port: 7000 });
    const own: [number, string][] = [
      [4, '127.0.0.1'],
      [4, '127.9.9.9'],
      [4, '0.0.0.0'],
      [4, pod.v4],
      [6, '::1'],
      [6, '::'],
      [6, pod.v6],
      [6, `::ffff:${pod.v4}`],
      [6, '::ffff:127.0.0.1'],
    ];
    for (const [family, host] of own) {
      const answer = await connect(pod.agent, { family, host, port: 7000 });
      assert.equal(answer.ok, true, `${host} ${JSON.stringify(answer)}`);
      assert.equal((await pod.agent.call('accept', { id: 'l', keep: 's' })).ok, true, host);
    }
    await other.agent.call('listen', { id: 'l', family: 6, host: '::', port: 7001 });
    world.kernel.setExclusions(pod.cookie, ['10.77.1.0/24', 'fd77::/64']);
    for (const [family, host] of [
      [4, other.v4],
      [6, other.v6],
    ] as const) {
      assert.equal((await connect(pod.agent, { family, host, port: 7001 })).ok, true, host);
      assert.equal((await other.agent.call('accept', { id: 'l', keep: 's' })).ok, true, host);
    }
    assert.equal(world.untaken, 0);
    world.kernel.setExclusions(pod.cookie, ['10.99.0.0/16']);
    await connect(pod.agent, { host: other.v4, port: 7001 });
    assert.equal((await world.take()).record?.ip, other.v4);
    world.kernel.setExclusions(pod.cookie, []);
    assert.deepEqual(
      (await pod.agent.call('udp', { host: '203.0.113.9', port: 53 }))['error'],
      'ENETUNREACH',
    );
  });

  it('gives ENETUNREACH for IPv6 to a pod that has no IPv6 address, and still takes IPv4', async () => {
    const poor = await world.addPod('besteffort', false);
    world.enrol(poor, { noGlobalV6: true });
    const v6 = await connect(poor.agent, { family: 6, host: '2001:db8::7', port: 80 });
    assert.equal(v6['error'], 'ENETUNREACH');
    assert.equal((await connect(poor.agent, { family: 6, host: '::ffff:203.0.113.1', port: 80 })).ok, true);
    assert.equal((await world.take()).record?.ip, '203.0.113.1');
  });

  it('forgets the old peer of a socket that is connected again', async () => {
    await connect(pod.agent, { host: '203.0.113.9', port: 1, keep: 'again' });
    await world.take();
    assert.equal((await pod.agent.call('disconnect', { id: 'again' })).ok, true);
    await pod.agent.call('listen', { id: 'here', family: 4, host: '127.0.0.1', port: 7005 });
    const answer = await connect(pod.agent, { host: '127.0.0.1', port: 7005, reuse: 'again' });
    assert.deepEqual(answer['peer'], ['127.0.0.1', 7005]);
  });

  it('leaves the daemon alone, in the same namespace', async () => {
    await other.agent.call('listen', { id: 'd', family: 4, host: '0.0.0.0', port: 7002 });
    const daemon = await world.agent(world.ownCgroup, pod.netns);
    assert.equal((await connect(daemon, { host: other.v4, port: 7002 })).ok, true);
    assert.equal((await other.agent.call('accept', { id: 'd', keep: 's' })).ok, true);
  });

  it('refuses a namespace nested in the pod, unless the pod allows it', async () => {
    const nested = world.addNetns('nested');
    const agent = await world.agent(pod.cgroup, nested);
    assert.equal((await connect(agent, { host: '203.0.113.9', port: 1 }))['error'], 'EPERM');
    await agent.call('listen', { id: 'l', family: 4, host: '127.0.0.1', port: 1 });
    assert.equal((await connect(agent, { host: '127.0.0.1', port: 1 })).ok, true);
    const refused = world.kernel.takeRefusals().find((r) => r.id === pod.cookie && r.code === 'NESTED_NETNS');
    assert.equal(refused?.count, 1);
    world.enrol(pod, { allowNested: true });
    assert.equal((await connect(agent, { host: '203.0.113.9', port: 1 }))['error'], 'ENETUNREACH');
    world.enrol(pod);
  });

  it('holds the pod to its bound, and no entry is left behind', async () => {
    // Nobody takes these: the listener's backlog answers, so entries go at once; a dead listener's go at the refusal.
    const dead = await world.addPod();
    world.enrol(dead, { maxPending: 4 });
    world.kernel.setPod(dead.cookie, { capture: true, noGlobalV6: false, ports: [1, 1], maxPending: 4 });
    const flood = await dead.agent.call('flood', { family: 4, host: '203.0.113.9', port: 80, count: 2_000 });
    assert.deepEqual(flood['seen'], { ECONNREFUSED: 2_000 });
    assert.deepEqual(world.kernel.pendingOf(dead.cookie), { original: 0, client: 0, self: 0 });
    assert.equal(world.flows('original_by_tuple'), 0);
    // A SYN that gets no answer stands: the fifth is over the bound.
    world.sh(dead.netns, 'nft add table ip t');
    world.sh(dead.netns, 'nft add chain ip t in { type filter hook input priority 0; }');
    world.sh(dead.netns, 'nft add rule ip t in tcp dport 1 drop');
    for (let i = 0; i < 4; i++)
      assert.equal(
        (await dead.agent.call('start', { family: 4, host: '203.0.113.9', port: 80, keep: `s${i}` }))[
          'result'
        ],
        'EINPROGRESS',
      );
    assert.equal((await connect(dead.agent, { host: '203.0.113.9', port: 80 }))['error'], 'EPERM');
    assert.equal(world.kernel.pendingOf(dead.cookie).original, 4);
    // The neighbour loses none.
    assert.equal((await connect(pod.agent, { host: '203.0.113.9', port: 2 })).ok, true);
    assert.equal((await world.take()).record?.port, 2);
    for (let i = 0; i < 4; i++) await dead.agent.call('close', { id: `s${i}` });
    assert.equal(world.kernel.pendingOf(dead.cookie).original, 0);
    assert.equal(world.flows('original_by_tuple'), 0);
  });

  it('keeps connections apart that share their source address and port', async () => {
    const twin = await world.addPod();
    world.enrol(twin);
    world.kernel.setPod(twin.cookie, { capture: true, noGlobalV6: false, ports: [1, 2], maxPending: 99 });
    world.sh(twin.netns, 'nft add table ip t');
    world.sh(twin.netns, 'nft add chain ip t in { type filter hook input priority 0; }');
    world.sh(twin.netns, 'nft add rule ip t in tcp dport { 1, 2 } drop');
    const started = new Set<unknown>();
    for (let i = 0; i < 6; i++) {
      const to = { family: 4, host: `203.0.113.${i}`, port: 80, bind: twin.v4, sport: 5_555, keep: `t${i}` };
      started.add((await twin.agent.call('start', to))['result']);
    }
    // Two of six may fall on one of the 512 addresses: the kernel itself refuses that one.
    const standing = world.kernel.pendingOf(twin.cookie).original;
    assert.ok(standing >= 4, JSON.stringify([...started]));
    assert.equal(world.flows('original_by_tuple'), standing);
    for (let i = 0; i < 6; i++) await twin.agent.call('close', { id: `t${i}` });
    assert.equal(world.flows('original_by_tuple'), 0);
  });

  it('refuses a pending pod by its cgroup, in each QoS class and below it', async () => {
    for (const qos of ['guaranteed', 'burstable', 'besteffort'] as const) {
      const fresh = await world.addPod(qos);
      const deep = path.join(fresh.cgroup, 'nested', 'deeper');
      mkdirSync(deep, { recursive: true });
      const inner = await world.agent(deep, fresh.netns);
      const id = cgroupId(world.podCgroupOf(fresh));
      world.kernel.setPodCgroup(id, { state: 'pending', netnsCookie: 0n, allowNested: false });
      for (const agent of [fresh.agent, inner]) {
        assert.equal((await connect(agent, { host: other.v4, port: 7001 }))['error'], 'EPERM', qos);
        assert.equal((await connect(agent, { host: '127.0.0.1', port: 9 }))['error'], 'ECONNREFUSED', qos);
      }
      assert.equal(
        world.kernel.takeRefusals().find((r) => r.id === id && r.code === 'POD_PENDING')?.count,
        2,
      );
      world.kernel.deletePodCgroup(id);
      assert.equal((await connect(fresh.agent, { host: other.v4, port: 7001 })).ok, true);
    }
  });
});
