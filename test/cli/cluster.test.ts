import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { KubeError } from '../../daemon/kube/seams.ts';
import { ClusterApi } from './cluster-api.ts';
import type { FakeObject } from './cluster-api.ts';
import { NOW, assertGolden, culvert } from './terminal.ts';
import type { Ran } from './terminal.ts';

const SYSTEM = '/api/v1/namespaces/culvert-system';
const MESH = 'culvert.dev/mesh';
const STATE = 'culvert.dev/state';
const ALICE = 'spiffe://cluster.local/ns/shop/sa/alice';
const at = (ms: number): string => new Date(NOW + ms).toISOString();

let api: ClusterApi;
let clock = NOW;

function run(...args: string[]): Promise<Ran> {
  return culvert(
    [...args, '--kubeconfig', 'k'],
    { now: () => clock, sleep: (ms) => Promise.resolve(void (clock += ms)) },
    {
      connectCluster: (given) => {
        assert.deepEqual(given, { files: ['k'], context: undefined });
        return Promise.resolve(api);
      },
    },
  );
}

function namespace(name: string, labels: Record<string, string> = {}): void {
  api.add(`/api/v1/namespaces/${name}`, { metadata: { name, labels } });
}

function node(name: string, kernelVersion = '6.1.0-30-amd64', operatingSystem = 'linux'): void {
  const conditions = [{ type: 'Ready', status: 'True' }];
  const nodeInfo = { kernelVersion, operatingSystem };
  api.add(`/api/v1/nodes/${name}`, {
    metadata: { name },
    spec: { podCIDRs: [name === 'n1' ? '10.244.1.0/24' : '10.244.2.0/24'] },
    status: { conditions, nodeInfo },
  });
}

function pod(
  place: string,
  nodeName: string,
  state?: { readonly state: string; readonly reason?: string; readonly uid?: string },
  more: Partial<FakeObject['metadata']> = {},
): void {
  const [inNamespace = '', name = ''] = place.split('/');
  const uid = `uid-${name}`;
  const said = state && JSON.stringify({ uid, since: at(-65_000), ...state });
  api.add(`/api/v1/namespaces/${inNamespace}/pods/${name}`, {
    metadata: {
      name,
      namespace: inNamespace,
      uid,
      ...more,
      annotations: said === undefined ? {} : { [STATE]: said },
    },
    spec: { nodeName },
    status: {
      phase: 'Running',
      podIPs: [{ ip: nodeName === 'n1' ? '10.244.1.7' : '10.244.2.7' }],
      conditions: [{ type: 'Ready', status: 'True' }],
    },
  });
}

function daemon(nodeName: string, serial = '0a', isReady = true): void {
  const name = `culvert-${nodeName}`;
  const said = {
    version: '0.1.0',
    bundle: 'ab'.repeat(32),
    certificates: [
      {
        id: ALICE,
        serial,
        notBefore: at(-3_600_000),
        notAfter: at(82_800_000),
        source: 'kubernetes-csr',
        state: 'ready',
        nextRenewal: at(39_600_000),
      },
    ],
  };
  api.add(`${SYSTEM}/pods/${name}`, {
    metadata: {
      name,
      namespace: 'culvert-system',
      uid: name,
      labels: { 'app.kubernetes.io/name': 'culvert', 'app.kubernetes.io/component': 'daemon' },
      annotations: { 'culvert.dev/node': JSON.stringify(said) },
    },
    spec: { nodeName },
    status: { phase: 'Running', conditions: [{ type: 'Ready', status: isReady ? 'True' : 'False' }] },
  });
}

beforeEach(() => {
  api = new ClusterApi();
  clock = NOW;
  namespace('shop', { [MESH]: 'enabled' });
  namespace('other');
  node('n1');
  node('n2');
  daemon('n1');
  pod('shop/web', 'n1', { state: 'enrolled' });
  pod('other/quiet', 'n1');
});

