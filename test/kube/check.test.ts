/** `culvert check` of a real API server: what it says is true, and what it prints can be done as it stands. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { checkCluster } from '../../daemon/cli/cluster/check.ts';
import { KubeClient } from '../../daemon/kube/client.ts';
import { openAccess } from '../../daemon/kube/config.ts';
import type { Finding } from '../../daemon/cli/io.ts';
import { must } from '../support/run.ts';
import { until } from '../support/wait.ts';
import { ControlPlane } from './kit/control-plane.ts';
import { namespace } from './kit/fakes.ts';
import { pathOf } from './manifests.ts';

let plane: ControlPlane;
before(async () => {
  plane = await ControlPlane.start();
});
after(() => plane[Symbol.asyncDispose]());

/** What `check` finds under this id, as the administrator asks. */
async function found(id: string): Promise<readonly Finding[]> {
  using api = new KubeClient(openAccess(plane.kubeconfig, {}), { userAgent: 'test' });
  const all = await checkCluster(api, { systemNamespace: 'culvert-system' }, Date.now());
  return all.filter((one) => one.id === id);
}

describe('NetworkPolicies', () => {
  before(async () => {
    await namespace(plane, 'shop', { 'culvert.dev/mesh': 'enabled' });
    const containers = [{ name: 'c', image: 'none' }];
    const metadata = { name: 'web', namespace: 'shop', labels: { app: 'web' } };
    await plane.apply({ apiVersion: 'v1', kind: 'Pod', metadata, spec: { containers, nodeName: 'n1' } });
  });

  it('that deny all by default let tunnels through after the patches that are printed', async () => {
    const metadata = { name: 'default-deny', namespace: 'shop' };
    const spec = { podSelector: {}, policyTypes: ['Ingress', 'Egress'], ingress: [] };
    await plane.apply({ apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy', metadata, spec });
    const blocked = await found('NETWORK_POLICY');
    assert.equal(blocked.length, 2);
    const script = blocked.map(({ fix }) => fix.replace(/ {2}\(.*/, '')).join('\n');
    const env = { ...process.env, PATH: `${plane.home.dir}:${process.env['PATH'] ?? ''}` };
    await must(['sh', '-ec', script], { env });
    assert.deepEqual(
      (await found('NETWORK_POLICY')).map(({ ok }) => ok),
      [true],
    );
  });
});

describe('rights', () => {
  before(() => plane.kubectl(['apply', '-k', pathOf('base')]));
  const oks = async (id: string): Promise<unknown[]> => (await found(id)).map(({ ok }) => ok);

  it('are what the base gives, and no more', async () => {
    const areGiven = async (): Promise<boolean> => (await oks('RIGHTS')).every((ok) => ok === true);
    await until('check to see the bindings', areGiven, { timeoutMs: 15_000, everyMs: 200 });
    assert.deepEqual(await oks('RIGHTS_TOO_WIDE'), [true]);
  });

  it('that come through a group of all service accounts are too wide too', async () => {
    const rbac = 'rbac.authorization.k8s.io';
    const metadata = { name: 'edits-pods' };
    const rules = [{ apiGroups: [''], resources: ['pods'], verbs: ['update'] }];
    const subjects = [{ apiGroup: rbac, kind: 'Group', name: 'system:serviceaccounts:culvert-system' }];
    const roleRef = { apiGroup: rbac, kind: 'ClusterRole', name: metadata.name };
    await plane.apply(
      { apiVersion: `${rbac}/v1`, kind: 'ClusterRole', metadata, rules },
      { apiVersion: `${rbac}/v1`, kind: 'ClusterRoleBinding', metadata, roleRef, subjects },
    );
    const isTooWide = async (): Promise<boolean> => (await oks('RIGHTS_TOO_WIDE')).includes(false);
    // The API server's own view of a binding comes a moment after it.
    await until('check to see it', isTooWide, { timeoutMs: 15_000, everyMs: 200 });
  });
});
