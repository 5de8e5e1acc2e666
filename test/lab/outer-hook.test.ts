/**
 * A cgroup above the pods' has a connect hook of its own, as with the kube-proxy replacements of Cilium and Calico
 * (DESIGN.md section 9). The kernel runs the lower cgroup's hook first: ours sees the Service's address, and the outer
 * one then sees a loopback address, which it leaves. With BPF_F_PREORDER it is the other way round.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import type { HttpReply } from './kit/apps.ts';
import type { LabService } from './kit/cluster.ts';
import type { LabDaemon, LogRecord } from './kit/daemon.ts';
import { Lab } from './kit/lab.ts';
import { serviceObject, sliceObject } from './kit/objects.ts';
import type { LabPod } from './kit/pod.ts';
import { OuterHook } from './outer-hook.ts';
import { QUICK } from './shop.ts';

/** A Service without selector that the outer hook alone translates: kube-proxy's stand-in does not know it. */
const LEGACY = '10.96.0.200';

describe('a hook of a kube-proxy replacement on a cgroup above the pods', { timeout: 300_000 }, () => {
  let lab: Lab;
  let daemons: readonly LabDaemon[];
  /** One on each node: node 1's hook was there before the daemon, node 2's comes after it. */
  let clients: readonly LabPod[];
  let stranger: LabPod;
  /** What our daemons resolve the Service to. */
  let web: LabPod;
  /** What the outer hook resolves it to: who answers says who resolved. */
  let decoy: LabPod;
  let service: LabService;
  let outside: Awaited<ReturnType<Lab['outside']>>;
  const hooks: OuterHook[] = [];

  before(async () => {
    lab = await Lab.create();
    outside = await lab.outside();
    hooks.push(await OuterHook.attach(lab, lab.node(1), 'normal'));
    daemons = await lab.startDaemons({ flags: QUICK });
    hooks.push(await OuterHook.attach(lab, lab.node(2), 'normal'));
    await lab.cluster.namespace('shop', { 'culvert.dev/mesh': 'enabled' });
    const pods = ['client-1', 'client-2', 'web', 'decoy'] as const;
    const made = await Promise.all(
      pods.map((name, index) => lab.pod({ name, node: index % 2 === 0 ? 1 : 2 })),
    );
    const [client1, client2, third, fourth] = made;
    assert.ok(client1 && client2 && third && fourth);
    [clients, web, decoy] = [[client1, client2], third, fourth];
    stranger = await lab.outsider('stranger');
    await Promise.all([web.serve('http', 8080), decoy.serve('http', 8080)]);
    await lab.serveIn(outside.netns, 'http', 8080, { name: 'outside' });
    const ports = [{ port: 80, targetPort: 8080 }];
    service = await lab.cluster.service({
      namespace: 'shop',
      name: 'web',
      ports,
      selector: { app: 'web' },
      pods: [web],
    });
    await applyLegacy();
    await Promise.all(hooks.map(translateAll));
    for (const pod of made) await daemonOf(pod).waitState(pod, 'enrolled');
  });
  after(() => lab[Symbol.asyncDispose]());

  async function applyLegacy(): Promise<void> {
    const ports = [{ port: 80, targetPort: 8080 }];
    const named = { name: 'legacy', namespace: 'shop', ports };
    await lab.cluster.apply(serviceObject({ ...named, clusterIps: [LEGACY], selector: undefined, spec: {} }));
    const endpoints = [{ ip: outside.ip, node: undefined, pod: undefined }];
    await lab.cluster.apply(sliceObject({ ...named, service: 'legacy', family: 'IPv4', endpoints }));
  }

  async function translateAll(hook: OuterHook): Promise<void> {
    await hook.translate(service.ip, 80, decoy.ip, 8080);
    await hook.translate(service.ip6, 80, decoy.ip6, 8080);
    await hook.translate(LEGACY, 80, outside.ip, 8080);
  }

  function daemonOf(pod: LabPod): LabDaemon {
    const daemon = daemons[pod.node.index - 1];
    assert.ok(daemon);
    return daemon;
  }

  function hookOf(pod: LabPod): OuterHook {
    const hook = hooks[pod.node.index - 1];
    assert.ok(hook);
    return hook;
  }

  /** One request and the client's daemon's record of it. */
  async function ask(
    client: LabPod,
    ip: string,
    port: number,
    body: Uint8Array = randomBytes(64),
  ): Promise<{ reply: HttpReply; record: LogRecord }> {
    const daemon = daemonOf(client);
    const from = daemon.process.lines.length;
    const reply = await client.request(ip, port, { body });
    assert.equal(reply.status, 200, JSON.stringify(reply.result));
    const record = await daemon.waitForAccess(
      `the record of ${client.name} to ${ip}`,
      (one) => one['src.workload'] === client.name && one['direction'] === 'outbound',
      { from },
    );
    return { reply, record };
  }

  /** Asks until the Service is known to the daemon: until then its address is one outside the mesh. */
  async function settled(
    client: LabPod,
    ip: string,
    reason: string,
  ): Promise<{ reply: HttpReply; record: LogRecord }> {
    return until(`${reason} for ${ip}`, async () => {
      const asked = await ask(client, ip, 80);
      return asked.record['reason'] === reason ? asked : undefined;
    });
  }

  it('the hook works: a pod outside the mesh is led where it says', async () => {
    const before_ = await hookOf(stranger).seen();
    assert.equal((await stranger.request(service.ip, 80)).status, 200);
    assert.equal((await hookOf(stranger).seen()).service, before_.service + 1);
  });

  for (const index of [0, 1] as const)
    it(`${index === 0 ? 'there before the daemon' : 'attached after it'}: ours sees the Service, the outer one leaves the loopback address`, async () => {
      const client = clients[index];
      assert.ok(client);
      await settled(client, service.ip, 'OK');
      await using wire = await lab.capture([lab.fabricPoint, client.capturePoint, web.capturePoint]);
      for (const ip of [service.ip, service.ip6]) {
        const marker = randomBytes(64);
        const before_ = await hookOf(client).seen();
        const { reply, record } = await ask(client, ip, 80, marker);
        assert.equal(reply.name, 'web', 'the outer hook resolved it');
        const host = ip.includes(':') ? `[${ip}]` : ip;
        assert.equal(reply.result.peer, `${host}:80`, 'getpeername() shows what was dialled');
        assert.deepEqual([record['reason'], record['security']], ['OK', 'mutual_tls']);
        assert.deepEqual([record['dst.addr'], record['dst.service']], [`${host}:80`, 'web.shop']);
        const now = await hookOf(client).seen();
        assert.equal(now.service, before_.service, 'the outer hook saw the Service');
        assert.ok(now.loopback > before_.loopback, 'the outer hook did not see our address');
        assert.deepEqual(await wire.seenAt(marker), []);
      }
    });

  it('what we leave to kube-proxy is its replacement’s: our own connect as dialled', async () => {
    const [client] = clients;
    assert.ok(client);
    const before_ = await hookOf(client).seen();
    const { reply } = await settled(client, LEGACY, 'PASSTHROUGH_UNMANAGED_SERVICE');
    assert.equal(reply.name, 'outside');
    assert.ok((await hookOf(client).seen()).service > before_.service);
  });

  it('with BPF_F_PREORDER the outer hook is first: ours sees the endpoint, and tunnels to that pod', async () => {
    const [client] = clients;
    assert.ok(client);
    await hookOf(client)[Symbol.asyncDispose]();
    hooks[0] = await OuterHook.attach(lab, lab.node(1), 'preorder');
    await translateAll(hooks[0]);
    await using wire = await lab.capture([lab.fabricPoint, client.capturePoint, decoy.capturePoint]);
    for (const [ip, host] of [
      [service.ip, decoy.ip],
      [service.ip6, `[${decoy.ip6}]`],
    ] as const) {
      const marker = randomBytes(64);
      const before_ = await hooks[0].seen();
      const { reply, record } = await ask(client, ip, 80, marker);
      assert.equal(reply.name, 'decoy', 'ours resolved it');
      assert.deepEqual([record['reason'], record['security']], ['OK', 'mutual_tls']);
      assert.equal(record['dst.addr'], `${host}:8080`);
      assert.equal(record['dst.hbone_addr'], `${host}:15008`);
      assert.equal((await hooks[0].seen()).service, before_.service + 1);
      assert.deepEqual(await wire.seenAt(marker), []);
    }
    const { reply, record } = await ask(client, LEGACY, 80);
    assert.deepEqual([reply.name, record['reason']], ['outside', 'PASSTHROUGH_OUTSIDE_MESH']);
  });
});