describe('culvert status of a cluster', () => {
  it('shows nodes and labelled pods, each that is not enrolled with its reason', async () => {
    pod('shop/api', 'n2');
    pod('shop/agent', 'n1', {
      state: 'unenrollable',
      reason: "HOST_NETWORK: the pod uses its node's network",
    });
    pod('other/own', 'n1', { state: 'enrolled' }, { labels: { [MESH]: 'enabled' } });
    pod('shop/out', 'n1', undefined, { labels: { [MESH]: 'disabled' } });
    const { code, out, err } = await run('status');
    assertGolden('cluster-status', out);
    assert.deepEqual([code, err], [1, '']);
  });

  it('believes no state that is about another pod of that name', async () => {
    pod('shop/web', 'n1', { state: 'enrolled', uid: 'uid-of-the-template' });
    const { code, out } = await run('status');
    assert.equal(code, 1);
    assert.match(out, /web +n1 +pending +- +NOT_PUBLISHED/);
  });

  it('ends with 0 when all is enrolled, and narrows to a namespace', async () => {
    pod('other/own', 'n2', undefined, { labels: { [MESH]: 'enabled' } });
    assert.equal((await run('status')).code, 1);
    const { code, out } = await run('status', '-n', 'shop', '--json');
    assert.equal(code, 0);
    const { pods } = JSON.parse(out) as { pods: { name: string }[] };
    assert.deepEqual(
      pods.map(({ name }) => name),
      ['web'],
    );
    const none = await run('status', '-n', 'shup');
    assert.deepEqual([none.code, none.err], [2, 'culvert status: --namespace: there is no namespace shup\n']);
  });

  it('says what a person can do when the API refuses or is not there', async () => {
    api.answers.set('GET /api/v1/nodes', () => {
      throw new KubeError(403, 'Forbidden', 'nodes is forbidden: User "u" cannot list');
    });
    const forbidden = await run('status');
    assert.equal(forbidden.code, 1);
    assert.match(forbidden.err, /nodes is forbidden.*your account of the cluster may not do this/);
    api.answers.set('GET /api/v1/nodes', () => {
      throw new KubeError(0, 'ECONNREFUSED', 'connect ECONNREFUSED\u001b[2J\nculvert: all is well');
    });
    const away = await run('status');
    assert.equal(away.code, 2);
    assert.match(away.err, /is it up/);
    assert.match(away.err, /^[^\p{Cc}]+\n$/u, 'a server may not move the cursor or forge a line');
  });
});

describe('culvert ca rotate', () => {
  const MAP = `${SYSTEM}/configmaps/culvert-ca-rotation`;
  const settings = (data: Record<string, string>): void =>
    api.add(`${SYSTEM}/configmaps/culvert-config`, { metadata: { name: 'culvert-config' }, data });

  it('asks culvert-ca for a new root', async () => {
    settings({ CULVERT_CERT_SOURCE: 'kubernetes-csr' });
    api.add(MAP, { metadata: { name: 'culvert-ca-rotation' } });
    assert.equal((await run('ca', 'rotate')).code, 0);
    assert.ok(api.asked.some(({ method, path }) => method === 'PATCH' && path === MAP));
  });

  it('asks for nothing where cert-manager issues, and says what rotates there', async () => {
    settings({
      CULVERT_CERT_SOURCE: 'cert-manager',
      CULVERT_CERT_ISSUER: 'ClusterIssuer/cluster-ca',
      CULVERT_CERT_ISSUER_BUNDLE: 'Secret/cert-manager/cluster-ca/ca.crt',
    });
    const { code, err } = await run('ca', 'rotate');
    assert.equal(code, 1);
    assert.match(
      err,
      /cert-manager \(ClusterIssuer\/cluster-ca\), whose root is not culvert-ca's to replace/,
    );
    assert.match(
      err,
      /Give the issuer another CA.*Secret\/cert-manager\/cluster-ca\/ca\.crt.*culvert ca status/,
    );
    assert.deepEqual(
      api.asked.filter(({ method }) => method !== 'GET'),
      [],
    );
  });
});

