/** What the YAML means, case by case (SEMANTICS.md 1 and 2), through the same door as `culvert why --batch`. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { answerLine } from '../../../daemon/cli/policy/batch.ts';

interface Asked {
  readonly from?: string | null;
  readonly ip?: string;
  readonly to?: string;
  readonly port?: number;
  readonly namespace?: string;
  readonly labels?: Record<string, string>;
  readonly sni?: string;
  readonly http?: {
    method?: string;
    path?: string;
    host?: string;
    headers?: Record<string, string | string[]>;
  };
  readonly mesh?: Record<string, unknown>;
  readonly peers?: unknown[];
}

const FRONT = 'spiffe://cluster.local/ns/shop/sa/front';

function policy(spec: unknown, metadata: Record<string, unknown> = {}): unknown {
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'AuthorizationPolicy',
    metadata: { name: 'p', namespace: 'shop', ...metadata },
    spec,
  };
}

function peer(spec: unknown, metadata: Record<string, unknown> = {}): unknown {
  return { kind: 'PeerAuthentication', metadata: { name: 'd', namespace: 'shop', ...metadata }, spec };
}

function ask(policies: unknown[], asked: Asked = {}): ReturnType<typeof answerLine> {
  const {
    from = FRONT,
    ip = '10.0.0.1',
    to = '10.0.0.2',
    port = 80,
    namespace = 'shop',
    labels = { app: 'web' },
  } = asked;
  const http = asked.http && { method: 'GET', path: '/', host: 'web', headers: {}, ...asked.http };
  return answerLine(
    JSON.stringify({
      name: 'case',
      policies,
      peerAuthentications: asked.peers,
      mesh: asked.mesh,
      request: {
        srcPrincipal: from,
        srcIp: ip,
        dstIp: to,
        dstPort: port,
        dstNamespace: namespace,
        dstLabels: labels,
        sni: asked.sni,
        http,
      },
    }),
  );
}

function verdict(policies: unknown[], asked: Asked = {}): string {
  const answer = ask(policies, asked);
  return 'problem' in answer ? assert.fail(answer.problem) : answer.verdict;
}

const allow = (rule: unknown): unknown => policy({ rules: [rule] });
const deny = (rule: unknown): unknown => policy({ action: 'DENY', rules: [rule] });
const source = (fields: unknown): unknown => ({ from: [{ source: fields }] });
const operation = (fields: unknown): unknown => ({ to: [{ operation: fields }] });
const when = (key: string, fields: unknown): unknown => ({ when: [{ key, ...(fields as object) }] });

/** One rule in an ALLOW and in a DENY: what matches is let in by one and turned away by the other. */
function matches(rule: unknown, asked: Asked = {}): boolean {
  const [allowed, denied] = [verdict([allow(rule)], asked), verdict([deny(rule)], asked)];
  assert.notEqual(allowed, denied, `ALLOW says ${allowed}, DENY says ${denied}`);
  return allowed === 'allow';
}

describe('the decision (1.1, 1.2)', () => {
  it('allows without any policy, plaintext too', () => {
    assert.equal(verdict([]), 'allow');
    assert.equal(verdict([], { from: null }), 'allow');
  });

  it('DENY goes before ALLOW; an ALLOW turns on deny by default', () => {
    assert.equal(verdict([allow({}), deny(source({ namespaces: ['shop'] }))]), 'deny');
    assert.equal(verdict([allow(source({ namespaces: ['other'] }))]), 'deny');
    assert.equal(verdict([deny(source({ namespaces: ['other'] }))]), 'allow');
  });

  it('knows allow-nothing, allow-all and deny-all', () => {
    for (const spec of [{}, { rules: null }, { rules: [] }, { action: 'ALLOW', rules: [] }])
      assert.equal(verdict([policy(spec)]), 'deny');
    assert.equal(verdict([policy({ rules: [{}] })]), 'allow');
    assert.equal(verdict([policy({ action: 'DENY', rules: [{}] })]), 'deny');
    assert.equal(verdict([policy({ action: 'DENY' })]), 'allow');
    assert.equal(verdict([policy({ action: 'AUDIT', rules: [{}] })]), 'allow');
  });

  it('denies what a CUSTOM policy matches, and nothing else', () => {
    const custom = policy({
      action: 'CUSTOM',
      provider: { name: 'opa' },
      rules: [operation({ ports: ['80'] })],
    });
    assert.equal(verdict([custom]), 'deny');
    assert.equal(verdict([custom], { port: 81 }), 'allow');
  });

  it('names the rule that decided', () => {
    const answer = ask([policy({ action: 'DENY', rules: [operation({ ports: ['1'] }), {}] })]);
    assert.ok('by' in answer);
    assert.deepEqual(answer.by, { kind: 'AuthorizationPolicy', namespace: 'shop', name: 'p', rule: 1 });
  });
});

