/** Who may approve certificates of the issuer that the mesh uses, on a real API server, with cert-manager's object. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { ControlPlane } from './kit/control-plane.ts';
import { render, text } from './manifests.ts';

const OWN = 'culvert-system';
const GROUP = '/apis/cert-manager.io/v1';
const OTHERS_CONTROLLER = { name: 'cert-manager', groups: ['system:masters'] };
const CULVERT_CA = { name: `system:serviceaccount:${OWN}:culvert-ca`, groups: ['system:masters'] };

/** As much of cert-manager's definition as a policy can see. */
const definition = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'certificaterequests.cert-manager.io' },
  spec: {
    group: 'cert-manager.io',
    scope: 'Namespaced',
    names: { kind: 'CertificateRequest', plural: 'certificaterequests', singular: 'certificaterequest' },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        subresources: { status: {} },
        schema: {
          openAPIV3Schema: {
            type: 'object',
            properties: Object.fromEntries(
              ['spec', 'status'].map((key) => [
                key,
                { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
              ]),
            ),
          },
        },
      },
    ],
  },
};

interface Issuer {
  readonly name: string;
  readonly kind?: string;
  readonly group?: string;
}

const OURS: Issuer = { name: 'cluster-ca', kind: 'ClusterIssuer', group: 'cert-manager.io' };

describe('approvals at the issuer of the mesh', () => {
  let cluster: ControlPlane;
  let requests = 0;

  before(async () => {
    cluster = await ControlPlane.start();
    for (const name of [OWN, 'shop'])
      await cluster.apply({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } });
    await cluster.apply(definition);
    await until(
      'the definition',
      async () => (await cluster.api.ask('GET', `${GROUP}/certificaterequests`)).status === 200,
    );
  });
  after(() => cluster[Symbol.asyncDispose]());

  /** Makes a request and approves it as `who`; gives the API's answer. */
  async function approve(
    issuerRef: Issuer,
    who: { name: string; groups: readonly string[] },
    { namespace = 'shop', condition = 'Approved' } = {},
  ): Promise<{ code: number | undefined; stderr: string }> {
    const name = `request-${(requests += 1)}`;
    const metadata = { name, namespace };
    await cluster.apply({
      apiVersion: 'cert-manager.io/v1',
      kind: 'CertificateRequest',
      metadata,
      spec: { issuerRef },
    });
    const patch = JSON.stringify({
      status: { conditions: [{ type: condition, status: 'True', reason: 'r', message: 'm' }] },
    });
    const words = [
      '--kubeconfig',
      cluster.kubeconfigOf(who),
      '-n',
      namespace,
      'patch',
      'certificaterequest',
      name,
    ];
    return cluster.tryKubectl([...words, '--subresource=status', '--type=merge', '-p', patch]);
  }

  it('would be anybody’s without the policy', async () => {
    assert.equal((await approve(OURS, OTHERS_CONTROLLER)).code, 0);
  });

  it('are culvert-ca’s alone with it, whatever cert-manager’s own approver tries', async () => {
    const overlay = await render('overlays/cert-manager');
    const needed = ['ConfigMap', 'ValidatingAdmissionPolicy', 'ValidatingAdmissionPolicyBinding'];
    await cluster.apply(...overlay.filter(({ kind }) => needed.includes(kind)).map(({ object }) => object));
    await until('the policy to be in force', async () => (await approve(OURS, OTHERS_CONTROLLER)).code !== 0);
    const refused = await approve(OURS, OTHERS_CONTROLLER);
    assert.match(refused.stderr, /only culvert-ca approves requests to this issuer/);
    assert.equal((await approve(OURS, CULVERT_CA)).code, 0);
    const short: Issuer = { name: 'cluster-ca', kind: 'ClusterIssuer' };
    assert.notEqual((await approve(short, OTHERS_CONTROLLER)).code, 0, 'no group means cert-manager.io');
  });

  it('leave other issuers, and denials, to whom they were', async () => {
    for (const other of [
      { name: 'another', kind: 'ClusterIssuer' },
      { name: 'cluster-ca' },
      { name: 'cluster-ca', kind: 'ClusterIssuer', group: 'example.com' },
    ]) {
      const { code, stderr } = await approve(other, OTHERS_CONTROLLER);
      assert.equal(code, 0, stderr);
    }
    assert.equal((await approve(OURS, OTHERS_CONTROLLER, { condition: 'Denied' })).code, 0);
  });

  it('follow the configuration: an Issuer is the one of our own namespace', async () => {
    const overlay = await render('overlays/cert-manager');
    const config = overlay.find(({ kind }) => kind === 'ConfigMap');
    assert.equal(text(config?.object, 'data', 'CULVERT_CERT_ISSUER'), 'ClusterIssuer/cluster-ca');
    await cluster.kubectl([
      '-n',
      OWN,
      'patch',
      'configmap',
      'culvert-config',
      '--type=merge',
      '-p',
      JSON.stringify({ data: { CULVERT_CERT_ISSUER: 'Issuer/mesh' } }),
    ]);
    await until(
      'the new issuer to be guarded',
      async () => (await approve({ name: 'mesh' }, OTHERS_CONTROLLER, { namespace: OWN })).code !== 0,
    );
    assert.equal((await approve({ name: 'mesh' }, OTHERS_CONTROLLER)).code, 0, 'the same name elsewhere');
    assert.equal((await approve(OURS, OTHERS_CONTROLLER)).code, 0, 'no longer ours');
  });

  it('are nobody’s when nobody knows which issuer it is', async () => {
    await cluster.kubectl(['-n', OWN, 'delete', 'configmap', 'culvert-config']);
    await until('the refusal', async () => (await approve(OURS, OTHERS_CONTROLLER)).code !== 0);
  });
});
