/** The startup taint on a real API server: taken off by the daemon of that node, and nothing else with its token. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { STARTUP_TAINT, StartupTaint } from '../../daemon/cluster/startup-taint.ts';
import { KubeClient } from '../../daemon/kube/client.ts';
import { openAccess } from '../../daemon/kube/config.ts';
import { until } from '../support/wait.ts';
import { ControlPlane } from './kit/control-plane.ts';
import { at, list, render, text } from './manifests.ts';
import { askAs, boundToken } from './tokens.ts';

const OWN = 'culvert-system';
const POLICY = 'culvert-node-writes';
const OTHER = { key: 'example.com/other', effect: 'NoSchedule' };
const OURS = ['NoSchedule', 'NoExecute'].map((effect) => ({ key: STARTUP_TAINT, effect }));

interface Case {
  readonly what: string;
  readonly node?: string;
  readonly patch: unknown;
  /** What the refusal says; undefined: it is allowed. */
  readonly refused?: RegExp;
}

const TAINT = /no taint of its node but culvert\.dev\/not-ready/;
const METADATA = /no labels, annotations, finalizers or owners/;
const SPEC = /nothing of its node's spec but that taint/;
const taints = (...all: readonly unknown[]): unknown => ({ spec: { taints: all } });

/** All of them by the daemon of node-a. */
const CASES: readonly Case[] = [
  { what: 'our taint taken off, with either effect', patch: taints(OTHER) },
  { what: 'the same on another node', node: 'node-b', patch: taints(OTHER), refused: /its own node only/ },
  { what: 'another taint taken off', patch: taints(...OURS), refused: TAINT },
  { what: 'all taken off', patch: taints(), refused: TAINT },
  { what: 'all taken away', patch: { spec: { taints: null } }, refused: TAINT },
  {
    what: 'a taint put on',
    patch: taints(OTHER, ...OURS, { key: 'x', effect: 'NoExecute' }),
    refused: TAINT,
  },
  {
    what: 'ours replaced by another',
    patch: taints(OTHER, { key: 'x', effect: 'NoExecute' }),
    refused: TAINT,
  },
  {
    what: 'another’s effect',
    patch: taints({ ...OTHER, effect: 'NoExecute' }, ...OURS),
    refused: TAINT,
  },
  { what: 'cordoned', patch: { spec: { unschedulable: true } }, refused: SPEC },
  { what: 'its provider', patch: { spec: { providerID: 'x://y' } }, refused: SPEC },
  { what: 'a label', patch: { metadata: { labels: { zone: 'b' } } }, refused: METADATA },
  { what: 'a label removed', patch: { metadata: { labels: { zone: null } } }, refused: METADATA },
  { what: 'an annotation', patch: { metadata: { annotations: { x: 'y' } } }, refused: METADATA },
  { what: 'a finalizer', patch: { metadata: { finalizers: ['example.com/x'] } }, refused: METADATA },
  {
    what: 'an owner',
    patch: { metadata: { ownerReferences: [{ apiVersion: 'v1', kind: 'Pod', name: 'x', uid: 'y' }] } },
    refused: METADATA,
  },
];

