/**
 * A stolen daemon's token against the policy that binds each daemon to its own node's pods, on a real API server. Each
 * patch is tried twice: before the policy is there it must pass and change the pod, or its refusal would prove nothing.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { ControlPlane } from './kit/control-plane.ts';
import { at, render, text } from './manifests.ts';
import { askAs, boundToken } from './tokens.ts';
import type { Answer } from './tokens.ts';

const OWN = 'culvert-system';
const POLICY_KINDS = ['ValidatingAdmissionPolicy', 'ValidatingAdmissionPolicyBinding'];
const STATE = 'culvert.dev/state';
const NODE = 'culvert.dev/node';

interface Pod {
  readonly namespace: string;
  readonly name: string;
}
const daemonA: Pod = { namespace: OWN, name: 'culvert-a' };
const daemonB: Pod = { namespace: OWN, name: 'culvert-b' };
const webA: Pod = { namespace: 'shop', name: 'web-a' };
const webB: Pod = { namespace: 'shop', name: 'web-b' };
const unscheduled: Pod = { namespace: 'shop', name: 'unscheduled' };

interface Case {
  readonly what: string;
  readonly pod: Pod;
  readonly patch: unknown;
  /** What the refusal says; undefined: it is allowed. */
  readonly refused?: RegExp;
}

const annotate = (annotations: Readonly<Record<string, string | null>>): unknown => ({
  metadata: { annotations },
});
const OTHER_NODE = /pods of its own node only/;
const ANNOTATIONS = /changes no annotation of this pod but culvert\.dev\/state$/;

/** All of them by the daemon of node a. */
const CASES: readonly Case[] = [
  { what: 'the state of a pod of its node', pod: webA, patch: annotate({ [STATE]: 'enrolled' }) },
  {
    what: 'the same with a reason',
    pod: webA,
    patch: annotate({ [STATE]: '{"uid":"x","state":"pending","reason":"PENDING_CGROUP: none yet"}' }),
  },
  { what: 'the same taken back', pod: webA, patch: annotate({ [STATE]: null }) },
  {
    what: 'its own pod: its report, and a state',
    pod: daemonA,
    patch: annotate({ [NODE]: '{}', [STATE]: 'x' }),
  },
  { what: 'a pod of another node', pod: webB, patch: annotate({ [STATE]: 'enrolled' }), refused: OTHER_NODE },
  {
    what: 'a pod of no node',
    pod: unscheduled,
    patch: annotate({ [STATE]: 'enrolled' }),
    refused: OTHER_NODE,
  },
  {
    what: 'a reason on a pod of another node',
    pod: webB,
    patch: annotate({ [STATE]: '{"uid":"x","state":"unenrollable","reason":"HOST_NETWORK: no"}' }),
    refused: OTHER_NODE,
  },
  { what: "another daemon's report", pod: daemonB, patch: annotate({ [NODE]: '{}' }), refused: OTHER_NODE },
  {
    what: 'a report on a pod that is not its own',
    pod: webA,
    patch: annotate({ [NODE]: '{}' }),
    refused: ANNOTATIONS,
  },
  {
    what: 'another annotation, new',
    pod: webA,
    patch: annotate({ [STATE]: 'x', new: 'y' }),
    refused: ANNOTATIONS,
  },
  { what: 'another annotation, changed', pod: webA, patch: annotate({ other: 'y' }), refused: ANNOTATIONS },
  { what: 'another annotation, removed', pod: webA, patch: annotate({ other: null }), refused: ANNOTATIONS },
  {
    what: 'all annotations, removed',
    pod: webA,
    patch: { metadata: { annotations: null } },
    refused: ANNOTATIONS,
  },
  { what: 'a label', pod: webA, patch: { metadata: { labels: { app: 'db' } } }, refused: /no labels/ },
  { what: 'a label, removed', pod: webA, patch: { metadata: { labels: null } }, refused: /no labels/ },
  {
    what: 'a finalizer',
    pod: webA,
    patch: { metadata: { finalizers: ['example.com/stay'] } },
    refused: /no finalizers/,
  },
  { what: 'the phase', pod: webA, patch: { status: { phase: 'Failed' } }, refused: /spec or status/ },
  { what: 'the addresses', pod: webA, patch: { status: { podIP: '10.9.9.9' } }, refused: /spec or status/ },
];

