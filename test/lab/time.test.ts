/** Many pods at once, short lives, addresses used again, certificates that end (issue 6, 'Time'). */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { until } from '../support/wait.ts';
import { ShiftedClock } from './kit/clock.ts';
import type { Server } from './kit/apps.ts';
import type { LabDaemon, LogRecord } from './kit/daemon.ts';
import type { HttpReply } from './kit/apps.ts';
import { IS_LONG, openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const PODS = IS_LONG ? 100 : 30;
const JOBS = IS_LONG ? 20 : 5;
/** A container runtime takes longer from a sandbox's address to the first instruction of its first container. */
const RUNTIME_MS = 100;
const HOUR_MS = 3_600_000;

describe('pods that come and go', { timeout: 600_000 }, () => {
  let shop: Shop;
  let http: Server;
  before(async () => {
    shop = await openShop({ lab: { views: 'perNode' }, daemon: { inspect: true } });
    http = await shop.server.serve('http', 8080);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it(`${PODS} pods at once become enrolled, and each reaches a server over mTLS`, async (context) => {
    const { lab, web, daemon1, daemon2 } = shop;
    await using wire = await lab.capture();
    const marker = randomBytes(64);
    const names = Array.from({ length: PODS }, (_, index) => `crowd-${index}`);
    const pods = await Promise.all(
      names.map((name, index) => lab.pod({ name, node: (index % 2) + 1, labels: { app: 'crowd' } })),
    );
    const madeMs = performance.now();
    for (const pod of pods)
      await (pod.node.index === 1 ? daemon1 : daemon2).waitState(pod, 'enrolled', 60_000);
    const tookMs = Math.round(performance.now() - madeMs);
    const received = (await http.stats()).received;
    const replies = await Promise.all(pods.map((pod) => pod.request(web.ip, 80, { body: marker })));
    assert.deepEqual(
      replies.map(({ status }) => status),
      names.map(() => 200),
    );
    assert.ok((await http.stats()).received >= received + PODS * marker.length);
    for (const name of names)
      await daemon2.waitForAccess(`the record of ${name}`, (record) => {
        const identity = `spiffe://cluster.local/ns/shop/sa/${name}`;
        const isOurs = record['direction'] === 'inbound' && record['src.identity'] === identity;
        return isOurs && record['security'] === 'mutual_tls' && record['reason'] === 'OK';
      });
    assert.deepEqual(await wire.seenAt(marker), []);
    assert.ok(((await wire.tls(15_008)).get('bridge')?.applicationData ?? 0) > 0);
    context.diagnostic(
      `${PODS} pods at once: all enrolled ${tookMs} ms after the last was made, ${PODS} of ${PODS} served over mTLS`,
    );
    await Promise.all(pods.map((pod) => pod.delete()));
  });

  it(`a one-shot Job whose first action is a connect succeeds over mTLS, ${JOBS} times`, async () => {
    const { lab, web, daemon1, daemon2 } = shop;
    await using inspector = await daemon1.inspect();
    await using wire = await lab.capture();
    for (let index = 0; index < JOBS; index++) {
      const marker = randomBytes(64);
      const name = `job-${index}`;
      let reply: HttpReply | undefined;
      // Its certificate takes a second, which the first connect must be held for.
      const blocked = inspector.block(1_000);
      const job = await lab.pod({
        name,
        node: 1,
        onSandbox: async (pod) => {
          await sleep(RUNTIME_MS);
          reply = await pod.request(web.ip, 80, { body: marker });
        },
      });
      await blocked;
      assert.equal(reply?.status, 200, `${name}: ${JSON.stringify(reply?.result)}`);
      await daemon2.waitForAccess(
        `the record of ${name}`,
        (record) =>
          record['src.identity'] === `spiffe://cluster.local/ns/shop/sa/${name}` &&
          record['security'] === 'mutual_tls',
      );
      assert.deepEqual(await wire.seenAt(marker), []);
      await job.delete();
    }
  });

  it('an address used again by another identity: no certificate of the old one, no byte to the new pod', async () => {
    const { lab, client, daemon1, daemon2 } = shop;
    const old = await lab.pod({ name: 'old', node: 2 });
    await old.serve('http', 8080);
    await daemon2.waitState(old, 'enrolled');
    await daemon1.waitHeard(old);
    assert.equal((await client.request(old.ip, 8080)).name, 'old');

    await old.delete({ keepObject: true });
    const next = await lab.pod({ name: 'next', node: 2, ips: old.ips, listed: false });
    const sink = await next.serve('http', 8080);
    // Node 2 knows; node 1 is told later: to it the address is still the old pod's.
    const later = { lagMs: { 'node-1': 8_000 } };
    const told = Promise.all([
      lab.cluster.remove(old.object(), later),
      lab.cluster.apply(next.object(), later),
    ]);
    await daemon2.waitState(next, 'enrolled');
    const isMismatch = ({ reason }: LogRecord): boolean => reason === 'PEER_IDENTITY_MISMATCH';
    // The first tries may still meet the old pod's tunnel, which is cut under them.
    await until('the refusal', async () => {
      const result = await client.send(next.ip, 8080, { first: randomBytes(64), timeoutMs: 5_000 });
      assert.notEqual(result.error, '', 'it got through');
      return daemon1.accessRecords().some(isMismatch);
    });
    assert.equal((await sink.stats()).received, 0, "the old pod's payload reached the new one");
    const record = daemon1.accessRecords().find(isMismatch);
    assert.match(JSON.stringify(record), /sa\/next/, 'the new pod shows its own certificate');
    await told;
    await until('node 1 to know', async () => (await client.request(next.ip, 8080)).name === 'next');
    await daemon1.waitForAccess(
      'the new identity',
      (line) => line['dst.identity'] === 'spiffe://cluster.local/ns/shop/sa/next' && line['reason'] === 'OK',
    );
    await next.delete();
  });
});

describe('certificates of seconds', { timeout: 300_000 }, () => {
  it('rotate while connections stay up, and none is lost', async () => {
    const shop = await openShop({ daemon: { flags: ['--cert-lifetime', '4s'] } });
    await using lab = shop.lab;
    const { client, server, web, daemon1, daemon2 } = shop;
    assert.equal(lab.nodes.length, 2);
    await server.serve('http', 8080);
    await server.serve('echo', 8081, { quiet: true });
    const idle = await client.idle(web.ip, 81, 30);
    assert.equal((await idle.opened()).ok, 30);
    const loop = await client.loop(web.ip, 80, { everyMs: 50 });
    const seen = [new Set<string>(), new Set<string>()];
    await until(
      'four certificates at each end',
      async () => {
        for (const [index, daemon] of [daemon1, daemon2].entries())
          for (const serial of await serials(daemon)) seen[index]?.add(serial);
        return seen.every(({ size }) => size >= 4);
      },
      { timeoutMs: 60_000, everyMs: 200 },
    );
    assert.equal((await idle.ping()).ok, 30);
    assert.equal((await idle.stats()).lost, 0);
    const counts = await loop.stop();
    const unwell = [daemon1, daemon2].flatMap((daemon) =>
      daemon.accessRecords().filter(({ reason }) => reason !== 'OK'),
    );
    assert.equal(counts.failed, 0, JSON.stringify({ counts, unwell }));
    assert.ok(counts.ok > 50);
  });
});

describe('a clock that is set so that a certificate has expired', { timeout: 300_000 }, () => {
  it('is never used by us, and refused from a peer; no restart is needed to heal', async () => {
    // Node 2 lives 25 hours ago: the certificates of 24 hours that it makes have ended for node 1.
    await using clock1 = await ShiftedClock.create(0);
    await using clock2 = await ShiftedClock.create(-25 * HOUR_MS);
    const shop = await openShop({ env: [clock1.env, clock2.env] });
    await using lab = shop.lab;
    const { client, server, daemon1, daemon2 } = shop;
    const sink = await server.serve('sink', 8081);
    const isCarried = async (): Promise<boolean> =>
      (await client.send(server.ip, 8081, { first: randomBytes(64) })).error === '';
    const isRefused = async (what: string, test: (record: LogRecord) => boolean): Promise<void> => {
      const before = (await sink.stats()).received;
      const from = daemon1.process.lines.length;
      assert.equal(await isCarried(), false, what);
      await daemon1.waitForAccess(what, test, { from });
      assert.equal((await sink.stats()).received, before, `${what}: payload reached the app`);
    };
    await using wire = await lab.capture();
    const clear = randomBytes(64);
    await client.send(server.ip, 8081, { first: clear });
    assert.deepEqual(await wire.seenAt(clear), []);

    await isRefused("the peer's has expired", ({ reason, detail }) => {
      return reason === 'PEER_CERTIFICATE_INVALID' && /expired/i.test(String(detail));
    });
    clock2.set(0); // what it has made ended an hour ago now; it looks at its clock every 30 s
    await until('node 2 to heal', isCarried, { timeoutMs: 60_000, everyMs: 500 });
    await daemon2.waitForLog('the alarm', ({ msg }) => String(msg).startsWith('a certificate has expired'));

    clock1.set(25 * HOUR_MS);
    await isRefused('ours has expired', ({ reason }) => reason === 'CERTIFICATE_EXPIRED');
    clock1.set(0);
    await until('node 1 to heal', isCarried, { timeoutMs: 60_000, everyMs: 500 });
    assert.ok(((await wire.tls(15_008)).get('bridge')?.applicationData ?? 0) > 0);
  });
});

const Certificates = z.array(z.object({ serial: z.string().optional() }));

async function serials(daemon: LabDaemon): Promise<string[]> {
  return Certificates.parse(await daemon.admin('/certs')).flatMap(({ serial }) => serial ?? []);
}
