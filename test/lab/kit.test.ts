/** The lab itself: before a test of the mesh can be believed, what it stands on. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import { existsSync } from 'node:fs';
import { must } from '../support/run.ts';
import { Lab } from './kit/lab.ts';
import type { LabPod } from './kit/pod.ts';

/** `10.0.0.1:80` or `[::1]:80` without the port. */
const hostOf = (end: string): string => end.slice(0, end.lastIndexOf(':')).replace(/^\[|\]$/g, '');

describe('the network', () => {
  let lab: Lab;
  let client: LabPod;
  let near: LabPod;
  let far: LabPod;
  before(async () => {
    lab = await Lab.create();
    [client, near, far] = await Promise.all([
      lab.pod({ name: 'client', node: 1 }),
      lab.pod({ name: 'near', node: 1 }),
      lab.pod({ name: 'far', node: 2 }),
    ]);
    await Promise.all([near.serve('http', 8080), far.serve('http', 8080)]);
  });
  after(() => lab[Symbol.asyncDispose]());

  it('carries IPv4 and IPv6 across nodes and within one, and keeps the source address', async () => {
    for (const server of [near, far])
      for (const [to, from] of [
        [server.ip, client.ip],
        [server.ip6, client.ip6],
      ] as const) {
        const reply = await client.request(to, 8080);
        assert.equal(reply.status, 200, `${server.name} ${to} ${reply.result.error}`);
        assert.equal(reply.name, server.name);
        assert.equal(hostOf(reply.peer), from);
      }
  });

  it('uses reno everywhere: bbr would be the bottleneck of every measurement', async () => {
    const argv = ['sysctl', '-n', 'net.ipv4.tcp_congestion_control'];
    for (const pod of [client, far]) assert.deepEqual((await pod.exec(argv)).lines, ['reno']);
    for (const node of lab.nodes) assert.equal(await node.must(argv), 'reno\n');
  });

  it('translates ClusterIPs to endpoints, each in turn, for pods and for the node', async () => {
    const web = await lab.cluster.service({
      namespace: 'shop',
      name: 'web',
      ports: [{ port: 80, targetPort: 8080 }],
      pods: [near, far],
    });
    const seen = new Set<string>();
    for (let tries = 0; tries < 60 && seen.size < 4; tries++)
      for (const address of [web.ip, web.ip6]) {
        const reply = await client.request(address, 80);
        assert.equal(reply.status, 200, `${address} ${reply.result.error}`);
        seen.add(`${reply.name} ${address === web.ip6 ? 'v6' : 'v4'}`);
      }
    assert.deepEqual([...seen].sort(), ['far v4', 'far v6', 'near v4', 'near v6']);
    assert.equal(await lab.node(1).probe('http', web.ip, 80), '');
  });

  it('lets a pod reach itself through its Service', async () => {
    const self = await lab.cluster.service({
      namespace: 'shop',
      name: 'self',
      ports: [{ port: 80, targetPort: 8080 }],
      pods: [near],
    });
    const reply = await near.request(self.ip, 80);
    assert.equal(reply.name, 'near', reply.result.error);
  });

  it('refuses nothing and hides nothing: an address without a pod is unreachable, not silent', async () => {
    const result = await client.send('10.244.2.250', 80, { timeoutMs: 5_000 });
    assert.equal(result.connected, false);
    assert.notEqual(result.error, 'ETIMEDOUT');
  });

  it('reaches a server outside the cluster', async () => {
    const outside = await lab.outside();
    await lab.serveIn(outside.netns, 'http', 80);
    for (const [to, from] of [
      [outside.ip, client.ip],
      [outside.ip6, client.ip6],
    ] as const)
      assert.equal(hostOf((await client.request(to, 80)).peer), from);
  });

  it('finds the marker of a clear request at every point of its way', async () => {
    await using wire = await lab.capture([
      lab.fabricPoint,
      client.capturePoint,
      far.capturePoint,
      ...lab.nodes.map((node) => node.capturePoint),
    ]);
    const marker = randomBytes(64);
    assert.equal((await client.request(far.ip, 8080, { body: marker })).status, 200);
    const points = ['bridge', 'node-1', 'node-2', 'pod client', 'pod far'];
    assert.deepEqual((await wire.seenAt(marker)).sort(), points);
    assert.deepEqual(await wire.seenAt(randomBytes(64)), []);
    assert.equal((await wire.tls(8080)).get('bridge')?.applicationData, 0);
    assert.ok(((await wire.tls(8080)).get('bridge')?.packets ?? 0) > 4);
  });
});