describe('culvert certs of a cluster', () => {
  it('shows every certificate of every node', async () => {
    daemon('n2', '0b');
    const { code, out } = await run('certs');
    assertGolden('cluster-certs', out);
    assert.equal(code, 0);
  });

  it('--renew asks each node that has the identity and waits for new serials', async () => {
    daemon('n2', '0b');
    api.onChange = (path) => {
      const name = path.endsWith('n1') ? 'n1' : 'n2';
      const asked = api.objects.get(path)?.metadata.annotations?.['culvert.dev/renew'];
      assert.equal(asked, `${ALICE}@${at(0)}`);
      daemon(name, `new-${name}`);
    };
    const { code, out, err } = await run('certs', '--renew', ALICE);
    assert.deepEqual([code, err], [0, '']);
    assert.match(out, /new-n1/);
    assert.match(out, /new-n2/);
  });

  it('--renew says what was not renewed in time', async () => {
    const { code, err } = await run('certs', '--renew', '--timeout', '0');
    assert.equal(code, 1);
    assert.match(err, /not renewed within 0 s: spiffe:.*alice on n1/);
    const unknown = await run('certs', '--renew', 'spiffe://x/ns/a/sa/b');
    assert.match(unknown.err, /no node has a certificate of/);
    assert.equal(unknown.code, 2);
  });
});

