/** What is refused before any worker sees it: by the kernel, while the daemon lives and while it is dead. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { must } from '../support/run.ts';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { LabDaemon, LogRecord } from './kit/daemon.ts';
import type { LabPod } from './kit/pod.ts';
import { LabProcess } from './kit/process.ts';
import type { Place } from './kit/process.ts';
import { IS_LONG, QUICK, openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { makeUnborn } from './unborn.ts';
import { statesOf, withoutPayload } from './watch.ts';

const FLOOD = IS_LONG ? 100_000 : 5_000;
const TIMEOUT = { timeout: 300_000 };

/** Connects COUNT times and says what they met: {"EPERM": 12}. */
const CONNECTS = `
import errno, json, socket, sys
seen = {}
for i in range(int(sys.argv[3])):
    s = socket.socket()
    s.settimeout(2)
    try:
        s.connect((sys.argv[1], int(sys.argv[2])))
        what = 'OK'
    except socket.timeout:
        what = 'TIMEOUT'
    except OSError as e:
        what = errno.errorcode[e.errno]
    s.close()
    seen[what] = seen.get(what, 0) + 1
print(json.dumps(seen))
`;

const Counts = z.record(z.string(), z.number());
const Status = z.object({
  refusals: z.array(z.object({ podUid: z.string(), reason: z.string(), count: z.number() })),
});

