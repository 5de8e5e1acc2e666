/** How policies are put together: actions, and what is empty (SEMANTICS.md 1.1, 1.2, 1.12). */
import { PLAINTEXT, allow, deny, id, operation, policy, row, source, when } from '../kit.ts';
import type { Case, Request, Row } from '../kit.ts';

const FRONT: Request = { from: id('shop', 'front') };
const BACK: Request = { from: id('shop', 'back') };
const only = (account: string): { from: unknown } => source({ principals: [`*/sa/${account}`] });

const named = (name: string, spec: unknown, more: Record<string, unknown> = {}): unknown =>
  policy(spec, { name, ...more });

const ORDER: readonly Row[] = [
  ['no policy: all may', [], FRONT, 'allow', null],
  ['no policy: plaintext may', [], PLAINTEXT, 'allow', null],
  ['one ALLOW that matches', [allow(only('front'))], FRONT, 'allow', 'AuthorizationPolicy shop/one 0'],
  ['one ALLOW that does not match', [allow(only('back'))], FRONT, 'deny', null],
  ['one DENY that matches', [deny(only('front'))], FRONT, 'deny', 'AuthorizationPolicy shop/one 0'],
  ['one DENY that does not match', [deny(only('back'))], FRONT, 'allow', null],
  ['an ALLOW without action', [policy({ rules: [only('front')] })], BACK, 'deny', null],
  [
    'DENY goes before ALLOW',
    [named('a', { rules: [{}] }), named('d', { action: 'DENY', rules: [only('front')] })],
    FRONT,
    'deny',
    'AuthorizationPolicy shop/d 0',
  ],
  [
    'what DENY leaves an ALLOW may still allow',
    [named('a', { rules: [only('back')] }), named('d', { action: 'DENY', rules: [only('front')] })],
    BACK,
    'allow',
    'AuthorizationPolicy shop/a 0',
  ],
  [
    'what DENY leaves no ALLOW need allow',
    [named('a', { rules: [only('back')] }), named('d', { action: 'DENY', rules: [only('front')] })],
    { from: id('shop', 'x') },
    'deny',
    null,
  ],
  [
    'one of two ALLOW is enough',
    [named('a', { rules: [only('x')] }), named('b', { rules: [only('front')] })],
    FRONT,
    'allow',
    'AuthorizationPolicy shop/b 0',
  ],
  [
    'one of two rules is enough',
    [allow(only('x'), only('front'))],
    FRONT,
    'allow',
    'AuthorizationPolicy shop/one 1',
  ],
  [
    'a policy for all of the mesh is not undone by one that allows',
    [named('mesh', { action: 'DENY', rules: [only('front')] }, { namespace: 'istio-system' }), allow({})],
    FRONT,
    'deny',
    'AuthorizationPolicy istio-system/mesh 0',
  ],
  [
    'an ALLOW of the mesh and one of the namespace: either may allow',
    [
      named('mesh', { rules: [only('front')] }, { namespace: 'istio-system' }),
      named('own', { rules: [only('x')] }),
    ],
    FRONT,
    'allow',
    'AuthorizationPolicy istio-system/mesh 0',
  ],
  [
    'CUSTOM denies what it matches',
    [
      policy({ action: 'CUSTOM', provider: { name: 'opa' }, rules: [operation({ ports: ['8080'] })] }),
      named('a', { rules: [{}] }),
    ],
    FRONT,
    'deny',
    'AuthorizationPolicy shop/one 0',
  ],
  [
    'CUSTOM leaves alone what it does not match',
    [policy({ action: 'CUSTOM', provider: { name: 'opa' }, rules: [operation({ ports: ['1'] })] })],
    FRONT,
    'allow',
    null,
  ],
  [
    'CUSTOM on a path: that path',
    [policy({ action: 'CUSTOM', provider: { name: 'opa' }, rules: [operation({ paths: ['/custom'] })] })],
    { http: { path: '/custom' } },
    'deny',
  ],
  [
    'CUSTOM on a path: another path',
    [policy({ action: 'CUSTOM', provider: { name: 'opa' }, rules: [operation({ paths: ['/custom'] })] })],
    { http: { path: '/health' } },
    'allow',
  ],
  [
    'CUSTOM is no ALLOW: nothing is denied by default',
    [policy({ action: 'CUSTOM', provider: { name: 'opa' }, rules: [] })],
    FRONT,
    'allow',
    null,
  ],
  ['AUDIT decides nothing', [policy({ action: 'AUDIT', rules: [{}] })], FRONT, 'allow', null],
  [
    'AUDIT is no ALLOW beside one',
    [policy({ action: 'AUDIT', rules: [{}] }), named('a', { rules: [only('x')] })],
    FRONT,
    'deny',
    null,
  ],
];