describe('a daemon’s token', () => {
  let cluster: ControlPlane;
  let stolen = '';

  before(async () => {
    cluster = await ControlPlane.start();
    const objects = await render('base');
    for (const name of [OWN, 'shop'])
      await cluster.apply(
        { apiVersion: 'v1', kind: 'Namespace', metadata: { name } },
        account(name, 'default'),
      );
    await cluster.apply(
      ...objects.filter(({ kind }) => !POLICY_KINDS.includes(kind)).map(({ object }) => object),
    );
    for (const name of ['node-a', 'node-b'])
      await cluster.apply({ apiVersion: 'v1', kind: 'Node', metadata: { name } });
    await cluster.apply(
      pod(daemonA, 'culvert', 'node-a'),
      pod(daemonB, 'culvert', 'node-b'),
      pod(webA, 'default', 'node-a'),
      pod(webB, 'default', 'node-b'),
      pod(unscheduled, 'default'),
    );
    stolen = await boundToken(cluster, 'culvert', daemonA.name);
  });
  after(() => cluster[Symbol.asyncDispose]());

  it('could do all of this without the policy', async () => {
    for (const {
      what,
      pod: { namespace, name },
      patch,
    } of CASES) {
      const old = await cluster.api.must('GET', `/api/v1/namespaces/${namespace}/pods/${name}`);
      const { status, body } = await attempt(cluster, stolen, { namespace, name }, patch);
      assert.equal(status, 200, `${what}: ${JSON.stringify(body)}`);
      const isTakenBack = what === 'the same taken back';
      if (!isTakenBack) assert.notDeepEqual(worth(body), worth(old), `${what}: nothing changed`);
    }
  });

  it('can not with it', async () => {
    const policies = (await render('base')).filter(({ kind }) => POLICY_KINDS.includes(kind));
    await cluster.apply(...policies.map(({ object }) => object));
    await until('the policy to be in force', async () => {
      const { status } = await attempt(cluster, stolen, webB, annotate({ [STATE]: 'x' }));
      return status === 403;
    });
    for (const { what, pod: target, patch, refused } of CASES) {
      const { status, body } = await attempt(cluster, stolen, target, patch);
      assert.equal(status, refused === undefined ? 200 : 403, `${what}: ${JSON.stringify(body)}`);
      if (refused !== undefined) assert.match(text(body, 'message'), refused, what);
    }
  });

  it('is refused when it is bound to no pod, and so knows no node', async () => {
    const loose = await boundToken(cluster, 'culvert');
    const { status, body } = await attempt(cluster, loose, webA, annotate({ [STATE]: 'x' }));
    assert.equal(status, 403);
    assert.match(text(body, 'message'), OTHER_NODE);
  });

  it('has no other verb on pods', async () => {
    const { namespace, name } = webA;
    const path = `/api/v1/namespaces/${namespace}/pods/${name}`;
    for (const [method, where, sent] of [
      ['PATCH', path, {}],
      ['DELETE', path, undefined],
      ['POST', `${path}/eviction`, {}],
    ] as const) {
      const { status, body } = await askAs(cluster, stolen, method, where, sent);
      assert.equal(status, 403, `${method} ${where}: ${JSON.stringify(body)}`);
    }
    const secret = `/api/v1/namespaces/${OWN}/secrets/culvert-ca`;
    assert.equal((await askAs(cluster, stolen, 'GET', secret)).status, 403);
  });

  it('lists the one ConfigMap that the daemon watches, and reads none', async () => {
    const maps = `/api/v1/namespaces/${OWN}/configmaps`;
    const named = (name: string): string => `${maps}?fieldSelector=metadata.name%3D${name}`;
    assert.equal((await askAs(cluster, stolen, 'GET', named('culvert-trust-bundle'))).status, 200);
    for (const path of [maps, named('culvert-config'), `${maps}/culvert-trust-bundle`])
      assert.equal((await askAs(cluster, stolen, 'GET', path)).status, 403, path);
  });

  it('is nobody else’s business: others write pods as before', async () => {
    const path = `/api/v1/namespaces/shop/pods/web-b/status?dryRun=All`;
    const options = { body: annotate({ other: 'y' }), contentType: 'application/merge-patch+json' };
    assert.equal((await cluster.api.ask('PATCH', path, options)).status, 200);
  });
});

/** What of a pod a patch may have changed. */
function worth(body: unknown): unknown {
  return ['annotations', 'labels', 'finalizers']
    .map((key) => at(body, 'metadata', key))
    .concat(at(body, 'status'));
}

function account(namespace: string, name: string): unknown {
  return { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace } };
}

function pod({ namespace, name }: Pod, serviceAccountName: string, nodeName?: string): unknown {
  const metadata = { name, namespace, labels: { app: 'web' }, annotations: { other: 'x' } };
  const containers = [{ name: 'main', image: 'none' }];
  const spec = { serviceAccountName, containers, ...(nodeName === undefined ? {} : { nodeName }) };
  return { apiVersion: 'v1', kind: 'Pod', metadata, spec };
}

/** The patch as that token's holder, changing nothing. */
function attempt(
  cluster: ControlPlane,
  bearer: string,
  { namespace, name }: Pod,
  patch: unknown,
): Promise<Answer> {
  const path = `/api/v1/namespaces/${namespace}/pods/${name}/status?dryRun=All`;
  return askAs(cluster, bearer, 'PATCH', path, patch);
}
