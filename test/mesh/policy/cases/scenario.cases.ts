/** Whole configurations as people have them, each asked several ways. */
import { PLAINTEXT, id, operation, peerAuthentication, policy, source, when } from '../kit.ts';
import type { Case, Http, Request } from '../kit.ts';

interface Scenario {
  readonly name: string;
  readonly policies: readonly unknown[];
  readonly peers?: readonly unknown[];
  readonly common?: Request;
  readonly asked: readonly (readonly [string, Request, 'allow' | 'deny'])[];
}

const A: Request = { from: id('ns1', 'a') };
const B: Request = { from: id('ns2', 'a') };
const web = (path: string, more: Http = {}, port = 18_080): Request => ({ port, http: { path, ...more } });

/** HTTP on two ports, gRPC on one, bytes on one: as Istio's own tests have it. */
function perPort(who: unknown, action = 'ALLOW'): unknown {
  const paths = action === 'ALLOW' ? { paths: ['/allow'] } : { paths: ['/deny*'], notPaths: ['/deny/allow'] };
  const from = source(who);
  const rules = [
    { ...operation({ ports: ['18080', '18085'], methods: ['GET'], ...paths }), ...from },
    {
      ...operation({ ports: ['17070'], paths: ['/proto.EchoTestService/Echo'], methods: ['POST'] }),
      ...from,
    },
    { ...operation({ ports: ['19090'] }), ...from },
  ];
  return policy({ action, selector: { matchLabels: { app: 'web' } }, rules });
}

const GRPC: Request = { port: 17_070, http: { method: 'POST', path: '/proto.EchoTestService/Echo' } };
const BYTES: Request = { port: 19_090 };

const allowed = (who: string, given: unknown): Scenario => ({
  name: `allow by ${who}`,
  policies: [perPort(given)],
  peers: [peerAuthentication({ mtls: { mode: 'STRICT' } })],
  asked: [
    ['bytes', { ...A, ...BYTES }, 'allow'],
    ['bytes of another', { ...B, ...BYTES }, 'deny'],
    ['gRPC', { ...A, ...GRPC }, 'allow'],
    ['gRPC of another', { ...B, ...GRPC }, 'deny'],
    ['a path', { ...A, ...web('/allow') }, 'allow'],
    ['a path on the other port', { ...A, ...web('/allow', {}, 18_085) }, 'allow'],
    ['a path with a query', { ...A, ...web('/allow?param=value') }, 'allow'],
    ['a path of another', { ...B, ...web('/allow') }, 'deny'],
    ['another path', { ...A, ...web('/deny') }, 'deny'],
    ['another path with a query', { ...A, ...web('/deny?param=value') }, 'deny'],
    ['another method', { ...A, ...web('/allow', { method: 'POST' }) }, 'deny'],
    ['the path on the port for bytes: that rule has no path', { ...A, ...web('/deny', {}, 19_090) }, 'allow'],
    ['bytes on the port for HTTP', { ...A, port: 18_080 }, 'deny'],
    ['a port that no rule names', { ...A, port: 1 }, 'deny'],
    ['plaintext', { ...PLAINTEXT, ...BYTES }, 'deny'],
    ['another workload of the namespace', { ...B, ...BYTES, labels: { app: 'x' } }, 'allow'],
  ],
});

const GLOBAL = policy(
  {
    action: 'DENY',
    rules: [
      operation({ ports: ['18080', '18085'], paths: ['/global-deny*'], notPaths: ['/global-deny/allow'] }),
    ],
  },
  { name: 'everywhere', namespace: 'istio-system' },
);

const denied = (who: string, given: unknown): Scenario => ({
  name: `deny by ${who}, and a path everywhere`,
  policies: [GLOBAL, perPort(given, 'DENY')],
  asked: [
    ['bytes of the denied', { ...B, ...BYTES }, 'deny'],
    ['bytes of another', { ...A, ...BYTES }, 'allow'],
    ['gRPC of the denied', { ...B, ...GRPC }, 'deny'],
    ['a path of the denied', { ...B, ...web('/deny') }, 'deny'],
    ['a path with a query', { ...B, ...web('/deny?param=value') }, 'deny'],
    ['a path of another', { ...A, ...web('/deny') }, 'allow'],
    ['the path taken out', { ...B, ...web('/deny/allow') }, 'allow'],
    ['the path taken out, with a query', { ...B, ...web('/deny/allow?param=value') }, 'allow'],
    ['another path', { ...B, ...web('/allow') }, 'allow'],
    ['the path denied everywhere', { ...A, ...web('/global-deny') }, 'deny'],
    ['the path denied everywhere, with a query', { ...A, ...web('/global-deny?param=value') }, 'deny'],
    ['the path denied everywhere but for one', { ...A, ...web('/global-deny/allow') }, 'allow'],
    ['the path denied everywhere, elsewhere', { ...A, ...web('/global-deny'), namespace: 'ns9' }, 'deny'],
    ['that path on another port', { ...A, ...web('/global-deny', {}, 80) }, 'allow'],
  ],
});

