/**
 * Who may approve certificates of the issuer that the mesh uses, and what may be done with requests to it, on a real API
 * server with cert-manager's object. There is no webhook of cert-manager, as for a namespace that is labelled
 * `cert-manager.io/disable-validation`: what is refused here is refused by our policy alone.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { ControlPlane } from './kit/control-plane.ts';
import { namespace, serviceAccount } from './kit/fakes.ts';
import { at, render, text } from './manifests.ts';
import { askAs, boundToken } from './tokens.ts';
import type { Answer } from './tokens.ts';

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

/** Who the API server takes one for: what cert-manager's webhook writes into a request. */
const SELF = '/apis/authentication.k8s.io/v1/selfsubjectreviews';
const SELF_REVIEW = { apiVersion: 'authentication.k8s.io/v1', kind: 'SelfSubjectReview' };

const HEAD = { apiVersion: 'cert-manager.io/v1', kind: 'CertificateRequest' };

const OURS: Issuer = { name: 'cluster-ca', kind: 'ClusterIssuer', group: 'cert-manager.io' };
const OTHER: Issuer = { name: 'missing' };
const NODE_NAME = 'authentication.kubernetes.io/node-name';
const DAEMON = { username: `system:serviceaccount:${OWN}:culvert`, extra: { [NODE_NAME]: ['node-b'] } };
/** As cert-manager's chart adds it to role `edit`. */
const EDITOR = {
  apiVersion: 'rbac.authorization.k8s.io/v1',
  kind: 'ClusterRole',
  metadata: { name: 'editor' },
  rules: [
    {
      apiGroups: ['cert-manager.io'],
      resources: ['certificaterequests'],
      verbs: ['create', 'delete', 'deletecollection', 'patch', 'update', 'get', 'list', 'watch'],
    },
  ],
};

/** What an editor of namespace shop tries: a request, and when it is there a change of it. */
interface Attempt {
  readonly what: string;
  /** Besides who made it, which is true unless it is said here. */
  readonly spec: object;
  readonly approvedBy?: { name: string; groups: readonly string[] };
  readonly change?: object;
  /** What the refusal of the last step says; undefined: it is allowed. */
  readonly refused?: RegExp;
}

const FIXED = /stays as it was made, and none comes to it from another issuer/;
const UNTRUE = /has to say who made it/;

const ATTEMPTS: readonly Attempt[] = [
  {
    what: 'a request that cert-manager approved for another issuer, pointed at ours with another content',
    spec: { issuerRef: OTHER, request: 'aGFybWxlc3M=' },
    approvedBy: OTHERS_CONTROLLER,
    change: { spec: { issuerRef: OURS, request: 'aWRlbnRpdHk=', isCA: true } },
    refused: FIXED,
  },
  {
    what: 'a request to another issuer, pointed at ours in the name of a daemon',
    spec: { issuerRef: OTHER },
    change: { spec: { issuerRef: OURS, ...DAEMON } },
    refused: FIXED,
  },
  {
    what: 'a request that culvert-ca approved, with another content',
    spec: { issuerRef: OURS, request: 'aGFybWxlc3M=' },
    approvedBy: CULVERT_CA,
    change: { spec: { request: 'aWRlbnRpdHk=' } },
    refused: FIXED,
  },
  {
    what: 'the same made a CA',
    spec: { issuerRef: OURS },
    approvedBy: CULVERT_CA,
    change: { spec: { isCA: true } },
    refused: FIXED,
  },
  {
    what: 'a request that culvert-ca approved, pointed at another issuer',
    spec: { issuerRef: OURS },
    approvedBy: CULVERT_CA,
    change: { spec: { issuerRef: { ...OURS, name: 'other' } } },
    refused: FIXED,
  },
  {
    what: 'a request of ours in the name of a daemon, later',
    spec: { issuerRef: OURS },
    change: { spec: DAEMON },
    refused: FIXED,
  },
  {
    what: 'a new request in the name of a daemon',
    spec: { issuerRef: OURS, username: DAEMON.username },
    refused: UNTRUE,
  },
  {
    what: 'one with the claims of another token',
    spec: { issuerRef: OURS, extra: DAEMON.extra },
    refused: UNTRUE,
  },
  { what: 'one with another UID', spec: { issuerRef: OURS, uid: 'another' }, refused: UNTRUE },
  { what: 'one with more groups', spec: { issuerRef: OURS, groups: ['system:masters'] }, refused: UNTRUE },
  { what: 'one that names nobody', spec: { issuerRef: OURS, username: null }, refused: UNTRUE },
  { what: 'an honest request', spec: { issuerRef: OURS } },
  {
    what: 'a label on a request that is approved',
    spec: { issuerRef: OURS },
    approvedBy: CULVERT_CA,
    change: { metadata: { labels: { team: 'shop' } } },
  },
  {
    what: 'a request from one other issuer to the next: theirs to guard',
    spec: { issuerRef: OTHER, username: 'anybody' },
    change: { spec: { issuerRef: { ...OTHER, name: 'next' }, isCA: true } },
  },
];

