import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { CustomCollection } from '../../daemon/kube/custom.ts';
import type { CustomTuning } from '../../daemon/kube/custom.ts';
import { Looks } from '../../daemon/kube/discovery.ts';
import { KubeError } from '../../daemon/kube/seams.ts';
import { until } from '../support/wait.ts';
import { CustomApi, GROUP, RESOURCE } from './custom-api.ts';

const KIND = { group: GROUP, versions: ['v1', 'v1beta1'], resource: RESOURCE };
const LIST = `/apis/${GROUP}/v1/${RESOURCE}`;
const TUNING = { lookMs: 10, confirmMs: 10, firstRetryMs: 5, lastRetryMs: 20, relistSpreadMs: 0 };

interface World {
  readonly api: CustomApi;
  readonly collection: CustomCollection<string>;
  /** What was told, in words. */
  readonly told: string[];
  readonly problems: string[];
  isSynced: boolean;
}

function world(t: TestContext, versions: readonly string[], tuning: Partial<CustomTuning> = {}): World {
  const api = new CustomApi();
  for (const version of versions) api.served.add(version);
  const problems: string[] = [];
  const decode = (object: unknown, version: string): string =>
    `${version} ${JSON.stringify(Reflect.get(Object(object), 'spec'))}`;
  const onProblem = (reason: string): number => problems.push(reason);
  const collection = new CustomCollection<string>(
    { api, kind: KIND, decode, onProblem },
    { ...TUNING, ...tuning },
  );
  t.after(() => collection[Symbol.asyncDispose]());
  const made: World = { api, collection, told: [], problems, isSynced: false };
  void collection.synced.then(() => (made.isSynced = true));
  return made;
}

function start({ collection, told }: World): void {
  collection.start((changes) => {
    for (const { type, key } of changes) told.push(`${type} ${key}`);
  });
}

describe('a kind that a cluster may not have', () => {
  it('is known to be empty where it is not served, and taken up when it comes', async (t) => {
    const here = world(t, []);
    start(here);
    await here.collection.synced;
    assert.equal(here.collection.problem(), undefined);
    here.api.served.add('v1');
    here.api.put('one', { a: 1 });
    await until('the object', () => here.told.length > 0);
    assert.deepEqual(here.told, ['set shop/one']);
    assert.equal(here.collection.version, 'v1');
  });

  it('is not synced before its list is complete', async (t) => {
    const here = world(t, ['v1']);
    here.api.put('one', {});
    here.api.fault = (path) =>
      path === LIST ? new KubeError(500, 'InternalError', `GET ${path}: 500 later`) : undefined;
    start(here);
    await until('two tries', () => here.problems.length > 1);
    assert.equal(here.isSynced, false);
    here.api.fault = () => undefined;
    await here.collection.synced;
    assert.deepEqual(here.told, ['set shop/one']);
  });

  it('is gone when discovery says so: twice, where something is held', async (t) => {
    const here = world(t, ['v1']);
    here.api.put('one', {});
    start(here);
    await until('the watch', () => here.api.watched.length > 0);
    here.api.asked.length = 0;
    here.api.vanish(true);
    await until('the end', () => here.told.length === 2);
    assert.deepEqual(here.told, ['set shop/one', 'gone shop/one']);
    assert.equal(here.api.asked.filter((one) => one === 'GET /apis').length, 2);
    assert.equal(here.collection.items.size, 0);
    here.api.served.add('v1');
    here.api.put('two', {});
    await until('another one', () => here.told.length === 3);
  });

  for (const [what, status] of [
    ['not found, by something before the server', 404],
    ['forbidden', 403],
    ['too busy', 429],
    ['broken', 500],
    ['away', 0],
  ] as const)
    it(`keeps what it holds while the server is ${what}`, async (t) => {
      const here = world(t, ['v1']);
      here.api.put('one', {});
      start(here);
      await until('the watch', () => here.api.watched.length > 0);
      // A proxy's 404 has no list of groups; one that lost only the group's page still has it in the list.
      here.api.fault = (path) =>
        path === '/apis' && status === 404 ? undefined : new KubeError(status, 'Fault', `GET ${path}: no`);
      here.api.endWatches();
      const before = here.problems.length;
      await until('several tries', () => here.problems.length > before + 4);
      assert.deepEqual(here.told, ['set shop/one']);
      assert.notEqual(here.collection.problem(), undefined);
      here.api.fault = () => undefined;
      here.api.put('one', { b: 2 });
      await until('the change', () => here.told.length === 2);
      assert.equal(here.collection.problem(), undefined);
    });

  it('is not synced while it may not be read, and says what is needed', async (t) => {
    const here = world(t, ['v1']);
    here.api.fault = (path) =>
      path === LIST ? new KubeError(403, 'Forbidden', `GET ${path}: 403 forbidden`) : undefined;
    start(here);
    await until('a problem', () => here.collection.problem() !== undefined);
    assert.equal(here.isSynced, false);
    assert.match(
      here.collection.problem() ?? '',
      /403 forbidden; this account needs list and watch on authorizationpolicies\.security\.istio\.io/,
    );
  });

  it('is not synced while discovery does not answer, nor by an answer that is none', async (t) => {
    const here = world(t, []);
    const answers = [new KubeError(503, 'ServiceUnavailable', 'starting'), undefined];
    here.api.request = async ({ path }) => {
      await Promise.resolve();
      const error = answers.shift();
      if (error !== undefined) throw error;
      if (path === '/apis') return '<html>';
      throw new KubeError(404, '404', 'no such page');
    };
    start(here);
    await until('three tries', () => here.problems.length > 2);
    assert.equal(here.isSynced, false);
    assert.match(here.collection.problem() ?? '', /GET \/apis: the answer is no discovery document/);
  });

  it('is read in v1 where that is served, else in v1beta1, and follows when that changes', async (t) => {
    const here = world(t, ['v1beta1']);
    here.api.put('stays', {});
    here.api.put('goes', {});
    start(here);
    await until('both', () => here.told.length === 2);
    assert.equal(here.collection.items.get('shop/stays'), 'v1beta1 {}');
    here.api.vanish(true);
    here.api.served.add('v1');
    here.api.put('stays', {});
    await until('the other version', () => here.collection.items.get('shop/stays') === 'v1 {}');
    await until('what is not there any more', () => here.collection.items.size === 1);
    assert.ok(!here.told.includes('gone shop/stays'), here.told.join());
  });

  it('asks at a pace while there is nothing, and not at all while it watches', async (t) => {
    const here = world(t, [], { lookMs: 60_000 });
    start(here);
    await here.collection.synced;
    // One that is eager has asked again by then.
    for (let turn = 0; turn < 100; turn++) await nextTurn();
    assert.deepEqual(here.api.asked, [`GET /apis/${GROUP}`, 'GET /apis']);
    const there = world(t, ['v1']);
    start(there);
    await there.collection.synced;
    await until('the watch', () => there.api.watched.length > 0);
    assert.deepEqual(there.api.asked, [
      `GET /apis/${GROUP}`,
      `GET /apis/${GROUP}/v1`,
      `GET ${LIST}`,
      `WATCH ${LIST}`,
    ]);
  });

  it('ends at once, wherever it is', async (t) => {
    for (const versions of [[], ['v1']]) {
      const here = world(t, versions, { lookMs: 60_000 });
      start(here);
      await here.collection.synced;
      await here.collection[Symbol.asyncDispose]();
      assert.deepEqual(here.api.watched, []);
    }
  });
});