describe('a node', () => {
  for (const cgroupDriver of ['systemd', 'cgroupfs'] as const)
    it(`shows its own processes and cgroups only (${cgroupDriver})`, async () => {
      await using lab = await Lab.create({ nodes: 1, cgroupDriver });
      const pod = await lab.pod({ name: 'one', node: 1, qos: 'guaranteed' });
      const uid = pod.uid.replaceAll('-', cgroupDriver === 'systemd' ? '_' : '-');
      const app = await pod.exec([
        'sh',
        '-c',
        'cat /proc/self/cgroup; cat /sys/fs/cgroup/kubelet/cgroup.procs; ls /proc',
      ]);
      const cgroup = app.lines.find((line) => line.startsWith('0::'));
      const parent =
        cgroupDriver === 'systemd' ? `/kubepods.slice/kubepods-pod${uid}.slice` : `/kubepods/pod${uid}`;
      assert.ok(cgroup !== undefined && cgroup.startsWith(`0::${parent}/`), app.lines.join('\n'));
      // The pids of this machine's processes are far higher.
      const pids = app.lines.filter((line) => /^\d+$/.test(line)).map(Number);
      assert.ok(pids.includes(1) && !pids.includes(0) && Math.max(...pids) < 1_000, pids.join(' '));
    });

  it('probes pods from the kubelet: HTTP, TCP, gRPC, and says why not', async () => {
    await using lab = await Lab.create({ nodes: 1 });
    const pod = await lab.pod({ name: 'probed', node: 1 });
    await pod.serve('http', 8080);
    const grpc = await pod.spawn([
      process.execPath,
      join(import.meta.dirname, 'apps/grpc-health.ts'),
      '9090',
    ]);
    await grpc.waitForLine('gRPC', (line) => line === 'listening' || undefined);
    const node = lab.node(1);
    assert.equal(await node.probe('http', pod.ip, 8080), '');
    assert.equal(await node.probe('http', pod.ip6, 8080), '');
    assert.equal(await node.probe('tcp', pod.ip, 8080), '');
    assert.equal(await node.probe('grpc', pod.ip, 9090), '');
    assert.match(await node.probe('tcp', pod.ip, 81), /ECONNREFUSED/);
    await node.stopKubelet();
    await node.startKubelet();
    assert.equal(await node.probe('http', pod.ip, 8080), '');
  });
});

describe('pods', () => {
  let lab: Lab;
  before(async () => {
    lab = await Lab.create({ views: 'perNode' });
  });
  after(() => lab[Symbol.asyncDispose]());

  it('leave their address to another, at once', async () => {
    const first = await lab.pod({ name: 'first', node: 2 });
    const client = await lab.pod({ name: 'asks', node: 1 });
    await first.serve('http', 80);
    assert.equal((await client.request(first.ip, 80)).name, 'first');
    await first.delete();
    const second = await lab.pod({ name: 'second', node: 2, ips: first.ips });
    await second.serve('http', 80);
    assert.equal((await client.request(first.ip, 80)).name, 'second');
    assert.equal((await client.request(first.ip6, 80)).name, 'second');
  });

  it('restart in place with another namespace and the same address', async () => {
    const pod = await lab.pod({ name: 'restarts', node: 1 });
    // Not the inode: the kernel gives the next namespace the number of one that is gone.
    await pod.exec(['sysctl', '-w', 'net.ipv4.ip_unprivileged_port_start=7']);
    await pod.replaceSandbox();
    const { lines } = await pod.exec(['sysctl', '-n', 'net.ipv4.ip_unprivileged_port_start']);
    assert.deepEqual(lines, ['1024']);
    await pod.serve('http', 80);
    assert.equal(await lab.node(1).probe('http', pod.ip, 80), '');
  });

  it('of the host network share the node’s', async () => {
    const pod = await lab.pod({ name: 'host', node: 2, hostNetwork: true });
    assert.deepEqual(pod.ips, lab.node(2).addresses);
    const own = (await pod.exec(['readlink', '/proc/self/ns/net'])).lines.join('');
    assert.equal(`${own}\n`, await lab.node(2).must(['readlink', '/proc/self/ns/net']));
  });

  it('give people a shell that is the pod’s own: in its cgroup as in its namespaces', async () => {
    const pod = await lab.pod({ name: 'shell', node: 1 });
    const script = join(lab.dir, 'shell');
    await pod.writeShell(script);
    const argv = ['sh', '-c', 'cat /proc/self/cgroup; readlink /proc/self/ns/net'];
    assert.equal(await must([script, ...argv]), `${(await pod.exec(argv)).lines.join('\n')}\n`);
  });

  it('come a hundred at once', async () => {
    const names = Array.from({ length: 100 }, (_, index) => `many-${index}`);
    const pods = await Promise.all(names.map((name, index) => lab.pod({ name, node: 1 + (index % 2) })));
    assert.equal(new Set(pods.map((pod) => pod.ip)).size, 100);
    const last = pods.at(-1);
    await last?.serve('http', 80);
    assert.equal((await pods[0]?.request(last?.ip ?? '', 80))?.name, 'many-99');
  });

  it('are told to the nodes apart when the test wants it', async () => {
    const folders = ['node-1', 'node-2'].map((node) => join(lab.cluster.folder(node), 'namespace.late.yaml'));
    const told = lab.cluster.namespace('late', {}, { lagMs: { 'node-2': 300 } });
    await sleep(50);
    assert.deepEqual(
      folders.map((file) => existsSync(file)),
      [true, false],
    );
    await told;
    assert.deepEqual(
      folders.map((file) => existsSync(file)),
      [true, true],
    );
  });
});