const ADDRESS = '10.4.4.4';
const conditions: Scenario = {
  name: 'a path for each condition',
  policies: [
    ['request-headers', 'request.headers[x-foo]', ['foo'], ['bar']],
    ['source-ip', 'source.ip', ['10.1.1.1'], ['10.2.2.2']],
    ['source-namespace', 'source.namespace', ['ns1'], ['ns2']],
    ['source-principal', 'source.principal', ['cluster.local/ns/ns1/sa/a'], ['cluster.local/ns/ns2/sa/a']],
    ['source-trust-domain', 'source.trustDomain', ['cluster.local'], ['bad.example.com']],
    ['destination-ip', 'destination.ip', [ADDRESS], [ADDRESS]],
    ['destination-port', 'destination.port', ['18080'], ['18080']],
    ['connection-sni', 'connection.sni', ['*.shop.svc.cluster.local'], ['*.shop.svc.cluster.local']],
  ].map(([name, key, values, notValues]) =>
    policy(
      {
        rules: [
          { ...operation({ paths: [`/${String(name)}`] }), ...when([String(key), values]) },
          {
            ...operation({ paths: [`/${String(name)}-notValues`] }),
            ...when([String(key), undefined, notValues]),
          },
        ],
      },
      { name },
    ),
  ),
  common: { to: ADDRESS, sni: 'web.shop.svc.cluster.local' },
  asked: [
    ['the header', { ...A, ...web('/request-headers', { headers: { 'x-foo': 'foo' } }) }, 'allow'],
    [
      'the header with another value',
      { ...A, ...web('/request-headers', { headers: { 'x-foo': 'bar' } }) },
      'deny',
    ],
    ['no header', { ...A, ...web('/request-headers') }, 'deny'],
    [
      'the not header',
      { ...A, ...web('/request-headers-notValues', { headers: { 'x-foo': 'foo' } }) },
      'allow',
    ],
    [
      'the not header with that value',
      { ...A, ...web('/request-headers-notValues', { headers: { 'x-foo': 'bar' } }) },
      'deny',
    ],
    ['the address', { ...A, ip: '10.1.1.1', ...web('/source-ip') }, 'allow'],
    ['another address', { ...B, ip: '10.2.2.2', ...web('/source-ip') }, 'deny'],
    ['the not address', { ...A, ip: '10.1.1.1', ...web('/source-ip-notValues') }, 'allow'],
    ['the not address, it', { ...B, ip: '10.2.2.2', ...web('/source-ip-notValues') }, 'deny'],
    ['the namespace', { ...A, ...web('/source-namespace') }, 'allow'],
    ['another namespace', { ...B, ...web('/source-namespace') }, 'deny'],
    ['the not namespace', { ...A, ...web('/source-namespace-notValues') }, 'allow'],
    ['the not namespace, it', { ...B, ...web('/source-namespace-notValues') }, 'deny'],
    ['the principal', { ...A, ...web('/source-principal') }, 'allow'],
    ['another principal', { ...B, ...web('/source-principal') }, 'deny'],
    ['the not principal', { ...A, ...web('/source-principal-notValues') }, 'allow'],
    ['the not principal, it', { ...B, ...web('/source-principal-notValues') }, 'deny'],
    ['the trust domain', { ...B, ...web('/source-trust-domain') }, 'allow'],
    ['the not trust domain', { ...B, ...web('/source-trust-domain-notValues') }, 'allow'],
    ['the destination', { ...A, ...web('/destination-ip') }, 'allow'],
    ['the not destination', { ...A, ...web('/destination-ip-notValues') }, 'deny'],
    ['another destination', { ...A, to: '1.2.3.4', ...web('/destination-ip') }, 'deny'],
    ['the port', { ...A, ...web('/destination-port') }, 'allow'],
    ['the not port', { ...A, ...web('/destination-port-notValues') }, 'deny'],
    ['another port', { ...A, ...web('/destination-port', {}, 1) }, 'deny'],
    ['the SNI', { ...A, ...web('/connection-sni') }, 'allow'],
    ['the not SNI', { ...A, ...web('/connection-sni-notValues') }, 'deny'],
    ['another path', { ...A, ...web('/other') }, 'deny'],
  ],
};