const OTHER = { group: GROUP, versions: ['v1', 'v1beta1'], resource: 'peerauthentications' };

/** Two kinds of one group, neither of which is served; they are looked for together. */
function pair(
  t: TestContext,
  tuning: Partial<CustomTuning>,
): { api: CustomApi; both: CustomCollection<string>[] } {
  const api = new CustomApi();
  const all = { ...TUNING, ...tuning };
  const looks = new Looks(api, GROUP, all);
  const decode = (): string => 'one';
  const both = [KIND, OTHER].map((kind) => new CustomCollection<string>({ api, kind, decode, looks }, all));
  t.after(() => Promise.all(both.map((one) => one[Symbol.asyncDispose]())));
  for (const one of both) one.start(() => undefined);
  return { api, both };
}

const GROUP_ASKED = `GET /apis/${GROUP}`;

describe('two kinds of a group that a cluster may not have', () => {
  it('are looked for by one request', async (t) => {
    const { api, both } = pair(t, { lookMs: 60_000 });
    await Promise.all(both.map(({ synced }) => synced));
    for (let turn = 0; turn < 100; turn++) await nextTurn();
    assert.deepEqual(api.asked, [GROUP_ASKED, 'GET /apis']);
  });

  it('are looked for again by one request each time', async (t) => {
    const startMs = performance.now();
    const { api } = pair(t, { lookMs: 300, random: () => 0 });
    await until('five looks', () => api.asked.filter((one) => one === GROUP_ASKED).length === 5);
    assert.ok(performance.now() - startMs >= 4 * 299);
    assert.deepEqual(
      api.asked.filter((one) => one !== GROUP_ASKED),
      ['GET /apis'],
    );
  });

  it('are each found when they come, and looked for again after a failure', async (t) => {
    const { api, both } = pair(t, {});
    const [one, other] = both;
    await Promise.all(both.map(({ synced }) => synced));
    api.fault = (path) => new KubeError(503, 'ServiceUnavailable', `GET ${path}: no`);
    await until('two problems', () => both.every((each) => each.problem() !== undefined));
    api.fault = () => undefined;
    api.served.add('v1');
    api.put('one', {});
    await until('the one', () => one?.items.size === 1);
    assert.equal(other?.version, undefined);
    const looks = api.asked.length;
    await until('more looks for the other', () => api.asked.length > looks + 4);
    assert.ok(!api.asked.slice(looks).includes(`GET ${LIST}`));
    api.vanish(true);
    await until('its end', () => one?.items.size === 0);
    assert.deepEqual(
      both.map((each) => each.problem()),
      [undefined, undefined],
    );
  });
});

describe('the pace of looking for what is not there', () => {
  for (const [nodes, random, seconds] of [
    [1, 0, 10],
    [300, 0, 10],
    [300, 1, 20],
    [1_000, 0, 33],
    [1_000, 1, 67],
  ] as const)
    it(`is one look in ${seconds} s on each of ${nodes} nodes, by a chance of ${random}`, () => {
      const looks = new Looks(new CustomApi(), GROUP, { nodes: () => nodes, random: () => random });
      const look = looks.shared();
      assert.equal(Math.round(looks.pauseMs() / 1_000), seconds);
      assert.equal(looks.shared(), look, 'until then it is the same');
      assert.notEqual(looks.fresh(), look);
    });
});
