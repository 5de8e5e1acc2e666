/** Random policies and requests of few words, so that they meet: about half of all requests match something. */
import fc from 'fast-check';
import type { NaiveHttp, NaiveMesh, Raw } from './naive.ts';

const pick = <T>(...values: readonly T[]): fc.Arbitrary<T> => fc.constantFrom(...values);

const NAMESPACES = ['a', 'a', 'a', 'a', 'ab', 'b'] as const;
export const ROOT = 'root';
const ACCOUNTS = ['x', 'x', 'xy'] as const;
const DOMAINS = ['t', 't', 't', 't', 'u', 'a-t', 'b-t', 'cluster.local'] as const;

/** Mostly what some request has; now and then with a star, or wrong. */
const text = (...words: readonly string[]): fc.Arbitrary<string> =>
  fc.oneof(
    { weight: 6, arbitrary: pick(...words) },
    { weight: 3, arbitrary: pick(...words).map((word) => `${word.slice(0, 1)}*`) },
    { weight: 2, arbitrary: pick(...words).map((word) => `*${word.slice(-1)}`) },
    { weight: 1, arbitrary: pick(...words).map((word) => `${word}*`) },
    { weight: 1, arbitrary: pick('*', '**', '*x*', 'a*b') },
  );

const principalText = fc
  .tuple(pick(...DOMAINS), pick(...NAMESPACES), pick(...ACCOUNTS))
  .map(([t, n, s]) => `${t}/ns/${n}/sa/${s}`);
const principal = fc.oneof(
  { weight: 5, arbitrary: principalText },
  {
    weight: 2,
    arbitrary: fc.tuple(principalText, fc.nat(14)).map(([value, n]) => `${value.slice(0, -n - 1)}*`),
  },
  { weight: 2, arbitrary: fc.tuple(principalText, fc.nat(14)).map(([value, n]) => `*${value.slice(n)}`) },
  {
    weight: 2,
    arbitrary: fc
      .tuple(pick('*', '*t', '*-t', '*-t', 'u', 't*'), principalText)
      .map(([t, value]) => value.replace(/^[^/]+/, t)),
  },
  { weight: 1, arbitrary: pick('*', 'spiffe://t/ns/a/sa/x', 't/ns/a') },
);
const trustDomain = fc.oneof(
  { weight: 6, arbitrary: pick(...DOMAINS) },
  { weight: 2, arbitrary: pick('*', '*t', 'a*', '*-t', 'c*') },
);
const account = pick('x', 'xy', 'a/x', 'b/xy', 'ab/x', 'root/x');
const block = fc.oneof(
  {
    weight: 9,
    arbitrary: pick(
      '10.0.0.1',
      '10.0.0.2/32',
      '10.0.0.0/24',
      '10.0.0.3/30',
      '10.0.1.7/23',
      '0.0.0.0/0',
      '::/0',
      'fd00::1',
      'fd00::/16',
      'fd01::/15',
    ),
  },
  {
    weight: 1,
    arbitrary: pick('::ffff:10.0.0.1', '::ffff:10.0.0.0/120', '10.0.0.2/31', 'fd00:0:0:0:0:0:0:1/128'),
  },
);
const port = pick('80', '80', '81', '0080', '82');
const host = text('h', 'H.k', 'h:80');
const method = text('GET', 'POST', 'get');
const template = pick(
  '/{*}',
  '/{**}',
  '/a/{*}',
  '/a/{**}',
  '/{**}/b',
  '/{*}/b',
  '/a/{*}/b',
  '/{*}/{**}',
  '/{*}/',
  '/a/{**}/b/',
  '/{*}/{*}/{**}/b',
);
const path = fc.oneof(
  { weight: 4, arbitrary: text('/', '/a', '/a/b', '/b', '/a/', '/a//b', '/%2fa', '/a/b/a') },
  { weight: 3, arbitrary: template },
);
const headerValue = text('v', 'w', 'v,w');

/** What is refused at admission, one in many. */
const spoilt = (values: fc.Arbitrary<string>, ...wrong: readonly unknown[]): fc.Arbitrary<unknown> =>
  fc.oneof({ weight: 300, arbitrary: values }, { weight: 1, arbitrary: pick(...wrong, '', 7, null) });

const values = (value: fc.Arbitrary<string>, ...wrong: readonly unknown[]): fc.Arbitrary<unknown[]> =>
  fc.array(spoilt(value, ...wrong), { minLength: 1, maxLength: 3 });

const field = (name: string, given: fc.Arbitrary<unknown>): fc.Arbitrary<readonly [string, unknown]> =>
  fc.tuple(pick(name, name, name, `not${name.charAt(0).toUpperCase()}${name.slice(1)}`), given);

