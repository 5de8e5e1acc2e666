/** What culvert-ca says on policies, on a real API server with the manifests' rights: who says it, when, and to whom. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { KubeError } from '../../daemon/kube/seams.ts';
import type { KubeApi } from '../../daemon/kube/seams.ts';
import { until } from '../support/wait.ts';
import { at, list, text } from './manifests.ts';
import { applyCrds, policy, policyPath } from './policy-world.ts';
import type { PolicyKind } from './policy-world.ts';
import { OWN, SignerWorld } from './signer-world.ts';

const LONG = { timeoutMs: 120_000, everyMs: 100 };
const MERGE = 'application/merge-patch+json';
const LEASE = `/apis/coordination.k8s.io/v1/namespaces/${OWN}/leases/culvert-ca`;
const SaidSchema = z.record(z.string(), z.unknown());
const DENY = { action: 'DENY', rules: [{ from: [{ source: { namespaces: ['other'] } }] }] };

describe('the conditions of policies', { timeout: 600_000 }, () => {
  let world: SignerWorld;
  before(async () => {
    world = await SignerWorld.start();
    await applyCrds(world.plane);
    await world.replica('ca-1');
    await world.leader();
  });
  after(() => world[Symbol.asyncDispose]());

  const get = (name: string, kind: PolicyKind = 'AuthorizationPolicy'): Promise<unknown> =>
    world.plane.api.must('GET', policyPath(kind, name));
  const versionOf = async (name: string): Promise<string> =>
    text(await get(name), 'metadata', 'resourceVersion');
  const waitFor = (what: string, condition = 'ZtunnelAccepted'): Promise<string> =>
    world.plane.kubectl(['-n', 'shop', 'wait', what, `--for=condition=${condition}`, '--timeout=60s']);
  /** The one condition, of the present generation. */
  const condition = (name: string, kind?: PolicyKind): Promise<Record<string, unknown>> =>
    until(
      `a condition on ${name}`,
      async () => {
        const object = await get(name, kind);
        const [one] = list(object, 'status', 'conditions');
        const isCurrent = at(one, 'observedGeneration') === at(object, 'metadata', 'generation');
        return isCurrent ? SaidSchema.parse(one) : undefined;
      },
      { ...LONG, detail: () => world.logs() },
    );

  it('are there for kubectl wait, on both kinds', async () => {
    await world.plane.apply(
      policy('AuthorizationPolicy', { name: 'good', spec: DENY, version: 'v1beta1' }),
      policy('PeerAuthentication', { name: 'strict', spec: { mtls: { mode: 'STRICT' } } }),
    );
    assert.match(await waitFor('authorizationpolicy/good'), /condition met/);
    assert.match(await waitFor('peerauthentication/strict'), /condition met/);
    const columns = await world.plane.kubectl(['-n', 'shop', 'get', 'authorizationpolicies']);
    assert.match(columns, /good +DENY +True/);
  });

  it('follow the object with its generation, and keep the time while the verdict is the same', async () => {
    await world.plane.apply(policy('AuthorizationPolicy', { name: 'follows', spec: DENY }));
    const first = await condition('follows');
    await world.plane.apply(policy('AuthorizationPolicy', { name: 'follows', spec: {} }));
    await until('generation 2', async () => at(await get('follows'), 'metadata', 'generation') === 2, LONG);
    const second = await condition('follows');
    assert.deepEqual([first['observedGeneration'], second['observedGeneration']], [1, 2]);
    assert.equal(second['lastTransitionTime'], first['lastTransitionTime']);
    assert.match(String(second['message']), /an ALLOW without rules allows nothing/);
  });

  it('say what is wrong and what is not supported, and so does an Event', async () => {
    const annotations = { 'istio.io/dry-run': 'maybe' };
    const jwt = { rules: [{ from: [{ source: { requestPrincipals: ['*'] } }] }] };
    const custom = { action: 'CUSTOM', provider: { name: 'opa' }, rules: [{}] };
    const template = { rules: [{ to: [{ operation: { paths: ['/a/{**}/{*}'] } }] }] };
    const expected: Readonly<Record<string, readonly [object, string]>> = {
      'dry-run': [{ spec: DENY, annotations }, 'True/PartiallyInvalid'],
      jwt: [{ spec: jwt }, 'True/UnsupportedValue'],
      custom: [{ spec: custom }, 'False/UnsupportedValue'],
      template: [{ spec: template }, 'False/Invalid'],
    };
    for (const [name, [given]] of Object.entries(expected))
      await world.plane.apply(policy('AuthorizationPolicy', { name, ...given }));
    for (const [name, [, said]] of Object.entries(expected)) {
      const { status, reason, message } = await condition(name);
      assert.equal(`${String(status)}/${String(reason)}`, said, String(message));
      const event = await until(
        `an Event on ${name}`,
        async () => {
          const events = await world.plane.api.must('GET', '/apis/events.k8s.io/v1/namespaces/shop/events');
          return list(events, 'items').find((one) => at(one, 'regarding', 'name') === name);
        },
        LONG,
      );
      assert.deepEqual(
        [at(event, 'reason'), at(event, 'reportingController'), at(event, 'note'), at(event, 'type')],
        [`Policy${String(reason)}`, 'culvert.dev/ca', message, 'Warning'],
      );
    }
  });

  it('are written once: nothing is written when nothing changed, by a second leader neither', async () => {
    await waitFor('authorizationpolicy/good');
    const before = await versionOf('good');
    const [first] = world.replicas;
    assert.ok(first !== undefined);
    const second = await world.replica('ca-2');
    first.process.kill('SIGTERM');
    await world.leader([second]);
    // The second one has looked at all: it says something on an object that came after.
    await world.plane.apply(policy('AuthorizationPolicy', { name: 'z-last', spec: DENY }));
    await waitFor('authorizationpolicy/z-last');
    assert.equal(await versionOf('good'), before);
  });

  it('can be written by no daemon, nor can a daemon or the CA change a policy', async () => {
    const daemon = await world.client(OWN, 'culvert', 'culvert-a');
    const ca = await world.client(OWN, 'culvert-ca');
    const path = policyPath('AuthorizationPolicy', 'good');
    const patch = (api: KubeApi, where: string, body: object): Promise<unknown> =>
      api.request({ method: 'PATCH', path: where, patch: MERGE, body });
    const isForbidden = (error: unknown): boolean => error instanceof KubeError && error.status === 403;
    const lie = { status: { conditions: [] } };
    await assert.rejects(patch(daemon, `${path}/status`, lie), isForbidden);
    for (const api of [daemon, ca]) {
      await assert.rejects(patch(api, path, { spec: {} }), isForbidden);
      await assert.rejects(api.request({ method: 'DELETE', path }), isForbidden);
    }
    // The CA's right to the status is one to the status only.
    await patch(ca, `${path}/status`, { spec: { action: 'ALLOW' }, status: {} });
    assert.equal(at(await get('good'), 'spec', 'action'), 'DENY');
  });
});

