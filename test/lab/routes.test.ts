import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../support/wait.ts';
import type { HttpReply } from './kit/apps.ts';
import type { LabService, ServiceSpec } from './kit/cluster.ts';
import type { LogRecord } from './kit/daemon.ts';
import { sliceObject } from './kit/objects.ts';
import type { EndpointSpec, Labels } from './kit/objects.ts';
import type { LabPod } from './kit/pod.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { recordTo } from './watch.ts';

/** DESIGN.md section 9: what users stumble on in week one, each row as its user sees it. */
describe('where a meshed pod’s connections go', { timeout: 300_000 }, () => {
  let shop: Shop;
  /** A second server, on the client's node. */
  let near: LabPod;
  let outside: Awaited<ReturnType<Shop['lab']['outside']>>;

  before(async () => {
    shop = await openShop({
      daemon: { flags: ['--hold-timeout', '2s', '--tunnel-idle', '1s', '--answer-timeout', '1s'] },
    });
    const { lab, server, daemon1 } = shop;
    near = await lab.pod({ name: 'near', node: 1 });
    outside = await lab.outside();
    await Promise.all([server.serve('http', 8080), near.serve('http', 8080), near.serve('http', 9090)]);
    await server.serve('echo', 8081);
    await lab.serveIn(outside.netns, 'http', 8080, { name: 'outside' });
    await daemon1.waitState(near, 'enrolled');
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  /** A Service of namespace shop whose first port is 80. */
  function serve(
    spec: Omit<ServiceSpec, 'namespace' | 'ports'> & Partial<ServiceSpec>,
    selector: Labels = { app: spec.name },
  ): Promise<LabService> {
    return shop.lab.cluster.service({
      namespace: 'shop',
      ports: [{ port: 80, targetPort: 8080 }],
      selector,
      ...spec,
    });
  }

  function endpoint(pod: LabPod, conditions: Partial<EndpointSpec> = {}): EndpointSpec {
    return { ip: pod.ip, node: pod.nodeName, pod, ...conditions };
  }

  /** Asks until the daemon has read the change: a new Service is outside the mesh for a moment. */
  async function ask(ip: string, port: number, by: (reply: HttpReply) => boolean): Promise<HttpReply> {
    let last: HttpReply | undefined;
    return until(
      `an answer of ${ip}:${port}`,
      async () => {
        last = await shop.client.request(ip, port, { timeoutMs: 5_000 });
        return by(last) ? last : undefined;
      },
      { detail: () => JSON.stringify(last?.result), timeoutMs: 20_000 },
    );
  }

  const answered = (reply: HttpReply): boolean => reply.status === 200;
  const record = (destination: string): Promise<LogRecord> => recordTo(shop.daemon1, 'outbound', destination);
  /** The first record with this reason: earlier ones may be of the moment before the change was read. */
  const recordOf = (destination: string, reason: string): Promise<LogRecord> =>
    shop.daemon1.waitForAccess(
      `a record ${reason} of ${destination}`,
      (found) => found['dst.addr'] === destination && found['reason'] === reason,
    );

  it('to its own Service: delivered inside the pod; to its own address: untouched', async () => {
    const { server, web, daemon2 } = shop;
    const reply = await server.request(web.ip, 80);
    assert.deepEqual([reply.status, reply.name], [200, 'web']);
    const self = await recordTo(daemon2, 'outbound', `${web.ip}:80`);
    assert.deepEqual([self['reason'], self['security']], ['SELF', 'none']);
    for (const own of server.ips) {
      const direct = await server.request(own, 8080);
      assert.equal(direct.status, 200);
      assert.equal(direct.peer.slice(0, direct.peer.lastIndexOf(':')).replace(/[[\]]/g, ''), own);
    }
  });

  it('to a Service, in both families: the app sees the client’s own address and port', async () => {
    const { client, web } = shop;
    for (const [ip, own] of [
      [web.ip, client.ip],
      [web.ip6, `[${client.ip6}]`],
    ] as const) {
      const reply = await client.request(ip, 80);
      assert.equal(reply.status, 200);
      assert.equal(reply.peer, `${own}:${reply.result.local.split(':').at(-1)}`);
      const host = ip.includes(':') ? `[${ip}]` : ip;
      assert.equal(reply.result.peer, `${host}:80`, 'getpeername() shows what was dialled');
      const found = await record(`${host}:80`);
      assert.deepEqual([found['reason'], found['security']], ['OK', 'mutual_tls']);
      assert.equal(found['dst.service'], 'web.shop');
    }
  });

  it('over several loopback addresses, so that one of them is not the limit', async () => {
    const { client, server } = shop;
    await using idle = await client.idle(server.ip, 8081, 300);
    assert.equal((await idle.opened()).ok, 300);
    const { lines } = await client.exec(['cat', '/proc/net/tcp']);
    const far = lines.map((line) => /^\s*\d+: \S+ (\w{8}):/.exec(line)?.[1] ?? '');
    const spread = new Set(far.filter((address) => address.endsWith('00407F')));
    assert.ok(spread.size > 100, `${spread.size} addresses of 127.64.0.0/24 for 300 connections`);
    assert.equal((await idle.ping()).ok, 300);
  });

  it('to a headless Service’s pod, or a pod’s address: a tunnel to that pod', async () => {
    const { server } = shop;
    const reply = await shop.client.request(server.ip, 8080);
    assert.equal(reply.name, 'web');
    const found = await record(`${server.ip}:8080`);
    assert.deepEqual([found['reason'], found['dst.hbone_addr']], ['OK', `${server.ip}:15008`]);
  });

  it('to a named port whose number differs from slice to slice', async () => {
    const named = await serve({ name: 'named', ports: [{ name: 'http', port: 80, targetPort: 8080 }] });
    const { server, lab } = shop;
    await named.setEndpoints([endpoint(server)]);
    const second = sliceObject({
      service: 'named',
      namespace: 'shop',
      family: 'IPv4',
      ports: [{ name: 'http', port: 80, targetPort: 9090 }],
      endpoints: [endpoint(near)],
    });
    await lab.cluster.apply({ ...second, metadata: { ...second.metadata, name: 'named-second' } });
    await ask(named.ip, 80, (reply) => reply.name === 'near' && reply.body.includes(':9090'));
    await ask(named.ip, 80, (reply) => reply.name === 'web' && reply.body.includes(':8080'));
  });

  it('to one endpoint of a Service with sessionAffinity', async () => {
    const sticky = await serve({
      name: 'sticky',
      pods: [shop.server, near],
      spec: { sessionAffinity: 'ClientIP' },
    });
    await ask(sticky.ip, 80, answered);
    const names = new Set<string>();
    for (let i = 0; i < 12; i++) names.add((await shop.client.request(sticky.ip, 80)).name);
    assert.equal(names.size, 1, [...names].join());
  });

  for (const [field, value] of [
    ['internalTrafficPolicy', 'Local'],
    ['trafficDistribution', 'PreferSameNode'],
  ] as const)
    it(`to endpoints of its own node with ${field} ${value}`, async () => {
      const local = await serve({
        name: `local-${field.toLowerCase()}`,
        pods: [shop.server, near],
        spec: { [field]: value },
      });
      await ask(local.ip, 80, answered);
      for (let i = 0; i < 12; i++) assert.equal((await shop.client.request(local.ip, 80)).name, 'near');
    });

  it('to pods that are not ready when publishNotReadyAddresses says so', async () => {
    const service = await serve({
      name: 'unready',
      // Kubernetes writes them as ready then; older controllers, and people by hand, do not.
      endpoints: [endpoint(shop.server, { ready: false })],
      spec: { publishNotReadyAddresses: true },
    });
    await shop.server.setReady(false);
    assert.equal((await ask(service.ip, 80, answered)).name, 'web');
    await shop.server.setReady(true);
  });

  it('to those that still serve when all endpoints terminate', async () => {
    const ending = { ready: false, terminating: true };
    const service = await serve({
      name: 'ending',
      endpoints: [
        endpoint(near, { ...ending, serving: false }),
        endpoint(shop.server, { ...ending, serving: true }),
      ],
    });
    await ask(service.ip, 80, answered);
    for (let i = 0; i < 8; i++) assert.equal((await shop.client.request(service.ip, 80)).name, 'web');
  });

  it('to no endpoint: refused at once, with NO_ENDPOINTS', async () => {
    const service = await serve({ name: 'empty', endpoints: [] });
    await until('the refusal', async () => {
      const out = await shop.client.send(service.ip, 80, { first: randomBytes(64), timeoutMs: 3_000 });
      return out.connected && out.end === 'error' && out.error !== 'ETIMEDOUT';
    });
    await recordOf(`${service.ip}:80`, 'NO_ENDPOINTS');
  });

  it('past a dead endpoint to another', async () => {
    const { lab, daemon2, server } = shop;
    const dead = await lab.pod({ name: 'dead', node: 2 });
    await daemon2.waitState(dead, 'enrolled');
    const service = await serve({ name: 'half', pods: [dead, server] });
    await ask(service.ip, 80, (reply) => reply.name === 'web');
    await dead.delete({ keepObject: true });
    for (let i = 0; i < 12; i++) assert.equal((await shop.client.request(service.ip, 80)).name, 'web');
  });

  it('to a Service without selector, or with a backend outside: in the clear, as dialled', async () => {
    const endpoints = [{ ip: outside.ip, node: undefined, pod: undefined }];
    const service = await serve({ name: 'legacy', endpoints }, {});
    assert.equal((await ask(service.ip, 80, answered)).name, 'outside');
    await until('the Service to be known', async () => {
      await ask(service.ip, 80, answered);
      return shop.daemon1
        .accessRecords()
        .some(
          (record) =>
            record['dst.addr'] === `${service.ip}:80` && record['reason'] === 'PASSTHROUGH_UNMANAGED_SERVICE',
        );
    });
    const found = await recordOf(`${service.ip}:80`, 'PASSTHROUGH_UNMANAGED_SERVICE');
    assert.deepEqual([found['security'], found['dst.hbone_addr']], ['none', undefined]);
  });

  it('to a Service with a hostNetwork backend: in the clear, as dialled', async () => {
    const host = await shop.lab.pod({ name: 'host', node: 2, hostNetwork: true });
    await host.serve('http', 8088);
    const service = await serve({ name: 'hosted', ports: [{ port: 80, targetPort: 8088 }], pods: [host] });
    // Until the Service is known, its address is one outside the mesh; both ways lead to the same answer.
    await until('the Service to be known', async () => {
      assert.equal((await ask(service.ip, 80, answered)).name, 'host');
      const records = shop.daemon1
        .accessRecords()
        .filter((found) => found['dst.addr'] === `${service.ip}:80`);
      return records.some((found) => found['reason'] === 'PASSTHROUGH_UNMANAGED_SERVICE');
    });
  });

  it('to an external address or a NodePort of a Service: left to kube-proxy, and named so', async () => {
    const { lab, server } = shop;
    const node = server.node.addresses[0] ?? '';
    await lab.serveIn(server.node.netns, 'http', 30_080, { name: 'kube-proxy' });
    await serve({
      name: 'exposed',
      spec: {
        type: 'NodePort',
        externalIPs: [outside.ip],
        ports: [{ protocol: 'TCP', port: 8080, targetPort: 8080, nodePort: 30_080 }],
      },
      pods: [server],
    });
    await ask(node, 30_080, (reply) => reply.name === 'kube-proxy');
    await until('the NodePort to be known', async () => {
      await shop.client.request(node, 30_080);
      return shop.daemon1.accessRecords().some((found) => found['reason'] === 'PASSTHROUGH_KUBE_PROXY');
    });
    assert.equal((await shop.client.request(outside.ip, 8080)).name, 'outside');
    await recordOf(`${outside.ip}:8080`, 'PASSTHROUGH_KUBE_PROXY');
  });

  it('out of the mesh: passed in the clear, from the pod’s own address', async () => {
    const reply = await shop.client.request(outside.ip6, 8080);
    assert.equal(reply.status, 200);
    assert.ok(reply.peer.startsWith(`[${shop.client.ip6}]:`), reply.peer);
    assert.equal((await record(`[${outside.ip6}]:8080`))['reason'], 'PASSTHROUGH_OUTSIDE_MESH');
  });

  it('to an address of the mesh’s ranges that no pod has: held, then UNKNOWN_DESTINATION', async () => {
    const nobody = shop.server.ip.replace(/\d+$/, '250');
    const out = await shop.client.send(nobody, 80, { first: randomBytes(64) });
    assert.equal(out.end, 'error');
    assert.ok(out.totalUs > 1_800_000, `refused after ${out.totalUs} µs: not held`);
    assert.equal((await record(`${nobody}:80`))['reason'], 'UNKNOWN_DESTINATION');
  });

  it('from a pod without an IPv6 address to one: ENETUNREACH, so that happy eyeballs moves on', async () => {
    const { lab, server, daemon1 } = shop;
    const old = await lab.pod({ name: 'v4-only', node: 1, ips: ['10.244.1.99'] });
    await daemon1.waitState(old, 'enrolled');
    const out = await until('its address to be settled', async () => {
      const tried = await old.send(server.ip6, 8080);
      return tried.error === 'ENETUNREACH' ? tried : undefined;
    });
    assert.equal(out.connected, false);
    assert.equal((await old.request(server.ip, 8080)).status, 200);
  });

  it('into a PERMISSIVE pod from outside the mesh: plaintext, from its own address', async () => {
    const { lab, server, daemon2 } = shop;
    const stranger = await lab.outsider('stranger');
    const reply = await stranger.request(server.ip, 8080);
    assert.equal(reply.status, 200);
    assert.equal(reply.peer, reply.result.local);
    const found = await daemon2.waitForAccess('its record', (one) => one['src.addr'] === reply.result.local);
    assert.deepEqual([found['reason'], found['src.identity']], ['PLAINTEXT_ACCEPTED', undefined]);
  });

  it('to apps on 15001 and 15006 as to any other', async () => {
    const { client, server } = shop;
    for (const port of [15_001, 15_006]) {
      await server.serve('http', port);
      assert.equal((await client.request(server.ip, port)).status, 200);
    }
  });

  it('stay open while nothing is said, longer than an idle tunnel does', async () => {
    const { client, server } = shop;
    await using idle = await client.idle(server.ip, 8081, 2);
    assert.equal((await idle.opened()).ok, 2);
    await sleep(3_000); // three times --tunnel-idle
    assert.deepEqual(await idle.ping().then(({ ok }) => ok), 2);
    assert.equal((await idle.stats()).lost, 0);
  });
});
