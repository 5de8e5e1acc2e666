/** The policies as a daemon hears of them from a real API server, with the rights of the manifests. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { KubernetesSource } from '../../daemon/cluster/kubernetes.ts';
import { connectKube } from '../../daemon/kube/client.ts';
import type { KubeApi } from '../../daemon/kube/seams.ts';
import type { Delta } from '../../daemon/mesh/model.ts';
import { until, within } from '../support/wait.ts';
import { POLICY_EXAMPLE, applyCrds, deleteCrds, policy, policyPath } from './policy-world.ts';
import { OWN, SignerWorld } from './signer-world.ts';

const LONG = { timeoutMs: 120_000 };
/** The pace of looking for the kinds; else a test would wait 20 s for each step. */
const TUNING = { lookMs: 200, relistSpreadMs: 0 };
const MERGE = 'application/merge-patch+json';
const CRDS = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
const KINDS = ['authorizationpolicies', 'peerauthentications'];

let world: SignerWorld;
before(async () => {
  world = await SignerWorld.start();
});
after(() => world[Symbol.asyncDispose]());

class Watching {
  readonly source: KubernetesSource;
  readonly deltas: Delta[] = [];
  readonly problems: string[] = [];
  isSynced = false;

  constructor(t: TestContext, api: KubeApi) {
    const onProblem = (part: string, reason: string): number => this.problems.push(`${part}: ${reason}`);
    this.source = new KubernetesSource({ api, onProblem, tuning: TUNING });
    t.after(() => this.source[Symbol.asyncDispose]());
    this.source.start((deltas) => this.deltas.push(...deltas));
    void this.source.synced.then(() => (this.isSynced = true));
  }

  /** As a daemon. */
  static async start(t: TestContext): Promise<Watching> {
    const watching = new Watching(t, await world.client(OWN, 'culvert', 'culvert-a'));
    await within('the first lists', watching.source.synced, LONG.timeoutMs, () => watching.detail());
    return watching;
  }

  /** Keys of the policies that are there, by what was told. */
  policies(): string[] {
    const last = new Map(this.deltas.map((delta) => [`${delta.kind} ${delta.key}`, delta.value]));
    const keys = [...last].flatMap(([key, value]) => (value === undefined ? [] : key));
    return keys.filter((key) => /^(?:policy|peer-authentication) /.test(key)).sort();
  }

  detail(): string {
    return [...this.problems.slice(-5), ...this.policies(), JSON.stringify(this.source.problems())].join(
      '\n',
    );
  }

  until(what: string, check: () => boolean): Promise<boolean> {
    return until(what, check, { ...LONG, detail: () => this.detail() });
  }
}

