/** Annotations that change on a pod that is enrolled already (issue 6, 'Enrolment'): they act on its next connection. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../support/wait.ts';
import { QUICK, openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { statusOf } from './watch.ts';

const FLAGS = [...QUICK, '--default-mode', 'strict', '--hold-timeout', '2s'];
const EXCLUDE = 'culvert.dev/exclude-outbound-cidrs';

describe('an enrolled pod whose annotations change, STRICT', { timeout: 300_000 }, () => {
  let shop: Shop;
  let outside: Awaited<ReturnType<Shop['lab']['outside']>>;
  before(async () => {
    shop = await openShop({ daemon: { flags: FLAGS } });
    outside = await shop.lab.outside();
    await shop.lab.serveIn(outside.netns, 'echo', 9000);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  async function annotate(annotations: Readonly<Record<string, string>>): Promise<void> {
    const { metadata, ...rest } = shop.client.object();
    await shop.lab.cluster.apply({ ...rest, metadata: { ...metadata, annotations } });
  }

  const passed = (): number =>
    shop.daemon1.accessRecords().filter((record) => record['dst.addr'] === `${outside.ip}:9000`).length;

  /** Whether a new connection to the outside goes by the daemon: then it leaves a record. */
  async function isCaptured(): Promise<boolean> {
    const before = passed();
    const sent = await shop.client.send(outside.ip, 9000, { first: randomBytes(64) });
    assert.equal(sent.received, 64, sent.error);
    await sleep(500);
    return passed() > before;
  }

  it('a range is taken out: the next connection to it is left alone', async () => {
    assert.equal(await isCaptured(), true);
    await annotate({ [EXCLUDE]: `${outside.ip}/32` });
    await until('it to be left alone', async () => !(await isCaptured()));
  });

  it('connections to it live through a restart of the daemon and are no older ones; back in, they are cut', async () => {
    const { client, lab } = shop;
    await using idle = await client.idle(outside.ip, 9000, 3);
    assert.equal((await idle.opened()).ok, 3);
    await shop.daemon1.stop('SIGKILL');
    shop = { ...shop, daemon1: await lab.startDaemon(1, { flags: FLAGS }) };
    await shop.daemon1.waitState(client, 'enrolled');
    await sleep(2_500); // two rescans: that nothing is cut has no event
    assert.equal((await idle.stats()).lost, 0);
    assert.equal((await statusOf(shop.daemon1, client))?.olderConnections, 0);
    await annotate({});
    await until('them to be cut', async () => (await idle.stats()).lost === 3);
    await until('it to be captured', isCaptured);
  });

  it('nested namespaces are allowed, and are not any more', async () => {
    const connect = `(exec 3<>/dev/tcp/${outside.ip}/9000) 2>&1`;
    const tried = async (): Promise<string> =>
      (await shop.client.exec(['unshare', '--net', 'bash', '-c', connect])).lines.join('\n');
    assert.match(await tried(), /not permitted/);
    await annotate({ 'culvert.dev/nested-netns': 'allow' });
    await until('it to be let out', async () => (await tried()).includes('unreachable'));
    await annotate({});
    await until('it to be refused', async () => (await tried()).includes('not permitted'));
  });
});
