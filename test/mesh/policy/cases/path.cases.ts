/** Paths: values, templates, and what is made of a path before it is compared (SEMANTICS.md 1.6, 1.8). */
import { allow, deny, matching, operation, when } from '../kit.ts';
import type { Case, Request } from '../kit.ts';

const get = (...paths: readonly string[]): Record<string, Request> =>
  Object.fromEntries(paths.map((path) => [path, { http: { path } }]));

type Table = readonly (readonly [string, readonly string[], readonly string[]])[];

const VALUES: Table = [
  [
    '/allow',
    ['/allow', '/allow?param=value', '/allow#x', '/allow?'],
    ['/deny', '/allow/', '/Allow', '/allowed', '/allow%3f'],
  ],
  ['/deny*', ['/deny', '/deny/allow', '/deny?x', '/deny-more'], ['/den', '/x/deny']],
  ['*/suffix', ['/suffix', '/a/suffix', '/a/suffix?q=/x'], ['/suffix/', '/a/suffixes', '/x?/suffix']],
  ['*', ['/', '/any'], []],
  ['/prefix/*', ['/prefix/', '/prefix/a/b'], ['/prefix']],
  ['/a*b', ['/a*b'], ['/axb', '/a', '/ab']],
  ['/query?x=1', [], ['/query', '/query?x=1']],
];

const TEMPLATES: Table = [
  [
    '/allow/admin/{**}',
    [
      '/allow/admin/',
      '/allow/admin/temp',
      '/allow/admin/temp.txt',
      '/allow/admin/foo/temp.txt',
      '/allow/admin//x',
    ],
    ['/allow/admin', '/allow/user/', '/allow/admin?param=value', '/allow', '/x/allow/admin/'],
  ],
  [
    '/foo/{*}/bar/{**}',
    [
      '/foo/buzz/bar/bat.txt',
      '/foo/buzz/bar/bat.temp.txt',
      '/foo/buzz/bar/bat/fuzz.txt',
      '/foo/buzz/bar/bat',
      '/foo/buzz/bar/',
    ],
    ['/foo/bar/bat.txt', '/foo//bar/bat.txt', '/foo/buzz/bar', '/foo/a/b/bar/x'],
  ],
  [
    '/store/{**}/cart',
    ['/store//cart', '/store/foo/cart', '/store/foo/bar/cart'],
    ['/store/cart', '/store/foo/carts', '/store/foo/cart/'],
  ],
  ['/{*}/foo', ['/a/foo'], ['/foo', '//foo', '/a/b/foo', '/a/foo/']],
  ['/{*}/foo/', ['/a/foo/'], ['/a/foo']],
  ['/api/{*}/{*}/{**}', ['/api/v1/1234/broadcasts/get', '/api/v1/1234/'], ['/api/v1/1234', '/api/v1']],
  ['/api/{*}/{*}/', ['/api/v1/1234/'], ['/api/v1/1234', '/api/v1/1234/x']],
  ['/{**}', ['/', '/a', '/a/b'], []],
  ['/{*}', ['/a'], ['/', '/a/b', '/a/']],
  [
    '/{**}/path/template',
    ['//path/template', '/a/path/template', '/a/b/path/template'],
    ['/path/template', '/a/path/templates'],
  ],
  ['/a.b/{*}', ['/a.b/c'], ['/axb/c']],
  ['/$(x)+/{*}', ['/$(x)+/c'], ['/$x+/c', '/$(x)/c']],
  ['/k=v/{*}', ['/k=v/c'], ['/k/c']],
];

const values = [...VALUES, ...TEMPLATES].flatMap(([value, yes, no]) => [
  ...matching({
    name: `paths ${value}`,
    rule: operation({ paths: [value] }),
    yes: get(...yes),
    no: get(...no),
  }),
  ...matching({
    name: `notPaths ${value}`,
    rule: operation({ notPaths: [value] }),
    yes: get(...no),
    no: get(...yes),
  }),
]);

const mixed = [
  ...matching({
    name: 'paths with a value taken out',
    rule: operation({ paths: ['/global-deny*'], notPaths: ['/global-deny/allow'] }),
    yes: get('/global-deny', '/global-deny?param=value', '/global-deny/allow/x'),
    no: get('/global-deny/allow', '/global-deny/allow?param=value', '/allow'),
  }),
  ...matching({
    name: 'values and templates in one list',
    rule: operation({ paths: ['/exact', '/prefix/*', '/t/{*}'], notPaths: ['/t/no', '/prefix/{**}/no'] }),
    yes: get('/exact', '/prefix/a', '/t/a', '/prefix/no'),
    no: get('/t/no', '/prefix/a/no', '/t/a/b'),
  }),
  ...matching({
    name: 'an absolute-form target is its path',
    rule: operation({ paths: ['/a'] }),
    yes: get('http://web.shop/a', 'http://web.shop:8080/a?b'),
    no: get('http://web.shop/b', 'http://web.shop'),
  }),
  ...matching({
    name: 'request.headers[:path] has the query too',
    rule: when(['request.headers[:path]', ['/a?b=1']]),
    yes: get('/a?b=1'),
    no: get('/a', '/a?b=2'),
  }),
];

