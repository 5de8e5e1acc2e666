import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { z } from 'zod';
import { tempDir } from '../support/tmp.ts';
import { assertGolden, culvert } from './terminal.ts';
import type { Ran } from './terminal.ts';

const EXAMPLE = join(import.meta.dirname, 'files/policy.yaml');

/** What policies are held against. */
const WORLD = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, ports: [{name: main, containerPort: 8080}, {name: db, containerPort: 7000}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: main}, {name: tcp-db, port: 7000, targetPort: db}]
---
`;

function lintText(text: string, ...flags: readonly string[]): Promise<Ran> {
  return culvert(['lint', '-', ...flags], { stdin: () => Readable.from([Buffer.from(text)]) });
}

const answerSchema = z.object({
  ok: z.boolean(),
  objects: z.number(),
  more: z.number(),
  findings: z.array(
    z.object({
      file: z.string(),
      line: z.number().nullable(),
      severity: z.string(),
      object: z.string(),
      path: z.string(),
      message: z.string(),
    }),
  ),
});

/** `severity path: message` of each finding. */
async function said(text: string, ...flags: readonly string[]): Promise<readonly string[]> {
  const { out, err } = await lintText(text, '--json', ...flags);
  assert.equal(err, '');
  const { findings } = answerSchema.parse(JSON.parse(out));
  return findings.map(({ severity, path, message }) => `${severity} ${path}: ${message}`);
}

function policy(spec: unknown, metadata: object = {}): string {
  return JSON.stringify({
    apiVersion: 'security.istio.io/v1',
    kind: 'AuthorizationPolicy',
    metadata: { name: 'p', namespace: 'shop', ...metadata },
    spec,
  });
}

function peer(spec: unknown, metadata: object = {}): string {
  return JSON.stringify({
    apiVersion: 'security.istio.io/v1',
    kind: 'PeerAuthentication',
    metadata: { name: 'd', namespace: 'shop', ...metadata },
    spec,
  });
}

const from = (source: object, more: object = {}): string =>
  policy({ rules: [{ from: [{ source }] }], ...more });
const to = (operation: object, more: object = {}): string =>
  policy({ rules: [{ to: [{ operation }] }], ...more });

function assertSaid(all: readonly string[], expected: RegExp): void {
  assert.ok(
    all.some((one) => expected.test(one)),
    `${String(expected)} is not among\n  ${all.join('\n  ')}`,
  );
}

describe('culvert lint', () => {
  it('takes what users bring', async () => {
    const { code, out } = await culvert(['lint', EXAMPLE]);
    assert.equal(code, 0);
    assert.match(out, /3 policies: 0 errors, 0 warnings, 1 note\n$/);
  });

  it('names file, line, object and field, as compilers do, with 1 for what is refused', async () => {
    await using folder = await tempDir('lint');
    await writeFile(join(folder.path, 'world.yaml'), WORLD);
    await mkdir(join(folder.path, 'policies'));
    await writeFile(join(folder.path, 'policies', 'a.yaml'), WRONG);
    await writeFile(join(folder.path, 'policies', 'broken.yaml'), 'a: [b\n');
    await writeFile(join(folder.path, 'values.txt'), 'no yaml: [');
    const { code, out } = await culvert(['lint', folder.path]);
    assert.equal(code, 1);
    assertGolden('lint', out.replaceAll(folder.path, 'DIR'));
  });

  it('ends with 2 when a file is not there, and without one', async () => {
    const away = await culvert(['lint', '/nowhere/a.yaml']);
    assert.deepEqual([away.code, away.err], [2, "culvert lint: /nowhere/a.yaml: can't be read: ENOENT\n"]);
    assert.equal((await culvert(['lint'])).code, 2);
    assert.equal((await culvert(['lint', EXAMPLE, '--path-normalization', 'some'])).code, 2);
  });

  it('says when there was nothing to look at', async () => {
    const { code, out } = await lintText(WORLD);
    assert.deepEqual([code, out], [0, 'no policy was found: 0 errors, 0 warnings, 0 notes\n']);
  });

  it('reads no more than it can hold', async () => {
    const { code, out } = await lintText(`# ${'x'.repeat(16 * 1_048_576)}`);
    assert.equal(code, 1);
    assert.match(out, /^-: error: is larger than 16777216 bytes/);
    const bomb = `a: &a [x]\n${Array.from({ length: 200 }, (_, i) => `b${i}: *a`).join('\n')}`;
    assert.match((await lintText(bomb)).out, /^-(:\d+)?: error: is no YAML/);
    const latin = culvert(['lint', '-'], { stdin: () => Readable.from([Buffer.of(0xff, 0xfe)]) });
    assert.match((await latin).out, /^-: error: is not UTF-8/);
  });
});

