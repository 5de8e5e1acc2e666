import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Sayings } from '../../daemon/capture/sayings.ts';
import type { PodSaying, PublishedState } from '../../daemon/mesh/model.ts';
import type { PodStatus } from '../../daemon/mesh/wiring.ts';
import { uid } from '../mesh/world.ts';

function status(state: PodStatus['state'], reason?: string): PodStatus {
  const common = { uid: uid('a'), name: 'a', namespace: 'shop', id: undefined, ips: [], olderConnections: 0 };
  return { ...common, state, reason, sinceMs: 1_000 };
}

class World {
  nowMs = 50_000;
  readonly sayings = new Sayings(() => this.nowMs);

  /** What is said `ms` later. */
  later(ms: number, statuses: readonly PodStatus[], published: readonly PublishedState[] = []): PodSaying[] {
    this.nowMs += ms;
    return this.sayings.of(published, statuses);
  }
}

const PENDING = status('pending', "PENDING_SANDBOX: the pod's sandbox has not started");
const enrolled: PublishedState = { uid: uid('a'), state: 'enrolled', sinceMs: 1_000 };

describe('what a daemon says of its pods', () => {
  it('is the states that others decide by, at once', () => {
    assert.deepEqual(new World().later(0, [status('enrolled')], [enrolled]), [enrolled]);
  });

  it('has a reason once that has lasted, and no longer than it lasts', () => {
    const world = new World();
    assert.deepEqual(world.later(0, [PENDING]), []);
    assert.deepEqual(world.later(4_999, [PENDING]), []);
    const [said] = world.later(1, [PENDING]);
    assert.deepEqual(said, { uid: uid('a'), state: 'pending', sinceMs: 1_000, reason: PENDING.reason });
    const opening = status('opening', 'OPENING_NO_CERTIFICATE: held');
    assert.deepEqual(world.later(0, [opening]), [], 'another one has to last again');
    assert.deepEqual(world.later(0, [status('enrolled')], [enrolled]), [enrolled]);
    assert.deepEqual(world.later(9_000, [PENDING]), [], 'and so has one that is back');
  });

  it('tells why a pod never will be enrolled, but not that it has ended or leaves', () => {
    const world = new World();
    for (const [reason, isTold] of [
      ["HOST_NETWORK: the pod uses its node's network", true],
      ['FINISHED: the pod has ended (Succeeded)', false],
      ['LEAVING: peers are being told', false],
    ] as const) {
      world.later(0, [status('unenrollable', reason)]);
      const said = world.later(5_000, [status('unenrollable', reason)]);
      assert.deepEqual(
        said.map((one) => one.reason),
        isTold ? [reason] : [],
      );
    }
  });

  it('adds the reason to a promise that stands', () => {
    const world = new World();
    const noted = status('enrolled', 'APP_USES_15008: inbound 15008 carries tunnels');
    world.later(0, [noted], [enrolled]);
    assert.deepEqual(world.later(5_000, [noted], [enrolled]), [{ ...enrolled, reason: noted.reason }]);
  });

  it('changes the wording of one and the same at most every 30 s', () => {
    const world = new World();
    const failed = (attempt: number): PodStatus[] => [status('pending', `NETNS_FAILED: attempt ${attempt}`)];
    world.later(0, failed(0));
    const texts = Array.from({ length: 60 }, (_, second) => world.later(1_000, failed(second))[0]?.reason);
    assert.deepEqual(
      [...new Set(texts.slice(5))],
      ['NETNS_FAILED: attempt 0', 'NETNS_FAILED: attempt 29', 'NETNS_FAILED: attempt 59'],
    );
  });

  it('is short, on one line, printable', () => {
    const world = new World();
    const wild = status('pending', `NETNS_FAILED: \u001b[31m\n${'x'.repeat(5_000)}`);
    world.later(0, [wild]);
    const reason = world.later(5_000, [wild])[0]?.reason ?? '';
    assert.equal(reason.length, 256);
    assert.match(reason, /^NETNS_FAILED: \?\[31m\?x+\.\.\.$/);
  });
});
