import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { KubernetesSource } from '../../daemon/cluster/kubernetes.ts';
import { stateText } from '../../daemon/cluster/state-annotation.ts';
import type { Delta } from '../../daemon/mesh/model.ts';
import { uid } from '../mesh/world.ts';
import { ProtobufApi, encoded, frame } from '../kube-fake/protobuf-server.ts';
import { until } from '../support/wait.ts';

const NAMESPACES = '/api/v1/namespaces';
const PODS = '/api/v1/pods';
const shop = (label: string): object => ({
  metadata: { name: 'shop', resourceVersion: '2', labels: { 'culvert.dev/mesh': label } },
});
const pod = (id: string, over: object = {}): object => ({
  metadata: { name: 'web', namespace: 'shop', uid: id, resourceVersion: '3', ...over },
  spec: { nodeName: 'node-a' },
});

interface World {
  readonly api: ProtobufApi;
  readonly source: KubernetesSource;
  readonly deltas: Delta[];
  readonly problems: string[];
}

async function started(
  t: TestContext,
  namespaces: readonly object[],
  pods: readonly object[],
): Promise<World> {
  const api = new ProtobufApi();
  api.lists.set(NAMESPACES, encoded('List', { metadata: { resourceVersion: '1' }, items: namespaces }));
  api.lists.set(PODS, encoded('List', { metadata: { resourceVersion: '1' }, items: pods }));
  const problems: string[] = [];
  const onProblem = (part: string, reason: string): number => problems.push(`${part}: ${reason}`);
  const source = new KubernetesSource({ api, node: 'node-a', onProblem });
  t.after(() => source[Symbol.asyncDispose]());
  const deltas: Delta[] = [];
  source.start((some) => deltas.push(...some));
  await source.synced;
  await until('both watches', () => api.isWatched(NAMESPACES) && api.isWatched(PODS));
  return { api, source, deltas, problems };
}

const words = (deltas: readonly Delta[]): string[] =>
  deltas.map(({ kind, key, value }) => `${value === undefined ? '-' : '+'}${kind} ${key}`);

describe('the source over an API', () => {
  it('tells the namespace before its pod, and the pod before its state', async (t) => {
    const text = stateText({ uid: uid('u-1'), state: 'enrolled', sinceMs: 1_000 });
    const annotations = { 'culvert.dev/state': text };
    const { deltas } = await started(t, [shop('enabled')], [pod('u-1', { annotations })]);
    assert.deepEqual(words(deltas), ['+namespace shop', '+workload u-1', '+published u-1']);
  });

  it('keeps a label that can not be read: an object that is broken stays as it was', async (t) => {
    const { api, source, deltas, problems } = await started(t, [shop('enabled')], []);
    const broken = {
      metadata: { name: 'shop', resourceVersion: '5', labels: { 'culvert.dev/mesh': 'x'.repeat(64) } },
    };
    api.send(NAMESPACES, frame('MODIFIED', encoded('Thing', broken)));
    await until('the problem', () => problems.length > 0);
    assert.match(problems[0] ?? '', /shop stays as it was/);
    assert.deepEqual(words(deltas), ['+namespace shop']);
    assert.equal(source.problems()[0]?.where, 'Namespace shop');
    api.send(NAMESPACES, frame('MODIFIED', encoded('Thing', shop('disabled'))));
    await until('the label', () => deltas.length === 2);
    assert.deepEqual(source.problems(), []);
  });

  it('takes a pod of the same name for another pod', async (t) => {
    const { api, deltas } = await started(t, [shop('enabled')], [pod('u-1')]);
    api.send(PODS, frame('MODIFIED', encoded('Thing', pod('u-2'))));
    await until('both', () => deltas.length === 4);
    assert.deepEqual(words(deltas).slice(2), ['-workload u-1', '+workload u-2']);
  });

  it("tells a state that changed without telling the pod, and none that is another pod's", async (t) => {
    const { api, deltas } = await started(t, [shop('enabled')], [pod('u-1')]);
    const of = (id: string): object => ({
      'culvert.dev/state': stateText({ uid: uid(id), state: 'enrolled', sinceMs: 1_000 }),
    });
    api.send(PODS, frame('MODIFIED', encoded('Thing', pod('u-1', { annotations: of('u-1') }))));
    await until('the state', () => deltas.length === 3);
    api.send(PODS, frame('MODIFIED', encoded('Thing', pod('u-1', { annotations: of('u-9') }))));
    await until('its end', () => deltas.length === 4);
    assert.deepEqual(words(deltas).slice(2), ['+published u-1', '-published u-1']);
  });

  it('says how long each part has not been heard of', async (t) => {
    const { source } = await started(t, [], []);
    assert.deepEqual([...source.stalenessMs().keys()], ['namespaces', 'nodes', 'pods']);
  });
});