describe('an object that is wrong (1.13)', () => {
  const broken = [
    { from: [{ source: {} }] },
    { to: [{ operation: {} }] },
    { from: [{}] },
    source({ principals: [''] }),
    source({ ipBlocks: ['10.0.0.0/33'] }),
    source({ ipBlocks: ['nonsense'] }),
    source({ serviceAccounts: ['a'], namespaces: ['shop'] }),
    source({ serviceAccounts: ['a/b/c'] }),
    source({ newField: ['x'] }),
    operation({ ports: ['http'] }),
    operation({ ports: ['65536'] }),
    operation({ paths: ['/a/{**}/{*}'] }),
    when('destination.labels[app]', { values: ['web'] }),
    when('source.IP', { values: ['10.0.0.1'] }),
    when('source.ip', {}),
    when('request.headers[]', { values: ['x'] }),
  ];
  for (const rule of broken)
    it(`drops the rule ${JSON.stringify(rule)}: no ALLOW by it, and no DENY`, () => {
      assert.equal(verdict([allow(rule)], { http: {} }), 'deny');
      assert.equal(verdict([deny(rule)], { http: {} }), 'allow');
      assert.equal(verdict([policy({ rules: [rule, {}] })], { http: {} }), 'allow', 'the others stay');
    });

  it('an unknown action or field of the spec is an ALLOW that never matches', () => {
    assert.equal(verdict([policy({ action: 'PERMIT', rules: [{}] })]), 'deny');
    assert.equal(verdict([policy({ rulez: [{}] })]), 'deny');
  });
});