/** One, sometimes two. */
const fewer = <T>(one: fc.Arbitrary<T>): fc.Arbitrary<T[]> =>
  fc.oneof({ weight: 3, arbitrary: fc.tuple(one) }, { weight: 1, arbitrary: fc.tuple(one, one) });

const entry = (...fields: readonly fc.Arbitrary<readonly [string, unknown]>[]): fc.Arbitrary<unknown> =>
  fewer(fc.oneof(...fields)).map((pairs) => Object.fromEntries(pairs));

const source = entry(
  field('principals', values(principal)),
  field('namespaces', values(text(...NAMESPACES))),
  field('trustDomains', values(trustDomain, 't/x', '*t*')),
  field('serviceAccounts', values(account, 'a/*', 'a/b/c')),
  field('ipBlocks', values(block, '10.0.0', '10.0.0.0/33', '010.0.0.1')),
  field('remoteIpBlocks', values(block, 'x')),
  field('requestPrincipals', values(pick('*', 'i/s'))),
  fc.constant(['principals', []] as const),
);
const operation = entry(
  field('ports', values(port, '65536', 'http')),
  field('hosts', values(host)),
  field('methods', values(method)),
  field('paths', values(path, '/{x}', '/a/{**}/{*}', '/{*}b', '{*}')),
);

const CONDITIONS: readonly (readonly [string, fc.Arbitrary<string>])[] = [
  ['source.ip', block],
  ['remote.ip', block],
  ['destination.ip', block],
  ['source.namespace', text(...NAMESPACES)],
  ['source.principal', principal],
  ['source.serviceAccount', account],
  ['source.trustDomain', trustDomain],
  ['destination.port', port],
  ['connection.sni', text('s', 'sn')],
  ['request.headers[K]', headerValue],
  ['request.headers[:authority]', host],
  ['request.headers[:method]', method],
  ['request.auth.principal', pick('*')],
  ['request.auth.claims[a][b]', pick('*', 'v')],
];
const condition = fc.oneof(
  ...CONDITIONS.map(([key, value]) =>
    fc.oneof(
      { weight: 5, arbitrary: fc.record({ key: fc.constant(key), values: values(value) }) },
      { weight: 2, arbitrary: fc.record({ key: fc.constant(key), notValues: values(value) }) },
      {
        weight: 1,
        arbitrary: fc.record({ key: fc.constant(key), values: values(value), notValues: values(value) }),
      },
    ),
  ),
);

const few = <T>(one: fc.Arbitrary<T>, name: string): fc.Arbitrary<unknown> =>
  fc.array(
    one.map((given) => ({ [name]: given })),
    { minLength: 1, maxLength: 2 },
  );

const rule = fc.oneof(
  {
    weight: 120,
    arbitrary: fc
      .record({
        parts: pick('', 'f', 't', 'w', 'f', 't', 'w', 'ft', 'fw', 'tw', 'ftw'),
        from: few(source, 'source'),
        to: few(operation, 'operation'),
        when: fewer(condition),
      })
      .map(({ parts, from, to, when }): unknown => ({
        ...(parts.includes('f') ? { from } : {}),
        ...(parts.includes('t') ? { to } : {}),
        ...(parts.includes('w') ? { when } : {}),
      })),
  },
  {
    weight: 1,
    arbitrary: pick<unknown>(
      null,
      {},
      { from: [] },
      { from: [{}] },
      { to: [{ operation: {} }] },
      { form: [] },
      { when: [{ key: 'x', values: ['y'] }] },
    ),
  },
);

const selector = fc.option(
  pick<unknown>(
    {},
    { matchLabels: {} },
    { matchLabels: { app: 'p' } },
    { matchLabels: { app: 'p', tier: 'q' } },
  ),
  { nil: undefined, freq: 2 },
);
const namespace = pick('a', 'a', 'a', ROOT, ROOT, 'b');

