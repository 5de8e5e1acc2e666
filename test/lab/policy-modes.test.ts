/**
 * PeerAuthentication over the real wire: what a STRICT port refuses, and what our own clients then do. `inside` and
 * the server are of the mesh, `outside` is not.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { KubeObject } from './kit/objects.ts';
import type { LabPod } from './kit/pod.ts';
import { Policies, ROOT, attempt, comes, inboundTo, peerAuthentication } from './policies.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { withoutPayload } from './watch.ts';

const STRICT = { mtls: { mode: 'STRICT' } };
const PERMISSIVE = { mtls: { mode: 'PERMISSIVE' } };
const WEB = { matchLabels: { app: 'web' } };

describe('PeerAuthentication', { timeout: 300_000 }, () => {
  let shop: Shop;
  let policies: Policies;
  let outside: LabPod;
  let sinks: Readonly<Record<8081 | 8082, Server>>;
  before(async () => {
    shop = await openShop();
    const { lab, server, daemon1, daemon2 } = shop;
    policies = new Policies(shop, [daemon1, daemon2]);
    await lab.cluster.relabel(server.object(), { app: 'web' });
    outside = await lab.outsider('outside');
    const [one, two] = await Promise.all([server.serve('sink', 8081), server.serve('sink', 8082)]);
    sinks = { 8081: one, 8082: two };
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  /** Who comes to both ports in the clear, and whether mTLS does. */
  async function taken(): Promise<string> {
    const [one, two] = [
      await comes(outside, shop.server, sinks[8081]),
      await comes(outside, shop.server, sinks[8082]),
    ];
    assert.ok(await comes(shop.client, shop.server, sinks[8081]), 'mTLS was refused');
    return [one && '8081', two && '8082'].filter((port) => port !== false).join(' ');
  }

  const cases: readonly (readonly [name: string, objects: () => readonly KubeObject[], taken: string])[] = [
    ['no object: plaintext is taken', () => [], '8081 8082'],
    ['STRICT for the whole mesh', () => [peerAuthentication(ROOT, 'default', STRICT)], ''],
    ['STRICT for the namespace', () => [peerAuthentication('shop', 'default', STRICT)], ''],
    ['STRICT for another namespace', () => [peerAuthentication('bank', 'default', STRICT)], '8081 8082'],
    [
      'STRICT for the mesh, PERMISSIVE for the namespace',
      () => [peerAuthentication(ROOT, 'default', STRICT), peerAuthentication('shop', 'default', PERMISSIVE)],
      '8081 8082',
    ],
    ['STRICT for the workload', () => [peerAuthentication('shop', 'web', { selector: WEB, ...STRICT })], ''],
    [
      'STRICT for another workload',
      () => [peerAuthentication('shop', 'web', { selector: { matchLabels: { app: 'other' } }, ...STRICT })],
      '8081 8082',
    ],
    [
      'STRICT for the namespace, PERMISSIVE for one port of the workload',
      () => [
        peerAuthentication('shop', 'default', STRICT),
        peerAuthentication('shop', 'web', { selector: WEB, portLevelMtls: { 8081: { mode: 'PERMISSIVE' } } }),
      ],
      '8081',
    ],
    [
      'PERMISSIVE, STRICT for one port of the workload',
      () => [
        peerAuthentication('shop', 'web', {
          selector: WEB,
          ...PERMISSIVE,
          portLevelMtls: { 8081: { mode: 'STRICT' } },
        }),
      ],
      '8082',
    ],
    [
      'an object that can not be read is STRICT',
      () => [peerAuthentication('shop', 'default', { mtls: { mode: 'strict, please' } })],
      '',
    ],
  ];
  for (const [name, objects, expected] of cases)
    it(`${name}: plaintext gets to ${expected === '' ? 'no port' : expected}`, async () => {
      await policies.set(...objects());
      assert.equal(await taken(), expected);
    });

  it('a refusal names the object in the access record, and probes of the kubelet pass', async () => {
    await policies.set(peerAuthentication('shop', 'default', STRICT));
    const { server, daemon2 } = shop;
    const from = daemon2.process.lines.length;
    const result = await withoutPayload(sinks[8081], () => attempt(outside, server, 8081));
    assert.notEqual(result.error, '');
    const record = await inboundTo(daemon2, 8081, from, { reason: 'PLAINTEXT_DENIED' });
    assert.deepEqual(
      [record['reason'], record['policy']],
      ['PLAINTEXT_DENIED', 'PeerAuthentication shop/default'],
    );
    assert.match(String(record['detail']), /PeerAuthentication shop\/default/);
    assert.equal(await server.node.probe('tcp', server.ip, 8081), '');
  });

  it('plaintext with the address of the node itself is refused: only a probe that the kernel has proven passes', async () => {
    await policies.set(peerAuthentication(ROOT, 'default', STRICT));
    const { server } = shop;
    const nodeIp = server.node.addresses[0] ?? '';
    await server.node.must(
      ['nft', '-f', '-'],
      `table ip masquerade-all { chain out { type nat hook postrouting priority srcnat; ip daddr ${server.ip} tcp dport 8081 snat to ${nodeIp}; }; }`,
    );
    const from = shop.daemon2.process.lines.length;
    const result = await withoutPayload(sinks[8081], () => attempt(outside, server, 8081));
    const probed = await server.node.probe('tcp', server.ip, 8081);
    await server.node.must(['nft', 'delete', 'table', 'ip', 'masquerade-all']);
    assert.notEqual(result.error, '');
    const record = await inboundTo(shop.daemon2, 8081, from, { reason: 'PLAINTEXT_DENIED' });
    assert.equal(record['reason'], 'PLAINTEXT_DENIED');
    assert.equal(String(record['src.addr']).replace(/:\d+$/, ''), nodeIp);
    assert.equal(probed, '');
  });

  it('connections that stand in the clear are cut when their port becomes STRICT, others stay', async () => {
    await policies.set();
    const { server, client, daemon2 } = shop;
    const echo = await server.serve('echo', 8083, { quiet: true });
    const clear = await outside.idle(server.ip, 8083, 20);
    const sealed = await client.idle(server.ip, 8083, 20);
    assert.deepEqual([(await clear.opened()).ok, (await sealed.opened()).ok], [20, 20]);
    const from = daemon2.process.lines.length;
    await policies.set(peerAuthentication('shop', 'default', STRICT));
    await until('the clear ones to go', async () => (await clear.stats()).lost === 20);
    assert.deepEqual(await sealed.ping().then(({ ok }) => ok), 20);
    const record = await inboundTo(daemon2, 8083, from, { reason: 'PLAINTEXT_DENIED' });
    assert.equal(record['reason'], 'PLAINTEXT_DENIED');
    await Promise.all([clear[Symbol.asyncDispose](), sealed[Symbol.asyncDispose]()]);
    await echo[Symbol.asyncDispose]();
  });

  it('connections older than the label stay while their port is PERMISSIVE, and are cut when it becomes STRICT', async () => {
    const { lab, daemon2 } = shop;
    const STRICT_PORT = { portLevelMtls: { 8081: { mode: 'STRICT' } } };
    await policies.set();
    const old = await lab.pod({ name: 'old', node: 2, namespace: 'late', labels: { app: 'old' } });
    await Promise.all([old.serve('echo', 8081), old.serve('echo', 8082)]);
    await using first = await outside.idle(old.ip, 8081, 3);
    await using second = await outside.idle(old.ip, 8082, 3);
    assert.deepEqual([(await first.opened()).ok, (await second.opened()).ok], [3, 3]);
    await lab.cluster.label('late', 'enabled');
    await daemon2.waitState(old, 'enrolled');
    assert.deepEqual([(await first.ping()).ok, (await second.ping()).ok], [3, 3]);
    const selector = { matchLabels: { app: 'old' } };
    await policies.set(peerAuthentication('late', 'old', { selector, ...STRICT_PORT }));
    await until('those to the STRICT port to be cut', async () => (await first.stats()).lost === 3);
    assert.equal((await second.ping()).ok, 3);
    await old.delete();
  });

  it('our own clients never dial a STRICT port in the clear: held, then refused', async () => {
    const { lab, client, daemon1, daemon2 } = shop;
    await policies.set(peerAuthentication('shop', 'default', STRICT));
    // Its daemon never hears of it, so it is never enrolled, but it is labelled: a member of the mesh.
    const absent = await lab.pod({ name: 'absent', node: 2, spec: { runtimeClassName: 'kata' } });
    const sink = await absent.serve('sink', 8081);
    const from = daemon1.process.lines.length;
    const result = await withoutPayload(sink, () => attempt(client, absent, 8081));
    assert.notEqual(result.error, '');
    const record = await daemon1.waitForAccess(
      'the refusal',
      ({ direction, reason }) => direction === 'outbound' && reason === 'DESTINATION_STRICT_NOT_ENROLLED',
      { from },
    );
    assert.match(String(record['detail']), /STRICT by PeerAuthentication shop\/default/);
    assert.equal((await sink.stats()).accepted, 0);
    await policies.set();
    assert.equal((await client.send(absent.ip, 8081, { first: randomBytes(64) })).error, '');
    assert.ok(daemon2.process.exit === undefined);
  });
});
