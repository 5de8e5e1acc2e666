import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { PodEvents } from '../../daemon/cluster/pod-events.ts';
import { KubeError } from '../../daemon/kube/seams.ts';
import type { ApiRequest, KubeApi } from '../../daemon/kube/seams.ts';
import type { EventReason, PodEvent } from '../../daemon/observe/pod-events.ts';
import { podUid } from '../observe/records.ts';

const MINUTE = 60_000;

let nowMs: number;
let asked: ApiRequest[];
let dropped: string[];
let answer: () => Promise<unknown>;
let events: PodEvents;

const api: Pick<KubeApi, 'request'> = {
  request: (request) => {
    asked.push(request);
    return answer();
  },
};

function event(name: string, reason: EventReason = 'PlaintextDenied', note = 'why'): PodEvent {
  return { pod: { uid: podUid(`uid-${name}`), name, namespace: 'shop' }, reason, note };
}

async function note(...given: Parameters<typeof event>): Promise<void> {
  events.note(event(...given));
  await turn();
}

beforeEach(() => {
  nowMs = 1_000_000;
  asked = [];
  dropped = [];
  answer = () => Promise.resolve({});
  events = new PodEvents({
    api: api as KubeApi,
    controller: 'culvert.dev/daemon',
    instance: 'n1',
    nowMs: () => nowMs,
    onDropped: (why) => dropped.push(why),
  });
});

describe('Events on pods', () => {
  it('tells the first at once, with what kubectl describe shows', async () => {
    await note('web');
    const [request] = asked;
    assert.equal(request?.method, 'POST');
    assert.equal(request.path, '/apis/events.k8s.io/v1/namespaces/shop/events');
    const body = request.body as Record<string, unknown>;
    assert.deepEqual(body['regarding'], {
      apiVersion: 'v1',
      kind: 'Pod',
      namespace: 'shop',
      name: 'web',
      uid: 'uid-web',
    });
    assert.deepEqual([body['reason'], body['note'], body['type']], ['PlaintextDenied', 'why', 'Warning']);
    assert.match(String(body['eventTime']), /\.\d{6}Z$/);
  });

  it('counts further ones and writes at most once a minute for a pod and reason', async () => {
    await note('web');
    for (let i = 0; i < 1_000; i++) await note('web', 'PlaintextDenied', `why ${i}`);
    assert.equal(asked.length, 1);
    await note('web', 'UnknownDestination');
    await note('api');
    assert.equal(asked.length, 3);
    nowMs += MINUTE;
    events.flush();
    await turn();
    assert.equal(asked.length, 4);
    const { method, path, body } = asked[3] ?? assert.fail();
    assert.equal(method, 'PATCH');
    assert.equal(path.split('/').at(-1)?.split('.')[0], 'web');
    const { series, note: said } = body as { series: { count: number }; note: string };
    assert.deepEqual([series.count, said], [1_001, 'why 999']);
    events.flush();
    await turn();
    assert.equal(asked.length, 4, 'nothing new, nothing written');
  });

  it('begins anew after a long silence, when the API has forgotten the old one', async () => {
    await note('web');
    nowMs += 31 * MINUTE;
    await note('web');
    assert.deepEqual(
      asked.map(({ method }) => method),
      ['POST', 'POST'],
    );
  });

  it('begins anew when the API has forgotten the one that is to be counted', async () => {
    await note('web');
    const gone = asked[0]?.body as { metadata: { name: string } };
    answer = () =>
      asked.at(-1)?.path.endsWith(gone.metadata.name) === true
        ? Promise.reject(new KubeError(404, 'NotFound', 'events "web" not found'))
        : Promise.resolve({});
    for (let minute = 1; minute < 5; minute++) {
      nowMs += MINUTE;
      await note('web');
    }
    assert.deepEqual(
      asked.map(({ method }) => method),
      ['POST', 'PATCH', 'POST', 'PATCH', 'PATCH'],
    );
    assert.deepEqual(dropped, ['events "web" not found']);
  });

  it('writes no more a minute for many pods that go on failing, and a new one still at once', async () => {
    for (let pods = 0; pods < 180; pods += 60) {
      for (let i = pods; i < pods + 60; i++) await note(`pod-${i}`);
      nowMs += MINUTE;
    }
    asked = [];
    const written = new Set<string>();
    for (let minute = 0; minute < 10; minute++) {
      for (let i = 0; i < 180 && minute === 0; i++) await note(`pod-${i}`);
      for (let i = 0; i < 20; i++) {
        events.flush();
        await turn();
      }
      await note(`new-${minute}`);
      assert.equal(asked.at(-1)?.method, 'POST');
      assert.ok(asked.length <= 60, `${asked.length} in a minute`);
      for (const { method, path } of asked.splice(0)) if (method === 'PATCH') written.add(path);
      nowMs += MINUTE;
    }
    assert.equal(written.size, 180, 'each count is written some time');
  });

  it('is bounded: new ones a minute, requests in flight; what is dropped is told', async () => {
    for (let i = 0; i < 200; i++) await note(`pod-${i}`);
    assert.equal(asked.length, 60);
    assert.equal(dropped.length, 140);
    nowMs += MINUTE;
    answer = () => new Promise(() => undefined);
    for (let i = 200; i < 400; i++) await note(`pod-${i}`);
    assert.ok(asked.length <= 60 + 16, `${asked.length}`);
  });

  it('survives an API that refuses, and tells it again later', async () => {
    answer = () => Promise.reject(new KubeError(403, 'Forbidden', 'events is forbidden'));
    await note('web');
    assert.deepEqual(dropped, ['events is forbidden']);
    answer = () => Promise.resolve({});
    await note('web');
    assert.deepEqual(
      asked.map(({ method }) => method),
      ['POST', 'POST'],
    );
  });
});
