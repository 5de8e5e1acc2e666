import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { z } from 'zod';
import { servePolicyStatus } from '../../daemon/cluster/policy-status.ts';
import type { PolicyStatusTuning } from '../../daemon/cluster/policy-status.ts';
import { KubeError } from '../../daemon/kube/seams.ts';
import type { ApiRequest } from '../../daemon/kube/seams.ts';
import { CustomApi } from '../kube-fake/custom-api.ts';
import { until } from '../support/wait.ts';

const GOOD = { rules: [{ from: [{ source: { namespaces: ['a'] } }] }] };
const BAD = { action: 'DENY', rules: [{ from: [{ source: {} }] }] };
const START_MS = Date.parse('2026-11-21T10:00:00Z');

const ObjectSchema = z.object({
  metadata: z.looseObject({ resourceVersion: z.string() }),
  spec: z.looseObject({}),
  status: z.looseObject({}).optional(),
});
const PatchSchema = z.object({
  metadata: z.object({ resourceVersion: z.string() }),
  status: z.object({ conditions: z.array(z.record(z.string(), z.unknown())) }),
});

/** Takes patches of a status as an API server does: of the version that the writer has seen. */
class StatusApi extends CustomApi {
  readonly patches: { readonly name: string; readonly conditions: readonly Record<string, unknown>[] }[] = [];
  readonly events: unknown[] = [];
  /** Called with each patch before it is taken. */
  before: (name: string) => void = () => undefined;

  override async request(asked: ApiRequest): Promise<unknown> {
    if (asked.method === 'GET') return super.request(asked);
    await Promise.resolve();
    if (asked.method === 'POST') return this.events.push(asked.body);
    const name = asked.path.split('/').at(-2) ?? '';
    this.before(name);
    const object = ObjectSchema.parse(this.get(name));
    const body = PatchSchema.parse(asked.body);
    if (object.metadata.resourceVersion !== body.metadata.resourceVersion)
      throw new KubeError(409, 'Conflict', 'the object has been modified');
    this.patches.push({ name, conditions: body.status.conditions });
    this.put(name, object.spec, object.metadata, body.status);
    return {};
  }
}

interface World {
  readonly api: StatusApi;
  readonly problems: string[];
  readonly end: () => Promise<void>;
}

function world(t: TestContext, tuning: Partial<PolicyStatusTuning> = {}): World {
  const api = new StatusApi();
  api.served.add('v1');
  const problems: string[] = [];
  const term = new AbortController();
  const serving = servePolicyStatus(term.signal, {
    ...{ api, rootNamespace: 'istio-system', instance: 'culvert-ca-1', nowMs: () => START_MS },
    onProblem: (reason) => problems.push(reason),
    tuning: { lookMs: 10, confirmMs: 10, relistSpreadMs: 0, paceMs: 1, firstRetryMs: 5, ...tuning },
  });
  const end = async (): Promise<void> => {
    term.abort();
    await serving;
  };
  t.after(end);
  return { api, problems, end };
}

const meta = (generation: number, uid = 'u'): object => ({ uid, generation });
const reasons = ({ api }: World): unknown[] =>
  api.patches.map(({ conditions }) => conditions.at(-1)?.['reason']);

/** Resolves when what was put before has been looked at: objects are looked at in turn. */
async function settled(here: World, name = 'last'): Promise<void> {
  here.api.put(name, GOOD, meta(1, name));
  await until('the last object', () => here.api.patches.some((patch) => patch.name === name));
}

