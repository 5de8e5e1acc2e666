import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { KubernetesSource } from '../../daemon/cluster/kubernetes.ts';
import { PodStateWriter } from '../../daemon/cluster/pod-states.ts';
import { connectKube } from '../../daemon/kube/client.ts';
import type { KubeClient } from '../../daemon/kube/client.ts';
import type { ReflectorTuning } from '../../daemon/kube/reflector.ts';
import { parsePodUid } from '../../daemon/mesh/ids.ts';
import type { PodUid } from '../../daemon/mesh/ids.ts';
import type { Delta } from '../../daemon/mesh/model.ts';
import { until, within } from '../support/wait.ts';
import { ControlPlane } from './kit/control-plane.ts';
import { fakeNodes, namespace } from './kit/fakes.ts';

const PODS = '/api/v1/namespaces/shop/pods';
const LONG_MS = 60_000;

let plane: ControlPlane;
let nodes: readonly string[];

before(async () => {
  plane = await ControlPlane.start();
  nodes = await fakeNodes(plane, 20);
  await namespace(plane, 'shop', { 'culvert.dev/mesh': 'enabled' });
});
after(() => plane[Symbol.asyncDispose]());

class Watching {
  readonly source: KubernetesSource;
  readonly api: KubeClient;
  readonly deltas: Delta[] = [];
  readonly problems: string[] = [];

  constructor(t: TestContext, tuning: Partial<ReflectorTuning> = {}, node?: string) {
    this.api = connectKube(plane.kubeconfig, {}, { userAgent: 'culvert/test' });
    this.source = new KubernetesSource({
      api: this.api,
      tuning,
      onProblem: (part, reason) => this.problems.push(`${part}: ${reason}`),
      ...(node === undefined ? {} : { node }),
    });
    t.after(async () => {
      await this.source[Symbol.asyncDispose]();
      this.api[Symbol.dispose]();
    });
  }

  async start(): Promise<this> {
    this.source.start((deltas) => this.deltas.push(...deltas));
    await within('the first list', this.source.synced, LONG_MS, () => this.problems.join('\n'));
    return this;
  }

  /** Names of the pods that are there, by what was told. */
  names(): string[] {
    return [...this.source.pods()].map(({ workload }) => workload.name).sort();
  }

  /** What was told of workloads, in words. */
  told(from = 0): string[] {
    return this.deltas
      .slice(from)
      .flatMap((delta) =>
        delta.kind === 'workload' ? [delta.value === undefined ? '-' : `+${delta.value.name}`] : [],
      );
  }
}

async function create(name: string, node = nodes[0] ?? ''): Promise<PodUid> {
  const spec = { nodeName: node, containers: [{ name: 'app', image: 'none' }] };
  const made = await plane.api.must('POST', PODS, {
    timeoutMs: LONG_MS,
    body: { apiVersion: 'v1', kind: 'Pod', metadata: { name }, spec },
  });
  const uid = parsePodUid(String(Reflect.get(Object(Reflect.get(Object(made), 'metadata')), 'uid')));
  if (uid === undefined) throw new Error(`pod ${name} has no UID`);
  return uid;
}

/** No kubelet would let a pod on its node go: at once. */
function remove(name: string): Promise<unknown> {
  return plane.api.must('DELETE', `${PODS}/${name}?gracePeriodSeconds=0`, { timeoutMs: LONG_MS });
}

async function namesInApi(): Promise<string[]> {
  const list = await plane.api.must('GET', PODS);
  const items: unknown = Reflect.get(Object(list), 'items');
  if (!Array.isArray(items)) throw new Error('no list');
  return items
    .map((item: unknown) => String(Reflect.get(Object(Reflect.get(Object(item), 'metadata')), 'name')))
    .sort();
}

