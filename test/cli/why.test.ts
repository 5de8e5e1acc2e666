import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { z } from 'zod';
import { parseConfig } from '../../daemon/config.ts';
import { parseAuthorizationPolicy } from '../../daemon/mesh/policy/parse.ts';
import { pod } from '../mesh/world.ts';
import { tempDir } from '../support/tmp.ts';
import { assertGolden, culvert, startApi } from './terminal.ts';
import type { Ran } from './terminal.ts';

const POLICY = join(import.meta.dirname, 'files/policy.yaml');

const WORLD = `
apiVersion: v1
kind: Namespace
metadata: {name: production, labels: {culvert.dev/mesh: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: outside}
---
apiVersion: v1
kind: Pod
metadata: {name: front-1, namespace: production, labels: {app: front}}
spec: {serviceAccountName: frontend, containers: [{name: c}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: outside}
spec: {containers: [{name: c}]}
status: {podIP: 10.0.0.9}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: backend, namespace: production}
spec:
  template:
    metadata: {labels: {app: backend}}
    spec: {serviceAccountName: backend, containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: backend, namespace: production}
spec: {clusterIP: 10.96.0.1, selector: {app: backend}, ports: [{port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: try, namespace: production, annotations: {istio.io/dry-run: "true"}}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: ["/api/secret"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: elsewhere, namespace: production}
spec: {selector: {matchLabels: {app: db}}, rules: [{}]}
`;

function why(...args: readonly string[]): Promise<Ran> {
  const io = { stdin: () => Readable.from([Buffer.from(WORLD)]) };
  return culvert(['why', '--files', '-', '--files', POLICY, ...args], io);
}

const BACKEND = ['--to', 'production/backend', '--port', '8080'] as const;
const FRONT = ['--from', 'production/front-1', ...BACKEND] as const;

const refSchema = z
  .object({ kind: z.string(), namespace: z.string(), name: z.string(), rule: z.number().nullable() })
  .nullable();
const decisionSchema = z.object({ verdict: z.string(), by: refSchema, why: z.string() });
const answerSchema = decisionSchema.extend({
  source: z.object({ identity: z.string().nullable() }).loose(),
  destination: z.object({ state: z.string() }).loose(),
  mtls: z.object({ mode: z.string(), by: refSchema }),
  enforced: z.boolean(),
  policies: decisionSchema,
  dryRun: decisionSchema.nullable(),
  readsHttp: z.boolean(),
  rules: z.array(
    z.object({ policy: z.string(), matches: z.boolean(), failing: z.array(z.string()) }).loose(),
  ),
  notSelecting: z.array(z.string()),
  notes: z.array(z.string()),
  doubts: z.array(z.string()),
});

async function answer(...args: readonly string[]): Promise<z.infer<typeof answerSchema>> {
  const { out, err } = await why(...args, '--json');
  assert.equal(err, '');
  return answerSchema.parse(JSON.parse(out));
}