/** What is sent, and the path that it is under NONE, BASE, MERGE_SLASHES and DECODE_AND_MERGE_SLASHES. */
const FORMS: readonly (readonly [string, string, string, string, string])[] = [
  ['/', '/', '/', '/', '/'],
  ['/app#foo', '/app', '/app', '/app', '/app'],
  ['/app/', '/app/', '/app/', '/app/', '/app/'],
  ['/app/../admin', '/app/../admin', '/admin', '/admin', '/admin'],
  ['/app', '/app', '/app', '/app', '/app'],
  ['/app//', '/app//', '/app//', '/app/', '/app/'],
  ['/app/%2f', '/app/%2f', '/app/%2f', '/app/%2f', '/app/'],
  ['/app%2f/', '/app%2f/', '/app%2f/', '/app%2f/', '/app/'],
  ['/xyz%30..//abc', '/xyz%30..//abc', '/xyz0..//abc', '/xyz0../abc', '/xyz0../abc'],
  ['/app/%2E./admin', '/app/%2E./admin', '/admin', '/admin', '/admin'],
  ['/app\\admin', '/app\\admin', '/app/admin', '/app/admin', '/app/admin'],
  ['/app/\\/\\/\\admin', '/app/\\/\\/\\admin', '/app//////admin', '/app/admin', '/app/admin'],
  [
    '/%2Fapp%5cadmin%5Cabc',
    '/%2Fapp%5cadmin%5Cabc',
    '/%2Fapp%5cadmin%5Cabc',
    '/%2Fapp%5cadmin%5Cabc',
    '/app/admin/abc',
  ],
  [
    '/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc',
    '/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\\abc',
    '/%5Capp%2f%5c%2F..%2fadmin%5c/abc',
    '/%5Capp%2f%5c%2F..%2fadmin%5c/abc',
    '/app/admin/abc',
  ],
  ['/app//../admin', '/app//../admin', '/app/admin', '/app/admin', '/app/admin'],
  ['/app//../../admin', '/app//../../admin', '/admin', '/admin', '/admin'],
  ['/%c0%2e%c0%2e/admin', '/%c0%2e%c0%2e/admin', '/%c0.%c0./admin', '/%c0.%c0./admin', '/%c0.%c0./admin'],
  ['/%c0%2fadmin', '/%c0%2fadmin', '/%c0%2fadmin', '/%c0%2fadmin', '/%c0/admin'],
];

/** What stays as it is, however it is normalised. */
const SAME = [
  '/0x2e0x2e/admin',
  '/0x2e0x2e0x2fadmin',
  '/0x2f0x2fadmin',
  '/0x5c0x5cadmin',
  '/%25c0%25ae%25c0%25ae/admin',
  '/%25c0%25afadmin',
  '/%252e%252e/admin',
  '/%252e%252e%252fadmin',
  '/.../admin',
  '/..../admin',
  '/..;/admin',
  '/;/admin',
  '/admin;a=b',
  '/admin;a=b/xyz',
  '/admin,a=b/xyz',
  '/Admin',
  '/ADMIN',
  '/admin%20x',
  '/admin%3Fx',
  '/admin%23x',
  '/admin%ff',
  '/a%b',
];

const MODES = ['NONE', 'BASE', 'MERGE_SLASHES', 'DECODE_AND_MERGE_SLASHES'] as const;

const normalized = FORMS.flatMap(([sent, ...forms]) =>
  MODES.flatMap((mode, i) => becomes(sent, forms[i] ?? '', mode)),
);

function becomes(sent: string, form: string, pathNormalization: string): readonly Case[] {
  const common = { request: { http: { path: sent } }, mesh: { pathNormalization } };
  return [
    {
      ...common,
      name: `under ${pathNormalization} ${sent} is ${form}: allowed by that name`,
      policies: [allow(operation({ paths: [form] }))],
      verdict: 'allow',
    },
    {
      ...common,
      name: `under ${pathNormalization} ${sent} is ${form}: not denied but by that name`,
      policies: [deny(operation({ notPaths: [form] }))],
      verdict: 'allow',
    },
  ];
}

/** Characters that are written out when escaped. */
const UNRESERVED = ['%2d-', '%2e.', '%5f_', '%7e~', '%7E~', '%300', '%399', '%41A', '%5aZ', '%61a', '%7Az'];

const escapes = UNRESERVED.flatMap((pair) =>
  becomes(`/admin${pair.slice(0, 3)}`, `/admin${pair.slice(3)}`, 'BASE'),
);

const DEFAULTS: readonly Case[] = [
  {
    name: 'paths are normalised as BASE where nothing is said',
    policies: [allow(operation({ paths: ['/public*'] }))],
    request: { http: { path: '/public/%2e%2e/private' } },
    verdict: 'deny',
  },
  {
    name: 'DEFAULT is BASE',
    policies: [allow(operation({ paths: ['/public//x'] }))],
    mesh: { pathNormalization: 'DEFAULT' },
    request: { http: { path: '/public//./x' } },
    verdict: 'allow',
  },
  ...['%00', '/%00x', 'a%00/../b'].map(
    (nul): Case => ({
      name: `a path with ${nul} is answered with 400`,
      policies: [allow(operation({ methods: ['*'] }))],
      request: { http: { path: `/admin${nul}` } },
      verdict: 'deny',
    }),
  ),
];

const public_ = matching({
  name: 'paths /public* and ways around it',
  rule: operation({ paths: ['/public*'], methods: ['GET'] }),
  yes: get('/public', '/public/../public', '/private/../public'),
  no: get(
    '/private',
    '/public/../private',
    '/public/./../private',
    '/public/.././private',
    '/public/%2E%2E/private',
    '/public/%2E/%2E%2E/private',
    '/public/%2e%2e/%2e/private',
    '/public/..',
  ),
});

export const pathCases: readonly Case[] = [
  ...values,
  ...mixed,
  ...normalized,
  ...SAME.flatMap((path) => becomes(path, path, 'DECODE_AND_MERGE_SLASHES')),
  ...escapes,
  ...DEFAULTS,
  ...public_,
];