export const policies: fc.Arbitrary<readonly Raw[]> = fc
  .array(
    fc.record({
      namespace,
      action: fc.oneof(
        { weight: 8, arbitrary: pick('ALLOW', 'ALLOW', 'DENY') },
        { weight: 1, arbitrary: pick('AUDIT', 'CUSTOM', undefined, 'X') },
      ),
      rules: fc.oneof(
        { weight: 20, arbitrary: fc.array(rule, { minLength: 1, maxLength: 5, size: 'max' }) },
        { weight: 1, arbitrary: pick<unknown>([], null) },
      ),
      selector,
      more: fc.oneof(
        { weight: 30, arbitrary: fc.constant({}) },
        {
          weight: 1,
          arbitrary: pick<Raw>({ more: 1 }, { targetRefs: [{ kind: 'Service' }] }, { targetRefs: [] }),
        },
      ),
      dryRun: fc.option(pick('true', 'false', 'x', 'T'), { freq: 12, nil: undefined }),
    }),
    { minLength: 1, maxLength: 5, size: 'max' },
  )
  .map((all) =>
    all.map(({ namespace: own, action, rules, selector: selected, more, dryRun }, i) => ({
      metadata: {
        namespace: own,
        name: `p${i}`,
        ...(dryRun === undefined ? {} : { annotations: { 'istio.io/dry-run': dryRun } }),
      },
      spec: {
        ...(action === undefined ? {} : { action }),
        rules,
        ...(selected === undefined ? {} : { selector: selected }),
        ...more,
      },
    })),
  );

const mtls = fc.option(
  pick('STRICT', 'STRICT', 'PERMISSIVE', 'DISABLE', 'UNSET').map((mode) => ({ mode })),
  { nil: null },
);
const labels = pick<unknown>(undefined, { matchLabels: {} }, { matchLabels: { app: 'p' } });

export const peers: fc.Arbitrary<readonly Raw[]> = fc
  .array(
    fc.record({
      namespace,
      selector: labels,
      mtls,
      port: pick('80', '81'),
      portMtls: mtls,
      second: pick(1, 2),
    }),
    { maxLength: 3 },
  )
  .map((all) =>
    all.map(({ namespace: own, selector: selected, mtls: mode, port: at, portMtls, second }, i) => ({
      metadata: { namespace: own, name: `d${i}`, creationTimestamp: `2026-01-01T00:00:0${second}Z` },
      spec: {
        ...(selected === undefined ? {} : { selector: selected }),
        mtls: mode,
        portLevelMtls: { [at]: portMtls },
      },
    })),
  );

export const mesh: fc.Arbitrary<NaiveMesh> = fc.record({
  rootNamespace: fc.constant(ROOT),
  trustDomain: pick('t', 'cluster.local'),
  aliases: pick<readonly string[]>([], ['u'], ['a-t'], ['a-t', 'u']),
  normalization: pick('NONE', 'BASE', 'MERGE_SLASHES', 'DECODE_AND_MERGE_SLASHES'),
});

/** Requests are all combinations of these. */
export interface Asked {
  readonly who: readonly (string | null)[];
  readonly addresses: readonly string[];
  readonly ports: readonly number[];
  readonly workloads: readonly {
    readonly namespace: string;
    readonly labels: Readonly<Record<string, string>>;
  }[];
  readonly https: readonly (NaiveHttp | undefined)[];
}

const some = <T>(one: fc.Arbitrary<T>, most: number): fc.Arbitrary<T[]> =>
  fc.array(one, { minLength: 1, maxLength: most, size: 'max' });

const http: fc.Arbitrary<NaiveHttp | undefined> = fc.option(
  fc.record({
    method: pick('GET', 'POST', 'get'),
    path: pick(
      '/',
      '/a',
      '/a/',
      '/a/b',
      '/a//b',
      '/b',
      '/a/b/a',
      '/a/../b',
      '/%61/./b?q=/b',
      '/%2fa',
      '/a%2Fb',
      '/a\\b#x',
      '/b/a/b',
      '/a/%2e%2e/b',
      '/a/b/',
    ),
    host: pick('h', 'H', 'h.K', 'h:80', undefined),
    headers: pick<Readonly<Record<string, string>>>(
      {},
      { k: 'v' },
      { k: 'v,w' },
      { k: 'w' },
      { k: '' },
      { l: 'v' },
    ),
  }),
  { nil: undefined, freq: 5 },
);

export const asked: fc.Arbitrary<Asked> = fc.record({
  who: some(
    fc.option(
      fc.oneof(
        { weight: 24, arbitrary: principalText.map((one) => `spiffe://${one}`) },
        { weight: 1, arbitrary: pick('spiffe://t/x', 't/ns/a/sa/x') },
      ),
      { nil: null, freq: 8 },
    ),
    8,
  ),
  addresses: some(pick('10.0.0.1', '10.0.0.2', '10.0.1.1', 'fd00::1', '::ffff:10.0.0.1', '11.0.0.1'), 4),
  ports: some(pick(80, 81, 82), 3),
  workloads: some(
    fc.record({
      namespace: pick('a', 'a', 'a', 'a', 'b', ROOT),
      labels: pick<Readonly<Record<string, string>>>(
        {},
        { app: 'p' },
        { app: 'p', tier: 'q' },
        { app: 'p', tier: 'q', z: 'z' },
      ),
    }),
    3,
  ),
  https: some(http, 8),
});
