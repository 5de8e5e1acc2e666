import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { OwnPod } from '../../daemon/cluster/own-pod.ts';
import { KubeError } from '../../daemon/kube/seams.ts';
import { RecordedApi } from './recorded-api.ts';

interface World {
  readonly api: RecordedApi;
  readonly own: OwnPod;
  /** Lets so many seconds go by; how often it has written since the last call. */
  readonly writesWithin: (seconds: number) => Promise<number>;
}

/** A pod whose node has something new to say each time. */
function world(t: TestContext, random: number): World {
  t.mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  const api = new RecordedApi();
  let version = 0;
  const own = new OwnPod(
    {
      ...{ api, namespace: 'culvert-system', name: 'culvert-x', uid: 'u-1', startedMs: 0 },
      onRenew: () => undefined,
      onProblem: () => undefined,
      random: () => random,
    },
    () => `{"version":"${++version}"}`,
  );
  t.after(() => own[Symbol.asyncDispose]());
  own.start();
  const writesWithin = async (seconds: number): Promise<number> => {
    for (let at = 0; at < seconds * 10; at++) {
      t.mock.timers.tick(100);
      await nextTurn();
    }
    return api.take().length;
  };
  return { api, own, writesWithin };
}

describe("what the daemon's own pod says", () => {
  for (const [random, first, second] of [
    [0, 2.5, 2.5],
    [0.5, 5, 5],
    [1, 7.5, 7.5],
  ] as const)
    it(`is written every 5 s, earlier or later by up to a half: after ${first} s by a chance of ${random}`, async (t) => {
      const { writesWithin } = world(t, random);
      assert.equal(await writesWithin(first - 0.2), 0);
      assert.equal(await writesWithin(0.2), 1);
      assert.equal(await writesWithin(second - 0.2), 0);
      assert.equal(await writesWithin(0.4), 1);
    });

  it('waits for as long as the server asks for, and then goes on as before', async (t) => {
    const { api, writesWithin } = world(t, 0.5);
    api.answer = () => {
      throw new KubeError(429, 'TooManyRequests', 'busy', 60_000);
    };
    assert.equal(await writesWithin(5.2), 1);
    api.answer = () => ({});
    assert.equal(await writesWithin(74), 0);
    assert.equal(await writesWithin(2), 1);
    assert.equal(await writesWithin(10.4), 2);
  });

  it('has its last word at once, whatever the server asked for, and none after its end', async (t) => {
    const { api, own, writesWithin } = world(t, 0.5);
    api.answer = () => {
      throw new KubeError(429, 'TooManyRequests', 'busy', 60_000);
    };
    assert.equal(await writesWithin(5.2), 1);
    await own.tell();
    assert.equal(api.take().length, 1);
    await own[Symbol.asyncDispose]();
    assert.equal(await writesWithin(200), 0);
  });
});
