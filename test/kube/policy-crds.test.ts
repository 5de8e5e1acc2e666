import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { pathOf } from './manifests.ts';
import { ControlPlane } from './kit/control-plane.ts';
import { POLICY_EXAMPLE, applyCrds, policy } from './policy-world.ts';
import { namespace } from './kit/fakes.ts';

const CRD = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions';
const AUTHORIZATION = 'authorizationpolicies.security.istio.io';

let plane: ControlPlane;
before(async () => {
  plane = await ControlPlane.start();
  for (const name of ['production', 'istio-system', 'shop']) await namespace(plane, name);
  await applyCrds(plane);
});
after(() => plane[Symbol.asyncDispose]());

/** What the API server says to an object, in a dry run; '' when it takes it. */
async function refusal(object: object): Promise<string> {
  const { code, stderr } = await plane.tryKubectl(['apply', '--dry-run=server', '-f', '-'], {
    input: JSON.stringify(object),
  });
  assert.ok(code === 0 || stderr !== '');
  return code === 0 ? '' : stderr;
}

const source = (given: object): object => ({ rules: [{ from: [{ source: given }] }] });
const operation = (given: object): object => ({ rules: [{ to: [{ operation: given }] }] });
const when = (given: object): object => ({ rules: [{ when: [given] }] });
const selected = { selector: { matchLabels: { app: 'web' } } };

const GOOD: readonly (readonly [string, object])[] = [
  ['allow-nothing', {}],
  ['allow-all', { rules: [{}] }],
  ['deny-all', { action: 'DENY', rules: [{}] }],
  ['an empty selector', { selector: {} }],
  ['AUDIT without rules', { action: 'AUDIT' }],
  ['CUSTOM with its provider', { action: 'CUSTOM', provider: { name: 'opa' }, rules: [{}] }],
  ['targetRefs', { targetRefs: [{ group: '', kind: 'Service', name: 'web' }] }],
  [
    'every source',
    source({
      principals: ['cluster.local/ns/a/sa/b', '*'],
      notPrincipals: ['*/sa/b'],
      requestPrincipals: ['*'],
      notRequestPrincipals: ['a/b'],
      namespaces: ['a', 'b-*'],
      notNamespaces: ['c'],
      ipBlocks: ['10.0.0.0/8', '10.1.2.3', 'fd00::/64', '::ffff:10.0.0.1'],
      notIpBlocks: ['10.0.0.1'],
      remoteIpBlocks: ['1.2.3.4'],
      notRemoteIpBlocks: ['1.2.3.0/24'],
      trustDomains: ['td', '*.td'],
      notTrustDomains: ['other'],
    }),
  ],
  ['service accounts', source({ serviceAccounts: ['ns/sa', 'sa'], notServiceAccounts: ['x/y'] })],
  [
    'every operation',
    operation({
      hosts: ['example.com:*'],
      notHosts: ['a'],
      ports: ['80', '65535', '0'],
      notPorts: ['443'],
      methods: ['GET'],
      notMethods: ['PUT'],
      paths: ['/a/{*}/b', '/api/*'],
      notPaths: ['/x'],
    }),
  ],
  ...[
    'source.ip',
    'source.namespace',
    'source.principal',
    'source.serviceAccount',
    'source.trustDomain',
    'destination.ip',
    'destination.port',
    'connection.sni',
    'remote.ip',
    'request.headers[x-user]',
    'request.headers[:authority]',
    'request.auth.principal',
    'request.auth.audiences',
    'request.auth.presenter',
    'request.auth.claims[iss]',
    'request.auth.claims[a][b]',
    'experimental.envoy.filters.network.mysql_proxy[db.table]',
  ].map((key) => [key, when({ key, values: ['1'] })] as const),
  ['notValues alone', when({ key: 'source.ip', notValues: ['1.1.1.1'] })],
];