describe('policies over the API', { timeout: 600_000 }, () => {
  it('come, change and go, and so do their kinds, without a restart', async (t) => {
    const watching = await Watching.start(t);
    assert.deepEqual(watching.policies(), []);
    assert.deepEqual(watching.source.problems(), []);
    for (const part of KINDS) assert.ok((watching.source.stalenessMs().get(part) ?? Infinity) < 60_000);

    await applyCrds(world.plane);
    await world.plane.apply(
      policy('AuthorizationPolicy', { version: 'v1beta1' }),
      policy('PeerAuthentication', { spec: { mtls: { mode: 'STRICT' } } }),
    );
    await watching.until('both', () => watching.policies().length === 2);

    await world.plane.apply(policy('AuthorizationPolicy', { spec: { action: 'DENY', rules: [{}] } }));
    await watching.until('the change', () =>
      watching.deltas.some((delta) => delta.kind === 'policy' && delta.value?.action === 'DENY'),
    );
    await world.plane.api.must('DELETE', policyPath('PeerAuthentication', 'p'));
    await watching.until('its end', () => watching.policies().join() === 'policy shop/p');

    await deleteCrds(world.plane);
    await watching.until('the end of all', () => watching.policies().length === 0);
    await watching.until('no problem', () => watching.source.problems().length === 0);

    await applyCrds(world.plane);
    await world.plane.apply(policy('AuthorizationPolicy', { name: 'again' }));
    await watching.until('another one', () => watching.policies().join() === 'policy shop/again');
  });

  it('are there when a daemon starts, before it is synced', async (t) => {
    for (const name of ['production', 'istio-system'])
      await world.plane.apply({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
    await world.plane.kubectl(['apply', '-f', POLICY_EXAMPLE]);
    const watching = await Watching.start(t);
    assert.deepEqual(watching.policies(), [
      'peer-authentication istio-system/default',
      'peer-authentication production/default',
      'policy production/backend-access',
      'policy shop/again',
    ]);
  });

  it('stay while the API server is away', async (t) => {
    const watching = await Watching.start(t);
    const before = watching.policies();
    const told = watching.deltas.length;
    await world.plane.apiServer.kill();
    await watching.until('a problem', () =>
      watching.problems.some((one) => one.startsWith('authorizationp')),
    );
    await world.plane.apiServer.start();
    await world.plane.apply(policy('AuthorizationPolicy', { name: 'after' }));
    await watching.until('the next word', () => watching.policies().includes('policy shop/after'));
    assert.deepEqual(
      watching.deltas.slice(told).filter(({ kind, value }) => kind === 'policy' && value === undefined),
      [],
    );
    assert.deepEqual(watching.policies(), [...before, 'policy shop/after'].sort());
  });

  it('are read in v1beta1 where v1 is not served', async (t) => {
    const before = await Watching.start(t);
    const held = before.policies();
    const serve = async (v1: boolean): Promise<void> => {
      for (const kind of KINDS) {
        const path = `${CRDS}/${kind}.security.istio.io`;
        const crd = JSON.stringify(await world.plane.api.must('GET', path));
        const body: unknown = JSON.parse(
          crd.replace(
            v1 ? '"name":"v1","served":false' : '"name":"v1","served":true',
            `"name":"v1","served":${v1}`,
          ),
        );
        await world.plane.api.must('PUT', path, { body });
      }
    };
    await serve(false);
    t.after(() => serve(true));
    await until(
      'v1 to go',
      async () => (await world.plane.api.ask('GET', policyPath('AuthorizationPolicy'))).status === 404,
      LONG,
    );
    const after = await Watching.start(t);
    assert.deepEqual(after.policies(), held);
    // The one that watched v1 goes on in v1beta1, and nothing was gone in between.
    const v1beta1 = policyPath('AuthorizationPolicy', 'again').replace('/v1/', '/v1beta1/');
    const body = { spec: { action: 'DENY', rules: [{}] } };
    await world.plane.api.must('PATCH', v1beta1, { body, contentType: MERGE });
    for (const watching of [before, after])
      await watching.until('the change', () =>
        watching.deltas.some(
          ({ kind, key, value }) =>
            kind === 'policy' && key === 'shop/again' && JSON.stringify(value).includes('DENY'),
        ),
      );
    assert.deepEqual(before.policies(), held);
    assert.ok(before.deltas.every(({ kind, value }) => kind !== 'policy' || value !== undefined));
  });

  it('are waited for where they may not be read: not synced, with what is to be done', async (t) => {
    const file = world.plane.kubeconfigOf({ name: 'stranger' });
    const role = 'culvert-but-policies';
    const rules = [
      { apiGroups: [''], resources: ['namespaces', 'nodes', 'pods', 'services'], verbs: ['list', 'watch'] },
      { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
    ];
    const rbac = { apiGroup: 'rbac.authorization.k8s.io' };
    const grant = (more: readonly object[]): Promise<void> =>
      world.plane.apply(
        {
          apiVersion: `${rbac.apiGroup}/v1`,
          kind: 'ClusterRole',
          metadata: { name: role },
          rules: [...rules, ...more],
        },
        {
          apiVersion: `${rbac.apiGroup}/v1`,
          kind: 'ClusterRoleBinding',
          metadata: { name: role },
          roleRef: { ...rbac, kind: 'ClusterRole', name: role },
          subjects: [{ ...rbac, kind: 'User', name: 'stranger' }],
        },
      );
    await grant([]);
    const api = connectKube(file, {}, { userAgent: 'culvert/test' });
    t.after(() => api[Symbol.dispose]());
    const watching = new Watching(t, api);
    const refused = (): string[] =>
      watching.source.problems().flatMap(({ reason }) => (reason.includes('403') ? [reason] : []));
    await watching.until('both refusals, and nothing else', () => refused().length === 2);
    assert.match(
      refused()[0] ?? '',
      /User "stranger" cannot list .*; this account needs list and watch on authorizationpolicies\.security\.istio\.io/,
    );
    assert.equal(watching.isSynced, false);
    assert.deepEqual(watching.deltas, []);
    await grant([{ apiGroups: ['security.istio.io'], resources: KINDS, verbs: ['list', 'watch'] }]);
    await within('the lists', watching.source.synced, LONG.timeoutMs, () => watching.detail());
    assert.ok(watching.policies().length > 0);
  });
});
