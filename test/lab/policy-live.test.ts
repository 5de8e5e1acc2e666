/** What happens to connections that stand, and to those that come, at the moment in which policies change. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../support/wait.ts';
import type { Idle, Server } from './kit/apps.ts';
import type { KubeObject } from './kit/objects.ts';
import type { LabPod } from './kit/pod.ts';
import { Policies, attempt, authorizationPolicy, comes, inboundTo, peerAuthentication } from './policies.ts';
import { IS_LONG, QUICK, openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const FEW = 25;
const MANY = IS_LONG ? 15_000 : 1_500;
const DENIED_TRIES = IS_LONG ? 10_000 : 1_000;
const ROUNDS = IS_LONG ? 60 : 10;

const noBank = (name = 'no'): KubeObject =>
  authorizationPolicy('shop', name, {
    action: 'DENY',
    rules: [{ from: [{ source: { namespaces: ['bank'] } }] }],
  });
const onlyShop = (name = 'only'): KubeObject =>
  authorizationPolicy('shop', name, { rules: [{ from: [{ source: { namespaces: ['shop'] } }] }] });

describe('policies that change under live traffic', { timeout: 1_800_000 }, () => {
  let shop: Shop;
  let policies: Policies;
  let bank: LabPod;
  let echo: Server;
  before(async () => {
    shop = await openShop({ daemon: { inspect: true } });
    const { lab, daemon1, daemon2, server } = shop;
    policies = new Policies(shop, [daemon1, daemon2]);
    bank = await lab.pod({ name: 'bank', node: 1, namespace: 'bank' });
    await lab.cluster.label('bank', 'enabled');
    await daemon1.waitState(bank, 'enrolled');
    echo = await server.serve('echo', 8081, { quiet: true });
    await server.serve('http', 8080, { quiet: true });
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  async function standing(from: LabPod, count: number): Promise<Idle> {
    const idle = await from.idle(shop.server.ip, 8081, count);
    assert.equal((await idle.opened()).ok, count);
    return idle;
  }

  async function end(...idles: readonly Idle[]): Promise<void> {
    await Promise.all(idles.map((idle) => idle[Symbol.asyncDispose]()));
    await until('the server to be alone', async () => (await echo.stats()).open === 0);
  }

  /** Waits until all of them are gone. @returns after how many ms. */
  async function gone(idle: Idle, count: number, sinceMs: number): Promise<number> {
    await until('the connections to be cut', async () => (await idle.stats()).lost === count, { everyMs: 5 });
    return Math.round(performance.now() - sinceMs);
  }

  it('a DENY cuts the connections that it is about, and no other', async (context) => {
    await policies.set();
    const [theirs, ours] = [await standing(bank, FEW), await standing(shop.client, FEW)];
    const from = shop.daemon2.process.lines.length;
    const startMs = performance.now();
    await policies.set(noBank());
    context.diagnostic(
      `cut ${await gone(theirs, FEW, startMs)} ms after the policy was written, the folder's watch included`,
    );
    assert.equal((await ours.ping()).ok, FEW);
    const record = await inboundTo(shop.daemon2, 8081, from, { reason: 'POLICY_DENIED' });
    assert.deepEqual(
      [record['reason'], record['policy'], record['src.namespace']],
      ['POLICY_DENIED', 'AuthorizationPolicy shop/no rule 0', 'bank'],
    );
    assert.match(
      String(record['detail']),
      /AuthorizationPolicy shop\/no rule 0 \(while the connection was open\)/,
    );
    await end(theirs, ours);
  });

  it('an ALLOW for others cuts them too, and one that still lets them in does not', async () => {
    await policies.set(authorizationPolicy('shop', 'all', { rules: [{}] }));
    const [theirs, ours] = [await standing(bank, FEW), await standing(shop.client, FEW)];
    await policies.set(onlyShop());
    await gone(theirs, FEW, 0);
    await policies.set(onlyShop(), noBank());
    await policies.set(noBank());
    await policies.set();
    assert.equal((await ours.ping()).ok, FEW);
    await end(theirs, ours);
  });

  it('a label that brings the server under a policy cuts', async () => {
    const { lab, server } = shop;
    const spec = { selector: { matchLabels: { colour: 'red' } } };
    await policies.set(authorizationPolicy('shop', 'red', spec));
    const theirs = await standing(bank, FEW);
    const startMs = performance.now();
    await lab.cluster.relabel(server.object(), { colour: 'red' });
    await gone(theirs, FEW, startMs);
    await lab.cluster.relabel(server.object(), {});
    await policies.set();
    await end(theirs);
  });

  it('a policy that looks at requests cuts what it can not look into any more', async () => {
    await policies.set();
    const theirs = await standing(bank, FEW);
    await policies.set(
      authorizationPolicy('shop', 'http', { rules: [{ to: [{ operation: { methods: ['GET'] } }] }] }),
    );
    await gone(theirs, FEW, 0);
    await end(theirs);
    await policies.set();
  });

  it('when the client’s namespace loses its label, its connections end within the time it has to leave', async () => {
    const { lab, daemon1, daemon2 } = shop;
    await policies.set(
      authorizationPolicy('shop', 'bank', {
        rules: [{ from: [{ source: { namespaces: ['bank', 'shop'] } }] }],
      }),
    );
    const [theirs, ours] = [await standing(bank, FEW), await standing(shop.client, FEW)];
    const from = daemon2.process.lines.length;
    await lab.cluster.label('bank', undefined);
    await gone(theirs, FEW, 0);
    await daemon1.waitState(bank, 'none');
    // Now it comes in the clear, and no policy names it.
    assert.notEqual((await attempt(bank, shop.server, 8081)).error, '');
    await daemon2.waitForAccess(
      'the refusal in the clear',
      ({ reason, security }) => reason === 'POLICY_DENIED' && security === 'none',
      { from },
    );
    assert.equal((await ours.ping()).ok, FEW);
    await lab.cluster.label('bank', 'enabled');
    await daemon1.waitState(bank, 'enrolled');
    await end(theirs, ours);
    await policies.set();
  });

  it(`${MANY} connections are judged again, and those that stay allowed do not notice`, async (context) => {
    await policies.set();
    const ours = await standing(shop.client, MANY);
    const theirs = await standing(bank, FEW);
    const pings = ours.ping();
    const startMs = performance.now();
    const [tookMs] = await Promise.all([gone(theirs, FEW, startMs), policies.set(noBank())]);
    assert.equal((await pings).ok, MANY);
    assert.equal((await ours.ping()).ok, MANY);
    context.diagnostic(
      `${MANY} judged again, ${FEW} of others cut ${tookMs} ms after the policy was written`,
    );
    const cutMs = performance.now();
    const nothing = policies.set(authorizationPolicy('shop', 'nothing', {}));
    context.diagnostic(`all ${MANY} cut in ${await gone(ours, MANY, cutMs)} ms`);
    await nothing;
    await end(ours, theirs);
    await policies.set();
  });

  it(`${DENIED_TRIES} denied tries under load while policies flip: not one byte reaches the app`, async (context) => {
    const { client, server } = shop;
    const sink = await server.serve('sink', 8082, { quiet: true });
    await policies.set(noBank());
    await using load = await client.loop(server.ip, 8080, { everyMs: 20 });
    await using tries = await bank.loop(server.ip, 8082, { everyMs: 2, first: Buffer.alloc(64, 'x') });
    // What denies changes all the time; that something does, never: the next is in force before the last one goes.
    const kinds = [
      (): KubeObject => onlyShop('a'),
      (): KubeObject => noBank('b'),
      (): KubeObject =>
        authorizationPolicy('istio-system', 'c', { rules: [{ to: [{ operation: { ports: ['8080'] } }] }] }),
      (): KubeObject =>
        authorizationPolicy('shop', 'd', {
          action: 'DENY',
          rules: [{ to: [{ operation: { ports: ['8082'] } }] }],
        }),
    ];
    let flips = 0;
    for (let last = noBank(); (await tries.stats()).started < DENIED_TRIES; flips++) {
      const next = kinds[flips % kinds.length]?.() ?? last;
      await policies.set(last, next);
      await policies.set(next);
      last = next;
    }
    const [tried, loaded] = [await tries.stop(), await load.stop()];
    assert.equal(tried.ok, 0);
    const { received } = await sink.stats();
    assert.equal(received, 0, 'payload of denied tries reached the app');
    assert.equal(loaded.failed, 0, JSON.stringify(loaded));
    assert.ok(loaded.ok > 0);
    context.diagnostic(`${tried.started} tries, ${flips} flips, ${loaded.ok} allowed requests beside them`);
    await sink[Symbol.asyncDispose]();
    await policies.set();
  });

  it(`${ROUNDS} times: of connections that race with a DENY none stays, and none of the load is lost`, async () => {
    const { client, server } = shop;
    await using load = await client.loop(server.ip, 8080, { everyMs: 20 });
    for (let round = 0; round < ROUNDS; round++) {
      await policies.set();
      assert.ok(await comesThrough(bank));
      const racing = [1, 2, 3].map(() => bank.idle(server.ip, 8081, 100, 10));
      await sleep(20 * (round % 5)); // at another moment of the race each time
      await policies.set(noBank());
      await until('every one of them to be gone', async () => (await echo.stats()).open === 0);
      for (const idle of await Promise.all(racing)) await idle[Symbol.asyncDispose]();
      assert.ok(!(await comesThrough(bank)));
    }
    const loaded = await load.stop();
    assert.equal(loaded.failed, 0, JSON.stringify(loaded));
    assert.ok(loaded.ok > 0);
    await policies.set();
  });

  const comesThrough = async (from: LabPod): Promise<boolean> =>
    (await attempt(from, shop.server, 8081)).error === '';

  it('a worker that is replaced, and a daemon that starts, let in nobody before their policies are there', async () => {
    const { client, server, lab } = shop;
    const sink = await server.serve('sink', 8083, { quiet: true });
    await policies.set(noBank(), peerAuthentication('shop', 'default', { mtls: { mode: 'STRICT' } }));
    await using tries = await bank.loop(server.ip, 8083, { everyMs: 5, first: Buffer.alloc(64, 'x') });
    {
      await using inspector = await shop.daemon2.inspect();
      inspector.kill(await inspector.worker('worker'));
    }
    await until('a connection through the new worker', async () => comes(client, server, sink));
    const { received } = await sink.stats();
    await shop.daemon2.stop('SIGKILL');
    shop = { ...shop, daemon2: await lab.startDaemon(2, { flags: QUICK }) };
    await shop.daemon2.waitState(server, 'enrolled');
    await until('a refusal by policy', () =>
      shop.daemon2.accessRecords().some(({ reason }) => reason === 'POLICY_DENIED'),
    );
    const tried = await tries.stop();
    assert.equal(tried.ok, 0);
    assert.equal((await sink.stats()).received, received, 'payload of denied tries reached the app');
    assert.ok(await comes(client, server, sink));
  });
});