describe('the startup taint', () => {
  let plane: ControlPlane;
  let stolen = '';
  before(async () => {
    plane = await ControlPlane.start();
    const objects = await render('overlays/startup-taint');
    await plane.apply({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: OWN } });
    await plane.apply(...objects.filter(({ name }) => name !== POLICY).map(({ object }) => object));
    await plane.apply(node('node-a'), node('node-b'), daemon('culvert-a', 'node-a'));
    // The API server puts one of its own on every node that is made.
    for (const name of ['node-a', 'node-b']) await setTaints(name, OTHER, ...OURS);
    stolen = await boundToken(plane, 'culvert', 'culvert-a');
  });
  after(() => plane[Symbol.asyncDispose]());

  const attempt = ({ node: name = 'node-a', patch }: Case) =>
    askAs(plane, stolen, 'PATCH', `/api/v1/nodes/${name}?dryRun=All`, patch);

  it('could be used for all of this without its policy', async () => {
    for (const one of CASES) {
      const before = await plane.api.must('GET', `/api/v1/nodes/${one.node ?? 'node-a'}`);
      const { status, body } = await attempt(one);
      assert.equal(status, 200, `${one.what}: ${JSON.stringify(body)}`);
      assert.notDeepEqual([at(body, 'spec'), meta(body)], [at(before, 'spec'), meta(before)], one.what);
    }
  });

  it('can only be taken off with it, by a daemon of that node', async () => {
    const policy = (await render('overlays/startup-taint')).filter(({ name }) => name === POLICY);
    assert.equal(policy.length, 2);
    await plane.apply(...policy.map(({ object }) => object));
    const label: Case = { what: 'a label', patch: { metadata: { labels: { zone: 'c' } } } };
    await until('the policy to be in force', async () => (await attempt(label)).status === 403);
    for (const one of CASES) {
      const { status, body } = await attempt(one);
      assert.equal(status, one.refused === undefined ? 200 : 403, `${one.what}: ${JSON.stringify(body)}`);
      if (one.refused !== undefined) assert.match(text(body, 'message'), one.refused, one.what);
    }
  });

  it('gives no other verb on nodes, and none on their status', async () => {
    for (const [method, path, sent] of [
      ['PATCH', '/api/v1/nodes/node-a/status', {}],
      ['DELETE', '/api/v1/nodes/node-a', undefined],
      ['POST', '/api/v1/nodes', node('node-c')],
    ] as const)
      assert.equal((await askAs(plane, stolen, method, path, sent)).status, 403, `${method} ${path}`);
    const loose = await boundToken(plane, 'culvert');
    const { status } = await askAs(plane, loose, 'PATCH', '/api/v1/nodes/node-a?dryRun=All', taints(OTHER));
    assert.equal(status, 403, 'bound to no pod');
  });

  it('is taken off its own node alone, again when it is back; a taint that comes meanwhile stays', async () => {
    using api = new KubeClient(openAccess(plane.tokenKubeconfig('daemon', stolen), {}), {
      userAgent: 'test',
    });
    const problems: string[] = [];
    const late = { key: 'example.com/late', effect: 'NoSchedule' };
    let removed = 0;
    let isLate = false;
    // Between what the watch showed and the write, somebody else writes too.
    const racing: Pick<KubeClient, 'request' | 'stream'> = {
      stream: (request) => api.stream(request),
      async request(request) {
        if (request.method === 'PATCH' && !isLate) {
          isLate = true;
          await setTaints('node-a', OTHER, ...OURS, late);
        }
        return api.request(request);
      },
    };
    await using taint = new StartupTaint({
      api: racing,
      node: 'node-a',
      onRemoved: () => void (removed += 1),
      onProblem: (why) => problems.push(why),
      retryMs: 50,
    });
    taint.start();
    await until('it to go', async () => (await keys('node-a')).length === 2);
    assert.deepEqual(await keys('node-a'), [OTHER.key, late.key]);
    assert.deepEqual(await keys('node-b'), [OTHER.key, STARTUP_TAINT, STARTUP_TAINT]);
    await setTaints('node-a', ...OURS);
    await until('it to go again', async () => (await keys('node-a')).length === 0);
    await until('both to be told', () => removed === 2);
    assert.deepEqual(problems, []);
  });

  it('that may not be taken off is a problem that is told, and tried again', async () => {
    await plane.kubectl(['delete', 'clusterrolebinding', 'culvert-startup-taint']);
    using api = new KubeClient(openAccess(plane.tokenKubeconfig('daemon', stolen), {}), {
      userAgent: 'test',
    });
    const problems: string[] = [];
    await setTaints('node-a', ...OURS);
    await using taint = new StartupTaint({
      ...{ api, node: 'node-a', retryMs: 50, onRemoved: () => undefined },
      onProblem: (why) => problems.push(why),
    });
    taint.start();
    await until('two tries', () => problems.length >= 2);
    assert.match(problems[0] ?? '', /culvert\.dev\/not-ready could not be removed: .*forbidden/);
    const objects = await render('overlays/startup-taint');
    const binding = objects.filter(
      ({ kind, name }) => `${kind}/${name}` === 'ClusterRoleBinding/culvert-startup-taint',
    );
    await plane.apply(...binding.map(({ object }) => object));
    await until('it to go', async () => (await keys('node-a')).length === 0);
  });

  async function keys(name: string): Promise<string[]> {
    return list(await plane.api.must('GET', `/api/v1/nodes/${name}`), 'spec', 'taints').map((one) =>
      text(one, 'key'),
    );
  }

  async function setTaints(name: string, ...all: readonly unknown[]): Promise<void> {
    const options = { body: taints(...all), contentType: 'application/merge-patch+json' };
    await plane.api.must('PATCH', `/api/v1/nodes/${name}`, options);
  }
});

function meta(body: unknown): unknown[] {
  return ['labels', 'annotations', 'finalizers', 'ownerReferences'].map((key) => at(body, 'metadata', key));
}

function node(name: string): unknown {
  return { apiVersion: 'v1', kind: 'Node', metadata: { name, labels: { zone: 'a' } } };
}

function daemon(name: string, nodeName: string): unknown {
  const spec = { nodeName, serviceAccountName: 'culvert', containers: [{ name: 'culvert', image: 'none' }] };
  return { apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace: OWN }, spec };
}
