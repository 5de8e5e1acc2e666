/**
 * The policy that users bring, unchanged, each line over the real wire; and the four ways to write a path before it is
 * judged.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { HttpApp, statuses } from './http.ts';
import type { Request } from './http.ts';
import type { Server } from './kit/apps.ts';
import { namespaceObject } from './kit/objects.ts';
import type { LabPod } from './kit/pod.ts';
import { authorizationPolicy, comes, Policies } from './policies.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const EXAMPLE = `# What users bring: these must work unchanged.
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: default
  namespace: production # all workloads of this namespace
spec:
  mtls:
    mode: STRICT # plain-text connections are refused
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: default
  namespace: istio-system # the root namespace: mesh-wide
spec:
  mtls:
    mode: STRICT
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata:
  name: backend-access
  namespace: production
spec:
  selector:
    matchLabels:
      app: backend
  action: ALLOW
  rules:
    - from:
        - source:
            principals:
              - "cluster.local/ns/production/sa/frontend"
      to:
        - operation:
            methods: ["GET", "POST"]
            paths: ["/api/*"]
`;

const asking = (method: string, path: string): Request => ({ method, path, host: 'backend' });

describe('the example of users', { timeout: 300_000 }, () => {
  let shop: Shop;
  let pods: Record<'frontend' | 'intruder' | 'backend' | 'database' | 'plain', LabPod>;
  let app: HttpApp;
  let database: Server;
  let outside: Server;
  before(async () => {
    shop = await openShop();
    const { lab, daemon1, daemon2 } = shop;
    await lab.cluster.apply(namespaceObject('istio-system'));
    const namespace = 'production';
    pods = {
      frontend: await lab.pod({ name: 'frontend', node: 1, namespace }),
      intruder: await lab.pod({ name: 'intruder', node: 1, namespace }),
      backend: await lab.pod({ name: 'backend', node: 2, namespace, labels: { app: 'backend' } }),
      database: await lab.pod({ name: 'database', node: 2, namespace }),
      plain: await lab.outsider('plain'),
    };
    await lab.cluster.label(namespace, 'enabled');
    await Promise.all([
      ...[pods.frontend, pods.intruder].map((pod) => daemon1.waitState(pod, 'enrolled')),
      ...[pods.backend, pods.database].map((pod) => daemon2.waitState(pod, 'enrolled')),
    ]);
    app = await HttpApp.on(pods.backend);
    database = await pods.database.serve('sink', 8081);
    outside = await shop.server.serve('sink', 8081);
    assert.ok(await comes(pods.plain, pods.database, database));
    for (const { node } of [daemon1, daemon2])
      lab.cluster.writeFile(lab.cluster.folder(node.name), 'policy.yaml', EXAMPLE);
    await until('the policies', async () => !(await comes(pods.plain, pods.database, database)));
    await until('the mesh-wide one', async () => !(await comes(pods.plain, shop.server, outside)));
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it('production is STRICT: plaintext is refused, of every workload', async () => {
    assert.equal(await comes(pods.plain, pods.database, database), false);
    assert.deepEqual(await statuses(pods.plain, pods.backend, [asking('GET', '/api/x')]), []);
    assert.ok(await comes(pods.intruder, pods.database, database));
  });

  it('the mesh is STRICT: plaintext is refused in another namespace too', async () => {
    assert.equal(await comes(pods.plain, shop.server, outside), false);
    assert.ok(await comes(shop.client, shop.server, outside));
  });

  it('only the frontend reaches the backend, with GET and POST below /api/', async () => {
    const requests = [
      asking('GET', '/api/items'),
      asking('POST', '/api/items'),
      asking('DELETE', '/api/items'),
      asking('GET', '/metrics'),
      asking('GET', '/api/../metrics'),
      asking('GET', '/api/'),
    ];
    assert.deepEqual(await statuses(pods.frontend, pods.backend, requests), [200, 200, 403, 403, 403, 200]);
    assert.deepEqual(app.asked(), ['GET /api/items', 'POST /api/items', 'GET /api/']);
    for (const client of [pods.intruder, shop.client]) {
      const answers = await statuses(client, pods.backend, requests);
      assert.ok(
        answers.every((status) => status === 403),
        answers.join(' '),
      );
    }
    assert.deepEqual(app.asked(), []);
  });

  it('the policy is for workloads labelled app: backend, and not for others', async () => {
    assert.ok(await comes(pods.intruder, pods.database, database));
  });
});

/** How each mode writes the path that comes; DENY of `/admin*` judges that, and the app gets it. */
const PATHS: readonly (readonly [mode: string, come: readonly string[], go: readonly (string | 403)[]])[] = [
  ['none', ['/x/../admin', '/%61dmin', '//admin', '/admin'], ['/x/../admin', '/%61dmin', '//admin', 403]],
  [
    'base',
    ['/x/../admin', '/%61dmin', '//admin', '/x%2f..%2fadmin'],
    [403, 403, '//admin', '/x%2f..%2fadmin'],
  ],
  ['merge_slashes', ['/x//../admin', '//admin', '/x%2f..%2fadmin'], ['/x/admin', 403, '/x%2f..%2fadmin']],
  ['decode_and_merge_slashes', ['/x%2f..%2fadmin', '/x%5C..%5Cadmin', '/a%2F%2Fb'], [403, 403, '/a/b']],
];

for (const [mode, come, go] of PATHS)
  describe(`paths, normalised by ${mode}`, { timeout: 300_000 }, () => {
    let shop: Shop;
    before(async () => {
      shop = await openShop({ daemon: { flags: ['--path-normalization', mode] } });
    });
    after(() => shop.lab[Symbol.asyncDispose]());

    it('what is judged goes to the app', async () => {
      const app = await HttpApp.on(shop.server);
      const deny = { action: 'DENY', rules: [{ to: [{ operation: { paths: ['/admin*'] } }] }] };
      await new Policies(shop, [shop.daemon1, shop.daemon2]).set(authorizationPolicy('shop', 'paths', deny));
      const answers = await statuses(
        shop.client,
        shop.server,
        come.map((path) => asking('GET', path)),
      );
      assert.deepEqual(
        answers,
        go.map((path) => (path === 403 ? 403 : 200)),
      );
      assert.deepEqual(
        app.asked(),
        go.filter((path) => path !== 403).map((path) => `GET ${path}`),
      );
    });
  });
