/** Who asks: principals, namespaces, service accounts, trust domains (SEMANTICS.md 1.3 to 1.5, 1.11). */
import { PLAINTEXT, id, matching, source, when } from '../kit.ts';
import type { Case, Mesh, Request } from '../kit.ts';

const FRONT: Request = { from: id('shop', 'front') };
const OTHER: Request = { from: id('billing', 'back') };
const FOREIGN: Request = { from: id('shop', 'front', 'td-alt') };

const byField: readonly (readonly [string, string, string])[] = [
  ['principals', 'notPrincipals', 'cluster.local/ns/shop/sa/front'],
  ['namespaces', 'notNamespaces', 'shop'],
  ['serviceAccounts', 'notServiceAccounts', 'shop/front'],
];

const byCondition: readonly (readonly [string, string])[] = [
  ['source.principal', 'cluster.local/ns/shop/sa/front'],
  ['source.namespace', 'shop'],
  ['source.serviceAccount', 'shop/front'],
];

const eachField = byField.flatMap(([field, twin, value]) => [
  ...matching({
    name: field,
    rule: source({ [field]: [value] }),
    yes: { 'the one named': FRONT },
    no: { 'another identity': OTHER, 'a plaintext client': PLAINTEXT },
  }),
  ...matching({
    name: twin,
    rule: source({ [twin]: [value] }),
    yes: { 'another identity': OTHER, 'a plaintext client': PLAINTEXT },
    no: { 'the one named': FRONT },
  }),
]);

const eachCondition = byCondition.flatMap(([key, value]) => [
  ...matching({
    name: `${key} values`,
    rule: when([key, [value]]),
    yes: { 'the one named': FRONT },
    no: { 'another identity': OTHER, 'a plaintext client': PLAINTEXT },
  }),
  ...matching({
    name: `${key} notValues`,
    rule: when([key, undefined, [value]]),
    yes: { 'another identity': OTHER, 'a plaintext client': PLAINTEXT },
    no: { 'the one named': FRONT },
  }),
]);

const texts = [
  [
    'prefix',
    'cluster.local/ns/sh*',
    { shop: FRONT, shoppers: { from: id('shoppers', 'x') } },
    { billing: OTHER },
  ],
  [
    'prefix that is the whole',
    'cluster.local/ns/shop/sa/front*',
    { front: FRONT, frontend: { from: id('shop', 'frontend') } },
    { foreign: FOREIGN },
  ],
  [
    'suffix',
    '*/sa/front',
    { 'the account': FRONT, 'the account of another trust domain': FOREIGN },
    { 'another account': OTHER },
  ],
  ['suffix without its slash', '*front', { storefront: { from: id('shop', 'storefront') } }, { back: OTHER }],
  ['presence', '*', { 'any identity': OTHER }, { 'a plaintext client': PLAINTEXT }],
  ['literal star inside', 'cluster.local/*/sa/front', {}, { 'who it seems to mean': FRONT }],
  ['star at both ends is a suffix that ends in a star', '*front*', {}, { 'who it seems to mean': FRONT }],
  ['scheme written out', 'spiffe://cluster.local/ns/shop/sa/front', {}, { 'who it seems to mean': FRONT }],
  ['upper case', 'cluster.local/ns/SHOP/sa/front', {}, { 'lower case': FRONT }],
  ['exact, one letter short', 'cluster.local/ns/shop/sa/fron', {}, { 'the longer one': FRONT }],
] as const;

const principals = texts.flatMap(([what, value, yes, no]) => [
  ...matching({ name: `principals, ${what}`, rule: source({ principals: [value] }), yes, no }),
  ...matching({ name: `source.principal, ${what}`, rule: when(['source.principal', [value]]), yes, no }),
]);

