import assert from 'node:assert/strict';
import { Socket } from 'node:net';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { cgroupId } from '../../daemon/capture/kubepods.ts';
import { ROLES } from '../../daemon/mesh/wiring.ts';
import { podSockets } from '../../native/hot/index.ts';
import { parsePort } from '../../daemon/mesh/ids.ts';
import { World, ipOf, run } from './bpf-world.ts';
import type { Agent, Answer, TestPod } from './bpf-world.ts';

describe('inbound steering', { timeout: 120_000 }, () => {
  let world: World;
  let pod: TestPod;
  let client: TestPod;
  let kubelet: Agent;
  let onNode: Agent;

  before(async () => {
    world = new World();
    pod = await world.addPod();
    client = await world.addPod();
    kubelet = await world.hostAgent();
    const unit = path.join(path.dirname(world.kubeletCgroup), 'other');
    mkdirSync(unit);
    onNode = await world.hostAgent(unit);
    await pod.agent.call('listen', { id: 'app', family: 6, host: '::', port: 8080 });
    world.enrol(pod);
  });
  after(async () => await world.close());

  async function connect(agent: Agent, options: Record<string, unknown>): Promise<Answer> {
    return await agent.call('connect', { family: 4, keep: 'c', timeout: 1, ...options });
  }
  async function appAccepts(timeout = 3): Promise<Answer> {
    return await pod.agent.call('accept', { id: 'app', keep: 's', timeout });
  }

  it('steers every port to the plaintext listeners and 15008 to the mTLS listeners, keeping the local address', async () => {
    for (const [family, host] of [
      [4, pod.v4],
      [6, pod.v6],
    ] as const) {
      for (const [port, role] of [
        [8080, 'plaintext'],
        [9, 'plaintext'],
        [61_001, 'plaintext'],
        [15_008, 'hbone'],
      ] as const) {
        assert.equal((await connect(client.agent, { family, host, port })).ok, true, `${host} ${port}`);
        const taken = await world.take();
        assert.equal(taken.role, role, `${host} ${port}`);
        assert.equal(taken.local, family === 4 ? `::ffff:${host}:${port}` : `${host}:${port}`);
        assert.equal(taken.record, undefined);
      }
    }
  });

  it('spreads over the live workers, and drops when none lives or no listener stands', async () => {
    const seen = new Set<number>();
    for (let i = 0; i < 30; i++) {
      await connect(client.agent, { host: pod.v4, port: 8080 });
      seen.add((await world.take()).worker);
    }
    assert.deepEqual([...seen].sort(), [0, 1]);
    world.kernel.setWorkers(0b01, 2);
    for (let i = 0; i < 10; i++) {
      await connect(client.agent, { host: pod.v4, port: 8080 });
      assert.equal((await world.take()).worker, 0);
    }
    world.kernel.setWorkers(0, 2);
    assert.equal(
      (await connect(client.agent, { host: pod.v4, port: 8080, timeout: 0.3 }))['error'],
      'ECONNREFUSED',
    );
    world.kernel.setWorkers(0b11, 2);
    const first = pod.listeners.filter(({ role }) => role === 'plaintext');
    for (const { worker, cookie } of first)
      world.kernel.deleteListener(pod.v4, ROLES.plaintext, worker, cookie);
    assert.equal(
      (await connect(client.agent, { host: pod.v4, port: 8080, timeout: 0.3 }))['error'],
      'ECONNREFUSED',
    );
    assert.equal((await appAccepts(0))['error'] !== undefined, true);
    world.steer(pod);
    assert.ok(world.kernel.counters().NO_LISTENER > 0);
    assert.ok(world.kernel.counters().NO_WORKER_INBOUND > 0);
  });

  it('deletes only its own listener and address entries', () => {
    const { worker, cookie } = pod.listeners.find(({ role }) => role === 'plaintext') ?? assert.fail();
    world.kernel.deleteListener(pod.v4, ROLES.plaintext, worker, cookie + 1n);
    world.kernel.deleteLocalPod(pod.v4, pod.cookie + 1n);
    const found = world.kernel.inventory();
    assert.ok(found.listeners.some((l) => l.ip === pod.v4 && l.worker === worker && l.cookie === cookie));
    assert.ok(found.localPods.some((l) => l.ip === pod.v4 && l.cookie === pod.cookie));
  });

  it('leaves what starts inside the pod to the app: IPv4, IPv6 and loopback', async () => {
    for (const [family, host] of [
      [4, pod.v4],
      [6, pod.v6],
      [4, '127.0.0.1'],
      [6, '::1'],
    ] as const) {
      assert.equal((await connect(pod.agent, { family, host, port: 8080 })).ok, true, host);
      assert.equal((await appAccepts()).ok, true, host);
      await pod.agent.call('close', { id: 'c' });
      await pod.agent.call('close', { id: 's' });
    }
    assert.equal(world.untaken, 0);
    assert.equal(world.flows('self_flows'), 0);
  });

  it('does not believe an IPv6 source that is the pod’s own but comes from outside', async () => {
    const before = world.kernel.counters();
    const link = run('nsenter', `--net=/run/netns/${pod.netns}`, 'ip', '-o', 'link', 'show', 'eth0');
    const mac = /link\/ether (\S+)/.exec(link)?.[1];
    assert.equal((await client.agent.call('forge', { host: pod.v6, port: 8080, mac })).ok, true);
    const judged = (): number => {
      const now = world.kernel.counters();
      return now.PASSED_SELF + now.STEERED_PLAINTEXT - before.PASSED_SELF - before.STEERED_PLAINTEXT;
    };
    while (judged() === 0) await setImmediate();
    assert.equal(world.kernel.counters().PASSED_SELF, before.PASSED_SELF);
  });

  it('passes the kubelet’s probes to the app and steers everything else from the node', async () => {
    for (const [family, host] of [
      [4, pod.v4],
      [6, pod.v6],
    ] as const) {
      assert.equal((await connect(kubelet, { family, host, port: 8080 })).ok, true, host);
      assert.equal((await appAccepts()).ok, true);
      assert.equal(world.flows('host_flows'), 1);
      await kubelet.call('close', { id: 'c' });
      await pod.agent.call('recv', { id: 's' });
      await pod.agent.call('close', { id: 's' });
      assert.equal((await connect(onNode, { family, host, port: 8080 })).ok, true, host);
      assert.equal((await world.take()).role, 'plaintext');
    }
    assert.equal(world.untaken, 0);
  });

  it('follows the kubelet into its next cgroup', async () => {
    const next = path.join(path.dirname(world.kubeletCgroup), 'kubelet2');
    mkdirSync(next);
    const restarted = await world.hostAgent(next);
    await connect(restarted, { host: pod.v4, port: 8080 });
    assert.equal((await world.take()).role, 'plaintext');
    world.kernel.setKubelet(cgroupId(next));
    assert.equal((await connect(restarted, { host: pod.v4, port: 8080 })).ok, true);
    assert.equal((await appAccepts()).ok, true);
    await connect(kubelet, { host: pod.v4, port: 8080 });
    assert.equal((await world.take()).role, 'plaintext');
    world.kernel.setKubelet(cgroupId(world.kubeletCgroup));
  });

  it('gives a leaving pod its plaintext back and keeps 15008', async () => {
    for (const ip of [pod.v4, pod.v6]) world.kernel.setLocalPod(ip, { cookie: pod.cookie, leaving: true });
    await connect(client.agent, { host: pod.v4, port: 8080 });
    assert.equal((await appAccepts()).ok, true);
    await connect(client.agent, { host: pod.v4, port: 15_008 });
    assert.equal((await world.take()).role, 'hbone');
    world.steer(pod);
  });

  it('drops what goes to an address of the pod that nobody told of', async () => {
    world.sh(pod.netns, 'ip addr add 10.77.2.2/32 dev eth0');
    assert.equal(
      (await connect(client.agent, { host: '10.77.2.2', port: 8080, timeout: 0.3 }))['error'],
      'ECONNREFUSED',
    );
    assert.ok(world.kernel.counters().UNKNOWN_LOCAL_ADDRESS > 0);
  });

  it('shows the app the real client, by accept and getpeername, also while only steered', async () => {
    const sockets = podSockets(world.hot);
    world.hot.init(world.kernel.mapFds());
    const seen: unknown[] = [];
    for (const captured of [true, false]) {
      if (!captured) world.kernel.deletePod(pod.cookie);
      for (const [family, host, clientIp] of [
        [4, pod.v4, '192.0.2.1'],
        [6, pod.v6, '2001:db8::5'],
        [6, pod.v6, '192.0.2.2'],
      ] as const) {
        const port = parsePort(4_567) ?? assert.fail();
        const fd = sockets.dial(pod.netnsFd, family, { ip: ipOf(clientIp), port });
        const socket = new Socket({ fd }).connect(8080, host);
        socket.on('error', () => undefined);
        await once(socket.resume(), 'connect');
        const closed = once(socket, 'close');
        const accepted = await appAccepts();
        seen.push(accepted['peer'], accepted['getpeername']);
        assert.deepEqual(accepted['local'], [family === 4 ? `::ffff:${host}` : host, 8080]);
        // Ours shows whom we dialled.
        assert.equal(socket.remoteAddress, host);
        // The app closes first, so that ours goes without a wait in the kernel.
        await pod.agent.call('close', { id: 's' });
        await closed;
      }
    }
    const expected = ['::ffff:192.0.2.1', '2001:db8::5', '::ffff:192.0.2.2'].flatMap((ip) => [
      [ip, 4567],
      [ip, 4567],
    ]);
    assert.deepEqual(seen, [...expected, ...expected]);
    assert.equal(world.untaken, 0);
    assert.deepEqual(world.kernel.pendingOf(pod.cookie), { original: 0, client: 0, self: 0 });
    assert.equal(world.flows('client_by_tuple'), 0);
    world.enrol(pod);
  });

  it('moves the netns link to the next namespace of the same pod', async () => {
    world.kernel.attachNetns(pod.uid, client.netnsFd);
    assert.equal((await connect(client.agent, { host: pod.v4, port: 8080 })).ok, true);
    assert.equal((await appAccepts()).ok, true, 'the old namespace is free');
    world.kernel.attachNetns(pod.uid, pod.netnsFd);
    await connect(client.agent, { host: pod.v4, port: 8080 });
    assert.equal((await world.take()).role, 'plaintext');
    assert.deepEqual(world.kernel.inventory().netnsLinks, [pod.uid]);
  });

  it('guards a pending pod: inbound SYNs are dropped but from lo and the kubelet; what stands goes on', async () => {
    const fresh = await world.addPod();
    await fresh.agent.call('listen', { id: 'app', family: 6, host: '::', port: 8080 });
    assert.equal((await connect(client.agent, { host: fresh.v4, port: 8080, keep: 'old' })).ok, true);
    await fresh.agent.call('accept', { id: 'app', keep: 'old' });
    world.kernel.guardPending(fresh.uid, world.podCgroupOf(fresh));
    for (const [family, host] of [
      [4, fresh.v4],
      [6, fresh.v6],
    ] as const) {
      assert.equal(
        (await connect(client.agent, { family, host, port: 8080, timeout: 0.3 }))['error'],
        'TIMEOUT',
      );
      assert.equal((await connect(onNode, { family, host, port: 8080, timeout: 0.3 }))['error'], 'TIMEOUT');
      for (const agent of [kubelet, fresh.agent]) {
        assert.equal((await connect(agent, { family, host, port: 8080 })).ok, true, host);
        assert.equal((await fresh.agent.call('accept', { id: 'app', keep: 's' })).ok, true);
      }
    }
    await client.agent.call('send', { id: 'old', text: 'still here' });
    assert.equal((await fresh.agent.call('recv', { id: 'old' }))['text'], 'still here');
    assert.deepEqual(world.kernel.inventory().guards, [fresh.uid]);
    world.kernel.unguardPending(fresh.uid);
    assert.equal((await connect(client.agent, { host: fresh.v4, port: 8080 })).ok, true);
  });
});