const EMPTY: readonly Row[] = [
  ['an empty spec allows nothing', [policy({})], FRONT, 'deny', null],
  ['no spec at all allows nothing', [policy(undefined)], FRONT, 'deny', null],
  ['rules null allow nothing', [policy({ rules: null })], FRONT, 'deny', null],
  ['rules [] allow nothing', [policy({ rules: [] })], FRONT, 'deny', null],
  ['action ALLOW alone allows nothing', [policy({ action: 'ALLOW' })], FRONT, 'deny', null],
  [
    'allow-nothing beside an ALLOW that matches',
    [policy({}), named('a', { rules: [only('front')] })],
    FRONT,
    'allow',
  ],
  ['one empty rule allows all', [allow({})], FRONT, 'allow', 'AuthorizationPolicy shop/one 0'],
  ['one empty rule allows plaintext', [allow({})], PLAINTEXT, 'allow'],
  ['one empty rule denies all', [deny({})], FRONT, 'deny', 'AuthorizationPolicy shop/one 0'],
  ['an empty rule behind another', [deny(only('x'), {})], FRONT, 'deny', 'AuthorizationPolicy shop/one 1'],
  ['DENY without rules denies nothing', [policy({ action: 'DENY' })], FRONT, 'allow', null],
  ['DENY with rules [] denies nothing', [policy({ action: 'DENY', rules: [] })], FRONT, 'allow', null],
  ['AUDIT without rules', [policy({ action: 'AUDIT' })], FRONT, 'allow', null],
  ['from null, to null, when null: all', [allow({ from: null, to: null, when: null })], FRONT, 'allow'],
  [
    'an empty list in a field constrains nothing',
    [allow(source({ principals: [], namespaces: ['shop'] }))],
    FRONT,
    'allow',
  ],
  [
    'null in a field constrains nothing',
    [allow(source({ principals: null, namespaces: ['shop'] }))],
    FRONT,
    'allow',
  ],
];

const PRESENT: readonly Row[] = [
  [
    'a DENY that names identities is not for plaintext',
    [deny(source({ namespaces: ['*'] }))],
    PLAINTEXT,
    'allow',
  ],
  [
    'a DENY of all but one namespace is for plaintext too',
    [deny(source({ notNamespaces: ['shop'] }))],
    PLAINTEXT,
    'deny',
  ],
  [
    'an ALLOW of all but one namespace is for plaintext too',
    [allow(source({ notNamespaces: ['x'] }))],
    PLAINTEXT,
    'allow',
  ],
  ['a DENY of what has no identity', [deny(source({ notPrincipals: ['*'] }))], PLAINTEXT, 'deny'],
  [
    'a DENY of what has no identity leaves the others',
    [deny(source({ notPrincipals: ['*'] }))],
    FRONT,
    'allow',
  ],
  [
    'conditions are ANDed',
    [allow(when(['source.namespace', ['shop']], ['destination.port', ['1']]))],
    FRONT,
    'deny',
  ],
];

export const decisionCases: readonly Case[] = [...ORDER, ...EMPTY, ...PRESENT].map(row);
