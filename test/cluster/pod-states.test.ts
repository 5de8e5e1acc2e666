import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { PodView } from '../../daemon/cluster/kubernetes.ts';
import { PodStateWriter } from '../../daemon/cluster/pod-states.ts';
import { STATE_ANNOTATION, readState, stateText } from '../../daemon/cluster/state-annotation.ts';
import { MeshError } from '../../daemon/errors.ts';
import type { PublishedState } from '../../daemon/mesh/model.ts';
import { pod, uid as podUid } from '../mesh/world.ts';
import { RecordedApi, refuse } from './recorded-api.ts';

const enrolled = (uid: string): PublishedState => ({ uid: podUid(uid), state: 'enrolled', sinceMs: 1_000 });
const path = (uid: string): string => `PATCH /api/v1/namespaces/shop/pods/${uid}/status`;

class World {
  readonly api = new RecordedApi();
  readonly views = new Map<string, PodView>();
  nowMs = 0;
  readonly writer = new PodStateWriter({
    api: this.api,
    pods: () => this.views.values(),
    nowMs: () => this.nowMs,
    random: () => 1,
  });

  /** The watch shows this pod, with this annotation. */
  show(uid: string, text?: string): void {
    this.views.set(uid, {
      workload: pod(uid, '10.244.0.9', { uid: podUid(uid), namespace: 'shop' }),
      published: text === undefined ? undefined : readState(text, podUid(uid)),
      shown: text,
    });
  }

  /** The annotation that the last request wrote. */
  get body(): unknown {
    return this.api.asked.at(-1)?.body;
  }
}

describe('the state annotation', () => {
  it('is read only by the pod whose UID it has', () => {
    const text = stateText(enrolled('a'));
    assert.deepEqual(readState(text, podUid('a')), enrolled('a'));
    assert.equal(readState(text, podUid('b')), undefined);
    for (const nonsense of [
      '',
      '{}',
      'null',
      '[',
      text.replace('enrolled', 'blessed'),
      text.replace('1970', 'x'),
    ])
      assert.equal(readState(nonsense, podUid('a')), undefined, nonsense);
  });

  it('says why for people; of a state that promises nothing, nobody reads more than silence', () => {
    const pending = {
      uid: podUid('a'),
      state: 'pending',
      sinceMs: 1_000,
      reason: 'PENDING_CGROUP: none',
    } as const;
    const text = stateText(pending);
    assert.ok(text.includes(`"reason":"${pending.reason}"`), text);
    assert.equal(readState(text, podUid('a')), undefined);
    assert.deepEqual(readState(stateText({ ...enrolled('a'), reason: 'X: y' }), podUid('a')), enrolled('a'));
  });
});

describe('publishing on pods', () => {
  it('writes what is new or changed, of that very pod, and nothing twice', async () => {
    const world = new World();
    for (const uid of ['a', 'b']) world.show(uid);
    await world.writer.publish([enrolled('a')]);
    assert.deepEqual(world.body, {
      metadata: { uid: 'a', annotations: { [STATE_ANNOTATION]: stateText(enrolled('a')) } },
    });
    assert.equal(world.api.asked[0]?.patch, 'application/merge-patch+json');
    assert.deepEqual(world.api.take(), [path('a')]);
    await world.writer.retry();
    assert.deepEqual(world.api.take(), [], 'the watch is behind, and we know what we wrote');
    world.show('a', stateText(enrolled('a')));
    await world.writer.publish([{ ...enrolled('a'), state: 'leaving' }, enrolled('b')]);
    assert.deepEqual(world.api.take(), [path('a'), path('b')]);
  });

  it('writes a reason that is new, and one that somebody has changed', async () => {
    const world = new World();
    const saying = { ...enrolled('a'), reason: 'APP_USES_15008: inbound 15008 carries tunnels' };
    world.show('a', stateText(enrolled('a')));
    await world.writer.publish([saying]);
    assert.deepEqual(world.body, {
      metadata: { uid: 'a', annotations: { [STATE_ANNOTATION]: stateText(saying) } },
    });
    world.show('a', stateText(saying));
    world.api.take();
    await world.writer.retry();
    assert.deepEqual(world.api.take(), []);
    world.show('a', stateText({ ...saying, reason: 'forged' }));
    await world.writer.retry();
    assert.deepEqual(world.api.take(), [path('a')]);
  });

  it('prunes: a pod that is ours no more, another UID, and what a daemon before us left', async () => {
    const world = new World();
    world.show('ours', stateText(enrolled('ours')));
    world.show('template', stateText(enrolled('another')));
    world.show('clean');
    await world.writer.retry();
    assert.deepEqual(world.api.take(), [], 'before the first word nothing is known to be wrong');
    await world.writer.publish([]);
    assert.deepEqual(world.body, {
      metadata: { uid: 'template', annotations: { [STATE_ANNOTATION]: null } },
    });
    assert.deepEqual(world.api.take(), [path('ours'), path('template')]);
  });

  it('puts back what somebody has removed', async () => {
    const world = new World();
    world.show('a');
    await world.writer.publish([enrolled('a')]);
    world.show('a', stateText(enrolled('a')));
    await world.writer.retry();
    world.show('a');
    world.api.take();
    await world.writer.retry();
    assert.deepEqual(world.api.take(), [path('a')]);
  });

  it('tries again what failed, later and later, and tells which; others are not held up', async () => {
    const world = new World();
    for (const uid of ['a', 'b']) world.show(uid);
    world.api.answer = ({ path: to }) => (to.includes('/a/') ? refuse(500, 'InternalError') : {});
    await assert.rejects(
      world.writer.publish([enrolled('a'), enrolled('b')]),
      (error) =>
        error instanceof MeshError && error.code === 'CLUSTER_WRITE_FAILED' && /500/.test(error.message),
    );
    assert.deepEqual(world.api.take(), [path('a'), path('b')]);
    await world.writer.retry();
    assert.deepEqual(world.api.take(), [], 'not before its time');
    world.nowMs = 500;
    await assert.rejects(world.writer.retry());
    world.nowMs = 1_000;
    await world.writer.retry();
    assert.equal(world.api.take().length, 1, 'the second wait is longer');
    world.api.answer = () => ({});
    world.nowMs = 60_000;
    await world.writer.retry();
    assert.deepEqual(world.api.take(), [path('a')]);
  });

  it('lets a pod go that is gone', async () => {
    const world = new World();
    world.show('a');
    world.api.answer = () => refuse(404, 'NotFound');
    await world.writer.publish([enrolled('a')]);
    await world.writer.retry();
    assert.equal(world.api.take().length, 1);
  });

  it('joins what is published while it writes, and never has more than eight requests under way', async () => {
    const world = new World();
    const uids = Array.from({ length: 30 }, (_, at) => `p${at}`);
    for (const uid of uids) world.show(uid);
    const gate = Promise.withResolvers<void>();
    let [open, most] = [0, 0];
    world.api.answer = async () => {
      most = Math.max(most, ++open);
      await gate.promise;
      open--;
    };
    const first = world.writer.publish(uids.map(enrolled));
    const second = world.writer.publish(uids.map((uid) => ({ ...enrolled(uid), state: 'leaving' as const })));
    gate.resolve();
    await Promise.all([first, second]);
    assert.equal(most, 8);
    assert.equal(world.api.take().length, 60);
  });
});
