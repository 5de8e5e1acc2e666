/**
 * The mesh on a real Kubernetes under a steady load of new connections between two nodes, while the API server, the
 * daemons and the kubelet die, come back, or are replaced (issue 7). Each connection is counted. The CA's part is in
 * survival-ca.test.ts.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { IS_LONG } from '../lab/shop.ts';
import { tempDir } from '../support/tmp.ts';
import { until } from '../support/wait.ts';
import { changedImage } from './image/changed.ts';
import { HBONE_PORT, SHOP, SYSTEM } from './kit/mesh.ts';
import type { ListedPod } from './kit/mesh.ts';
import { pod } from './kit/objects.ts';
import { at, list, text } from './manifests.ts';
import { Crowd } from './crowd.ts';
import { Load, allWell, shown } from './survival-load.ts';
import { DRAIN_MS, HEALTH_PORT, Stage, unreadyWhile } from './survival-stage.ts';

const CROWD = 2_000;
const PER_SECOND = 100;
const AWAY_MS = IS_LONG ? 120_000 : 20_000;
/** Of the next release, which says its version from it. */
const PACKAGE = `${JSON.stringify({ name: 'culvert', version: '9.9.9', type: 'module' })}\n`;
const PODS_SERIES = 'culvert_watch_staleness_seconds{source="pods"}';

let stage: Stage;
before(async () => {
  stage = await Stage.start();
});
after(() => stage[Symbol.asyncDispose]());

/** Has every watch of pods hear something. */
async function touch(): Promise<void> {
  await stage.mesh.kubectl('annotate', '--overwrite', 'pod', '-n', SHOP, 'client', `touched=${Date.now()}`);
}

describe('the API server', { timeout: 600_000 }, () => {
  it(`killed for ${AWAY_MS / 1_000} s: no connection fails, nobody gets unready, a metric tells; then a list or none of each kind`, async (context) => {
    const { mesh } = stage;
    const { apiServer } = mesh.controlPlane;
    const daemons = await mesh.daemons();
    await using load = await Load.start(stage);
    await touch();
    const metric = (series: string): Promise<number[]> =>
      Promise.all(daemons.map((daemon) => stage.metric(daemon, series)));
    await until('the watches to be current', async () =>
      (await metric(PODS_SERIES)).every((value) => value < 10),
    );
    const ready = await unreadyWhile(stage, daemons, async () => {
      await apiServer.kill();
      await sleep(AWAY_MS);
      for (const staleS of await metric(PODS_SERIES)) assert.ok(staleS >= AWAY_MS / 1_000 - 1, `${staleS} s`);
      for (const problems of await metric('culvert_source_problems')) assert.ok(problems > 0);
    });
    assert.deepEqual(ready.not200, []);
    const backMs = Date.now();
    await apiServer.start();
    const after = await unreadyWhile(stage, daemons, async () => {
      await until(
        'the watches to be current again',
        async () => {
          await touch();
          const stale = await metric(PODS_SERIES);
          const problems = await metric('culvert_source_problems');
          return stale.every((value) => value < 10) && problems.every((value) => value === 0);
        },
        { timeoutMs: 120_000, everyMs: 500 },
      );
      context.diagnostic(`current again ${Date.now() - backMs} ms after the API server was started`);
      await enrolsAnother('after-outage');
      await load.more(200);
    });
    assert.deepEqual(after.not200, []);
    const tally = await load.stop();
    context.diagnostic(`${shown(tally)}; /readyz was asked ${ready.asked + after.asked} times`);
    await allWell(stage, tally);
    context.diagnostic(listedOnce(backMs));
  });
});

/** @throws AssertionError when one of our pods has listed anything twice since then; how many lists there were, in words. */
function listedOnce(sinceMs: number): string {
  const lists = stage.lists(sinceMs);
  const times = new Map<string, number>();
  for (const { pod: by, what } of lists) times.set(`${by} ${what}`, (times.get(`${by} ${what}`) ?? 0) + 1);
  // A daemon's main thread and its enrolment thread each watch all namespaces.
  const most = (what: string): number => (what.endsWith(' /api/v1/namespaces') ? 2 : 1);
  assert.deepEqual(
    [...times].filter(([what, count]) => count > most(what)),
    [],
    'listed more than once',
  );
  const spreadMs = (lists.at(-1)?.atMs ?? 0) - (lists[0]?.atMs ?? 0);
  return `${lists.length} lists by ${new Set(lists.map((one) => one.pod)).size} pods, spread over ${spreadMs} ms`;
}

/** A pod with an identity that nobody has yet comes, is enrolled, and goes. */
async function enrolsAnother(name: string): Promise<void> {
  const { mesh } = stage;
  await mesh.controlPlane.apply(
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace: SHOP } },
    pod({ name, namespace: SHOP, node: 'node-1', serviceAccount: name }),
  );
  await mesh.waitState('enrolled', [name]);
  await mesh.kubectl('delete', 'pod', '-n', SHOP, name, '--wait=false');
}