const various = [
  ...matching({
    name: 'notPrincipals *, which is: has no identity',
    rule: source({ notPrincipals: ['*'] }),
    yes: { 'a plaintext client': PLAINTEXT },
    no: { 'any identity': OTHER },
  }),
  ...matching({
    name: 'principals * without notPrincipals of one',
    rule: source({ principals: ['*'], notPrincipals: ['*/sa/front'] }),
    yes: { 'the others': OTHER },
    no: { 'that one': FRONT, 'a plaintext client': PLAINTEXT },
  }),
  ...matching({
    name: 'a field and its not twin name the same',
    rule: source({ namespaces: ['shop'], notNamespaces: ['shop'] }),
    no: { shop: FRONT, another: OTHER, plaintext: PLAINTEXT },
  }),
  ...matching({
    name: 'namespaces with a prefix, a suffix and a name',
    rule: source({ namespaces: ['sh*', '*-prod', 'exact'] }),
    yes: { shop: FRONT, 'bill-prod': { from: id('bill-prod', 'a') }, exact: { from: id('exact', 'a') } },
    no: { prod: { from: id('prod', 'a') }, 'exact-not': { from: id('exact-not', 'a') } },
  }),
  ...matching({
    name: 'namespaces with a star inside',
    rule: source({ namespaces: ['s*p'] }),
    no: { shop: FRONT },
  }),
  ...matching({
    name: 'namespaces are read from the certificate, never from the client’s pod',
    rule: source({ namespaces: ['billing'] }),
    common: { srcNamespace: 'billing' },
    yes: { 'a certificate of billing': OTHER },
    no: { 'a certificate of shop': FRONT, 'a plaintext client': PLAINTEXT },
  }),
  ...matching({
    name: 'namespaces whatever the trust domain',
    rule: source({ namespaces: ['shop'] }),
    yes: { 'another trust domain': FOREIGN },
  }),
  ...matching({
    name: 'serviceAccounts, short: of the policy’s own namespace',
    rule: source({ serviceAccounts: ['front'] }),
    yes: { 'its own': FRONT, 'another trust domain': FOREIGN },
    no: { 'the same name elsewhere': { from: id('billing', 'front') }, plaintext: PLAINTEXT },
  }),
  ...matching({
    name: 'serviceAccounts, short, in the root namespace: of the root namespace',
    rule: source({ serviceAccounts: ['front'] }),
    metadata: { namespace: 'istio-system' },
    yes: { 'its own': { from: id('istio-system', 'front') } },
    no: { 'of the workload’s namespace': FRONT },
  }),
  ...matching({
    name: 'serviceAccounts are literal: no part of a longer name, no regular expression',
    rule: source({ serviceAccounts: ['shop/fr.nt'] }),
    yes: { 'that very name': { from: id('shop', 'fr.nt') } },
    no: { front: FRONT, 'fr.nt-2': { from: id('shop', 'fr.nt-2') } },
  }),
  ...matching({
    name: 'an identity that is not of Istio’s form is none',
    rule: source({ principals: ['*'] }),
    no: {
      'an ID of another form': { from: 'spiffe://cluster.local/db' },
      'an ID with more segments': { from: 'spiffe://cluster.local/ns/shop/sa/front/x' },
      'an ID without its scheme': { from: 'cluster.local/ns/shop/sa/front' },
      'a URL': { from: 'https://cluster.local/ns/shop/sa/front' },
    },
  }),
  ...matching({
    name: 'sources are ORed',
    rule: source({ namespaces: ['billing'] }, { principals: ['*/sa/front'] }),
    yes: { 'the first': OTHER, 'the second': FRONT },
    no: { neither: { from: id('x', 'y') }, plaintext: PLAINTEXT },
  }),
  ...matching({
    name: 'fields of a source are ANDed',
    rule: source({ namespaces: ['shop'], principals: ['*/sa/back'] }),
    no: { 'the one': FRONT, 'the other': OTHER },
    yes: { both: { from: id('shop', 'back') } },
  }),
];

const DOMAINS: readonly (readonly [string, Request, Request])[] = [
  ['cluster.local', FRONT, FOREIGN],
  ['td-*', FOREIGN, FRONT],
  ['*.local', FRONT, FOREIGN],
];

const trustDomains = DOMAINS.flatMap(([value, is, isNot]) => [
  ...matching({
    name: `trustDomains ${value}`,
    rule: source({ trustDomains: [value] }),
    yes: { 'one of it': is },
    no: { 'one of another': isNot, 'a plaintext client': PLAINTEXT },
  }),
  ...matching({
    name: `notTrustDomains ${value}`,
    rule: source({ notTrustDomains: [value] }),
    yes: { 'one of another': isNot, 'a plaintext client': PLAINTEXT },
    no: { 'one of it': is },
  }),
]);