describe('approvals at the issuer of the mesh', () => {
  let cluster: ControlPlane;
  let editor = '';
  let requests = 0;

  before(async () => {
    cluster = await ControlPlane.start();
    await namespace(cluster, OWN);
    await namespace(cluster, 'shop', { 'cert-manager.io/disable-validation': 'true' });
    await serviceAccount(cluster, 'shop', 'editor');
    await cluster.apply(definition, EDITOR, {
      apiVersion: 'rbac.authorization.k8s.io/v1',
      kind: 'RoleBinding',
      metadata: { name: 'editor', namespace: 'shop' },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'editor' },
      subjects: [{ kind: 'ServiceAccount', name: 'editor', namespace: 'shop' }],
    });
    editor = await boundToken(cluster, 'editor', undefined, 'shop');
    await until(
      'the definition',
      async () => (await cluster.api.ask('GET', `${GROUP}/certificaterequests`)).status === 200,
    );
  });
  after(() => cluster[Symbol.asyncDispose]());

  /** Approves a request as `who`, or says something else of it; gives the API's answer. */
  function judge(
    name: string,
    who: { name: string; groups: readonly string[] },
    { namespace: inside = 'shop', condition = 'Approved' } = {},
  ): Promise<{ code: number | undefined; stderr: string }> {
    const patch = JSON.stringify({
      status: { conditions: [{ type: condition, status: 'True', reason: 'r', message: 'm' }] },
    });
    const words = ['--kubeconfig', cluster.kubeconfigOf(who), '-n', inside, 'patch', 'certificaterequest'];
    return cluster.tryKubectl([...words, name, '--subresource=status', '--type=merge', '-p', patch]);
  }

  /** Makes a request and approves it as `approver`; gives the API's answer. */
  async function approve(
    issuerRef: Issuer,
    approver: { name: string; groups: readonly string[] },
    options: { namespace?: string; condition?: string } = {},
  ): Promise<{ code: number | undefined; stderr: string }> {
    const name = `request-${(requests += 1)}`;
    const inside = options.namespace ?? 'shop';
    const who = userInfo(await cluster.api.must('POST', SELF, { body: SELF_REVIEW }));
    const body = { ...HEAD, metadata: { name }, spec: { issuerRef, ...who } };
    const made = await cluster.api.ask('POST', `${GROUP}/namespaces/${inside}/certificaterequests`, { body });
    if (made.status !== 201) return { code: made.status, stderr: JSON.stringify(made.body) };
    return judge(name, approver, options);
  }

  /** The last step of what the holder of `token` tries. */
  async function attempt(token: string, { what, spec, approvedBy, change }: Attempt): Promise<Answer> {
    const path = `${GROUP}/namespaces/shop/certificaterequests`;
    const name = `attempt-${(requests += 1)}`;
    const who = userInfo((await askAs(cluster, token, 'POST', SELF, SELF_REVIEW)).body);
    const body = { ...HEAD, metadata: { name }, spec: { ...who, ...spec } };
    const made = await askAs(cluster, token, 'POST', path, body);
    if (change === undefined) return made;
    assert.equal(made.status, 201, `${what}: ${JSON.stringify(made.body)}`);
    if (approvedBy !== undefined) {
      const { code, stderr } = await judge(name, approvedBy);
      assert.equal(code, 0, `${what}: ${stderr}`);
    }
    return askAs(cluster, token, 'PATCH', `${path}/${name}`, change);
  }

  it('would be anybody’s without the policy', async () => {
    assert.equal((await approve(OURS, OTHERS_CONTROLLER)).code, 0);
    for (const one of ATTEMPTS) {
      const { status, body } = await attempt(editor, one);
      assert.ok(status === 200 || status === 201, `${one.what}: ${JSON.stringify(body)}`);
    }
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

  it('take nothing that was changed or is untrue, of whoever may edit requests', async () => {
    for (const one of ATTEMPTS) {
      const { status, body } = await attempt(editor, one);
      const isAllowed = status === 200 || status === 201;
      assert.equal(isAllowed, one.refused === undefined, `${one.what}: ${JSON.stringify(body)}`);
      if (one.refused === undefined) continue;
      assert.equal(status, 403, one.what);
      assert.match(text(body, 'message'), one.refused, one.what);
    }
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

function userInfo(review: unknown): object {
  const found = at(review, 'status', 'userInfo');
  assert.ok(typeof found === 'object' && found !== null, JSON.stringify(review));
  return found;
}