describe('a replica that does not lead', { timeout: 300_000 }, () => {
  it('says nothing, and begins when it leads', async () => {
    await using world = await SignerWorld.start();
    await applyCrds(world.plane);
    await world.plane.apply(policy('AuthorizationPolicy', { name: 'good', spec: DENY }));
    const renew = (holderIdentity: string): Promise<unknown> => {
      const renewTime = new Date().toISOString().replace('Z', '000Z');
      const body = {
        apiVersion: 'coordination.k8s.io/v1',
        kind: 'Lease',
        metadata: { name: 'culvert-ca' },
        spec: { holderIdentity, leaseDurationSeconds: 15, renewTime, acquireTime: renewTime },
      };
      return world.plane.apply({ ...body, metadata: { ...body.metadata, namespace: OWN } });
    };
    await renew('another');
    const replica = await world.replica('ca-1');
    const isReady = async (): Promise<boolean> => {
      const answer = await fetch(`http://127.0.0.1:${replica.healthPort}/readyz`).catch(() => undefined);
      return answer?.ok === true;
    };
    await until('the replica', isReady, { ...LONG, detail: () => world.logs() });
    const conditions = async (): Promise<readonly unknown[]> =>
      list(
        await world.plane.api.must('GET', policyPath('AuthorizationPolicy', 'good')),
        'status',
        'conditions',
      );
    for (let round = 0; round < 5; round++) {
      await renew('another');
      // It would take it a fraction of this: the kinds are there.
      await sleep(1_000);
      assert.deepEqual(await conditions(), []);
    }
    assert.equal(text(await world.plane.api.must('GET', LEASE), 'spec', 'holderIdentity'), 'another');
    await renew('');
    await until('its word', async () => (await conditions()).length === 1, {
      ...LONG,
      detail: () => world.logs(),
    });
  });
});
