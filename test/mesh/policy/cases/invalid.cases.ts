/** What admission would refuse: an ALLOW of it never matches, a DENY of it is lost and told (SEMANTICS.md 1.2, 1.13). */
import { allow, deny, operation, policy, source, when } from '../kit.ts';
import type { Case } from '../kit.ts';

const MANY = Array.from({ length: 17 }, (_, i) => `shop/a${i}`);

const RULES: readonly (readonly [string, unknown])[] = [
  ['a rule that is null', null],
  ['a rule that is text', 'x'],
  ['an unknown field', { form: [] }],
  ['an entry of from without source', { from: [{}] }],
  ['an entry of from that is null', { from: [null] }],
  ['an empty source', source({})],
  ['a source with empty lists only', source({ principals: [], namespaces: null })],
  ['an entry of to without operation', { to: [{}] }],
  ['an empty operation', operation({})],
  ['an empty source beside a full one', source({ namespaces: ['shop'] }, {})],
  ['an unknown field in a source', source({ principal: ['x'] })],
  ['an unknown field in an operation', operation({ port: ['80'] })],
  ...[
    'principals',
    'requestPrincipals',
    'namespaces',
    'serviceAccounts',
    'ipBlocks',
    'remoteIpBlocks',
    'trustDomains',
  ].flatMap((field): [string, unknown][] => [
    [`an empty value in ${field}`, source({ [field]: ['10.0.0.1', ''] })],
    [
      `an empty value in the not twin of ${field}`,
      source({ [`not${field.charAt(0).toUpperCase()}${field.slice(1)}`]: ['10.0.0.1', ''] }),
    ],
  ]),
  ...['hosts', 'ports', 'methods', 'paths'].flatMap((field): [string, unknown][] => [
    [`an empty value in ${field}`, operation({ [field]: ['80', ''] })],
    [
      `an empty value in the not twin of ${field}`,
      operation({ [`not${field.charAt(0).toUpperCase()}${field.slice(1)}`]: ['80', ''] }),
    ],
  ]),
  ['text where a list is wanted', source({ principals: '*' })],
  ['a port that is a number', operation({ ports: [8080] })],
  ['a port that is a name', operation({ ports: ['8080', 'http'] })],
  ['a port that is a range', operation({ ports: ['8080-8090'] })],
  ['a port that is too high', operation({ ports: ['8080', '91234'] })],
  ['a negative port', operation({ ports: ['-80'] })],
  ['a port with a sign', operation({ ports: ['+8080'] })],
  ['a not port that is none', operation({ notPorts: ['90', 'port2'] })],
  ['an address that is none', source({ ipBlocks: ['10.0.0.1', 'ip1'] })],
  ['a not address that is none', source({ notIpBlocks: ['5.6.7.8', 'ip2'] })],
  ['an address with too few numbers', source({ ipBlocks: ['10.0.0'] })],
  ['an address with leading zeros', source({ ipBlocks: ['010.0.0.1'] })],
  ['a wildcard in an address', source({ ipBlocks: ['10.0.0.*'] })],
  ['a range that is too long', source({ ipBlocks: ['10.0.0.0/33'] })],
  ['an IPv6 range that is too long', source({ ipBlocks: ['::/129'] })],
  ['a remote address that is none', source({ remoteIpBlocks: ['1.2.3.4', 'ip1'] })],
  ['service accounts beside namespaces', source({ serviceAccounts: ['shop/front'], namespaces: ['shop'] })],
  ['service accounts beside principals', source({ serviceAccounts: ['shop/front'], principals: ['*'] })],
  [
    'service accounts beside notNamespaces',
    source({ serviceAccounts: ['shop/front'], notNamespaces: ['x'] }),
  ],
  [
    'not service accounts beside notPrincipals',
    source({ notServiceAccounts: ['x/y'], notPrincipals: ['z'] }),
  ],
  ['a service account with two slashes', source({ serviceAccounts: ['too/many/slashes'] })],
  ['a service account without namespace', source({ serviceAccounts: ['/front'] })],
  ['a service account without name', source({ serviceAccounts: ['shop/'] })],
  ['a wildcard in a service account', source({ serviceAccounts: ['shop/*'] })],
  ['more than 16 service accounts', source({ serviceAccounts: [...MANY, 'shop/front'] })],
  ['a service account of more than 320 characters', source({ serviceAccounts: [`shop/${'a'.repeat(320)}`] })],
  ['a trust domain with a slash', source({ trustDomains: ['cluster.local/ns/shop'] })],
  ['a trust domain with its scheme', source({ trustDomains: ['spiffe://cluster.local'] })],
  ['a trust domain with a star inside', source({ trustDomains: ['clu*-local', '*'] })],
  ['a trust domain with two stars', source({ notTrustDomains: ['*x*'] })],
  ['source.trustDomain with a star inside', when(['source.trustDomain', ['fo*-bar', '*']])],
  ['source.trustDomain with two stars', when(['source.trustDomain', ['fo*bar*', '*']])],
  ['a condition without key', { when: [{ values: ['v1'] }] }],
  ['a condition with an empty key', when(['', ['v1']])],
  ['a condition without values', when(['source.principal', undefined])],
  ['a condition with empty lists', when(['source.principal', [], []])],
  ['a condition with an empty value', when(['request.headers[:authority]', ['v1', '']])],
  ['a condition that is null', { when: [null] }],
  ['source.ip with what is no address', when(['source.ip', ['a.b.c.d']])],
  ['source.ip with a not value that is none', when(['source.ip', undefined, ['a.b.c.d']])],
  ['destination.ip with what is no address', when(['destination.ip', ['a.b.c.d']])],
  ['remote.ip with what is no address', when(['remote.ip', ['a.b.c.d']])],
  ['destination.port with what is no port', when(['destination.port', ['8080', 'x']])],
  ['source.serviceAccount with two slashes', when(['source.serviceAccount', ['too/many/slashes']])],
  ['source.serviceAccount without namespace', when(['source.serviceAccount', ['/emptyns']])],
  ['source.serviceAccount without name', when(['source.serviceAccount', ['emptysa/']])],
  ...[
    'key1',
    'source.user',
    'Source.ip',
    'source.serviceaccount',
    'destination.labels[app]',
    'destination.name',
    'destination.namespace',
    'destination.user',
    'request.headers[]',
    'request.headers',
    'request.headers[x',
    'request.auth.claims[]',
    'request.auth.claims',
    'experimental.envoy.filters.a.b.x',
    'toString',
    '__proto__',
  ].map((key) => [`the condition ${key}`, when([key, ['*']])] as const),
  ...[
    '/foo/{**}buzz/bar',
    '/{*}/foo/{}/bar',
    '/foo/{*}/bar/*',
    '/foo/{*}/bar/**/buzz',
    '/foo/{buzz}/bar',
    '/{buzz}',
    '/foo/{buzz}/bar/{**}',
    '/foo/{buzz=*}/bar/{**}',
    '/{*}/foo/{**}bar',
    '/{*}/foo/{*}.txt',
    '/{*}/foo/{temp',
    '/{*}/foo/temp}/bar',
    '/{**}/foo/temp/{*}/bar',
    '/{**}/{**}',
    '/{**}/foo/temp/{**}/bar',
    '/{*}/foo/?abc',
    '/{*}/a b',
    '/{*}//a',
    'foo/{*}',
    '{**}',
  ].flatMap((path): [string, unknown][] => [
    [`the path ${path}`, operation({ paths: ['*', path] })],
    [`the not path ${path}`, operation({ notPaths: [path] })],
  ]),
];