describe('source (1.5)', () => {
  it('principals: without spiffe://, exact, prefix, suffix, presence', () => {
    const is = (value: string, asked?: Asked): boolean => matches(source({ principals: [value] }), asked);
    assert.ok(is('cluster.local/ns/shop/sa/front'));
    assert.ok(!is(FRONT));
    assert.ok(is('*/sa/front'));
    assert.ok(is('cluster.local/ns/sh*'));
    assert.ok(is('*'));
    assert.ok(!is('*', { from: null }));
    assert.ok(!is('cluster.local/ns/shop/sa/fron'));
    assert.ok(!is('cluster.local/*/sa/front'), 'a wildcard inside is literal');
  });

  it('a positive field never matches plaintext, a negative one always does', () => {
    for (const field of ['Principals', 'Namespaces', 'ServiceAccounts', 'TrustDomains']) {
      const positive = field.charAt(0).toLowerCase() + field.slice(1);
      assert.ok(!matches(source({ [positive]: ['x'] }), { from: null }), positive);
      assert.ok(matches(source({ [`not${field}`]: ['x'] }), { from: null }), `not${field}`);
    }
    assert.ok(matches(source({ notPrincipals: ['*'] }), { from: null }));
    assert.ok(!matches(source({ notPrincipals: ['*'] })));
  });

  it('namespaces: of the certificate', () => {
    assert.ok(matches(source({ namespaces: ['shop'] })));
    assert.ok(matches(source({ namespaces: ['sh*'] })));
    assert.ok(!matches(source({ namespaces: ['s*p'] })));
    assert.ok(!matches(source({ notNamespaces: ['shop'] })));
  });

  it('serviceAccounts: ns/sa, or sa of the policy’s own namespace, whatever the trust domain', () => {
    assert.ok(matches(source({ serviceAccounts: ['shop/front'] })));
    assert.ok(matches(source({ serviceAccounts: ['front'] })));
    assert.ok(matches(source({ serviceAccounts: ['front'] }), { from: 'spiffe://other/ns/shop/sa/front' }));
    const root = policy({ rules: [source({ serviceAccounts: ['front'] })] }, { namespace: 'istio-system' });
    assert.equal(verdict([root]), 'deny');
    assert.equal(verdict([root], { from: 'spiffe://cluster.local/ns/istio-system/sa/front' }), 'allow');
  });

  it('ipBlocks: address or range, host bits ignored, families apart', () => {
    assert.ok(matches(source({ ipBlocks: ['10.0.0.1'] })));
    assert.ok(matches(source({ ipBlocks: ['10.0.0.77/24'] })));
    assert.ok(!matches(source({ ipBlocks: ['10.0.1.0/24', '::/0'] })));
    assert.ok(matches(source({ ipBlocks: ['fd00::/8'] }), { ip: 'fd00::1' }));
    assert.ok(!matches(source({ notIpBlocks: ['10.0.0.0/8'] })));
  });

  it('trustDomains', () => {
    assert.ok(matches(source({ trustDomains: ['cluster.local'] })));
    assert.ok(matches(source({ trustDomains: ['cluster.*'] })));
    assert.ok(matches(source({ notTrustDomains: ['other'] })));
  });

  it('fields are ANDed, values ORed, entries ORed', () => {
    assert.ok(!matches(source({ namespaces: ['shop'], ipBlocks: ['10.9.0.0/16'] })));
    assert.ok(matches(source({ namespaces: ['x', 'shop'] })));
    assert.ok(matches({ from: [{ source: { namespaces: ['x'] } }, { source: { ipBlocks: ['10.0.0.1'] } }] }));
    assert.ok(!matches(source({ principals: ['*'], notPrincipals: ['*/sa/front'] })));
  });

  it('a JWT is always absent', () => {
    const http = {};
    assert.ok(!matches(source({ requestPrincipals: ['*'] }), { http }));
    assert.ok(matches(source({ notRequestPrincipals: ['*'] }), { http }));
    assert.ok(!matches(when('request.auth.claims[iss]', { values: ['*'] }), { http }));
    assert.ok(matches(when('request.auth.claims[a][b]', { notValues: ['x'] }), { http }));
  });

  it('an identity of another form than Istio’s is none', () => {
    assert.ok(!matches(source({ principals: ['*'] }), { from: 'spiffe://cluster.local/db' }));
  });
});