const trustDomainConditions = [
  ...matching({
    name: 'source.trustDomain values and notValues',
    rule: when(['source.trustDomain', ['*'], ['td-alt']]),
    yes: { 'the own': FRONT },
    no: { 'the one taken out': FOREIGN, plaintext: PLAINTEXT },
  }),
];

const MESH: Mesh = { trustDomain: 'td1', trustDomainAliases: ['old-td', 'older-td'] };
const of = (domain: string): Request => ({ from: id('foo', 'bar', domain) });
const named = (value: string): { from: unknown } => source({ principals: [value] });

const aliases = [
  ...matching({
    name: 'without aliases cluster.local is a name like others',
    mesh: { trustDomain: 'td1' },
    rule: named('cluster.local/ns/foo/sa/bar'),
    yes: { 'cluster.local': of('cluster.local') },
    no: { 'the own': of('td1') },
  }),
  ...['cluster.local', 'td1', 'old-td'].flatMap((domain) =>
    matching({
      name: `with aliases ${domain} means the own and each alias`,
      mesh: MESH,
      rule: named(`${domain}/ns/foo/sa/bar`),
      yes: { 'the own': of('td1'), 'an alias': of('old-td'), 'the other alias': of('older-td') },
      no: { 'cluster.local': of('cluster.local'), 'a foreign one': of('x'), plaintext: PLAINTEXT },
    }),
  ),
  ...matching({
    name: 'aliases leave a foreign trust domain alone',
    mesh: MESH,
    rule: named('some-td/ns/foo/sa/bar'),
    yes: { 'it itself': of('some-td') },
    no: { 'the own': of('td1'), 'an alias': of('old-td') },
  }),
  ...matching({
    name: 'a suffix for the trust domain stays, and the others are added',
    mesh: { trustDomain: 'td2', trustDomainAliases: ['foo-td1'] },
    rule: named('*-td1/ns/foo/sa/bar'),
    yes: { 'the alias': of('foo-td1'), 'the own': of('td2'), 'another with the suffix': of('bar-td1') },
    no: { 'one without it': of('td3') },
  }),
  ...matching({
    name: 'a suffix that no own trust domain has stays alone',
    mesh: MESH,
    rule: named('*-zzz/ns/foo/sa/bar'),
    yes: { 'one with it': of('a-zzz') },
    no: { 'the own': of('td1') },
  }),
  ...matching({
    name: 'aliases leave * for the trust domain alone',
    mesh: MESH,
    rule: named('*/ns/foo/sa/bar'),
    yes: { any: of('x'), 'the own': of('td1') },
  }),
  ...matching({
    name: 'aliases leave principals of another shape alone',
    mesh: MESH,
    rule: named('td1/ns/foo*'),
    yes: { 'the own': of('td1') },
    no: { 'an alias': of('old-td') },
  }),
  ...matching({
    name: 'notPrincipals with aliases',
    mesh: MESH,
    rule: source({ notPrincipals: ['td1/ns/foo/sa/bar'] }),
    yes: { 'a foreign one': of('x'), plaintext: PLAINTEXT },
    no: { 'the own': of('td1'), 'an alias': of('old-td') },
  }),
  ...matching({
    name: 'trustDomains with aliases',
    mesh: MESH,
    rule: source({ trustDomains: ['old-td'] }),
    yes: { 'the own': of('td1'), 'an alias': of('older-td') },
    no: { 'a foreign one': of('x') },
  }),
  ...matching({
    name: 'cluster.local among trustDomains is a name like others, also with aliases',
    mesh: MESH,
    rule: source({ trustDomains: ['cluster.local'] }),
    yes: { 'cluster.local': of('cluster.local') },
    no: { 'the own': of('td1') },
  }),
];

export const identityCases: readonly Case[] = [
  ...eachField,
  ...eachCondition,
  ...principals,
  ...various,
  ...trustDomains,
  ...trustDomainConditions,
  ...aliases,
];
