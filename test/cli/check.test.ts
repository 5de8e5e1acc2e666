import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { KubeError } from '../../daemon/kube/seams.ts';
import { ClusterApi } from './cluster-api.ts';
import { culvert } from './terminal.ts';
import type { Ran } from './terminal.ts';

const POLICIES = '/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies';

let api: ClusterApi;

function check(...args: string[]): Promise<Ran> {
  const connectCluster = (): Promise<ClusterApi> => Promise.resolve(api);
  return culvert(['check', '--kubeconfig', 'k', ...args], {}, { connectCluster });
}

/** A cluster with one labelled pod that has all that is needed. */
beforeEach(() => {
  api = new ClusterApi();
  api.answers.set('GET /version', () => ({ major: '1', minor: '34', gitVersion: 'v1.34.4' }));
  for (const group of ['discovery', 'certificates', 'coordination', 'admissionregistration', 'events'])
    api.answers.set(`GET /apis/${group}.k8s.io/v1`, () => ({}));
  for (const kind of ['subjectaccessreviews', 'selfsubjectaccessreviews'])
    api.answers.set(`POST /apis/authorization.k8s.io/v1/${kind}`, () => ({ status: { allowed: true } }));
  api.add('/api/v1/namespaces/shop', {
    metadata: { name: 'shop', labels: { 'culvert.dev/mesh': 'enabled' } },
  });
  api.add('/api/v1/namespaces/shop/pods/web', {
    metadata: { name: 'web', namespace: 'shop', uid: 'u', labels: { app: 'web' } },
    spec: { nodeName: 'n1' },
    status: { phase: 'Running' },
  });
});

describe('the patch for a NetworkPolicy that keeps tunnels away', () => {
  const rule = { ports: [{ protocol: 'TCP', port: 15_008 }] };

  /** The JSON patches that `check` prints for a policy with this spec. */
  async function patchesFor(spec: object): Promise<unknown[]> {
    api.add(`${POLICIES}/p`, { metadata: { name: 'p', namespace: 'shop' }, spec });
    const { out } = await check('--pre');
    const printed = out.matchAll(/patch networkpolicy p --type=json -p '([^']*)'/g);
    return Array.from(printed, ([, patch = '']): unknown => JSON.parse(patch));
  }

  it('makes the first rule of a default-deny policy, which has no list to add to', async () => {
    for (const ingress of [undefined, null, []])
      assert.deepEqual(await patchesFor({ podSelector: {}, policyTypes: ['Ingress'], ingress }), [
        [{ op: 'add', path: '/spec/ingress', value: [rule] }],
      ]);
    assert.deepEqual(await patchesFor({ podSelector: {}, policyTypes: ['Ingress', 'Egress'] }), [
      [{ op: 'add', path: '/spec/ingress', value: [rule] }],
      [{ op: 'add', path: '/spec/egress', value: [rule] }],
    ]);
  });

  it('keeps the rules that there are', async () => {
    const ingress = [{ ports: [{ port: 80 }] }];
    assert.deepEqual(await patchesFor({ podSelector: {}, policyTypes: ['Ingress'], ingress }), [
      [{ op: 'add', path: '/spec/ingress/-', value: rule }],
    ]);
  });
});

describe('what the accounts may do', () => {
  interface Review {
    readonly user?: string;
    readonly groups?: readonly string[];
    readonly resourceAttributes: { readonly verb: string; readonly resource: string };
  }

  /** The answers for accounts: yes where `decide` says so. */
  function allow(decide: (review: Review) => boolean): void {
    api.answers.set('POST /apis/authorization.k8s.io/v1/subjectaccessreviews', ({ body }) => ({
      status: { allowed: decide((body as { spec: Review }).spec) },
    }));
  }

  it('is asked with the groups that every token of the account has', async () => {
    for (const group of [
      'system:serviceaccounts',
      'system:serviceaccounts:culvert-system',
      'system:authenticated',
    ]) {
      allow(({ groups = [], resourceAttributes: { verb, resource } }) =>
        `${verb} ${resource}` === 'update pods' ? groups.includes(group) : false,
      );
      const { out } = await check();
      assert.match(out, /FAIL {2}account culvert-system\/culvert may do no more than that: may: update pods/);
    }
  });
});

describe('a cluster that can not be asked', () => {
  async function errorOf(reason: string): Promise<string> {
    api.answers.set('GET /api/v1/nodes', () => {
      throw new KubeError(0, reason, 'the why');
    });
    const { code, err } = await check();
    assert.equal(code, 2);
    return err;
  }

  it('gets a hint that fits: whether it is there, or who we are to it', async () => {
    assert.match(await errorOf('ECONNREFUSED'), /the why; is it up, and does the kubeconfig name the right/);
    const err = await errorOf('Credentials');
    assert.match(err, /the why; they come from the user of the kubeconfig's context .* kubectl/);
    assert.doesNotMatch(err, /is it up/);
  });
});