describe('refused in the kernel', TIMEOUT, () => {
  let shop: Shop;
  let sink: Server;
  before(async () => {
    shop = await openShop({ daemon: { flags: ['--max-pending-per-pod', '16'] } });
    sink = await shop.server.serve('sink', 8081);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  async function connects(
    place: Place,
    count: number,
    under: readonly string[] = [],
  ): Promise<Record<string, number>> {
    const words = ['python3', '-c', CONNECTS, shop.server.ip, '8081', String(count)];
    const { lines, exited } = await LabProcess.start([...under, ...words], place);
    await exited;
    return Counts.parse(JSON.parse(lines.join('\n')));
  }

  /** Waits until the log's lines for `reason` of `pod` count `count`, and so does `culvert status`. */
  async function isTold(
    daemon: LabDaemon,
    pod: Pick<LabPod, 'name'> & { readonly uid: string },
    what: { direction: string; reason: string; count: number },
  ): Promise<void> {
    const side = what.direction === 'outbound' ? 'src' : 'dst';
    const isIt = (line: LogRecord): boolean =>
      line['reason'] === what.reason &&
      line['direction'] === what.direction &&
      line[`${side}.workload`] === pod.name;
    let told = 0;
    await until(
      `the record of ${what.count} × ${what.reason}`,
      () => {
        const lines = daemon.logs().filter(isIt);
        told = lines.reduce((sum, line) => sum + Number(line['count'] ?? 1), 0);
        return told >= what.count;
      },
      { detail: () => `${told} were told\n${daemon.process.tail()}`, timeoutMs: 30_000 },
    );
    assert.equal(told, what.count);
    const { refusals } = Status.parse(await daemon.admin('/status'));
    const mine = refusals.filter(({ podUid, reason }) => podUid === pod.uid && reason === what.reason);
    assert.ok((mine[0]?.count ?? 0) >= what.count, JSON.stringify(refusals));
    const { output } = await daemon.cli(['status']);
    assert.ok(output.includes(what.reason), output);
  }

  it(
    'connects of a pod that is pending: no payload, and a record with pod, reason and count',
    TIMEOUT,
    async () => {
      const { daemon2 } = shop;
      const pod = await makeUnborn(shop, 'unborn');
      await daemon2.waitState(pod, 'pending');
      const seen = await withoutPayload(sink, () => connects(pod.place, 7));
      assert.deepEqual(seen, { EPERM: 7 });
      await isTold(
        daemon2,
        { ...pod, name: 'unborn' },
        { direction: 'outbound', reason: 'POD_PENDING', count: 7 },
      );
      await pod.remove();
    },
  );

  it('connects out of a namespace nested in the pod', TIMEOUT, async () => {
    const { client, daemon1 } = shop;
    const seen = await withoutPayload(sink, () => connects(client.place(), 3, ['unshare', '-n']));
    assert.deepEqual(seen, { EPERM: 3 });
    await isTold(daemon1, client, { direction: 'outbound', reason: 'NESTED_NETNS', count: 3 });
  });

  it('a process in a nested namespace is never taken for the pod’s sandbox', TIMEOUT, async () => {
    const { lab, daemon1, server } = shop;
    // Names of cgroups are random, and decided once which process was found first: six pods, not one.
    const names = Array.from({ length: 6 }, (_, index) => `docker-${index}`);
    const pods = await Promise.all(names.map((name) => lab.pod({ name, node: 1 })));
    for (const pod of pods) await daemon1.waitState(pod, 'enrolled');
    const before = pods.map((pod) => statesOf(daemon1, pod));
    await Promise.all(pods.map((pod) => pod.spawn(['unshare', '-n', 'sleep', '60'])));
    await sleep(2_500); // some rescans: that nothing comes of them has no event
    for (const pod of pods) {
      assert.deepEqual(await connects(pod.place(), 1, ['unshare', '-n']), { EPERM: 1 }, pod.name);
      assert.equal((await pod.send(server.ip, 8081, { first: randomBytes(64) })).error, '');
    }
    assert.deepEqual(
      pods.map((pod) => statesOf(daemon1, pod)),
      before,
      'a pod began its life again',
    );
    await Promise.all(pods.map((pod) => pod.delete()));
  });

  it('connects beyond the pod’s bound of entries', TIMEOUT, async () => {
    const { client, daemon1 } = shop;
    const ours =
      'table ip bound { chain in { type filter hook input priority 0; tcp dport 61001-65535 drop; }; }';
    const nft = ['nsenter', `--net=${client.netns}`, 'nft'];
    await must([...nft, '-f', '-'], { input: ours });
    const idle = await client.idle(shop.server.ip, 8081, 20, 20);
    await isTold(daemon1, client, { direction: 'outbound', reason: 'POD_ENTRY_LIMIT', count: 4 });
    await idle[Symbol.asyncDispose]();
    await must([...nft, 'delete', 'table', 'ip', 'bound']);
    await until('the entries to go', async () => (await connects(client.place(), 1))['OK'] === 1);
  });

  it('what was refused while no daemon ran is told by the next one, once', TIMEOUT, async () => {
    const { lab, server, daemon2 } = shop;
    const outsider = await lab.outsider('outsider');
    const before = (await sink.stats()).received;
    await daemon2.stop('SIGKILL');
    assert.deepEqual(await connects(outsider.place(), 5), { ECONNREFUSED: 5 });
    shop = { ...shop, daemon2: await lab.startDaemon(2, { flags: QUICK }) };
    await shop.daemon2.waitState(server, 'enrolled');
    await isTold(shop.daemon2, server, { direction: 'inbound', reason: 'NO_LISTENER', count: 5 });
    assert.equal((await sink.stats()).received, before);
    await shop.daemon2.stop('SIGTERM');
    shop = { ...shop, daemon2: await lab.startDaemon(2, { flags: QUICK }) };
    await shop.daemon2.waitState(server, 'enrolled');
    await connects(outsider.place(), 1); // a record of now, after which one of then would have come
    await shop.daemon2.waitForAccess('the refusal', ({ reason }) => reason === 'PLAINTEXT_ACCEPTED');
    assert.ok(!shop.daemon2.logs().some(({ reason }) => reason === 'NO_LISTENER'), 'told twice');
  });

  it(
    `${FLOOD} refused connects with the daemon dead, then a restart: 0 entries, the pod works`,
    TIMEOUT,
    async (context) => {
      const { lab, client, daemon1 } = shop;
      await daemon1.stop('SIGKILL');
      const startedMs = performance.now();
      const seen = await withoutPayload(sink, () => connects(client.place(), FLOOD));
      const tookMs = Math.round(performance.now() - startedMs);
      assert.deepEqual(seen, { ECONNREFUSED: FLOOD });
      const daemon = await lab.startDaemon(1, { flags: QUICK });
      shop = { ...shop, daemon1: daemon };
      await daemon.waitState(client, 'enrolled');
      assert.deepEqual(await dump(client, 'original_by_tuple'), []);
      const Count = z.array(z.object({ formatted: z.object({ value: z.record(z.string(), z.number()) }) }));
      for (const { formatted } of Count.parse(await dump(client, 'pod_counts')))
        assert.deepEqual(formatted.value, { original: 0, client: 0, self: 0 });
      context.diagnostic(`${FLOOD} connects refused with the daemon dead in ${tookMs} ms: 0 entries left`);
      const received = (await sink.stats()).received;
      assert.equal((await client.send(shop.server.ip, 8081, { first: randomBytes(64) })).error, '');
      await until('the payload', async () => (await sink.stats()).received === received + 64);
      const wasOurs = (line: LogRecord): boolean =>
        line['security'] === 'mutual_tls' && line['direction'] === 'outbound' && line['reason'] === 'OK';
      await daemon.waitForAccess('the record over mTLS', wasOurs);
    },
  );
});

/** A pinned map of the pod's node. */
async function dump(pod: LabPod, map: string): Promise<unknown> {
  const file = `/sys/fs/bpf/culvert/v1/maps/${map}`;
  return JSON.parse(await pod.node.must(['bpftool', '-j', 'map', 'dump', 'pinned', file])) as unknown;
}