const oneOf = (
  name: string,
  metadata: Record<string, unknown>,
  spec: Record<string, unknown> = {},
): unknown => policy({ ...spec, rules: [operation({ paths: [`/policy-${name}`] })] }, { name, ...metadata });

const workloads: Scenario = {
  name: 'policies of workload, namespace and mesh, each with its path',
  policies: [
    oneOf('web', {}, { selector: { matchLabels: { app: 'web' } } }),
    oneOf('bad', {}, { selector: { matchLabels: { app: 'web', foo: 'bla' } } }),
    oneOf('x', {}, { selector: { matchLabels: { app: 'x' } } }),
    oneOf('all', {}),
    oneOf('other', { namespace: 'ns2' }),
    oneOf('mesh', { namespace: 'istio-system' }),
    oneOf('mesh-web', { namespace: 'istio-system' }, { selector: { matchLabels: { app: 'web' } } }),
    oneOf('mesh-x', { namespace: 'istio-system' }, { selector: { matchLabels: { app: 'x' } } }),
  ],
  asked: [
    ['its own', web('/policy-web'), 'allow'],
    ['one that asks for a label more', web('/policy-bad'), 'deny'],
    ['another workload’s', web('/policy-x'), 'deny'],
    ['the namespace’s', web('/policy-all'), 'allow'],
    ['another namespace’s', web('/policy-other'), 'deny'],
    ['the mesh’s', web('/policy-mesh'), 'allow'],
    ['the mesh’s for it', web('/policy-mesh-web'), 'allow'],
    ['the mesh’s for another', web('/policy-mesh-x'), 'deny'],
    ['none', web('/'), 'deny'],
  ],
};

const token = { headers: { authorization: 'Bearer aaa.bbb.ccc' } };
const tokens: Scenario = {
  name: 'rules by token, of which there is never one',
  policies: [
    policy({
      rules: [
        { ...operation({ paths: ['/token1'] }), ...source({ requestPrincipals: ['issuer/sub-1'] }) },
        { ...operation({ paths: ['/token2'] }), ...when(['request.auth.claims[groups]', ['group-2']]) },
        { ...operation({ paths: ['/token3'] }), ...source({ notRequestPrincipals: ['issuer/sub-1'] }) },
        { ...operation({ paths: ['/valid-jwt'] }), ...when(['request.auth.principal', ['*']]) },
        { ...operation({ paths: ['*/audiences'] }), ...when(['request.auth.audiences', ['foo']]) },
      ],
    }),
  ],
  asked: [
    ['its principal', web('/token1', token), 'deny'],
    ['its claim', web('/token2', token), 'deny'],
    ['not its principal', web('/token3'), 'allow'],
    ['any', web('/valid-jwt', token), 'deny'],
    ['its audience', web('/a/audiences', token), 'deny'],
  ],
};

