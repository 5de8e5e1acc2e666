/**
 * The cluster's folder can't be read as it should be: emptied or unmounted, a namespace's file broken or away. Not to
 * know a label is not to know that it is gone: no pod that was enrolled sends a byte in the clear.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, renameSync, rmSync, rmdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { LabDaemon } from './kit/daemon.ts';
import { IS_LONG, QUICK, openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { nodeStatus, statesOf } from './watch.ts';

/** Longer than a pod takes to leave, and several looks at the folder. */
const LEFT_MS = 3_000;
const NAMESPACE = 'namespace.shop.yaml';

for (const mode of IS_LONG ? (['permissive', 'strict'] as const) : (['permissive'] as const))
  describe(`the cluster's folder is unreadable, ${mode.toUpperCase()}`, { timeout: 300_000 }, () => {
    let shop: Shop;
    let sink: Server;
    let folder: string;
    const flags = [...QUICK, '--hold-timeout', '2s', '--default-mode', mode];
    before(async () => {
      shop = await openShop({ daemon: { flags } });
      sink = await shop.server.serve('sink', 8081);
      folder = shop.lab.cluster.folder('');
    });
    after(() => shop.lab[Symbol.asyncDispose]());

    /** Sends markers both ways all the time while `act` runs, and expects none in the clear anywhere. */
    async function nothingInTheClear(act: () => Promise<void>): Promise<void> {
      const { lab, client, server } = shop;
      await using wire = await lab.capture([lab.fabricPoint, client.capturePoint, server.capturePoint]);
      const marker = randomBytes(64);
      const done = new AbortController();
      const send = async (): Promise<void> => {
        while (!done.signal.aborted) {
          await client.send(server.ip, 8081, { first: marker, timeoutMs: 2_000 });
          await sleep(50);
        }
      };
      const sending = send();
      await act();
      done.abort();
      await sending;
      assert.deepEqual(await wire.seenAt(marker), []);
    }

    async function works(): Promise<void> {
      const { client, server } = shop;
      await until('traffic', async () => {
        const before = (await sink.stats()).received;
        const { error } = await client.send(server.ip, 8081, { first: randomBytes(64), timeoutMs: 5_000 });
        return error === '' && (await sink.stats()).received === before + 64;
      });
    }

    async function waitProblem(daemon: LabDaemon, what: RegExp): Promise<void> {
      const seen = async (): Promise<boolean> =>
        (await nodeStatus(daemon)).problems.some(({ where, reason }) => what.test(`${where} ${reason}`));
      await until(`the problem ${what.source}`, seen, { detail: () => daemon.process.tail() });
    }

    const daemons = (): LabDaemon[] => [shop.daemon1, shop.daemon2];

    async function restart(): Promise<void> {
      await Promise.all(daemons().map((daemon) => daemon.stop('SIGKILL')));
      const [daemon1, daemon2] = await Promise.all(
        ([1, 2] as const).map((node) => shop.lab.startDaemon(node, { flags })),
      );
      assert.ok(daemon1 !== undefined && daemon2 !== undefined);
      Object.assign(shop, { daemon1, daemon2 });
    }

    async function heals(): Promise<void> {
      const { client, server, daemon1, daemon2 } = shop;
      await Promise.all([daemon1.waitState(client, 'enrolled'), daemon2.waitState(server, 'enrolled')]);
      await works();
      for (const daemon of daemons())
        await until('no problem to be left', async () => (await nodeStatus(daemon)).problems.length === 0);
    }

    function neverLeft(): void {
      const { client, server, daemon1, daemon2 } = shop;
      for (const [daemon, pod] of [
        [daemon1, client],
        [daemon2, server],
      ] as const)
        assert.ok(!statesOf(daemon, pod).includes('leaving'), statesOf(daemon, pod).join());
    }

    it('unmounted under traffic: all goes on, over mTLS, and status says so', async () => {
      await works();
      await nothingInTheClear(async () => {
        renameSync(folder, `${folder}-away`);
        mkdirSync(folder);
        for (const daemon of daemons()) await waitProblem(daemon, /has lost all of its objects/);
        await sleep(LEFT_MS);
        await works();
        rmdirSync(folder);
        renameSync(`${folder}-away`, folder);
      });
      await heals();
      neverLeft();
    });

    it('emptied file by file under traffic: the same', async () => {
      mkdirSync(`${folder}-copy`);
      const names = readdirSync(folder).filter((name) => name.endsWith('.yaml'));
      await nothingInTheClear(async () => {
        for (const name of names) {
          renameSync(join(folder, name), join(`${folder}-copy`, name));
          await sleep(5);
        }
        for (const daemon of daemons()) await waitProblem(daemon, /has lost all of its objects/);
        await sleep(LEFT_MS);
        await works();
        for (const name of names) renameSync(join(`${folder}-copy`, name), join(folder, name));
      });
      await heals();
      neverLeft();
    });

    it('the file of the namespace away while its pods are there: they keep its label', async () => {
      const file = join(folder, NAMESPACE);
      await nothingInTheClear(async () => {
        renameSync(file, `${file}.away`);
        for (const daemon of daemons()) await waitProblem(daemon, /Namespace shop/);
        await sleep(LEFT_MS);
        await works();
        renameSync(`${file}.away`, file);
      });
      await heals();
      neverLeft();
    });

    for (const how of ['broken', 'away'] as const)
      it(`daemons started again with the file of the namespace ${how}: enrolled pods stay so`, async () => {
        const { lab } = shop;
        const file = join(folder, NAMESPACE);
        const text = readFileSync(file, 'utf8');
        await nothingInTheClear(async () => {
          if (how === 'away') rmSync(file);
          else lab.cluster.writeFile(folder, NAMESPACE, 'kind: Namespace\nmetadata: {\n');
          await restart();
          for (const daemon of daemons()) await waitProblem(daemon, /Namespace shop/);
          await sleep(LEFT_MS);
          await works();
          lab.cluster.writeFile(folder, NAMESPACE, text);
        });
        await heals();
        neverLeft();
      });

    it('daemons started again with an empty folder: enrolled pods stay closed, then heal', async () => {
      await nothingInTheClear(async () => {
        renameSync(folder, `${folder}-away`);
        mkdirSync(folder);
        symlinkSync('../status', join(folder, 'status'));
        await restart();
        for (const daemon of daemons()) await waitProblem(daemon, /holds no object/);
        await sleep(LEFT_MS);
        rmSync(join(folder, 'status'));
        rmdirSync(folder);
        renameSync(`${folder}-away`, folder);
      });
      await heals();
      neverLeft();
    });

    it('a label that was read as gone is gone', async () => {
      const { lab, client, server, daemon1, daemon2 } = shop;
      await lab.cluster.label('shop', undefined);
      await Promise.all([daemon1.waitState(client, 'none'), daemon2.waitState(server, 'none')]);
      await works();
    });
  });