describe('culvert why', () => {
  it('names object, rule, mode, dry run, and the fields for which the others fail', async () => {
    const allowed = await why(...FRONT, '--method', 'GET', '--path', '/api/secret?x', '--host', 'backend');
    assert.equal(allowed.code, 0);
    const denied = await why(...FRONT, '--method', 'DELETE', '--path', '/admin');
    assert.equal(denied.code, 1);
    assertGolden('why', `${allowed.out}\n${denied.out}`);
  });

  it('says the same as JSON', async () => {
    const one = await answer(...FRONT, '--method', 'GET', '--path', '/api/secret');
    const ref = { kind: 'AuthorizationPolicy', namespace: 'production' };
    assert.deepEqual([one.verdict, one.by], ['allow', { ...ref, name: 'backend-access', rule: 0 }]);
    assert.deepEqual([one.dryRun?.verdict, one.dryRun?.by], ['deny', { ...ref, name: 'try', rule: 0 }]);
    const mode = { kind: 'PeerAuthentication', namespace: 'production', name: 'default', rule: null };
    assert.deepEqual(one.mtls, { mode: 'strict', by: mode });
    assert.deepEqual(one.notSelecting, ['production/elsewhere']);
    assert.equal(one.source.identity, 'spiffe://cluster.local/ns/production/sa/frontend');
  });

  it('judges a client outside the mesh as plaintext, one named by address or identity as that', async () => {
    const request = ['--method', 'GET', '--path', '/api/x'];
    const outside = await answer('--from', 'outside/old', ...BACKEND, ...request);
    assert.deepEqual([outside.verdict, outside.source.identity], ['deny', null]);
    assert.match(outside.why, /STRICT/);
    assert.match(outside.notes.join(), /not in the mesh: judged as plaintext/);
    assert.equal((await answer('--from-ip', '10.0.0.1', ...BACKEND, ...request)).verdict, 'deny');
    assert.equal((await answer('--plaintext', ...BACKEND, ...request)).verdict, 'deny');
    for (const [id, verdict] of [
      ['spiffe://cluster.local/ns/production/sa/frontend', 'allow'],
      ['cluster.local/ns/production/sa/frontend', 'allow'],
      ['cluster.local/ns/production/sa/other', 'deny'],
    ] as const)
      assert.equal((await answer('--from-principal', id, ...BACKEND, ...request)).verdict, verdict);
  });

  it('says that nothing is enforced outside the mesh, and what policies would say', async () => {
    const one = await answer('--from', 'production/front-1', '--to-ip', '10.0.0.9', '--port', '80');
    assert.deepEqual(
      [one.verdict, one.by, one.enforced, one.policies.verdict],
      ['allow', null, false, 'deny'],
    );
  });

  it('takes no request for bytes that are not HTTP, and says so', async () => {
    const one = await answer(...FRONT);
    assert.equal(one.verdict, 'deny');
    assert.match(one.notes.join(), /give --method and --path/);
    assert.deepEqual(one.rules.find(({ policy }) => policy === 'production/backend-access')?.failing, [
      'the bytes are not HTTP',
    ]);
    const unread = await answer('--plaintext', '--to-namespace', 'x', '--port', '1', '--path', '/');
    assert.match(unread.notes.join(), /no policy looks at requests on this port/);
  });

  it('judges the path as it goes upstream', async () => {
    assert.equal((await answer(...FRONT, '--path', '/x/../api/y')).verdict, 'allow');
    assert.equal((await answer(...FRONT, '--path', '/api/../x')).verdict, 'deny');
    const nul = await answer(...FRONT, '--path', '/api/%00');
    assert.deepEqual([nul.verdict, nul.why], ['deny', 'the path of the request is refused (400)']);
    const merged = ['--path', '//api//y', '--path-normalization'];
    assert.equal((await answer(...FRONT, ...merged, 'base')).verdict, 'deny');
    assert.equal((await answer(...FRONT, ...merged, 'merge_slashes')).verdict, 'allow');
  });

  it('judges headers, hosts and labels', async () => {
    const headers = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: h, namespace: shop}
spec:
  selector: {matchLabels: {app: web, tier: a}}
  action: DENY
  rules:
  - to: [{operation: {hosts: [Web.shop]}}]
    when: [{key: "request.headers[X-User]", values: ["a,b*"]}]
`;
    const ask = (...args: readonly string[]): Promise<Ran> =>
      culvert(['why', '--files', '-', '--plaintext', '--to-namespace', 'shop', '--port', '1', ...args], {
        stdin: () => Readable.from([Buffer.from(headers)]),
      });
    const labels = ['--to-label', 'app=web', '--to-label', 'tier=a', '--host', 'web.shop'];
    for (const [args, code] of [
      [[...labels, '--header', 'x-user=a', '--header', 'x-user: bc'], 1],
      [[...labels, '--header', 'x-user=b'], 0],
      [[...labels.slice(2), '--header', 'x-user=a,b'], 0],
    ] as const)
      assert.equal((await ask(...args)).code, code, String(args));
  });

  it('says when the files have errors', async () => {
    await using folder = await tempDir('why');
    const file = join(folder.path, 'bad.yaml');
    await writeFile(file, WORLD.replace('action: DENY', 'action: deny'));
    const { out } = await culvert(['why', '--files', folder.path, ...FRONT]);
    assert.match(out, /^note +2 errors in the files: see culvert lint$/m);
  });

  it('asks a running daemon where there are no files', async () => {
    await using api = await startApi();
    const config = parseConfig({ nodeName: 'n', defaultMode: 'strict' }, {});
    const parsed = parseAuthorizationPolicy({
      metadata: { name: 'p', namespace: 'shop' },
      spec: {
        rules: [{ from: [{ source: { namespaces: ['shop'] } }], to: [{ operation: { ports: ['1'] } }] }],
      },
    });
    const [web, front] = [pod('web', '10.0.0.2'), pod('front', '10.0.0.3')];
    api.backend.config = () =>
      Promise.resolve({
        config,
        state: [
          { kind: 'namespace', key: 'shop', value: { name: 'shop', meshLabel: 'enabled', labels: {} } },
          { kind: 'policy', key: 'shop/p', value: parsed?.policy },
          ...[web, front].map((value) => ({ kind: 'workload', key: value.uid, value })),
          { kind: 'published', key: web.uid, value: { uid: web.uid, state: 'enrolled', sinceMs: 1 } },
        ],
      });
    const ask = (...args: readonly string[]): Promise<Ran> =>
      culvert(['why', '--admin', api.address, ...args]);
    const good = await ask('--from', 'shop/front', '--to-ip', '10.0.0.2', '--port', '1');
    assert.equal(good.code, 0, good.err);
    assert.match(good.out, /^ALLOWED: allowed by rule 0 of shop\/p\n/);
    assert.match(good.out, /^destination +shop\/web port 1, enrolled$/m);
    assert.match(good.out, /^mutual TLS +STRICT, by the mesh's default$/m);
    assert.equal((await ask('--plaintext', '--to', 'shop/web', '--port', '1')).code, 1);
    api.backend.config = () => Promise.resolve({ knobs: {} });
    const older = await ask('--plaintext', '--to', 'shop/web', '--port', '1');
    assert.equal(older.code, 2);
    assert.match(older.err, /in a form that this version does not know/);
  });

  it('ends with 2 and says what is wrong when it is used wrongly', async () => {
    for (const [args, says] of [
      [[], /give one of --to NAMESPACE\/POD, --to-ip/],
      [['--to', 'a/b', '--to-ip', '10.0.0.1'], /give one of --to/],
      [['--to', 'a/b'], /--port: give the workload's port/],
      [['--to', 'a/b', '--port', '1'], /give --from NAMESPACE\/POD/],
      [['--from', 'a/b', '--from-principal', 'x', ...BACKEND], /--from and --from-principal/],
      [['--plaintext', '--to', 'production/backend', '--port', '0'], /--port: "0" is not a port/],
      [['--plaintext', '--to', 'backend', '--port', '1'], /--to: "backend" is not NAMESPACE\/POD/],
      [
        ['--plaintext', '--to', 'production/x', '--port', '1'],
        /no pod production\/x; there are production\/backend, /,
      ],
      [['--from', 'nope/x', ...BACKEND], /no pod of namespace nope is known/],
      [['--plaintext', '--to-ip', '10.9.9.9', '--port', '1'], /no pod that is known has 10.9.9.9/],
      [
        ['--plaintext', '--to-ip', '10.96.0.1', '--port', '1'],
        /is Service production\/backend; policies are about pods/,
      ],
      [['--from-ip', 'x', ...BACKEND], /--from-ip: "x" is no IP address/],
      [['--from-principal', 'x', ...BACKEND], /--from-principal: "x" is not spiffe:/],
      [['--plaintext', ...BACKEND, '--header', 'x'], /--header: "x" is not NAME=VALUE/],
    ] as const) {
      const { code, err, out } = await why(...args);
      assert.deepEqual([args, code, out], [args, 2, '']);
      assert.match(err, says);
    }
    const away = await culvert(['why', '--files', '/nowhere', '--plaintext', ...BACKEND]);
    assert.match(away.err, /\/nowhere: can't be read: ENOENT/);
    const both = await culvert(['why', '--files', 'x', '--admin', 'y:1', '--plaintext', ...BACKEND]);
    assert.match(both.err, /--files and --admin: give one/);
  });
});