describe('operation (1.6)', () => {
  it('ports: the workload’s', () => {
    assert.ok(matches(operation({ ports: ['80', '81'] })));
    assert.ok(!matches(operation({ notPorts: ['80'] })));
  });

  it('hosts without regard to case, the port being part of it', () => {
    const is = (value: string, host: string): boolean =>
      matches(operation({ hosts: [value] }), { http: { host } });
    assert.ok(is('Example.com', 'eXample.COM'));
    assert.ok(!is('example.com', 'example.com:8080'));
    assert.ok(is('example.com:*', 'example.com:8080'));
    assert.ok(is('*.example.com', 'a.EXAMPLE.com'));
  });

  it('methods with regard to case', () => {
    assert.ok(matches(operation({ methods: ['GET'] }), { http: {} }));
    assert.ok(!matches(operation({ methods: ['get'] }), { http: {} }));
    assert.ok(matches(operation({ methods: ['P*'] }), { http: { method: 'POST' } }));
    assert.ok(matches(operation({ notMethods: ['POST'] }), { http: {} }));
  });

  it('paths: prefix, suffix, without query, with regard to case', () => {
    const is = (value: string, path: string): boolean =>
      matches(operation({ paths: [value] }), { http: { path } });
    assert.ok(is('/api/*', '/api/'));
    assert.ok(!is('/api/*', '/api'));
    assert.ok(is('*.html', '/a/b.html?x=/y'));
    assert.ok(!is('/A', '/a'));
    assert.ok(is('/a', '/a#f'));
    assert.ok(is('/svc.Echo/Say', 'http://host/svc.Echo/Say'));
  });

  const templates: readonly [string, readonly string[], readonly string[]][] = [
    ['/a/{*}', ['/a/b', '/a/*'], ['/a/', '/a', '/a/b/c']],
    ['/a/{**}', ['/a/', '/a/b', '/a/b/c'], ['/a', '/ab']],
    ['/s/{**}/cart', ['/s//cart', '/s/x/cart', '/s/x/y/cart'], ['/s/cart', '/s/x/carts']],
    ['/a/{*}/b/{**}', ['/a/x/b/', '/a/x/b/c/d'], ['/a//b/c', '/a/x/b']],
    ['/{*}', ['/a'], ['/', '/a/b']],
    ['/{**}', ['/', '/a/b'], []],
  ];
  for (const [template, yes, no] of templates)
    it(`the template ${template}`, () => {
      for (const path of yes) assert.ok(matches(operation({ paths: [template] }), { http: { path } }), path);
      for (const path of no) assert.ok(!matches(operation({ paths: [template] }), { http: { path } }), path);
    });
});

describe('conditions (1.7)', () => {
  it('L4 keys', () => {
    assert.ok(matches(when('source.ip', { values: ['10.0.0.0/24'] })));
    assert.ok(matches(when('destination.ip', { values: ['10.0.0.2'] })));
    assert.ok(matches(when('destination.port', { values: ['80'], notValues: ['81'] })));
    assert.ok(!matches(when('destination.port', { notValues: ['80'] })));
    assert.ok(matches(when('source.namespace', { values: ['shop'] })));
    assert.ok(matches(when('source.principal', { values: ['*/front'] })));
    assert.ok(matches(when('source.serviceAccount', { values: ['front'] })));
    assert.ok(matches(when('source.trustDomain', { values: ['cluster.local'] })));
    assert.ok(matches(when('connection.sni', { values: ['*.example'] }), { sni: 'a.example' }));
    assert.ok(!matches(when('connection.sni', { values: ['*'] })));
    assert.ok(matches(when('connection.sni', { notValues: ['x'] })));
  });

  it('headers: names without regard to case, repeated values joined', () => {
    const http = { headers: { 'X-User': ['a', 'b'] } };
    assert.ok(matches(when('request.headers[x-uSer]', { values: ['a,b'] }), { http }));
    assert.ok(!matches(when('request.headers[x-user]', { values: ['a'] }), { http }));
    assert.ok(!matches(when('request.headers[x-none]', { values: ['*'] }), { http }));
    assert.ok(matches(when('request.headers[x-none]', { notValues: ['*'] }), { http }));
    assert.ok(matches(when('request.headers[:authority]', { values: ['web'] }), { http: {} }));
  });

  it('several are ANDed', () => {
    const both = [
      { key: 'source.namespace', values: ['shop'] },
      { key: 'destination.port', values: ['81'] },
    ];
    assert.ok(!matches({ when: both }));
    assert.ok(matches({ when: both }, { port: 81 }));
  });
});

