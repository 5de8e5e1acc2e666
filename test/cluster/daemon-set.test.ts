import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { DaemonSet } from '../../daemon/cluster/daemon-set.ts';
import { OwnPod } from '../../daemon/cluster/own-pod.ts';
import { KubeClient } from '../../daemon/kube/client.ts';
import { until } from '../support/wait.ts';
import { FakeServer, isWatch, json, refuse } from '../kube-fake/server.ts';
import { RecordedApi } from './recorded-api.ts';

const SET = { metadata: { name: 'culvert', namespace: 'culvert-system' } };

/** A server whose one collection is what is watched; `get` answers the question at the end. */
async function world(t: TestContext): Promise<{ server: FakeServer; set: DaemonSet }> {
  const server = await FakeServer.start();
  const api = new KubeClient(server.access(), { userAgent: 'test' });
  const set = new DaemonSet({
    api,
    namespace: 'culvert-system',
    name: 'culvert',
    onProblem: () => undefined,
  });
  t.after(async () => {
    await set[Symbol.asyncDispose]();
    api[Symbol.dispose]();
    await server[Symbol.asyncDispose]();
  });
  return { server, set };
}

const isGet = (url: URL): boolean => url.pathname.endsWith('/daemonsets/culvert');

describe('what becomes of the DaemonSet', () => {
  it('is what the API says at the end: there, or being deleted', async (t) => {
    const { server, set } = await world(t);
    server.once(isGet, (_, response) => json(response, 200, SET));
    assert.equal((await set.fate()).fate, 'stays');
    const deleted = { metadata: { ...SET.metadata, deletionTimestamp: '2026-01-01T00:00:00Z' } };
    server.once(isGet, (_, response) => json(response, 200, deleted));
    assert.equal((await set.fate()).fate, 'goes');
  });

  it('is unknown when nobody may ask, nobody answers, or it was never seen', async (t) => {
    const { server, set } = await world(t);
    for (const [code, reason] of [
      [403, 'Forbidden'],
      [404, 'NotFound'],
      [500, 'InternalError'],
    ] as const) {
      server.once(isGet, refuse(code, reason));
      assert.equal((await set.fate()).fate, 'unknown', reason);
    }
    // A kept connection that breaks is tried once more.
    for (let i = 0; i < 2; i++) server.once(isGet, (request) => request.socket.destroy());
    assert.equal((await set.fate()).fate, 'unknown');
  });

  it('is known by the watch also when our rights have gone with it', async (t) => {
    const { server, set } = await world(t);
    server.put('culvert', '', 'culvert-system');
    set.start();
    await server.when(() => server.watches.size === 1);
    server.once(isGet, refuse(403, 'Forbidden'));
    assert.equal((await set.fate()).fate, 'unknown');
    server.remove('culvert', 'culvert-system');
    server.once(isWatch, refuse(403, 'Forbidden'));
    await until('its end to be seen', async () => (await set.fate()).fate === 'goes');
  });

  it('goes when it is not found and was there before', async (t) => {
    const { server, set } = await world(t);
    server.put('culvert', '', 'culvert-system');
    set.start();
    await server.when(() => server.watches.size === 1);
    server.once(isGet, refuse(404, 'NotFound'));
    assert.equal((await set.fate()).fate, 'goes');
  });
});

describe("the daemon's own pod", () => {
  it('says how the node is, once for each change, and goes on when that fails', async (t) => {
    const api = new RecordedApi();
    let text = '{"version":"1"}';
    const problems: string[] = [];
    const own = new OwnPod(
      {
        ...{ api, namespace: 'culvert-system', name: 'culvert-x', uid: 'u-1', startedMs: 0 },
        onRenew: () => undefined,
        onProblem: (reason) => problems.push(reason),
      },
      () => text,
    );
    t.after(() => own[Symbol.asyncDispose]());
    await own.tell();
    assert.deepEqual(api.asked[0]?.body, {
      metadata: { uid: 'u-1', annotations: { 'culvert.dev/node': text } },
    });
    text = '{"version":"2"}';
    api.answer = () => {
      throw new Error('no');
    };
    await own.tell();
    assert.match(problems.join(), /the node's summary could not be written: no/);
  });

  it('renews what a person asks for, each wish once, and none that is older than the daemon', async (t) => {
    const server = await FakeServer.start();
    const api = new KubeClient(server.access(), { userAgent: 'test' });
    const wishes: string[] = [];
    const problems: string[] = [];
    const own = new OwnPod(
      {
        ...{ api, namespace: 'culvert-system', name: 'culvert-x', uid: 'u-1' },
        startedMs: Date.parse('2026-06-01T00:00:00Z'),
        onRenew: (what) => wishes.push(what),
        onProblem: (reason) => problems.push(reason),
      },
      () => '{}',
    );
    t.after(async () => {
      await own[Symbol.asyncDispose]();
      api[Symbol.dispose]();
      await server[Symbol.asyncDispose]();
    });
    own.start();
    await server.when(() => server.watches.size === 1);
    let version = 100;
    const ask = (renew: string): void => {
      const annotations = { 'culvert.dev/renew': renew };
      const metadata = {
        name: 'culvert-x',
        namespace: 'culvert-system',
        resourceVersion: String(++version),
        annotations,
      };
      server.line(JSON.stringify({ type: 'MODIFIED', object: { metadata } }));
    };
    ask('*@2026-05-31T23:59:59Z');
    ask('spiffe://cluster.local/ns/shop/sa/web@2026-06-01T00:00:01Z');
    ask('spiffe://cluster.local/ns/shop/sa/web@2026-06-01T00:00:01Z');
    ask('nonsense');
    ask('*@2026-06-01T00:00:02Z');
    await until('the last wish', () => wishes.includes('*'));
    assert.deepEqual(wishes, ['spiffe://cluster.local/ns/shop/sa/web', '*']);
    assert.match(problems.join(), /"nonsense" is not/);
  });
});