const BAD: readonly (readonly [string, object, RegExp])[] = [
  ['an action in small letters', { action: 'deny', rules: [{}] }, /spec\.action: Unsupported value/],
  ['DENY without rules', { action: 'DENY' }, /DENY and CUSTOM need rules/],
  ['CUSTOM without a provider', { action: 'CUSTOM', rules: [{}] }, /CUSTOM needs a provider/],
  ['a provider for ALLOW', { provider: { name: 'x' } }, /no other action may have one/],
  [
    'selector and targetRefs',
    { ...selected, targetRefs: [{ kind: 'Service', name: 'a' }] },
    /at most one of selector, targetRef and targetRefs/,
  ],
  [
    'targetRef and targetRefs',
    { targetRef: { kind: 'Service', name: 'a' }, targetRefs: [{ kind: 'Service', name: 'a' }] },
    /at most one of/,
  ],
  ['17 targetRefs', { targetRefs: Array(17).fill({ kind: 'Service', name: 'a' }) }, /Too many/],
  ['513 rules', { rules: Array(513).fill({}) }, /Too many/],
  ['a label too long', { selector: { matchLabels: { a: 'x'.repeat(64) } } }, /Too long/],
  ['a wildcard in a label', { selector: { matchLabels: { app: 'web-*' } } }, /labels have no wildcards/],
  [
    'a target in another namespace',
    { targetRef: { kind: 'Service', name: 'a', namespace: 'b' } },
    /Too long/,
  ],
  ['an empty from', { rules: [{ from: [{}] }] }, /source: Required value/],
  ['an empty source', source({}), /at least 1 properties/],
  ['an empty operation', operation({}), /at least 1 properties/],
  ['an empty text', source({ principals: [''] }), /at least 1 chars/],
  [
    'a field that nobody knows',
    source({ principal: ['a'] }),
    /unknown field "spec\.rules\[0\]\.from\[0\]\.source\.principal"/,
  ],
  [
    'accounts beside namespaces',
    source({ serviceAccounts: ['a'], namespaces: ['b'] }),
    /must not stand beside/,
  ],
  ['17 accounts', source({ serviceAccounts: Array(17).fill('a') }), /Too many/],
  ['an account with a wildcard', source({ serviceAccounts: ['ns/*'] }), /in body should match/],
  ['an address that is none', source({ ipBlocks: ['ten'] }), /in body should match/],
  ['a trust domain with a slash', source({ trustDomains: ['td/ns'] }), /in body should match/],
  ['a port too high', operation({ ports: ['65536'] }), /in body should match/],
  ['a port by name', operation({ notPorts: ['http'] }), /in body should match/],
  ['a port that is a number', operation({ ports: [80] }), /must be of type string/],
  ['a condition that nobody knows', when({ key: 'source.country', values: ['a'] }), /in body should match/],
  [
    'a condition of another case',
    when({ key: 'source.serviceaccount', values: ['a'] }),
    /in body should match/,
  ],
  ['a condition without values', when({ key: 'source.ip', values: [] }), /needs values or notValues/],
];

const BAD_PEERS: readonly (readonly [string, object, RegExp])[] = [
  ['a mode in small letters', { mtls: { mode: 'strict' } }, /spec\.mtls\.mode: Unsupported value/],
  ['ports without a selector', { portLevelMtls: { 80: { mode: 'STRICT' } } }, /needs a selector/],
  [
    'ports with an empty selector',
    { selector: { matchLabels: {} }, portLevelMtls: { 80: { mode: 'STRICT' } } },
    /needs a selector/,
  ],
  ['no port', { ...selected, portLevelMtls: {} }, /at least 1 properties/],
  ['port 0', { ...selected, portLevelMtls: { 0: { mode: 'STRICT' } } }, /ports are numbers/],
  ['a port by name', { ...selected, portLevelMtls: { http: { mode: 'STRICT' } } }, /ports are numbers/],
  ['a port too high', { ...selected, portLevelMtls: { 65536: {} } }, /ports are numbers/],
];

describe('our CRDs', { timeout: 300_000 }, () => {
  it('take the example that users bring, unchanged', async () => {
    const out = await plane.kubectl(['apply', '--dry-run=server', '-f', POLICY_EXAMPLE]);
    assert.equal(out.trim().split('\n').length, 3);
  });

  it('take what Istio takes, in both versions', async () => {
    for (const version of ['v1', 'v1beta1'])
      for (const [what, spec] of GOOD)
        assert.equal(await refusal(policy('AuthorizationPolicy', { version, spec })), '', what);
    const peers = [
      {},
      { mtls: { mode: 'STRICT' } },
      { ...selected, portLevelMtls: { 8080: { mode: 'DISABLE' }, 65535: {} } },
    ];
    for (const spec of peers) assert.equal(await refusal(policy('PeerAuthentication', { spec })), '');
  });

  it('refuse what a schema can, and say where', async () => {
    for (const [what, spec, why] of BAD)
      assert.match(await refusal(policy('AuthorizationPolicy', { spec })), why, what);
    for (const [what, spec, why] of BAD_PEERS)
      assert.match(await refusal(policy('PeerAuthentication', { spec })), why, what);
  });

  it('are established without a warning, and applied again change nothing', async () => {
    const { code, stdout, stderr } = await plane.tryKubectl([
      ...['apply', '--server-side', '-k', pathOf('policy-crds')],
    ]);
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(stdout.trim().split('\n').length, 2);
  });
});

describe("Istio's CRDs", { timeout: 120_000 }, () => {
  it('are left alone when ours are applied server-side, as README says', async () => {
    await using other = await ControlPlane.start();
    const theirs = {
      apiVersion: 'apiextensions.k8s.io/v1',
      kind: 'CustomResourceDefinition',
      metadata: { name: AUTHORIZATION, labels: { app: 'istio-pilot', release: 'istio' } },
      spec: {
        group: 'security.istio.io',
        scope: 'Namespaced',
        names: {
          kind: 'AuthorizationPolicy',
          plural: 'authorizationpolicies',
          listKind: 'AuthorizationPolicyList',
          singular: 'authorizationpolicy',
        },
        versions: [
          {
            name: 'v1',
            served: true,
            storage: true,
            schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
          },
        ],
      },
    };
    await other.kubectl(['create', '-f', '-'], { input: JSON.stringify(theirs) });
    const before = await other.api.must('GET', `${CRD}/${AUTHORIZATION}`);
    const { code, stderr } = await other.tryKubectl(['apply', '--server-side', '-k', pathOf('policy-crds')]);
    assert.equal(code, 1);
    assert.match(stderr, /conflict/);
    const after = await other.api.must('GET', `${CRD}/${AUTHORIZATION}`);
    assert.deepEqual(Reflect.get(Object(after), 'spec'), Reflect.get(Object(before), 'spec'));
  });
});