describe('the Kubernetes API as a source', { timeout: 600_000 }, () => {
  it('tells what is there, and then what changes, in words of the mesh', async (t) => {
    const uid = await create('first');
    const watching = await new Watching(t).start();
    const found = watching.deltas.find(({ key }) => key === uid);
    assert.partialDeepStrictEqual(found, {
      kind: 'workload',
      value: {
        name: 'first',
        namespace: 'shop',
        serviceAccount: 'default',
        node: 'fake-1',
        phase: 'Pending',
      },
    });
    const kinds = watching.deltas.map(({ kind }) => kind);
    assert.ok(kinds.lastIndexOf('namespace') < kinds.indexOf('node'), 'namespaces come first');
    assert.ok(kinds.lastIndexOf('node') < kinds.indexOf('workload'));
    assert.partialDeepStrictEqual(
      watching.deltas.filter(({ kind, key }) => kind === 'node' && key === 'fake-1'),
      [{ value: { podCidrs: ['10.128.0.0/24'] } }],
    );
    const from = watching.deltas.length;
    await remove('first');
    await until('its end', () => watching.told(from).includes('-'), { timeoutMs: LONG_MS });
    assert.deepEqual(watching.source.problems(), []);
  });

  it("tells enrolment of its own node's pods only", async (t) => {
    await create('here', 'fake-2');
    await create('there', 'fake-3');
    const watching = await new Watching(t, {}, 'fake-2').start();
    assert.deepEqual(watching.names(), ['here']);
    assert.deepEqual(
      watching.deltas.filter(({ kind }) => kind === 'node').map(({ key }) => key),
      ['fake-2'],
    );
    await Promise.all(['here', 'there'].map(remove));
  });

  it('publishes states on pods, and takes back what nobody should carry', async (t) => {
    const [one, two] = [await create('one', 'fake-4'), await create('two', 'fake-4')];
    const watching = await new Watching(t, {}, 'fake-4').start();
    using writer = new PodStateWriter({ api: watching.api, pods: () => watching.source.pods() });
    const published = async (): Promise<string[]> => {
      const list = await plane.api.must('GET', PODS);
      return (JSON.stringify(list).match(/\\"state\\":\\"\w+\\"/g) ?? []).map((text) =>
        text.replaceAll('\\"', ''),
      );
    };
    const state = { state: 'enrolled', sinceMs: 1_000 } as const;
    await writer.publish([
      { uid: one, ...state },
      { uid: two, ...state },
    ]);
    assert.deepEqual(await published(), ['state:enrolled', 'state:enrolled']);
    await until(
      'the watch to show them',
      () => watching.deltas.filter(({ kind }) => kind === 'published').length === 2,
      {
        timeoutMs: LONG_MS,
      },
    );
    // Somebody removes one, and copies the other's onto a pod of another name.
    const theirs = {
      [`culvert.dev/state`]: JSON.stringify({ uid: one, state: 'enrolled', since: new Date().toISOString() }),
    };
    await plane.api.must('PATCH', `${PODS}/two`, {
      body: { metadata: { annotations: theirs } },
      contentType: 'application/merge-patch+json',
    });
    await until("two's own state to be taken back", async () => {
      await writer.retry();
      return watching.deltas.filter(({ kind, key }) => kind === 'published' && key === two).length >= 3;
    });
    assert.deepEqual(await published(), ['state:enrolled', 'state:enrolled']);
    await writer.publish([]);
    assert.deepEqual(await published(), []);
    await Promise.all(['one', 'two'].map(remove));
  });

  it('goes on where it was when the API server is killed and comes back: nothing is told but what changes', async (t) => {
    for (const name of ['a', 'b', 'c']) await create(name);
    const watching = await new Watching(t, { lastRetryMs: 1_000, relistSpreadMs: 200 }).start();
    const from = watching.deltas.length;
    await plane.apiServer.kill();
    await until('its absence to be noticed', () => watching.source.problems().length > 0, {
      timeoutMs: LONG_MS,
    });
    assert.deepEqual(watching.names(), ['a', 'b', 'c'], 'the last state stays');
    await plane.apiServer.start();
    await create('d');
    await until('the pod that came after', () => watching.told(from).includes('+d'), { timeoutMs: LONG_MS });
    await until('every watch to be current', () => watching.source.problems().length === 0, {
      timeoutMs: LONG_MS,
    });
    assert.deepEqual(watching.told(from), ['+d']);
    await Promise.all(['a', 'b', 'c', 'd'].map(remove));
  });

  it('relists when its version has expired meanwhile, and tells the differences only', async (t) => {
    for (const name of ['e', 'f', 'g']) await create(name);
    // It comes back late: an API server's cache begins anew, and knows nothing older than its own start.
    const watching = await new Watching(t, {
      firstRetryMs: 20_000,
      lastRetryMs: 20_000,
      relistSpreadMs: 0,
    }).start();
    const from = watching.deltas.length;
    // Of other kinds, so that the version of the whole moves on while that of the pods' watch stays.
    for (let at = 0; at < 5; at++) await namespace(plane, `moves-on-${at}`);
    await plane.apiServer.kill();
    await plane.apiServer.start();
    await remove('e');
    await create('h');
    await until('the differences', () => watching.told(from).length >= 2, { timeoutMs: 2 * LONG_MS });
    assert.deepEqual(watching.told(from).sort(), ['+h', '-']);
    assert.match(watching.problems.join('\n'), /too old resource version/);
    assert.deepEqual(watching.names(), ['f', 'g', 'h']);
    await Promise.all(['f', 'g', 'h'].map(remove));
  });

  it('has the state of the API after 2,000 pods that came and went at 100 a second', async (t) => {
    const watching = await new Watching(t).start();
    const [COUNT, EVERY_MS, LIVE] = [2_000, 10, 200];
    const running: Promise<unknown>[] = [];
    const startMs = performance.now();
    const made: Promise<PodUid>[] = [];
    for (let at = 0; at < COUNT; at++) {
      await sleep(Math.max(0, startMs + at * EVERY_MS - performance.now()));
      const creating = create(`many-${at}`, nodes[at % nodes.length]);
      made.push(creating);
      running.push(creating);
      // A few of the last stay.
      const old = made[at - LIVE];
      if (old !== undefined && (at - LIVE) % 50 !== 0)
        running.push(old.then(() => remove(`many-${at - LIVE}`)));
    }
    await Promise.all(running);
    const expected = await namesInApi();
    const many = expected.filter((name) => name.startsWith('many-'));
    assert.equal(many.length, LIVE + (COUNT - LIVE) / 50);
    await until(
      'the same pods as the API has',
      () =>
        watching.names().length === expected.length &&
        watching.told().filter((one) => one !== '-').length >= COUNT,
      {
        timeoutMs: LONG_MS,
        detail: () => `${watching.names().length} of ${expected.length}\n${watching.problems.join('\n')}`,
      },
    );
    assert.deepEqual(watching.names(), expected);
    assert.deepEqual(watching.problems, []);
  });
});
