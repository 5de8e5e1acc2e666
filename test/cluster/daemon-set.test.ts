import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { DaemonSet } from '../../daemon/cluster/daemon-set.ts';
import { OwnPod } from '../../daemon/cluster/own-pod.ts';
import { KubeClient } from '../../daemon/kube/client.ts';
import type { ApiRequest, KubeApi } from '../../daemon/kube/seams.ts';
import { until } from '../support/wait.ts';
import { FakeServer, isWatch, json, refuse } from '../kube-fake/server.ts';
import { RecordedApi } from './recorded-api.ts';

const SET = { metadata: { name: 'culvert', namespace: 'culvert-system' } };
const DELETED = '2026-01-01T00:00:00Z';
const GONE_SOON = { metadata: { ...SET.metadata, deletionTimestamp: DELETED } };

interface World {
  /** Its one collection is the DaemonSets of our namespace. */
  readonly server: FakeServer;
  /** Its one collection is the namespaces; ours is there. */
  readonly namespaces: FakeServer;
  readonly set: DaemonSet;
}

async function world(t: TestContext): Promise<World> {
  const [server, namespaces] = await Promise.all([FakeServer.start(), FakeServer.start()]);
  namespaces.put('culvert-system', '', '');
  const [sets, others] = [server, namespaces].map(
    (one) => new KubeClient(one.access(), { userAgent: 'test' }),
  );
  assert.ok(sets !== undefined && others !== undefined);
  const of = ({ path }: ApiRequest): KubeClient => (path === '/api/v1/namespaces' ? others : sets);
  const api: KubeApi = {
    request: (request) => of(request).request(request),
    stream: (request) => of(request).stream(request),
  };
  const set = new DaemonSet({
    api,
    namespace: 'culvert-system',
    name: 'culvert',
    onProblem: () => undefined,
  });
  t.after(async () => {
    await set[Symbol.asyncDispose]();
    sets[Symbol.dispose]();
    others[Symbol.dispose]();
    await Promise.all([server[Symbol.asyncDispose](), namespaces[Symbol.asyncDispose]()]);
  });
  return { server, namespaces, set };
}

/** Starts it, and waits until it watches both. */
async function watching({ server, namespaces, set }: World): Promise<void> {
  server.put('culvert', '', 'culvert-system');
  set.start();
  await Promise.all([server, namespaces].map((one) => one.when(() => one.watches.size === 1)));
}

const isGet = (url: URL): boolean => url.pathname.endsWith('/daemonsets/culvert');
const isNamespaceAsked = (url: URL): boolean =>
  !isWatch(url) && url.searchParams.get('fieldSelector') === 'metadata.name=culvert-system';

describe('what becomes of the DaemonSet', () => {
  it('is what the API says at the end: there, or being deleted', async (t) => {
    const { server, set } = await world(t);
    server.once(isGet, (_, response) => json(response, 200, SET));
    assert.equal((await set.fate()).fate, 'stays');
    server.once(isGet, (_, response) => json(response, 200, GONE_SOON));
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
    const all = await world(t);
    const { server, set } = all;
    await watching(all);
    server.once(isGet, refuse(403, 'Forbidden'));
    assert.equal((await set.fate()).fate, 'unknown');
    server.remove('culvert', 'culvert-system');
    server.once(isWatch, refuse(403, 'Forbidden'));
    await until('its end to be seen', async () => (await set.fate()).fate === 'goes');
  });

  it('goes when it is not found and was there before', async (t) => {
    const all = await world(t);
    await watching(all);
    all.server.once(isGet, refuse(404, 'NotFound'));
    assert.equal((await all.set.fate()).fate, 'goes');
  });
});

describe('what becomes of the DaemonSet when its namespace is deleted', () => {
  const isThere = ({ server }: World): void => server.once(isGet, (_, response) => json(response, 200, SET));
  const goingNamespace = { metadata: { name: 'culvert-system', deletionTimestamp: DELETED } };

  it('goes, though it is whole: the API says so at the end, whatever the watch has seen', async (t) => {
    const all = await world(t);
    const { namespaces, set } = all;
    const isDeleted = (): void =>
      namespaces.once(isNamespaceAsked, (_, response) =>
        json(response, 200, { metadata: {}, items: [goingNamespace] }),
      );
    isThere(all);
    isDeleted();
    const { fate, why } = await set.fate();
    assert.deepEqual([fate, why], ['goes', 'namespace culvert-system is being deleted']);
    await watching(all);
    isThere(all);
    isDeleted();
    assert.equal((await set.fate()).fate, 'goes');
    all.server.once(isGet, refuse(403, 'Forbidden'));
    isDeleted();
    assert.equal((await set.fate()).fate, 'goes', 'though the set itself can not be asked for');
  });

  it('goes by the watch also when our rights have gone with it', async (t) => {
    const all = await world(t);
    await watching(all);
    const metadata = { ...goingNamespace.metadata, resourceVersion: '9' };
    all.namespaces.line(JSON.stringify({ type: 'MODIFIED', object: { metadata } }));
    await until('its end to be seen', async () => {
      all.server.once(isGet, refuse(403, 'Forbidden'));
      all.namespaces.once(isNamespaceAsked, refuse(403, 'Forbidden'));
      return (await all.set.fate()).fate === 'goes';
    });
  });

  it('is unknown when nobody may ask for the namespace, nobody answers, or it was never seen', async (t) => {
    const all = await world(t);
    const { namespaces, set } = all;
    for (const fault of [refuse(403, 'Forbidden'), refuse(404, 'NotFound'), refuse(500, 'InternalError')]) {
      isThere(all);
      namespaces.once(isNamespaceAsked, fault);
      assert.equal((await set.fate()).fate, 'unknown');
    }
    isThere(all);
    for (let i = 0; i < 2; i++) namespaces.once(isNamespaceAsked, (request) => request.socket.destroy());
    assert.equal((await set.fate()).fate, 'unknown');
    isThere(all);
    namespaces.remove('culvert-system', '');
    assert.equal((await set.fate()).fate, 'unknown', 'never seen: it has another name than we think');
  });

  it('goes when the namespace is not found and was there before', async (t) => {
    const all = await world(t);
    await watching(all);
    isThere(all);
    all.namespaces.once(isNamespaceAsked, (_, response) => json(response, 200, { metadata: {}, items: [] }));
    assert.equal((await all.set.fate()).fate, 'goes');
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