describe('the status of policies', { timeout: 60_000 }, () => {
  it('is written once, with the generation that it is about', async (t) => {
    const here = world(t);
    here.api.put('p', GOOD, meta(3));
    await settled(here);
    assert.equal(here.api.patches.length, 2);
    assert.partialDeepStrictEqual(here.api.patches[0], {
      name: 'p',
      conditions: [
        {
          type: 'ZtunnelAccepted',
          status: 'True',
          reason: 'Accepted',
          observedGeneration: 3,
          lastTransitionTime: '2026-11-21T10:00:00Z',
        },
      ],
    });
    here.api.put('p', GOOD, meta(4), ObjectSchema.parse(here.api.get('p')).status);
    await until('the next generation', () => here.api.patches.length === 3);
    assert.equal(here.api.patches[2]?.conditions[0]?.['observedGeneration'], 4);
    assert.deepEqual([here.api.events, here.problems], [[], []]);
  });

  it('is not written where it says so already, also when Istio wrote it', async (t) => {
    const here = world(t);
    here.api.put('p', GOOD, meta(3));
    await until('the word', () => here.api.patches.length === 1);
    const [condition] = here.api.patches[0]?.conditions ?? [];
    here.api.put('q', GOOD, meta(3, 'v'), { conditions: [{ ...condition, observedGeneration: '3' }] });
    await settled(here);
    assert.deepEqual(
      here.api.patches.map(({ name }) => name),
      ['p', 'last'],
    );
  });

  it('follows the object: another generation, another verdict, and an Event on what is wrong', async (t) => {
    const here = world(t);
    here.api.put('p', GOOD, meta(1));
    await until('the first', () => here.api.patches.length === 1);
    here.api.put('p', BAD, meta(2), ObjectSchema.parse(here.api.get('p')).status);
    await until('the Event', () => here.api.events.length === 1);
    assert.deepEqual(reasons(here), ['Accepted', 'Invalid']);
    assert.partialDeepStrictEqual(here.api.events[0], {
      type: 'Warning',
      reason: 'PolicyInvalid',
      reportingController: 'culvert.dev/ca',
      regarding: { kind: 'AuthorizationPolicy', namespace: 'shop', name: 'p', uid: 'u' },
    });
  });

  it('keeps what others say, and since when', async (t) => {
    const here = world(t);
    const since = '2020-01-01T00:00:00Z';
    const others = { type: 'Reconciled', status: 'True', by: 'argo' };
    const old = { type: 'ZtunnelAccepted', status: 'True', lastTransitionTime: since };
    here.api.put('p', GOOD, meta(1), { conditions: [old, others] });
    await until('the word', () => here.api.patches.length === 1);
    assert.partialDeepStrictEqual(here.api.patches[0]?.conditions, [
      others,
      { type: 'ZtunnelAccepted', reason: 'Accepted', lastTransitionTime: since },
    ]);
  });

  it('leaves a policy alone that a waypoint has taken', async (t) => {
    const here = world(t);
    const spec = { ...GOOD, targetRefs: [{ kind: 'Gateway', name: 'w' }] };
    here.api.put('p', spec, meta(1), { conditions: [{ type: 'WaypointAccepted', status: 'True' }] });
    here.api.put('q', spec, meta(1, 'v'));
    await settled(here);
    assert.deepEqual(
      here.api.patches.map(({ name }) => name),
      ['q', 'last'],
    );
    assert.equal(reasons(here)[0], 'AncestorNotBound');
  });

  it('is not fought for where another goes on writing its own', async (t) => {
    const here = world(t);
    const theirs = { conditions: [{ type: 'ZtunnelAccepted', status: 'False', reason: 'Theirs' }] };
    here.api.put('p', GOOD, meta(1));
    for (const round of ['one', 'two', 'three']) {
      await settled(here, round);
      here.api.put('p', GOOD, meta(1), theirs);
    }
    await settled(here);
    assert.equal(here.api.patches.filter(({ name }) => name === 'p').length, 1);
  });

  it('is told anew when the object changed before it was written', async (t) => {
    const here = world(t);
    here.api.before = (name) => {
      here.api.before = () => undefined;
      here.api.put(name, BAD, meta(2));
    };
    here.api.put('p', GOOD, meta(1));
    await until('the word', () => here.api.patches.length === 1);
    assert.deepEqual(reasons(here), ['Invalid']);
    assert.deepEqual(here.problems, []);
  });

  it('is tried again, ever slower, while it may not be written', async (t) => {
    const here = world(t);
    let tries = 0;
    here.api.before = () => {
      if (++tries < 4) throw new KubeError(403, 'Forbidden', 'PATCH: 403 forbidden');
    };
    here.api.put('p', GOOD, meta(1));
    await until('the word', () => here.api.patches.length === 1);
    assert.equal(here.problems.length, 3);
    assert.match(here.problems[0] ?? '', /shop\/p: its condition could not be written: PATCH: 403/);
  });

  it('ends with the term: nothing is written after it', async (t) => {
    const here = world(t);
    await settled(here);
    await here.end();
    here.api.put('late', GOOD, meta(1));
    assert.deepEqual(here.api.watched, []);
    assert.equal(here.api.patches.length, 1);
  });

  it('ends also in the middle of many, and goes no faster than its pace', async (t) => {
    const here = world(t, { paceMs: 60_000 });
    for (let i = 0; i < 50; i++) here.api.put(`p${i}`, GOOD, meta(1, `u${i}`));
    await until('the first', () => here.api.patches.length === 1);
    await here.end();
    assert.equal(here.api.patches.length, 1);
  });
});