const WRONG = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: web
  namespace: shop
spec:
  selector:
    matchLabels:
      app: web
  rules:
    - from:
        - source:
            principals:
              - spiffe://cluster.local/ns/shop/sa/front
      to:
        - operation:
            ports: ["80"]
            methods: [get]
    - from:
        - source:
            principal: [x]
---
apiVersion: security.istio.io/v1alpha1
kind: PeerAuthentication
metadata:
  name: default
  namespace: shop
spec:
  mtls:
    mode: strict
`;

describe('culvert lint refuses', () => {
  const refused: readonly (readonly [string, string, RegExp])[] = [
    [
      'an unknown version',
      peer({}).replace('/v1', '/v2'),
      /error apiVersion: must be security.istio.io\/v1 or/,
    ],
    ['no version', policy({}).replace('security.istio.io/v1', ''), /error apiVersion: must be/],
    [
      'a misspelt kind',
      peer({}).replace('PeerAuthentication', 'PeerAuthentification'),
      /error kind: "PeerAuth/,
    ],
    ['a bad name', policy({}, { name: 'A_b' }), /error metadata.name: .*DNS name/],
    ['no name', policy({}, { name: undefined }), /error metadata: can not be read/],
    [
      'a spec in the wrong place',
      policy({}).replace('"spec"', '"rules"'),
      /error rules: unknown field "rules"/,
    ],
    ['an unknown field', from({ principal: ['x'] }), /error .*source: unknown field: "principal"/],
    ['a port by name', to({ ports: ['http'] }), /error .*ports: "http" is no port/],
    [
      'a DENY without rules',
      policy({ action: 'DENY' }),
      /error spec.rules: a DENY without rules never matches/,
    ],
    ['a mode in lower case', peer({ mtls: { mode: 'strict' } }), /error spec.mtls.mode/],
    ['ports without selector', peer({ portLevelMtls: { 80: { mode: 'STRICT' } } }), /needs a selector/],
    [
      'a dry run that is no boolean',
      policy({}, { annotations: { 'istio.io/dry-run': 'yes' } }),
      /no boolean/,
    ],
    [
      'CUSTOM about identities',
      from({ principals: ['*'] }, { action: 'CUSTOM', provider: { name: 'x' } }),
      /error spec.rules\[0\]: CUSTOM must not be about principals/,
    ],
    [
      'a target of another kind',
      policy({ targetRefs: [{ kind: 'Pod', name: 'x' }] }),
      /kind "Pod" is none of Gate/,
    ],
    [
      'one of another group',
      policy({ targetRefs: [{ kind: 'Gateway', name: 'x' }] }),
      /group "" is not "gateway/,
    ],
    ['one without name', policy({ targetRef: { kind: 'Service' } }), /error spec.targetRef: needs a name/],
    [
      'one of another namespace',
      policy({ targetRef: { kind: 'Service', name: 'x', namespace: 'y' } }),
      /must not have a namespace/,
    ],
    [
      'a class from elsewhere',
      policy({ targetRef: { group: 'gateway.networking.k8s.io', kind: 'GatewayClass', name: 'x' } }),
      /only policies of the root namespace/,
    ],
  ];
  for (const [name, text, expected] of refused)
    it(name, async () => {
      assert.equal((await lintText(text)).code, 1);
      assertSaid(await said(text), expected);
    });
});

describe('culvert lint says what a policy really does', () => {
  const web = { selector: { matchLabels: { app: 'web' } } };
  const cases: readonly (readonly [string, string, RegExp])[] = [
    ['ALLOW without rules', policy({}), /warning spec.rules: an ALLOW without rules allows nothing/],
    ['an empty rule', policy({ rules: [{}] }), /note spec.rules\[0\]: an empty rule matches all: it allows/],
    [
      'a principal with spiffe://',
      from({ principals: ['spiffe://cluster.local/ns/a/sa/b'] }),
      /without spiffe:/,
    ],
    [
      'an excluded one with spiffe://',
      from({ notPrincipals: ['spiffe://cluster.local/ns/shop/sa/b'] }),
      /without spiffe:\/\/.*excludes nothing/,
    ],
    ['a principal that is none', from({ principals: ['shop/front'] }), /is no identity/],
    [
      'another trust domain',
      from({ principals: ['other/ns/shop/sa/b'] }),
      /trust domain other is not the mesh's/,
    ],
    [
      'a dead rule',
      from({ principals: ['other/ns/shop/sa/b'] }),
      /rules\[0\]: the rule can never match: it all/,
    ],
    [
      'a dead policy',
      from({ principals: ['other/ns/shop/sa/b'] }),
      /spec.rules: no rule can match: the policy/,
    ],
    ['a namespace that is not there', from({ namespaces: ['nope'] }), /no namespace nope among the files/],
    ['an account there', from({ serviceAccounts: ['nope/x'] }), /no namespace nope among the files/],
    [
      'what excludes itself',
      from({ namespaces: ['shop'], notNamespaces: ['sh*'] }),
      /contradicts its own exclus/,
    ],
    [
      'addresses that do',
      from({ ipBlocks: ['10.1.0.0/16'], notIpBlocks: ['10.0.0.0/8'] }),
      /contradicts its own/,
    ],
    [
      'a principal of another namespace',
      from({ principals: ['cluster.local/ns/shop/sa/a'], namespaces: ['istio-system'] }),
      /namespaces: contradicts from\[0\].source of the same rule/,
    ],
    [
      'a condition that contradicts',
      policy({
        rules: [
          { to: [{ operation: { ports: ['8080'] } }], when: [{ key: 'destination.port', values: ['7000'] }] },
        ],
      }),
      /ports: contradicts when\[0\] of the same rule/,
    ],
    ['a method in lower case', to({ methods: ['get'] }), /methods are upper case/],
    ['a path with a query', to({ paths: ['/a?b'] }), /query and fragment are cut off/],
    ['a path without slash', to({ paths: ['api'] }), /does not begin with \//],
    ['a path that is never seen', to({ paths: ['/a/../b'] }), /never a request's path.*to "\/b"/],
    ['a star in the middle', to({ paths: ['/a*b'] }), /any other is a literal star/],
    ['a host with a scheme', to({ hosts: ['http://x'] }), /is no host/],
    ["Culvert's own port", to({ ports: ['15008'] }), /15008 is Culvert's own/],
    ["a Service's port", to({ ports: ['80'] }, web), /declares port 80; Service shop\/web maps 80 to 8080/],
    [
      'HTTP on a TCP port',
      to({ paths: ['/x'], ports: ['7000'] }, web),
      /port 7000, which is not HTTP .*"tcp-db"/,
    ],
    ['HTTP where a TCP port is', to({ paths: ['/x'] }, web), /port 7000, which is not HTTP/],
    [
      'HTTP on a database',
      to({ paths: ['/x'], ports: ['5432'] }),
      /the port of PostgreSQL.*never matches there/,
    ],
    [
      'a DENY of requests without ports',
      to({ methods: ['DELETE'] }, { action: 'DENY' }),
      /warning .*methods without ports: on every port.*bytes that are not HTTP.*are denied/,
    ],
    [
      'a DENY of requests with ports',
      to({ methods: ['DELETE'], ports: ['8080'] }, { action: 'DENY' }),
      /note .*methods: on these ports, bytes that are not HTTP/,
    ],
    [
      'a DENY that plaintext passes',
      from({ namespaces: ['shop'] }, { action: 'DENY' }),
      /plaintext .* passes it/,
    ],
    ['an ALLOW that takes plaintext', from({ notNamespaces: ['shop'] }), /plaintext .* is let in by it/],
    ['tokens', from({ requestPrincipals: ['*'] }), /Tokens .* are not supported/],
    [
      'a claim',
      policy({ rules: [{ when: [{ key: 'request.auth.claims[a]', values: ['b'] }] }] }),
      /not supported/,
    ],
    ['a forwarded address', from({ remoteIpBlocks: ['10.0.0.0/8'] }), /no proxy in front is trusted/],
    [
      'CUSTOM',
      to({ paths: ['/x'] }, { action: 'CUSTOM', provider: { name: 'x' } }),
      /CUSTOM is not supported/,
    ],
    ['AUDIT', to({ paths: ['/x'] }, { action: 'AUDIT' }), /AUDIT decides nothing/],
    [
      'a dry run',
      policy({ rules: [{}] }, { annotations: { 'istio.io/dry-run': 'true' } }),
      /note .*dry run: it/,
    ],
    [
      'no workload',
      policy({ ...web, selector: { matchLabels: { app: 'wbe' } } }),
      /spec.selector: selects no work/,
    ],
    ['no such namespace', policy({}, { namespace: 'shpo' }), /there is no namespace shpo among the files/],
    [
      'the root namespace',
      policy({ ...web }, { namespace: 'istio-system' }),
      /note .*selects in all namespaces/,
    ],
    ['a waypoint', policy({ targetRefs: [{ kind: 'Service', name: 'w' }] }), /enforced by no node/],
    [
      'a selector in the root',
      peer({ ...web }, { namespace: 'istio-system' }),
      /the whole object is ignored/,
    ],
    ['DISABLE', peer({ mtls: { mode: 'DISABLE' } }), /taken as PERMISSIVE/],
    ['UNSET', peer({ mtls: { mode: 'UNSET' } }), /note spec.mtls.mode: no mode: inherited/],
    [
      "a mode for a Service's port",
      peer({ ...web, portLevelMtls: { 80: { mode: 'PERMISSIVE' } } }),
      /portLevelMtls.80: no selected workload declares port 80; Service/,
    ],
    ['tokens of their own kind', peer({}).replace('PeerAuth', 'RequestAuth'), /warning : JSON Web Tokens/],
  ];
  for (const [name, text, expected] of cases)
    it(name, async () => {
      const ran = await lintText(WORLD + text);
      assert.equal(ran.code, 0, ran.out);
      assertSaid(await said(WORLD + text), expected);
    });

  it('says nothing of what is in order', async () => {
    const good = [
      peer({ mtls: { mode: 'STRICT' } }),
      policy(
        {
          ...web,
          rules: [
            {
              from: [
                {
                  source: {
                    principals: ['cluster.local/ns/shop/sa/front', '*/sa/ops'],
                    notNamespaces: ['x*'],
                  },
                },
              ],
              to: [
                { operation: { ports: ['8080'], methods: ['GET'], paths: ['/api/*', '/a/{*}/b', '*.js'] } },
              ],
              when: [{ key: 'source.ip', values: ['10.0.0.0/8'], notValues: ['10.1.0.0/16'] }],
            },
          ],
        },
        { name: 'good' },
      ),
    ].join('\n---\n');
    assert.deepEqual(await said(WORLD + good), []);
  });

  it('takes the mesh to be what the flags say', async () => {
    const text = from({ principals: ['td1/ns/a/sa/b'] });
    assertSaid(await said(text), /trust domain td1 is not the mesh's \(cluster.local\)/);
    assert.deepEqual(await said(text, '--trust-domain', 'td1'), []);
    assert.deepEqual(await said(text, '--trust-domain-aliases', 'td1'), []);
    const own = from({ principals: ['cluster.local/ns/a/sa/b'] });
    assertSaid(
      await said(own, '--trust-domain', 'td1'),
      /without --trust-domain-aliases cluster.local is not/,
    );
    const merged = to({ paths: ['/a//b'] });
    assert.deepEqual(await said(merged), []);
    assertSaid(
      await said(merged, '--path-normalization', 'merge_slashes'),
      /normalised first \(merge_slashes/,
    );
    const denied = from({ namespaces: ['a'] }, { action: 'DENY' });
    assert.deepEqual(await said(denied, '--default-mode', 'strict'), []);
  });

  it('tells of objects that are there twice, and of the older one that wins', async () => {
    assertSaid(
      await said(`${policy({})}\n---\n${policy({})}`),
      /metadata.name: is also in -:1: the cluster can/,
    );
    const young = peer(
      { mtls: { mode: 'STRICT' } },
      { name: 'a', creationTimestamp: '2026-02-01T00:00:00Z' },
    );
    const old = peer({ mtls: { mode: 'STRICT' } }, { name: 'b', creationTimestamp: '2026-01-01T00:00:00Z' });
    const all = await said(`${young}\n---\n${old}`);
    assert.equal(all.length, 1);
    assertSaid(all, /b is for the same and older.*this one is ignored/);
  });
});
