/**
 * Where the mesh ends (DESIGN.md section 9): traffic that comes in through a node's port, and destinations that are no
 * pod of the mesh. Node 1's pods are PERMISSIVE, node 2's STRICT.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { Sending, sendArguments } from './kit/apps.ts';
import type { HttpReply, SendResult, Server } from './kit/apps.ts';
import type { LabDaemon, LogRecord } from './kit/daemon.ts';
import { ip } from './kit/net.ts';
import { serviceObject } from './kit/objects.ts';
import type { LabPod } from './kit/pod.ts';
import { tools } from './kit/tools.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { nodeStatus, recordTo, withoutPayload } from './watch.ts';

const NODE_PORT = 30_081;
const HOST_PORT = 8_443;
/** On node 1, to the STRICT pod of node 2. */
const FAR_NODE_PORT = 30_082;
const BALANCER = '198.51.100.77';
const METADATA = '169.254.169.254';

describe('where the mesh ends', { timeout: 300_000 }, () => {
  let shop: Shop;
  let outside: Awaited<ReturnType<Shop['lab']['outside']>>;
  /** PERMISSIVE, on node 1; `shop.server` is the STRICT one. */
  let lenient: LabPod;
  let lenientSink: Server;
  let strictSink: Server;

  before(async () => {
    const strict = { CULVERT_DEFAULT_MODE: 'strict' };
    shop = await openShop({ daemon: { flags: ['--hold-timeout', '2s'] }, env: [{}, strict] });
    const { lab, server, daemon1 } = shop;
    outside = await lab.outside();
    await ip(outside.netns, [`addr add ${BALANCER}/32 dev lo`, `addr add ${METADATA}/32 dev lo`]);
    for (const address of [BALANCER, METADATA])
      await lab.serveIn(outside.netns, 'http', 80, { name: address, address });
    await lab.serveIn(outside.netns, 'http', 8080, { name: 'outside' });
    lenient = await lab.pod({ name: 'lenient', node: 1 });
    await server.serve('http', 8080);
    [lenientSink, strictSink] = await Promise.all([lenient.serve('sink', 8081), server.serve('sink', 8081)]);
    await daemon1.waitState(lenient, 'enrolled');
    await openNode(lenient, [
      [NODE_PORT, lenient, 'masqueraded'],
      [FAR_NODE_PORT, server, 'masqueraded'],
      [HOST_PORT, lenient, 'as it came'],
    ]);
    await openNode(server, [
      [NODE_PORT, server, 'masqueraded'],
      [HOST_PORT, server, 'as it came'],
    ]);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  /** The rules of kube-proxy for a NodePort, and of the CNI's portmap plugin for a hostPort, on the node of `pod`. */
  async function openNode(
    pod: LabPod,
    ports: readonly (readonly [number, LabPod, 'masqueraded' | 'as it came'])[],
  ): Promise<void> {
    const rules = ports.map(([port, to, how]) => {
      const mark = how === 'masqueraded' ? 'meta mark set 1 ' : '';
      return `ip daddr ${nodeIp(pod)} tcp dport ${port} ${mark}dnat to ${to.ip}:8081;`;
    });
    const table = `table ip node-ports {
      chain in { type nat hook prerouting priority dstnat; ${rules.join(' ')} }
      chain out { type nat hook postrouting priority srcnat; meta mark 1 masquerade; }
    }`;
    await pod.node.must(['nft', '-f', '-'], table);
  }

  function nodeIp(pod: LabPod): string {
    return pod.node.addresses[0] ?? '';
  }

  /** One connection from the host outside the cluster. */
  async function sendFromOutside(to: LabPod, port: number): Promise<SendResult> {
    const { labapp } = await tools();
    const words = sendArguments(nodeIp(to), port, { first: randomBytes(64), timeoutMs: 5_000 });
    await using sending = new Sending(await shop.lab.run([labapp, ...words], outside.netns));
    return await sending.result();
  }

  /** What the daemon of the pod that was reached has to say of the connection that `attempt` makes. */
  async function inboundRecord(
    daemon: LabDaemon,
    attempt: () => Promise<SendResult>,
  ): Promise<{ out: SendResult; record: LogRecord }> {
    const from = daemon.process.lines.length;
    const out = await attempt();
    const isIt = (record: LogRecord): boolean => record['direction'] === 'inbound';
    return { out, record: await daemon.waitForAccess('the inbound record', isIt, { from }) };
  }

  /** Source address without its port. */
  function sourceOf(record: LogRecord): string {
    return String(record['src.addr']).replace(/:\d+$/, '');
  }

  for (const [name, port] of [
    ['NodePort', NODE_PORT],
    ['hostPort', HOST_PORT],
  ] as const) {
    it(`${name} traffic into a PERMISSIVE pod: taken, from its source address`, async () => {
      const before_ = (await lenientSink.stats()).received;
      const { out, record } = await inboundRecord(shop.daemon1, () => sendFromOutside(lenient, port));
      assert.equal(out.error, '', JSON.stringify(out));
      await until('the payload', async () => (await lenientSink.stats()).received === before_ + 64);
      assert.deepEqual([record['reason'], record['security']], ['PLAINTEXT_ACCEPTED', 'none']);
      assert.equal(record['src.identity'], undefined);
      const source = name === 'NodePort' ? nodeIp(lenient) : out.local.replace(/:\d+$/, '');
      assert.equal(sourceOf(record), source);
    });

    it(`${name} traffic into a STRICT pod: refused with no byte to the app, and the record says so`, async () => {
      const { server, daemon2 } = shop;
      const { out, record } = await inboundRecord(daemon2, () =>
        withoutPayload(strictSink, () => sendFromOutside(server, port)),
      );
      assert.equal(out.error, 'ECONNRESET', JSON.stringify(out));
      assert.equal(record['reason'], 'PLAINTEXT_DENIED');
      assert.match(String(record['detail']), /NodePort, hostPort/);
      // The kubelet's probes come from the same address as a masqueraded NodePort, and pass.
      if (name === 'NodePort') assert.equal(sourceOf(record), nodeIp(server));
      assert.equal(await server.node.probe('http', server.ip, 8080), '');
    });
  }

  it('NodePort traffic that another node forwards to a STRICT pod: refused, as from that node', async () => {
    const { daemon2 } = shop;
    const { out, record } = await inboundRecord(daemon2, () =>
      withoutPayload(strictSink, () => sendFromOutside(lenient, FAR_NODE_PORT)),
    );
    assert.equal(out.error, 'ECONNRESET');
    assert.deepEqual([record['reason'], sourceOf(record)], ['PLAINTEXT_DENIED', nodeIp(lenient)]);
  });

  it('a hostNetwork pod is not taken for the kubelet: refused by a STRICT pod of its node', async () => {
    const { lab, server, daemon2 } = shop;
    const host = await lab.pod({ name: 'on-host', node: 2, hostNetwork: true });
    // Until it has been read, it is closed (daemon/capture/unknown-pods.ts).
    await daemon2.waitState(host, 'unenrollable');
    const first = randomBytes(64);
    const { out, record } = await inboundRecord(daemon2, () =>
      withoutPayload(strictSink, () => host.send(server.ip, 8081, { first })),
    );
    assert.equal(out.end, 'error');
    assert.deepEqual([record['reason'], sourceOf(record)], ['PLAINTEXT_DENIED', nodeIp(server)]);
  });

  it('a kubelet that restarts into another cgroup: its probes of a STRICT pod pass again', async () => {
    const { server } = shop;
    const { node } = server;
    const cgroup = join(node.cgroup, 'kubelet');
    const before_ = statSync(cgroup).ino;
    await node.stopKubelet();
    await until('its cgroup to be empty', () =>
      readFileSync(join(cgroup, 'cgroup.events'), 'utf8').includes('populated 0'),
    );
    rmdirSync(cgroup);
    mkdirSync(cgroup);
    assert.notEqual(statSync(cgroup).ino, before_);
    await node.startKubelet();
    await until('a probe to pass', async () => (await node.probe('http', server.ip, 8080)) === '');
    for (const address of server.ips) assert.equal(await node.probe('http', address, 8080), '');
  });

  /** Asks from the client until the daemon decides with `reason`: a new Service is outside the mesh for a moment. */
  async function askUntil(address: string, port: number, reason: string): Promise<HttpReply> {
    const { client, daemon1 } = shop;
    return until(`${reason} for ${address}`, async () => {
      const from = daemon1.process.lines.length;
      const reply = await client.request(address, port, { timeoutMs: 5_000 });
      const record = await recordTo(daemon1, 'outbound', `${address}:${port}`, from);
      assert.equal(record['security'], 'none');
      return record['reason'] === reason ? reply : undefined;
    });
  }

  it('a Service’s load balancer address: left to kube-proxy in the clear, and named so', async () => {
    const object = serviceObject({
      name: 'balanced',
      namespace: 'shop',
      clusterIps: ['10.96.0.201'],
      ports: [{ port: 80, targetPort: 8080 }],
      selector: { app: 'web' },
      spec: { type: 'LoadBalancer' },
    });
    await shop.lab.cluster.apply({ ...object, status: { loadBalancer: { ingress: [{ ip: BALANCER }] } } });
    assert.equal((await askUntil(BALANCER, 80, 'PASSTHROUGH_KUBE_PROXY')).name, BALANCER);
  });

  it('an ExternalName Service: the name leads out of the mesh, and that is passed in the clear', async () => {
    const named = { name: 'partner', namespace: 'shop', ports: [], selector: undefined };
    const spec = { type: 'ExternalName', externalName: 'partner.example.org' };
    const object = serviceObject({ ...named, clusterIps: [], spec });
    const { clusterIP, clusterIPs, ...rest } = object['spec'] as Record<string, unknown>;
    assert.deepEqual([clusterIP, clusterIPs], ['None', ['None']]);
    await shop.lab.cluster.apply({ ...object, spec: rest });
    const reply = await askUntil(outside.ip, 8080, 'PASSTHROUGH_OUTSIDE_MESH');
    assert.equal(reply.name, 'outside');
    assert.deepEqual((await nodeStatus(shop.daemon1)).problems, []);
  });

  it('a headless Service, StatefulSet style: each pod by its own address, over mTLS, as that pod', async () => {
    const { lab, client, daemon1, daemon2 } = shop;
    const labels = { app: 'db' };
    const [first, second] = await Promise.all([
      lab.pod({ name: 'db-0', node: 1, serviceAccount: 'db', labels }),
      lab.pod({ name: 'db-1', node: 2, serviceAccount: 'db', labels }),
    ]);
    await Promise.all([first.serve('http', 5432), second.serve('http', 5432)]);
    await Promise.all([daemon1.waitState(first, 'enrolled'), daemon2.waitState(second, 'enrolled')]);
    const headless = { namespace: 'shop', name: 'db', clusterIps: [], selector: labels };
    const ports = [{ port: 5432, targetPort: 5432 }];
    await lab.cluster.service({ ...headless, ports, pods: [first, second] });
    for (const pod of [first, second])
      for (const address of pod.ips) {
        const from = daemon1.process.lines.length;
        const host = address.includes(':') ? `[${address}]` : address;
        // The second pod's node has published it; this node may be told a moment later, and waits for that.
        const reply = await client.request(address, 5432);
        const isIt = (one: LogRecord): boolean =>
          one['direction'] === 'outbound' && one['dst.addr'] === `${host}:5432`;
        const record = await daemon1.waitForAccess(`the record of ${host}`, isIt, { from });
        assert.equal(reply.name, pod.name, JSON.stringify([reply.result, record]));
        assert.deepEqual([record['reason'], record['security']], ['OK', 'mutual_tls']);
        assert.equal(record['dst.workload'], pod.name);
      }
    assert.deepEqual((await nodeStatus(daemon1)).problems, []);
  });

  it('the API server, the cloud’s metadata address and cluster DNS over TCP: passed through', async () => {
    const { lab, client } = shop;
    const node = nodeIp(client);
    await lab.serveIn(client.node.netns, 'http', 6443, { name: 'api' });
    const api = await lab.cluster.service({
      namespace: 'default',
      name: 'kubernetes',
      ports: [{ name: 'https', port: 443, targetPort: 6443 }],
      endpoints: [{ ip: node, node: undefined, pod: undefined }],
    });
    assert.equal((await askUntil(api.ip, 443, 'PASSTHROUGH_UNMANAGED_SERVICE')).name, 'api');
    assert.equal((await askUntil(METADATA, 80, 'PASSTHROUGH_OUTSIDE_MESH')).name, METADATA);
    const dns = await lab.pod({ name: 'coredns', node: 2, namespace: 'kube-system' });
    await dns.serve('http', 53);
    const kubeDns = await lab.cluster.service({
      namespace: 'kube-system',
      name: 'kube-dns',
      ports: [{ name: 'dns-tcp', port: 53, targetPort: 53 }],
      selector: { app: 'coredns' },
      pods: [dns],
    });
    assert.equal((await askUntil(kubeDns.ip, 53, 'PASSTHROUGH_NOT_ENROLLED')).name, 'coredns');
  });

  it('a hostNetwork backend that demands mTLS: refused with no byte to it, by Service', async () => {
    const { lab, server, daemon2 } = shop;
    const host = await lab.pod({ name: 'agent', node: 1, hostNetwork: true });
    const app = await host.serve('sink', 8088);
    const hosted = await lab.cluster.service({
      namespace: 'shop',
      name: 'agents',
      ports: [{ port: 80, targetPort: 8088 }],
      selector: { app: 'agent' },
      pods: [host],
    });
    await until('the Service to be known', async () => {
      const asked = await server.send(hosted.ip, 80, { timeoutMs: 5_000 });
      return asked.end === 'error';
    });
    const out = await withoutPayload(app, () => server.send(hosted.ip, 80, { first: randomBytes(64) }));
    assert.equal(out.error, 'ECONNRESET');
    await daemon2.waitForAccess(
      'the refusal',
      (one) => one['dst.addr'] === `${hosted.ip}:80` && one['reason'] === 'DESTINATION_STRICT_NOT_ENROLLED',
    );
  });
});
