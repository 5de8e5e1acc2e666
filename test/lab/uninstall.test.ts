/** Leaving a node, and handing it over: nothing is left, and nothing is cut that need not be (issue 6, 'Uninstall'). */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { must } from '../support/run.ts';
import { until } from '../support/wait.ts';
import type { Counts, Loop } from './kit/apps.ts';
import type { LogRecord } from './kit/daemon.ts';
import type { LabPod } from './kit/pod.ts';
import { QUICK, enrol, openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const FLAGS = ['--drain-seconds', '3s', '--leave-grace', '3s'];
/** /healthz takes a thread for dead that was not heard for 10 s. */
const SILENCE_MS = 11_000;
const LIMITS = { timeout: 180_000 };

describe('culvert uninstall on every node', () => {
  it(
    'loses no request, keeps older connections, leaves nothing; the daemon goes on answering',
    LIMITS,
    async () => {
      const shop = await openShop({ daemon: { flags: FLAGS }, labelled: false });
      await using lab = shop.lab;
      const { client, server, web, daemon1, daemon2 } = shop;
      await serve(shop);
      await using older = await client.idle(server.ip, 8081, 5);
      assert.equal((await older.opened()).ok, 5);
      const loops = await startLoops(shop);
      await enrol(shop);
      await using tunnelled = await client.idle(web.ip, 81, 10);
      assert.equal((await tunnelled.opened()).ok, 10);

      const leaving = Promise.all([daemon1.cli(['uninstall']), daemon2.cli(['uninstall'])]);
      await daemon1.waitForLog('its last phase', ({ why }) =>
        String(why).startsWith('LEAVING: older tunnels'),
      );
      assert.equal((await tunnelled.ping()).ok, 10, 'tunnels were cut within their grace');
      for (const { code, output } of await leaving) {
        assert.equal(code, 0, output);
        assert.match(output, /nothing of culvert is left/);
      }
      await Promise.all(lab.nodes.map((node) => nothingIsLeft(shop, node.index)));
      await answersInTheClear(shop);
      await sleep(SILENCE_MS);
      for (const daemon of [daemon1, daemon2]) {
        assert.equal((await daemon.http(15_021, '/healthz')).status, 200);
        assert.match(JSON.stringify(await daemon.admin('/status')), /"uninstall":"done","pods":\[\]/);
        assert.equal((await daemon.cli(['uninstall'])).code, 0, 'a second time is once');
      }
      assert.equal((await older.ping()).ok, 5, 'older connections were cut');
      await noneFailed(loops);
      for (const daemon of [daemon1, daemon2]) assert.equal((await daemon.stop('SIGTERM')).code, 0);
      await Promise.all(lab.nodes.map((node) => nothingIsLeft(shop, node.index)));
      await answersInTheClear(shop);
    },
  );
});

describe('culvert uninstall on one node while the label stands', () => {
  for (const mode of ['permissive', 'strict'] as const)
    it(
      `${mode}: other nodes refuse its pods with that reason and never dial them in the clear, until the label goes`,
      LIMITS,
      async () => {
        const flags = [...FLAGS, '--default-mode', mode, '--hold-timeout', '2s'];
        const shop = await openShop({ daemon: { flags } });
        await using lab = shop.lab;
        const { client, server, daemon1, daemon2 } = shop;
        await serve(shop);
        assert.equal((await client.request(server.ip, 8080)).status, 200);
        await using wire = await lab.capture();
        const left = await daemon2.cli(['uninstall']);
        assert.equal(left.code, 0, left.output);
        const marker = randomBytes(64);
        const from = daemon1.process.lines.length;
        const refused = await client.send(server.ip, 8080, { first: marker });
        assert.equal(refused.error, 'ECONNRESET', JSON.stringify(refused));
        const isRefusal = (record: LogRecord): boolean => record['reason'] === 'DESTINATION_WAS_ENROLLED';
        const record = await daemon1.waitForAccess('its record', isRefusal, { from });
        assert.match(String(record['detail']), /daemon of node node-2 has let it go/);
        assert.deepEqual(await wire.seenAt(marker), []);
        await lab.cluster.label('shop', undefined);
        await daemon1.waitState(client, 'none');
        assert.equal((await client.request(server.ip, 8080, { body: marker })).status, 200);
        assert.ok((await wire.seenAt(marker)).includes('bridge'));
      },
    );
});

describe('culvert cleanup --node after a daemon was killed', () => {
  it('leaves nothing, opens the pods again, and cuts no older connection', LIMITS, async () => {
    const shop = await openShop({ daemon: { flags: FLAGS }, labelled: false });
    await using lab = shop.lab;
    const { client, server, daemon1, daemon2 } = shop;
    await serve(shop);
    await using older = await client.idle(server.ip, 8081, 5);
    assert.equal((await older.opened()).ok, 5);
    await enrol(shop);
    assert.equal((await client.request(server.ip, 8080)).status, 200);
    await Promise.all([daemon1.stop('SIGKILL'), daemon2.stop('SIGKILL')]);
    assert.notEqual((await client.send(server.ip, 8080, { timeoutMs: 2_000 })).error, '');

    for (const daemon of [daemon1, daemon2]) {
      const { code, output } = await daemon.cli(['cleanup', '--node', daemon.node.name]);
      assert.equal(code, 0, output);
      assert.match(output, /removed /);
    }
    await Promise.all(lab.nodes.map((node) => nothingIsLeft(shop, node.index)));
    await answersInTheClear(shop);
    assert.equal((await older.ping()).ok, 5, 'older connections were cut');
    const again = await daemon1.cli(['cleanup', '--node', 'node-1']);
    assert.deepEqual([again.code, /nothing of node/.test(again.output)], [0, true], again.output);
  });
});

describe('culvert uninstall of a daemon that has not read the cluster yet', () => {
  it(
    'takes away what the one before it left, and says so, while the API server is away',
    LIMITS,
    async () => {
      const shop = await openShop({ daemon: { flags: FLAGS } });
      await using lab = shop.lab;
      const { client, server } = shop;
      await serve(shop);
      assert.equal((await client.request(server.ip, 8080)).status, 200);
      await Promise.all([shop.daemon1.stop('SIGKILL'), shop.daemon2.stop('SIGKILL')]);
      const flags = [
        ...FLAGS,
        '--cluster-dir',
        '',
        '--kubeconfig',
        nobodysKubeconfig(shop),
        '--cert-source',
        'local',
      ];
      for (const index of [1, 2] as const) {
        const daemon = await lab.startDaemon(index, { flags, waitReady: false });
        await until(
          'it to answer',
          async () => (await daemon.http(15_021, '/readyz').catch(() => undefined))?.status === 503,
        );
        assert.match(await pins(shop, index), /culvert/);
        const { code, output } = await daemon.cli(['uninstall', '--timeout', '10']);
        assert.equal(code, 0, output + daemon.process.tail());
        assert.doesNotMatch(output, /every pod has been left/);
        assert.match(output, /nothing of culvert is left/);
        await nothingIsLeft(shop, index);
        assert.equal((await daemon.stop('SIGTERM')).code, 0);
      }
      await answersInTheClear(shop);
    },
  );
});

describe('a daemon that is told to stop', () => {
  it('keeps the pins: its pods stay closed until the next one takes over', LIMITS, async () => {
    const shop = await openShop({ daemon: { flags: FLAGS } });
    await using lab = shop.lab;
    const { client, server } = shop;
    const http = await server.serve('http', 8080);
    assert.equal((await client.request(server.ip, 8080)).status, 200);
    const before = (await http.stats()).received;
    assert.equal((await shop.daemon1.stop('SIGTERM')).code, 0);
    assert.match(await pins(shop, 1), /culvert/);
    await using wire = await lab.capture();
    const marker = randomBytes(64);
    const refused = await client.send(server.ip, 8080, { first: marker, timeoutMs: 2_000 });
    assert.notEqual(refused.error, '');
    assert.equal((await http.stats()).received, before);
    const next = await lab.startDaemon(1, { flags: [...QUICK, ...FLAGS] });
    await next.waitState(client, 'enrolled');
    assert.equal((await client.request(server.ip, 8080, { body: marker })).status, 200);
    assert.deepEqual(await wire.seenAt(marker), []);
  });
});

describe('two daemons of one node', () => {
  it(
    'a rolling upgrade under load loses no new connection; older ones live through the drain',
    LIMITS,
    async () => {
      const shop = await openShop({ daemon: { flags: FLAGS } });
      await using lab = shop.lab;
      const { client, server, web, daemon1, daemon2 } = shop;
      await serve(shop);
      const loops = await startLoops(shop);
      const flags = [...QUICK, ...FLAGS];
      for (const [old, pod] of [
        [daemon1, client],
        [daemon2, server],
      ] as const) {
        await using held = await client.idle(web.ip, 81, 10);
        assert.equal((await held.opened()).ok, 10);
        const next = await lab.startNextDaemon(old.node.index, `culvert-next-${old.node.index}`, { flags });
        await old.waitForLog('that it yields', ({ msg }) => msg === 'another daemon takes this node over');
        await next.waitState(pod, 'enrolled');
        const from = next.process.lines.length;
        await next.waitForAccess('traffic in the new one', ({ reason }) => reason === 'OK', { from });
        assert.equal((await held.ping()).ok, 10, 'connections of the old daemon were cut while it lived');
        assert.deepEqual(await failures(loops), [], 'new connections were lost');
        assert.equal((await old.stop('SIGTERM')).code, 0);
        const { cut } = await old.waitForLog('its last word', ({ msg }) => String(msg).startsWith('stopped'));
        assert.equal(cut, 10, 'it did not say how many it cut at the end of the drain');
        await until('them to be cut', async () => (await held.stats()).lost === 10);
      }
      await sleep(500); // some more requests with the new daemons alone
      await noneFailed(loops);
    },
  );

  it("the new one killed with -9: the node is the old one's again", LIMITS, async () => {
    const shop = await openShop({ daemon: { flags: FLAGS } });
    await using lab = shop.lab;
    const { client, server, daemon1 } = shop;
    await serve(shop);
    const next = await lab.startNextDaemon(1, 'culvert-next', { flags: [...QUICK, ...FLAGS] });
    await next.waitState(client, 'enrolled');
    assert.equal((await client.request(server.ip, 8080)).status, 200);
    await using wire = await lab.capture();
    await next.stop('SIGKILL');
    await daemon1.waitForLog('that it is back', ({ msg }) => String(msg).endsWith('it is ours again'));
    const marker = randomBytes(64);
    await until('a request through the old one', async () => {
      return (await client.request(server.ip, 8080, { body: marker, timeoutMs: 5_000 })).status === 200;
    });
    for (let index = 0; index < 20; index++)
      assert.equal((await client.request(server.ip, 8080, { body: marker })).status, 200);
    assert.deepEqual(await wire.seenAt(marker), []);
    const from = daemon1.process.lines.length;
    const late = await lab.pod({ name: 'late', node: 1 });
    await daemon1.waitState(late, 'enrolled');
    assert.equal((await late.request(server.ip, 8080)).status, 200);
    await daemon1.waitForAccess('the record', (record) => record['src.workload'] === 'late', { from });
  });
});

/** Path of a kubeconfig whose API server nobody is. */
function nobodysKubeconfig({ lab }: Shop): string {
  const file = join(lab.dir, 'kubeconfig');
  const context = { name: 'lab', context: { cluster: 'lab', user: 'lab' } };
  const config = {
    ...{ apiVersion: 'v1', kind: 'Config', 'current-context': 'lab', contexts: [context] },
    clusters: [{ name: 'lab', cluster: { server: 'https://127.0.0.1:1' } }],
    users: [{ name: 'lab', user: { token: 'none' } }],
  };
  writeFileSync(file, JSON.stringify(config));
  return file;
}

async function serve({ client, server }: Shop): Promise<void> {
  await server.serve('http', 8080, { quiet: true });
  await server.serve('echo', 8081, { quiet: true });
  await client.serve('http', 8080, { quiet: true });
}

function startLoops({ client, server, web }: Shop): Promise<Loop[]> {
  return Promise.all([
    client.loop(web.ip, 80, { everyMs: 40 }),
    server.loop(client.ip, 8080, { everyMs: 40 }),
  ]);
}

/** Of the loops that have any; they go on. */
async function failures(loops: readonly Loop[]): Promise<Counts[]> {
  const counts = await Promise.all(loops.map((loop) => loop.stats()));
  return counts.filter(({ failed }) => failed > 0);
}

async function noneFailed(loops: readonly Loop[]): Promise<void> {
  const counts = await Promise.all(loops.map((loop) => loop.stop()));
  for (const count of counts) {
    assert.equal(count.failed, 0, JSON.stringify(counts));
    assert.ok(count.ok > 50, JSON.stringify(counts));
  }
}

async function answersInTheClear({ lab, client, server }: Shop): Promise<void> {
  await using wire = await lab.capture();
  const marker = randomBytes(64);
  assert.equal((await client.request(server.ip, 8080, { body: marker })).status, 200);
  assert.ok((await wire.seenAt(marker)).includes('bridge'));
}

function pins({ lab }: Shop, node: number): Promise<string> {
  return lab.node(node).must(['find', '/sys/fs/bpf']);
}

const Links = z.array(z.object({ netns_ino: z.number().optional() }));

/** No pin, no program on a cgroup or namespace, no listener of ours. */
async function nothingIsLeft(shop: Shop, index: number): Promise<void> {
  const { lab, client, server } = shop;
  const pod: LabPod = index === 1 ? client : server;
  assert.doesNotMatch(await pins(shop, index), /culvert/);
  const tree = await lab.node(index).must(['bpftool', 'cgroup', 'tree', '/sys/fs/cgroup']);
  assert.doesNotMatch(tree, /culvert/);
  const links = Links.parse(JSON.parse(await must(['bpftool', '-j', 'link', 'show'])));
  const netns = statSync(pod.netns).ino;
  assert.deepEqual(
    links.filter((link) => link.netns_ino === netns),
    [],
  );
  const { lines } = await pod.exec(['ss', '-Hltn']);
  const ports = lines.map((line) => Number(/:(\d+)\s/.exec(line)?.[1]));
  assert.deepEqual(
    ports.filter((port) => port >= 61_001),
    [],
    lines.join('\n'),
  );
}