describe('the daemons', { timeout: 900_000 }, () => {
  it('replaced by another image, node after node: no new connection fails, open ones live through the drain', async (context) => {
    const { mesh } = stage;
    await using dir = await tempDir('next');
    const files = [{ path: 'opt/culvert/package.json', bytes: Buffer.from(PACKAGE) }];
    const next = await changedImage(mesh.image, {
      dir: dir.path,
      reference: 'localhost/culvert:next',
      files,
    });
    await mesh.cluster.loadImage(next.archive);
    const [server, client] = [await mesh.inPod('server'), await mesh.inPod('client')];
    await using echo = await server.serve('echo', 8081, { quiet: true });
    const before = await mesh.daemons();
    await using idle = await client.idle(server.ip, echo.port, 40);
    assert.equal((await idle.opened()).ok, 40);
    await using load = await Load.start(stage);
    const startedMs = Date.now();
    await mesh.kubectl('set', 'image', '-n', SYSTEM, 'daemonset/culvert', `culvert=${next.reference}`);
    const goes = await until('the first to go', async () => firstTerminating(await mesh.daemons()), {
      timeoutMs: 120_000,
      everyMs: 250,
      detail: () => JSON.stringify(before),
    });
    const goneMs = Date.now();
    let pings = 0;
    while (Date.now() < goneMs + DRAIN_MS - 5_000) {
      assert.equal((await idle.ping()).ok, 40, `${goes} drains for ${Date.now() - goneMs} ms`);
      pings += 1;
      await sleep(1_000);
    }
    await mesh.waitInstalled();
    const rolledMs = Date.now() - startedMs;
    await until('the old ones to end', async () => (await mesh.daemons()).length === 2, {
      timeoutMs: 120_000,
      everyMs: 500,
    });
    while ((await load.started()) < 3_000) await load.more(100);
    const tally = await load.stop();
    context.diagnostic(
      `rolled out in ${rolledMs} ms: ${shown(tally)}; 40 open ones answered ${pings} pings during the drain`,
    );
    await allWell(stage, tally, 3_000);
    assert.ok(pings > 3);
    for (const { imageIds, restarts, name } of await mesh.daemons()) {
      assert.ok(!before.some((one) => one.name === name));
      assert.equal(restarts, 0, `${name} ${imageIds.join()}`);
      assert.deepEqual(imageIds, [next.id]);
      assert.notEqual(next.id, mesh.image.id);
    }
    const { stdout } = await mesh.culvert(['status']);
    assert.equal(
      stdout.split('\n').filter((line) => / Ready +culvert-\S+ +9\.9\.9 /.test(line)).length,
      2,
      stdout,
    );
  });

  it('one deleted with long connections open: they are cut, so that the next one is there long before the drain time is over; what comes until then is refused, never plain', async (context) => {
    const { mesh } = stage;
    const gone = await mesh.daemonOn(mesh.cluster.node(1));
    const [server, client] = [await mesh.inPod('server'), await mesh.inPod('client')];
    await using echo = await server.serve('echo', 8082, { quiet: true });
    await using idle = await client.idle(server.ip, echo.port, 40);
    assert.equal((await idle.opened()).ok, 40);
    const deletedMs = Date.now();
    context.diagnostic(await lossOf(gone, ['--wait=false']));
    // The kubelet lets a daemon have its whole grace period: only the daemon's own end makes room for the next one.
    const took = await startOf(await mesh.daemonOn(mesh.cluster.node(1)));
    assert.ok(
      took - deletedMs < DRAIN_MS / 2,
      `the next one's container was started after ${took - deletedMs} ms`,
    );
    assert.equal((await idle.stats()).lost, 40);
  });

  it('one killed with its pod: the same, and the next one takes over what is pinned', async (context) => {
    const gone = await stage.mesh.daemonOn(stage.mesh.cluster.node(2));
    context.diagnostic(await lossOf(gone, ['--force', '--grace-period=0']));
  });
});

/** Deletes a daemon's pod under load; what that cost, in words, once another one carries everything. */
async function lossOf(gone: ListedPod, how: readonly string[]): Promise<string> {
  const { mesh } = stage;
  const marker = randomBytes(48);
  await using wire = await mesh.cluster.capture([mesh.cluster.bridge], 'tcp');
  await using load = await Load.start(stage, marker);
  const startedMs = Date.now();
  await mesh.kubectl('delete', 'pod', '-n', SYSTEM, gone.name, ...how);
  await replaced(gone);
  const replacedMs = Date.now() - startedMs;
  const failed = await load.failed();
  await load.more(300);
  const tally = await load.stop();
  assert.ok(tally.failed - failed <= 2, `it fails on: ${tally.failures.slice(-5).join('\n')}`);
  assert.deepEqual(await wire.seenAt(marker), []);
  assert.ok(((await wire.tls(HBONE_PORT)).get('bridge')?.applicationData ?? 0) > 0);
  return `another one was Ready after ${replacedMs} ms: ${shown(tally)}`;
}