const ambient: Scenario = {
  name: 'an ALLOW with most fields, a DENY by path',
  policies: [
    policy({
      selector: { matchLabels: { app: 'web' } },
      rules: [
        operation({ paths: ['/allowed'], methods: ['GET'] }),
        {
          ...source({ principals: ['cluster.local/ns/ns1/sa/a'] }),
          ...operation({ paths: ['/allowed-identity'], methods: ['GET'] }),
        },
        {
          ...source({ principals: ['cluster.local/ns/ns1/sa/someone-else'] }),
          ...operation({ paths: ['/denied-identity'], methods: ['GET'] }),
        },
        operation({ methods: ['GET'], paths: ['/allowed-wildcard*'] }),
        {
          ...operation({ methods: ['GET'], paths: ['/headers'] }),
          ...when(['request.headers[x-test-header]', ['match'], ['do-not-match']]),
        },
        operation({ methods: ['POST'] }),
      ],
    }),
    policy(
      {
        action: 'DENY',
        selector: { matchLabels: { app: 'web' } },
        rules: [operation({ paths: ['/explicit-deny'] })],
      },
      { name: 'deny' },
    ),
  ],
  asked: [
    ['no rule', { ...A, ...web('/deny') }, 'deny'],
    ['a path', { ...A, ...web('/allowed') }, 'allow'],
    ['a path in plaintext', { ...PLAINTEXT, ...web('/allowed') }, 'allow'],
    ['another’s path', { ...A, ...web('/denied-identity') }, 'deny'],
    ['its own path', { ...A, ...web('/allowed-identity') }, 'allow'],
    ['its own path in plaintext', { ...PLAINTEXT, ...web('/allowed-identity') }, 'deny'],
    ['POST to the denied path', { ...A, ...web('/explicit-deny', { method: 'POST' }) }, 'deny'],
    ['POST elsewhere', { ...A, ...web('/any', { method: 'POST' }) }, 'allow'],
    ['a wildcard', { ...A, ...web('/allowed-wildcardtest') }, 'allow'],
    ['a header', { ...A, ...web('/headers', { headers: { 'x-test-header': 'match' } }) }, 'allow'],
    [
      'a header that must not be',
      { ...A, ...web('/headers', { headers: { 'x-test-header': 'do-not-match' } }) },
      'deny',
    ],
    ['no header', { ...A, ...web('/headers') }, 'deny'],
    ['bytes', { ...A, port: 18_080 }, 'deny'],
  ],
};

const SELECTED = { matchLabels: { app: 'backend' } };
const example: Scenario = {
  name: 'STRICT everywhere, and a backend for one identity',
  peers: [
    peerAuthentication({ mtls: { mode: 'STRICT' } }, { name: 'default', namespace: 'istio-system' }),
    peerAuthentication({ mtls: { mode: 'STRICT' } }, { name: 'default', namespace: 'production' }),
  ],
  policies: [
    policy(
      {
        selector: SELECTED,
        action: 'ALLOW',
        rules: [
          {
            ...source({ principals: ['cluster.local/ns/production/sa/frontend'] }),
            ...operation({ methods: ['GET', 'POST'], paths: ['/api/*'] }),
          },
        ],
      },
      { name: 'backend-access', namespace: 'production' },
    ),
  ],
  common: { namespace: 'production', labels: { app: 'backend' }, from: id('production', 'frontend') },
  asked: [
    ['GET on the API', web('/api/x'), 'allow'],
    ['POST on the API', web('/api/x', { method: 'POST' }), 'allow'],
    ['DELETE on the API', web('/api/x', { method: 'DELETE' }), 'deny'],
    ['GET elsewhere', web('/admin'), 'deny'],
    ['GET elsewhere, dressed up', web('/api/../admin'), 'deny'],
    ['another identity', { ...web('/api/x'), from: id('production', 'other') }, 'deny'],
    ['plaintext', { ...web('/api/x'), ...PLAINTEXT }, 'deny'],
    ['bytes', { port: 18_080 }, 'deny'],
    ['another workload', { ...web('/admin'), labels: { app: 'x' } }, 'allow'],
    ['another workload in plaintext', { ...web('/admin'), ...PLAINTEXT, labels: { app: 'x' } }, 'deny'],
    ['another namespace in plaintext', { ...web('/'), ...PLAINTEXT, namespace: 'x' }, 'deny'],
  ],
};

const SCENARIOS: readonly Scenario[] = [
  allowed('principal', { principals: ['cluster.local/ns/ns1/sa/a'] }),
  allowed('namespace', { namespaces: ['ns1'] }),
  allowed('service account', { serviceAccounts: ['ns1/a'] }),
  denied('principal', { principals: ['cluster.local/ns/ns2/sa/a'] }),
  denied('namespace', { namespaces: ['ns2'] }),
  conditions,
  workloads,
  tokens,
  ambient,
  example,
];

export const scenarioCases: readonly Case[] = SCENARIOS.flatMap(({ name, policies, peers, common, asked }) =>
  asked.map(([what, request, verdict]) => ({
    name: `${name}: ${what}`,
    policies,
    ...(peers === undefined ? {} : { peers }),
    request: { ...common, ...request },
    verdict,
  })),
);