describe('bytes that are not HTTP (1.10, ours)', () => {
  it('match no ALLOW rule with HTTP content', () => {
    assert.equal(
      verdict([
        allow({
          ...(source({ namespaces: ['shop'] }) as object),
          ...(operation({ methods: ['GET'] }) as object),
        }),
      ]),
      'deny',
    );
    assert.equal(
      verdict([allow({ to: [{ operation: { methods: ['GET'] } }, { operation: { ports: ['80'] } }] })]),
      'deny',
    );
  });

  it('match every DENY rule whose other part holds', () => {
    assert.equal(verdict([deny(operation({ methods: ['GET'] }))]), 'deny');
    assert.equal(verdict([deny(operation({ notPaths: ['/x'] }))]), 'deny');
    assert.equal(verdict([deny(operation({ methods: ['GET'], ports: ['81'] }))]), 'allow');
    assert.equal(
      verdict([
        deny({
          ...(source({ namespaces: ['x'] }) as object),
          ...(operation({ methods: ['GET'] }) as object),
        }),
      ]),
      'allow',
    );
    assert.equal(verdict([deny(when('request.headers[x]', { values: ['y'] }))]), 'deny');
  });
});

describe('paths are normalised before they are judged (1.8)', () => {
  const denied = (path: string, pathNormalization: string, pattern = '/admin*'): boolean =>
    verdict([deny(operation({ paths: [pattern] }))], { http: { path }, mesh: { pathNormalization } }) ===
    'deny';
  const cases: readonly [string, readonly string[], readonly string[]][] = [
    ['NONE', ['/admin'], ['/x/../admin', '/%61dmin', '//admin', '\\admin']],
    [
      'BASE',
      ['/x/../admin', '/%61dmin', '/./admin', '/x/%2e%2e/admin', '\\admin'],
      ['//admin', '/%2Fadmin', '/x%2f..%2fadmin'],
    ],
    ['DEFAULT', ['/%61dmin'], ['//admin']],
    ['MERGE_SLASHES', ['//admin', '//x/..//admin'], ['/%2Fadmin']],
    ['DECODE_AND_MERGE_SLASHES', ['/%2Fadmin', '/x%2f..%2Fadmin', '/%5cadmin'], ['/%252fadmin']],
  ];
  for (const [how, yes, no] of cases)
    it(how, () => {
      for (const path of yes) if (path.startsWith('/')) assert.ok(denied(path, how), path);
      for (const path of no) if (path.startsWith('/')) assert.ok(!denied(path, how), path);
    });

  it('refuses a NUL whatever the policies say', () => {
    assert.equal(verdict([allow({})], { http: { path: '/a%00' } }), 'deny');
  });
});

describe('scope (1.9)', () => {
  it('its namespace, its selector; the root namespace is for all, with a selector too', () => {
    assert.equal(verdict([deny({})], { namespace: 'other' }), 'allow');
    const selected = (namespace: string): unknown =>
      policy(
        { action: 'DENY', selector: { matchLabels: { app: 'web', tier: 'a' } }, rules: [{}] },
        { namespace },
      );
    assert.equal(verdict([selected('shop')]), 'allow');
    const labels = { app: 'web', tier: 'a', more: 'x' };
    assert.equal(verdict([selected('shop')], { labels }), 'deny');
    assert.equal(verdict([selected('istio-system')], { labels, namespace: 'other' }), 'deny');
    assert.equal(verdict([selected('root')], { labels, mesh: { rootNamespace: 'root' } }), 'deny');
  });

  it('policies with targetRefs are enforced by no node; an empty selector is none', () => {
    const target = { kind: 'Service', name: 'web' };
    assert.equal(verdict([policy({ targetRefs: [target], rules: [] })]), 'allow');
    assert.equal(verdict([policy({ targetRef: target, action: 'DENY', rules: [{}] })]), 'allow');
    assert.equal(verdict([policy({ selector: {}, action: 'DENY', rules: [{}] })]), 'deny');
  });

  it('dry run is not enforced and starts no deny by default; what is no boolean is enforced', () => {
    const dry = (spec: unknown, value: string): unknown =>
      policy(spec, { annotations: { 'istio.io/dry-run': value } });
    for (const yes of ['true', 'T', '1', 'TRUE']) {
      assert.equal(verdict([dry({ action: 'DENY', rules: [{}] }, yes)]), 'allow');
      assert.equal(verdict([dry({}, yes)]), 'allow');
    }
    for (const no of ['false', '0', 'yes', 'tRue', ''])
      assert.equal(verdict([dry({ action: 'DENY', rules: [{}] }, no)]), 'deny');
  });
});