describe('culvert uninstall of a cluster', () => {
  beforeEach(() => {
    api.add('/apis/apps/v1/namespaces/culvert-system/daemonsets/culvert', { metadata: { name: 'culvert' } });
    api.add(SYSTEM, { metadata: { name: 'culvert-system' } });
    const ours = { 'app.kubernetes.io/name': 'culvert' };
    for (const [path, labels] of [
      ['clusterroles/culvert', ours],
      ['clusterroles/admin', {}],
      ['clusterrolebindings/culvert', ours],
    ] as const)
      api.add(`/apis/rbac.authorization.k8s.io/v1/${path}`, {
        metadata: { name: path.split('/')[1] ?? '', labels },
      });
    // As overlay cert-manager makes them; those of our own namespace go with it.
    for (const namespace of ['cert-manager', 'culvert-system'])
      for (const kind of ['roles', 'rolebindings'])
        api.add(`/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}/${kind}/culvert-issuer-bundle`, {
          metadata: { name: 'culvert-issuer-bundle', namespace, labels: ours },
        });
  });

  /** What daemons and controllers do when they see the change. */
  function live(): void {
    api.onChange = (path) => {
      if (path === '/api/v1/namespaces/shop') pod('shop/web', 'n1');
      if (path.endsWith('/daemonsets/culvert')) {
        const stated = [...api.objects.values()].filter(
          (one) => one.metadata.annotations?.[STATE] !== undefined,
        );
        assert.deepEqual(stated, [], 'the daemons live until every pod has left');
        api.objects.delete(`${SYSTEM}/pods/culvert-n1`);
      }
    };
  }

  it('unlabels, waits for the pods, ends the daemons, then deletes what is ours and nothing else', async () => {
    live();
    const { code, out, err } = await run('uninstall');
    assert.deepEqual([code, err], [0, '']);
    assertGolden('cluster-uninstall', out);
    assert.equal(api.objects.get('/api/v1/namespaces/shop')?.metadata.labels?.[MESH], undefined);
    const left = [...api.objects.keys()].filter(
      (path) => /culvert/.test(path) && !path.includes('/namespaces/culvert-system/'),
    );
    assert.deepEqual(left, []);
    assert.ok(api.objects.has('/apis/rbac.authorization.k8s.io/v1/clusterroles/admin'));
  });

  it('names the pods that have not left in time, and has deleted nothing', async () => {
    const { code, err } = await run('uninstall', '--timeout', '0');
    assert.equal(code, 1);
    assert.match(err, /shop\/web on node n1: enrolled/);
    assert.ok(api.objects.has('/apis/apps/v1/namespaces/culvert-system/daemonsets/culvert'));
    assert.ok(api.objects.has(SYSTEM));
  });

  describe('where a daemon is dead or gone', () => {
    const ofOurs = (): string[] =>
      [...api.objects.keys()].filter((path) => /culvert/.test(path) && path !== `${SYSTEM}/pods/culvert-n2`);
    const stated = (): string[] =>
      [...api.objects.values()]
        .filter((one) => one.metadata.annotations?.[STATE] !== undefined)
        .map((one) => one.metadata.name);

    beforeEach(() => {
      // What goes with our namespace.
      for (const kind of ['roles', 'rolebindings'])
        api.objects.delete(
          `/apis/rbac.authorization.k8s.io/v1/namespaces/culvert-system/${kind}/culvert-issuer-bundle`,
        );
      pod('shop/lost', 'n2', { state: 'enrolled' });
      api.onChange = (path) => {
        if (path === '/api/v1/namespaces/shop') pod('shop/web', 'n1');
        if (path.endsWith('/daemonsets/culvert')) api.objects.delete(`${SYSTEM}/pods/culvert-n1`);
      };
    });

    it('does not wait for its pods, takes all else away, and names the node with its remedy, with 1', async () => {
      const { code, out, err } = await run('uninstall');
      assertGolden('cluster-uninstall-dead', out + err);
      assert.equal(code, 1);
      assert.deepEqual([ofOurs(), stated()], [[], []]);
      const again = await run('uninstall');
      assert.deepEqual([again.code, again.err], [0, ''], 'the second run has nothing to wait for');
    });

    it('is the same with a daemon pod that is not Ready on it, and one that can not end, its node being dead', async () => {
      daemon('n2', '0b', false);
      const crashing = api.objects.get(`${SYSTEM}/pods/culvert-n2`);
      const { onChange } = api;
      api.onChange = (path) => {
        onChange(path);
        if (path.endsWith('/daemonsets/culvert')) api.objects.delete(`${SYSTEM}/pods/culvert-n2`);
      };
      const first = await run('uninstall');
      assert.equal(first.code, 1);
      assert.match(first.err, /culvert cleanup --node n2/);
      assert.deepEqual([ofOurs(), stated()], [[], []]);

      assert.ok(crashing !== undefined);
      api.add(`${SYSTEM}/pods/culvert-n2`, crashing);
      const n2 = api.objects.get('/api/v1/nodes/n2');
      const status = { conditions: [{ type: 'Ready', status: 'Unknown' }] };
      api.add('/api/v1/nodes/n2', { metadata: { name: 'n2' }, ...n2, status });
      pod('shop/lost', 'n2', { state: 'enrolled' });
      api.onChange = onChange;
      api.add(SYSTEM, { metadata: { name: 'culvert-system' } });
      api.onChange = (path) => {
        // As a namespace does that has a pod which nobody can end.
        if (path === SYSTEM) api.add(SYSTEM, { metadata: { name: 'culvert-system' } });
      };
      const second = await run('uninstall');
      assert.equal(second.code, 1);
      assert.match(second.err, /culvert cleanup --node n2/);
      assert.match(second.err, /kubectl delete node n2/);
      assert.match(second.out, /culvert-system is still terminating/);
      assert.deepEqual(stated(), []);
    });

    it('names no node that has said itself that it is clean, that never had a daemon, or that is none any more', async () => {
      api.objects.delete('/api/v1/namespaces/shop/pods/lost');
      for (const [name, phase, said] of [
        ['n2', 'Running', { version: '0.1.0', left: true }],
        ['n3', 'Pending', undefined],
      ] as const) {
        node(name);
        daemon(name, '0b', false);
        const path = `${SYSTEM}/pods/culvert-${name}`;
        const old = api.objects.get(path);
        assert.ok(old !== undefined);
        const annotations = said === undefined ? {} : { 'culvert.dev/node': JSON.stringify(said) };
        api.add(path, { ...old, metadata: { ...old.metadata, annotations }, status: { phase } });
      }
      pod('shop/old', 'n9', { state: 'enrolled' });
      const { onChange } = api;
      api.onChange = (path) => {
        onChange(path);
        if (!path.endsWith('/daemonsets/culvert')) return;
        for (const name of ['n2', 'n3']) api.objects.delete(`${SYSTEM}/pods/culvert-${name}`);
      };
      const { code, err } = await run('uninstall');
      assert.deepEqual([code, err, stated()], [0, '', []]);
    });

    it('--dry-run says so beforehand', async () => {
      const { out } = await run('uninstall', '--dry-run');
      assert.match(out, /would wait for 1 enrolled pods to leave/);
      assert.match(out, /would leave node n2 to 'culvert cleanup --node n2': it has no daemon that is Ready/);
    });
  });

  it('goes on when a pod ends meanwhile, or a namespace', async () => {
    api.onChange = (path) => {
      if (path === '/api/v1/namespaces/shop') pod('shop/web', 'n1');
      if (path.endsWith('/daemonsets/culvert')) api.objects.delete(`${SYSTEM}/pods/culvert-n1`);
    };
    for (const name of ['one', 'two'])
      pod(`other/${name}`, 'n1', undefined, { labels: { [MESH]: 'enabled' } });
    namespace('brief', { [MESH]: 'enabled' });
    const ended = [
      '/api/v1/namespaces/other/pods/two',
      '/api/v1/namespaces/other/pods/stale',
      '/api/v1/namespaces/brief',
    ];
    for (const path of ended)
      api.answers.set(`PATCH ${path}`, () => {
        api.objects.delete(path);
        throw new KubeError(404, 'NotFound', `${path} not found`);
      });
    pod('other/stale', 'n2', { state: 'unenrollable' });
    const { code, out, err } = await run('uninstall');
    assert.deepEqual([code, err], [0, '']);
    assert.match(out, /pod other\/one: label/);
    assert.doesNotMatch(out, /other\/two|brief|stale/);
  });

  it('survives answers that may be others soon until its time is over, and says so once', async () => {
    const troubled = new Set<string>();
    /** Each thing asked for is refused once, in each way. */
    const refusals = [
      new KubeError(503, 'ServiceUnavailable', 'the server is starting\u001b[2J'),
      new KubeError(429, 'TooManyRequests', 'slow\u001b[2J down', 7_000),
      new KubeError(0, 'ECONNREFUSED', 'connect ECONNREFUSED\u001b[2J'),
    ];
    live();
    const request = api.request.bind(api);
    let asked = 0;
    api.request = (what) => {
      asked++;
      const key = `${what.method} ${what.path}`;
      const refusal = refusals[asked % refusals.length];
      if (asked === 1 || troubled.has(key) || refusal === undefined) return request(what);
      troubled.add(key);
      return Promise.reject(refusal);
    };
    const { code, err } = await run('uninstall', '--timeout', '300');
    assert.equal(code, 0, err);
    assert.equal(err.trimEnd().split('\n').length, 1, err);
    assert.match(
      err,
      /^culvert uninstall: the API server: [^\p{Cc}]*; it is asked again for up to 300 s\n$/u,
    );
    assert.ok(troubled.size > 10, 'little was refused');
    assert.ok(clock - NOW >= 7_000, 'it did not wait as long as the server asked');
  });

  it('ends with what the API answered when that lasts, or is there from the start', async () => {
    api.answers.set('GET /api/v1/pods', () => {
      throw new KubeError(503, 'ServiceUnavailable', 'the server is starting');
    });
    const late = await run('uninstall', '--timeout', '20');
    assert.notEqual(late.code, 0);
    assert.match(late.err, /the server is starting[^]*the server is starting/);
    const waited = clock - NOW;
    assert.ok(waited >= 20_000 && waited < 25_000, String(waited));
    api.answers.set('GET /api/v1/namespaces', () => {
      throw new KubeError(0, 'ECONNREFUSED', 'connect ECONNREFUSED');
    });
    const away = await run('uninstall');
    assert.equal(away.code, 2, 'nothing was begun: the address is wrong rather than the server away');
    assert.equal(clock - NOW, waited);
  });

  it('asks every 2 s, not more often', async () => {
    await run('uninstall', '--timeout', '20');
    const lists = api.asked.filter(
      ({ path, query }) =>
        path === '/api/v1/pods' &&
        query?.['labelSelector'] === undefined &&
        query?.['continue'] === undefined,
    );
    assert.ok(lists.length <= 12, `${lists.length} lists of all pods in 20 s`);
  });

  it('--dry-run changes nothing', async () => {
    const { code, out } = await run('uninstall', '--dry-run');
    assert.equal(code, 0);
    assert.match(out, /would unlabel namespace shop/);
    assert.ok(api.asked.every(({ method }) => method === 'GET'));
  });
});