const PATHS = ['/', '/foo/buzz/bar', '/foo/x/bar/*'];

const rules = RULES.flatMap(([what, rule]): Case[] => [
  {
    name: `${what}: no ALLOW by it`,
    policies: [allow(rule)],
    request: { http: { path: PATHS[1] ?? '' } },
    verdict: 'deny',
    by: null,
  },
  {
    name: `${what}: no DENY by it`,
    policies: [deny(rule)],
    request: { http: { path: PATHS[1] ?? '' } },
    verdict: 'allow',
    by: null,
  },
  {
    name: `${what}: the rule behind it stays, and keeps its number`,
    policies: [allow(rule, { ...operation({ ports: ['8080'] }) })],
    request: { http: { path: PATHS[2] ?? '' } },
    verdict: 'allow',
    by: 'AuthorizationPolicy shop/one 1',
  },
]);

const SPECS: readonly (readonly [string, unknown])[] = [
  ['an unknown action', { action: 'PERMIT', rules: [{}] }],
  ['an action in other letters', { action: 'allow', rules: [{}] }],
  ['an unknown field of the spec', { rulez: [], rules: [{}] }],
  ['rules that are no list', { rules: {} }],
  ['a spec that is text', 'x'],
  ['more than 512 rules', { rules: Array.from({ length: 513 }, () => ({})) }],
  ['a selector that is text', { selector: 'x', rules: [{}] }],
];

const specs = SPECS.map(
  ([what, spec]): Case => ({
    name: `${what}: counts as an ALLOW that never matches`,
    policies: [policy(spec)],
    request: {},
    verdict: 'deny',
    by: null,
  }),
);

const others: readonly Case[] = [
  {
    name: 'an invalid ALLOW leaves what another allows',
    policies: [policy({ action: 'PERMIT' }), policy({ rules: [{}] }, { name: 'two' })],
    request: {},
    verdict: 'allow',
    by: 'AuthorizationPolicy shop/two 0',
  },
  {
    name: 'an invalid ALLOW is for those that it selects',
    policies: [policy({ rulez: [], selector: { matchLabels: { app: 'x' } } })],
    request: {},
    verdict: 'allow',
  },
  {
    name: 'an invalid DENY leaves the others in force',
    policies: [
      policy({ action: 'DENY', rulez: [] }),
      policy({ action: 'DENY', rules: [{}] }, { name: 'two' }),
    ],
    request: {},
    verdict: 'deny',
    by: 'AuthorizationPolicy shop/two 0',
  },
  {
    name: 'a provider that only CUSTOM may have does not change an ALLOW',
    policies: [policy({ provider: { name: 'x' }, rules: [{}] })],
    request: {},
    verdict: 'allow',
  },
];

export const invalidCases: readonly Case[] = [...rules, ...specs, ...others];