/** When the container was started, by its kubelet; to the second. */
async function startOf({ name }: ListedPod): Promise<number> {
  const found = await stage.mesh.controlPlane.api.must('GET', `/api/v1/namespaces/${SYSTEM}/pods/${name}`);
  return Date.parse(text(found, 'status', 'containerStatuses', 0, 'state', 'running', 'startedAt'));
}

function firstTerminating(daemons: readonly ListedPod[]): string | undefined {
  return daemons.find(({ isTerminating }) => isTerminating)?.name;
}

/** Another daemon is Ready on that node, and both answer /readyz. */
async function replaced(gone: ListedPod): Promise<void> {
  const { mesh } = stage;
  await until(
    'another daemon',
    async () => {
      const now = (await mesh.daemons()).find(
        ({ node, name, isReady, isTerminating }) =>
          node === gone.node && name !== gone.name && isReady && !isTerminating,
      );
      return now !== undefined && (await stage.ask(now, HEALTH_PORT, '/readyz')).status === 200;
    },
    { timeoutMs: 180_000, everyMs: 250 },
  );
}

describe('very many pods', { timeout: 900_000 }, () => {
  it(`${CROWD} created and deleted at ${PER_SECOND} a second: each daemon ends with the API’s state, and no connection fails meanwhile`, async (context) => {
    const crowd = await Crowd.open(stage.mesh);
    await using load = await Load.start(stage);
    const tookMs = await crowd.comeAndGo(CROWD, PER_SECOND, CROWD / 5);
    const endedMs = Date.now();
    const left = (await crowd.asApi()).filter((line) => line.includes(' crowd '));
    assert.equal(left.length, CROWD / 4);
    await sameState(crowd);
    context.diagnostic(
      `${CROWD} came and ${(CROWD / 4) * 3} went in ${Math.round(tookMs)} ms; both daemons had the API's state ${Date.now() - endedMs} ms later`,
    );
    await crowd.end();
    await until('the API to have none', async () => !(await crowd.asApi()).join().includes(' crowd '));
    await sameState(crowd);
    await load.more(200);
    const tally = await load.stop();
    context.diagnostic(shown(tally));
    await allWell(stage, tally);
  });
});

/** Every pod of the API with its addresses is in each daemon's state, and no other. */
async function sameState(crowd: Crowd): Promise<void> {
  for (const daemon of await stage.mesh.daemons()) {
    let [api, ours]: string[][] = [[], []];
    await until(
      `${daemon.name} to have the API's state`,
      async () => {
        [api, ours] = [await crowd.asApi(), await crowd.asDaemon(daemon)];
        return isDeepStrictEqual(api, ours);
      },
      {
        timeoutMs: 60_000,
        everyMs: 500,
        detail: () => `only in the API: ${except(api, ours)}\nonly in the daemon: ${except(ours, api)}`,
      },
    );
  }
}

function except(from: readonly string[] = [], other: readonly string[] = []): string {
  const known = new Set(other);
  return from
    .filter((line) => !known.has(line))
    .slice(0, 5)
    .join('; ');
}

describe('a kubelet', { timeout: 600_000 }, () => {
  it('killed and back: no connection fails, its probes get through as before, no container starts again', async (context) => {
    const { mesh } = stage;
    const node = mesh.cluster.node(1);
    const daemons = await mesh.daemons();
    await using load = await Load.start(stage);
    await node.stop('kubelet');
    await load.more(200);
    if (IS_LONG) await mesh.cluster.waitReady(node, false);
    await node.start('kubelet');
    // Pods' states come from a kubelet that is back.
    await mesh.controlPlane.apply(pod({ name: 'proof', namespace: SHOP, node: node.name }));
    await mesh.shop.waitReady('proof');
    await mesh.waitState('enrolled', ['proof']);
    await mesh.cluster.waitReady(node);
    await load.more(500);
    const tally = await load.stop();
    context.diagnostic(shown(tally));
    await allWell(stage, tally);
    // A kubelet that is back calls a pod unready until its first probe has got through.
    await until('the probes', async () => (await condition()).isReady, { timeoutMs: 60_000, everyMs: 250 });
    assert.deepEqual((await condition()).restarts, [0]);
    assert.deepEqual(
      (await mesh.daemons()).map(({ name, restarts }) => [name, restarts]),
      daemons.map(({ name, restarts }) => [name, restarts]),
    );
  });
});

/** What `back` is to its kubelet, which probes it every second, under STRICT. */
async function condition(): Promise<{ isReady: boolean; restarts: readonly unknown[] }> {
  const found = await stage.mesh.controlPlane.api.must('GET', `/api/v1/namespaces/${SHOP}/pods/back`);
  const ready = list(found, 'status', 'conditions').find((one) => at(one, 'type') === 'Ready');
  const restarts = list(found, 'status', 'containerStatuses').map((one) => at(one, 'restartCount'));
  return { isReady: at(ready, 'status') === 'True', restarts };
}