describe('culvert check of a cluster', () => {
  beforeEach(() => {
    api.answers.set('GET /version', () => ({ major: '1', minor: '34', gitVersion: 'v1.34.4' }));
    for (const group of [
      'discovery.k8s.io/v1',
      'certificates.k8s.io/v1',
      'coordination.k8s.io/v1',
      'admissionregistration.k8s.io/v1',
      'events.k8s.io/v1',
    ])
      api.answers.set(`GET /apis/${group}`, () => ({}));
    allow(() => true);
  });

  function allow(decide: (what: string) => boolean): void {
    for (const kind of ['subjectaccessreviews', 'selfsubjectaccessreviews'])
      api.answers.set(`POST /apis/authorization.k8s.io/v1/${kind}`, ({ body }) => {
        const { spec } = body as { spec: { user?: string; resourceAttributes: Record<string, string> } };
        const { verb = '', resource = '' } = spec.resourceAttributes;
        return { status: { allowed: decide(`${spec.user?.split(':').at(-1) ?? 'me'} ${verb} ${resource}`) } };
      });
  }

  const failures = (out: string): string[] => out.split('\n').filter((line) => line.startsWith('FAIL'));

  it('--pre is content with a cluster that has what is needed', async () => {
    const { code, out } = await run('check', '--pre');
    assert.deepEqual([code, failures(out)], [0, []]);
    assert.match(out, /policy CRDs.*absent: apply manifests\/policy-crds/);
  });

  it('names an old API server, a missing right, an old kernel, a pod outside the ranges', async () => {
    api.answers.set('GET /version', () => ({ major: '1', minor: '29+', gitVersion: 'v1.29.9' }));
    allow((what) => what !== 'me create daemonsets');
    node('n3', '5.10.0-8');
    pod('other/stray', 'n1');
    const stray = api.objects.get('/api/v1/namespaces/other/pods/stray');
    api.add('/api/v1/namespaces/other/pods/stray', {
      metadata: stray?.metadata ?? { name: 'stray' },
      spec: { nodeName: 'n1' },
      status: { podIPs: [{ ip: '172.16.0.9' }] },
    });
    const { code, out } = await run('check', '--pre');
    assert.equal(code, 1);
    assert.match(out, /FAIL {2}Kubernetes version: v1.29.9/);
    assert.match(out, /FAIL {2}you may do what is needed: not: create daemonsets/);
    assert.match(out, /warn {2}node n3: linux, 5.10.0-8, kernel older than 5.15/);
    assert.match(out, /FAIL {2}pods' addresses.*other\/stray/);
  });

  it('names NetworkPolicies that keep tunnels away, with the patch; rules add up', async () => {
    const policy = (name: string, app: string, ports?: unknown[]): void =>
      api.add(`/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/${name}`, {
        metadata: { name, namespace: 'shop' },
        spec: { podSelector: { matchLabels: { app } }, ingress: [{ ports }] },
      });
    pod('shop/web', 'n1', { state: 'enrolled' }, { labels: { app: 'web' } });
    pod('shop/api', 'n1', { state: 'enrolled' }, { labels: { app: 'api' } });
    policy('only-80', 'web', [{ port: 80 }]);
    policy('api-80', 'api', [{ port: 80 }]);
    policy('api-range', 'api', [{ port: 15_000, endPort: 15_010 }]);
    policy('nobody', 'none', [{ port: 80 }]);
    const { code, out } = await run('check', '--pre');
    assert.equal(code, 1);
    assert.deepEqual(
      failures(out).map((line) => /shop\/\S+/.exec(line)?.[0]),
      ['shop/only-80'],
    );
    assert.match(out, /kubectl -n shop patch networkpolicy only-80 --type=json.*"port":15008/);
  });

  it('asks for no daemon on a node that can have none', async () => {
    node('n3', '10.0.20348', 'windows');
    node('n4', '5.10.0-8');
    const { out } = await run('check');
    assert.match(out, /warn {2}node n3: windows/);
    assert.deepEqual(out.match(/daemon of node \S+/g), ['daemon of node n1:', 'daemon of node n2:']);
  });

  it('after: names a node without a daemon, a daemon that may too much, and a missing trust bundle', async () => {
    const { code, out } = await run('check');
    assert.equal(code, 1);
    assert.match(out, /FAIL {2}daemon of node n2: none/);
    assert.match(
      out,
      /FAIL {2}account culvert-system\/culvert may do no more than that: may: approve signers/,
    );
    assert.match(out, /FAIL {2}trust bundle.*absent or empty/);
    assert.match(out, /ok {4}daemon of node n1: culvert-n1, 0.1.0/);
  });
});