describe('trust-domain aliases (1.11)', () => {
  const rule = source({ principals: ['cluster.local/ns/shop/sa/front'] });
  const mesh = { trustDomain: 'td1', trustDomainAliases: ['old'] };
  it('expand only when there are any', () => {
    const own = 'spiffe://td1/ns/shop/sa/front';
    assert.ok(!matches(rule, { from: own, mesh: { trustDomain: 'td1' } }));
    assert.ok(matches(rule, { from: own, mesh }));
    assert.ok(matches(rule, { from: 'spiffe://old/ns/shop/sa/front', mesh }));
    assert.ok(!matches(rule, { mesh }), 'cluster.local itself is neither');
  });
});

describe('PeerAuthentication (2.1)', () => {
  const STRICT = { mtls: { mode: 'STRICT' } };
  const PERMISSIVE = { mtls: { mode: 'PERMISSIVE' } };
  const selector = { matchLabels: { app: 'web' } };
  const plain = (peers: unknown[], asked: Asked = {}): string => verdict([], { from: null, peers, ...asked });
  const root = { namespace: 'istio-system' };

  it('is PERMISSIVE by default; mesh, namespace, workload, port: the narrower wins', () => {
    assert.equal(plain([]), 'allow');
    assert.equal(plain([peer(STRICT, root)]), 'deny');
    assert.equal(plain([peer(STRICT, root), peer(PERMISSIVE)]), 'allow');
    assert.equal(plain([peer(PERMISSIVE), peer({ ...STRICT, selector }, { name: 'w' })]), 'deny');
    const ports = { ...STRICT, selector, portLevelMtls: { 80: { mode: 'DISABLE' } } };
    assert.equal(plain([peer(ports)]), 'allow');
    assert.equal(plain([peer(ports)], { port: 81 }), 'deny');
    assert.equal(verdict([], { peers: [peer(STRICT)] }), 'allow', 'mTLS passes');
  });

  it('UNSET and absent inherit', () => {
    for (const spec of [{}, { mtls: {} }, { mtls: { mode: 'UNSET' } }, { mtls: null }]) {
      assert.equal(plain([peer(STRICT, root), peer(spec)]), 'deny');
      assert.equal(plain([peer(spec, root)]), 'allow');
    }
    const port = { selector, portLevelMtls: { 80: { mode: 'UNSET' }, 81: {} } };
    assert.equal(plain([peer(STRICT), peer(port, { name: 'w' })]), 'deny');
  });

  it('the oldest of a level counts wholly, never merged', () => {
    const at = (creationTimestamp: string, name: string): Record<string, unknown> => ({
      creationTimestamp,
      name,
    });
    const young = peer(PERMISSIVE, at('2026-01-02T00:00:00Z', 'a'));
    const old = peer(STRICT, at('2026-01-01T00:00:00Z', 'b'));
    assert.equal(plain([young, old]), 'deny');
    assert.equal(plain([old, young]), 'deny');
  });

  it('a selector in the root namespace is ignored; ports need one', () => {
    assert.equal(plain([peer({ ...STRICT, selector }, root)]), 'allow');
    assert.equal(plain([peer({ ...STRICT, selector }, root)], root), 'allow');
    assert.equal(plain([peer({ ...PERMISSIVE, portLevelMtls: { 80: STRICT.mtls } })]), 'allow');
  });

  it('no ALLOW lets plaintext into STRICT; DISABLE takes both; what is broken closes', () => {
    assert.equal(verdict([allow({})], { from: null, peers: [peer(STRICT)] }), 'deny');
    assert.equal(verdict([], { peers: [peer({ mtls: { mode: 'DISABLE' } })] }), 'allow');
    assert.equal(plain([peer({ mtls: { mode: 'strict' } })]), 'deny');
  });
});
