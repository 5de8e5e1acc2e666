/**
 * AuthorizationPolicy over the real wire, below HTTP: each field and condition once, as an ALLOW. `front` and `other`
 * are of the mesh, `plain` is not; the server takes plaintext where policies let it.
 */
import assert from 'node:assert/strict';
import { Duplex } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { connect } from 'node:tls';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { LabPod } from './kit/pod.ts';
import {
  Policies,
  ROOT,
  attempt,
  authorizationPolicy,
  comes,
  decisions,
  inboundTo,
  peerAuthentication,
} from './policies.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { withoutPayload } from './watch.ts';

const FRONT = 'cluster.local/ns/shop/sa/client';

describe('AuthorizationPolicy below HTTP', { timeout: 600_000 }, () => {
  let shop: Shop;
  let policies: Policies;
  let other: LabPod;
  let plain: LabPod;
  let sink: Server;
  let second: Server;
  before(async () => {
    shop = await openShop();
    const { lab, server, daemon1, daemon2 } = shop;
    policies = new Policies(shop, [daemon1, daemon2]);
    await lab.cluster.relabel(server.object(), { app: 'web' });
    other = await lab.pod({ name: 'other', node: 1, namespace: 'bank' });
    plain = await lab.outsider('plain');
    await lab.cluster.label('bank', 'enabled');
    await daemon1.waitState(other, 'enrolled');
    [sink, second] = await Promise.all([server.serve('sink', 8081), server.serve('sink', 8082)]);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  /** Which of the three get through to port 8081. */
  async function who(): Promise<string> {
    const coming: string[] = [];
    for (const [name, pod] of Object.entries({ front: shop.client, other, plain }))
      if (await comes(pod, shop.server, sink)) coming.push(name);
    return coming.join(' ');
  }

  const allow = (rule: unknown): Promise<void> =>
    policies.set(authorizationPolicy('shop', 'rule', { action: 'ALLOW', rules: [rule] }));
  const source = (fields: unknown): unknown => ({ from: [{ source: fields }] });
  const to = (fields: unknown): unknown => ({ to: [{ operation: fields }] });
  const when = (key: string, fields: unknown): unknown => ({ when: [{ key, ...Object(fields) }] });

  const fields: readonly (readonly [name: string, rule: () => unknown, who: string])[] = [
    ['principals', () => source({ principals: [FRONT] }), 'front'],
    ['principals, a prefix', () => source({ principals: ['cluster.local/ns/shop/*'] }), 'front'],
    ['principals, any', () => source({ principals: ['*'] }), 'front other'],
    ['notPrincipals', () => source({ notPrincipals: [FRONT] }), 'other plain'],
    ['notPrincipals, any', () => source({ notPrincipals: ['*'] }), 'plain'],
    ['namespaces', () => source({ namespaces: ['bank'] }), 'other'],
    ['notNamespaces', () => source({ notNamespaces: ['bank'] }), 'front plain'],
    ['serviceAccounts', () => source({ serviceAccounts: ['client', 'bank/other'] }), 'front other'],
    ['notServiceAccounts', () => source({ notServiceAccounts: ['bank/other'] }), 'front plain'],
    ['ipBlocks', () => source({ ipBlocks: [plain.ip] }), 'plain'],
    ['ipBlocks, a range', () => source({ ipBlocks: ['10.244.1.0/24'] }), 'front other plain'],
    ['notIpBlocks', () => source({ notIpBlocks: [plain.ip] }), 'front other'],
    ['ports', () => to({ ports: ['8081'] }), 'front other plain'],
    ['ports, another one', () => to({ ports: ['8082'] }), ''],
    ['notPorts', () => to({ notPorts: ['8081'] }), ''],
    ['source.ip', () => when('source.ip', { values: [other.ip] }), 'other'],
    ['source.namespace', () => when('source.namespace', { values: ['shop'] }), 'front'],
    ['source.principal', () => when('source.principal', { notValues: [FRONT] }), 'other plain'],
    ['source.serviceAccount', () => when('source.serviceAccount', { values: ['bank/other'] }), 'other'],
    ['source.trustDomain', () => when('source.trustDomain', { values: ['cluster.local'] }), 'front other'],
    ['destination.ip', () => when('destination.ip', { values: [shop.server.ip] }), 'front other plain'],
    ['destination.ip, another one', () => when('destination.ip', { values: [other.ip] }), ''],
    ['destination.port', () => when('destination.port', { values: ['8081'] }), 'front other plain'],
    ['destination.port, not this one', () => when('destination.port', { notValues: ['8081'] }), ''],
    ['two fields of one source', () => source({ namespaces: ['shop'], ipBlocks: [other.ip] }), ''],
  ];
  for (const [name, rule, expected] of fields)
    it(`ALLOW by ${name}: lets in ${expected === '' ? 'nobody' : expected}`, async () => {
      await allow(rule());
      assert.equal(await who(), expected);
    });

  it('connection.sni: the server name in the greeting of TLS that passes through', async () => {
    await allow(when('connection.sni', { values: ['db.shop'] }));
    const [ours, others] = [await greeting('db.shop'), await greeting('web.shop')];
    assert.ok(await comes(shop.client, shop.server, sink, ours));
    assert.ok(!(await comes(shop.client, shop.server, sink, others)));
    assert.ok(!(await comes(shop.client, shop.server, sink)));
  });

  it('without an object everybody comes, and again when the last one is gone', async () => {
    await policies.set();
    assert.equal(await who(), 'front other plain');
    await policies.set(authorizationPolicy('shop', 'nothing', {}));
    assert.equal(await who(), '');
    await policies.set();
    assert.equal(await who(), 'front other plain');
  });

  it('is for the namespace, the selected workloads, or from the root namespace for the whole mesh', async () => {
    const WEB = { selector: { matchLabels: { app: 'web' } } };
    const NONE = { selector: { matchLabels: { app: 'none' } } };
    const cases: readonly (readonly [string, unknown, string])[] = [
      ['shop', {}, ''],
      ['shop', WEB, ''],
      ['shop', NONE, 'front other plain'],
      ['bank', {}, 'front other plain'],
      [ROOT, {}, ''],
      [ROOT, WEB, ''],
      [ROOT, NONE, 'front other plain'],
      ['shop', { targetRefs: [{ kind: 'Service', group: '', name: 'web' }] }, 'front other plain'],
    ];
    for (const [namespace, spec, expected] of cases) {
      await policies.set(authorizationPolicy(namespace, 'scope', spec));
      assert.equal(await who(), expected, `${namespace} ${JSON.stringify(spec)}`);
    }
  });

  it('DENY goes before ALLOW, and is for its ports only', async () => {
    await policies.set(
      authorizationPolicy('shop', 'all', { rules: [{}] }),
      authorizationPolicy('shop', 'no', {
        action: 'DENY',
        rules: [{ ...Object(source({ namespaces: ['bank'] })), ...Object(to({ ports: ['8081'] })) }],
      }),
    );
    assert.equal(await who(), 'front plain');
    assert.ok(await comes(other, shop.server, second));
  });

  it('what CUSTOM matches is denied, and AUDIT decides nothing', async () => {
    const provider = { provider: { name: 'outside' } };
    await policies.set(
      authorizationPolicy('shop', 'custom', {
        action: 'CUSTOM',
        ...provider,
        rules: [source({ ipBlocks: [plain.ip] })],
      }),
      authorizationPolicy('shop', 'audit', { action: 'AUDIT', rules: [{}] }),
    );
    assert.equal(await who(), 'front other');
  });

  it('a refusal is in the access record and the metric, with object and rule; so is what let one in', async () => {
    const { daemon2, server, client } = shop;
    await policies.set(
      authorizationPolicy('shop', 'who', {
        rules: [source({ namespaces: ['nobody'] }), source({ principals: [FRONT] })],
      }),
      authorizationPolicy('shop', 'whonot', { action: 'DENY', rules: [source({ namespaces: ['bank'] })] }),
    );
    const [allowed, denied] = [
      await decisions(daemon2, 'shop/who', 'allow'),
      await decisions(daemon2, 'shop/whonot', 'deny'),
    ];
    let from = daemon2.process.lines.length;
    assert.notEqual((await withoutPayload(sink, () => attempt(other, server, 8081))).error, '');
    const refused = await inboundTo(daemon2, 8081, from, { reason: 'POLICY_DENIED' });
    const deny = 'AuthorizationPolicy shop/whonot rule 0';
    assert.deepEqual(
      [refused['reason'], refused['policy'], refused['detail']],
      ['POLICY_DENIED', deny, deny],
    );
    assert.equal(refused['src.identity'], 'spiffe://cluster.local/ns/bank/sa/other');
    from = daemon2.process.lines.length;
    assert.ok(await comes(client, server, sink));
    const carried = await inboundTo(daemon2, 8081, from, { reason: 'OK' });
    assert.deepEqual([carried['reason'], carried['policy']], ['OK', 'AuthorizationPolicy shop/who rule 1']);
    from = daemon2.process.lines.length;
    await withoutPayload(sink, () => attempt(plain, server, 8081));
    const unnamed = await inboundTo(daemon2, 8081, from, { reason: 'POLICY_DENIED' });
    assert.equal(unnamed['reason'], 'POLICY_DENIED');
    assert.match(String(unnamed['detail']), /ALLOW policies apply, and no rule of them matches/);
    const counted = async (): Promise<boolean> =>
      (await decisions(daemon2, 'shop/who', 'allow')) === allowed + 1 &&
      (await decisions(daemon2, 'shop/whonot', 'deny')) === denied + 1;
    await until('the metric', counted, { everyMs: 500, timeoutMs: 30_000 });
  });

  it('a dry run decides nothing, and record and metric say what it would have done', async () => {
    const { daemon2, client, server } = shop;
    const dry = { 'istio.io/dry-run': 'true' };
    await policies.set(
      authorizationPolicy('shop', 'dry', { action: 'DENY', rules: [source({ principals: [FRONT] })] }, dry),
    );
    const before_ = await decisions(daemon2, 'shop/dry', 'dry_run_deny');
    const from = daemon2.process.lines.length;
    assert.ok(await comes(client, server, sink));
    const dryRun = 'deny by AuthorizationPolicy shop/dry rule 0';
    await inboundTo(daemon2, 8081, from, { reason: 'OK', dry_run: dryRun });
    const isCounted = async (): Promise<boolean> =>
      (await decisions(daemon2, 'shop/dry', 'dry_run_deny')) === before_ + 1;
    await until('the metric', isCounted, { everyMs: 500, timeoutMs: 30_000 });
    assert.equal(await who(), 'front other plain');
  });

  it('no ALLOW lets plaintext into a STRICT port', async () => {
    await policies.set(
      authorizationPolicy('shop', 'all', { rules: [{}] }),
      peerAuthentication('shop', 'default', { mtls: { mode: 'STRICT' } }),
    );
    assert.equal(await who(), 'front other');
  });

  it('the labels that count are those of now', async () => {
    const { lab, server, daemon1, daemon2 } = shop;
    const red = { selector: { matchLabels: { colour: 'red' } } };
    await policies.set(authorizationPolicy('shop', 'red', red));
    assert.equal(await who(), 'front other plain');
    const object = lab.cluster.get('Pod', 'shop', 'web');
    await lab.cluster.relabel(object, { colour: 'red' });
    await until('the label to count', async () => (await attempt(plain, server, 8081)).error !== '');
    assert.equal(await who(), '');
    await lab.cluster.relabel(lab.cluster.get('Pod', 'shop', 'web'), { colour: undefined });
    await until('the label to go', async () => (await attempt(plain, server, 8081)).error === '');
    assert.ok(daemon1.process.exit === undefined && daemon2.process.exit === undefined);
  });
});

/** The first bytes that a TLS client says to the server of that name. */
async function greeting(servername: string): Promise<Buffer> {
  const { promise, resolve } = Promise.withResolvers<Buffer>();
  const wire = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _encoding, done) => {
      resolve(chunk);
      done();
    },
  });
  const client = connect({ socket: wire, servername });
  client.on('error', () => undefined);
  const first = await promise;
  client.destroy();
  return first;
}
