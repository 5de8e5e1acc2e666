import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';
import type { Attempt } from '../../daemon/proxy/holding.ts';
import { Holding } from '../../daemon/proxy/holding.ts';
import { parsePodUid } from '../../daemon/mesh/ids.ts';

const LONG = 60_000;
const podUid = (name: string) => parsePodUid(name) ?? assert.fail();
const never = (): AbortSignal => new AbortController().signal;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** One connection that waits; `heard` says how it went, once. */
function wait(
  holding: Holding,
  attempt: () => Attempt<string>,
  signal = never(),
  pod = podUid('one'),
): string[] {
  const heard: string[] = [];
  holding.until(
    pod,
    attempt,
    (value) => heard.push(value),
    (isFull) => heard.push(isFull ? 'no place' : 'gave up'),
    signal,
  );
  return heard;
}

const held = (): Attempt<string> => ({ held: true });
const now = (value: string): Attempt<string> => ({ held: false, value });

describe('holding', () => {
  it('does not hold what can be decided', () => {
    const holding = new Holding(0, LONG);
    assert.deepEqual(
      wait(holding, () => now('x')),
      ['x'],
    );
    assert.equal(holding.size, 0);
  });

  it('asks again after a change, once however many changes came, and lets go', async () => {
    const holding = new Holding(10, LONG);
    let asked = 0;
    let answer: Attempt<string> = held();
    const heard = wait(holding, () => {
      asked += 1;
      return answer;
    });
    for (let i = 0; i < 5; i++) holding.wake();
    await turn();
    assert.deepEqual([heard, asked, holding.size], [[], 2, 1]);
    answer = now('decided');
    holding.wake();
    await turn();
    holding.wake();
    await turn();
    assert.deepEqual([heard, asked, holding.size], [['decided'], 3, 0]);
  });

  it('gives up when the time is over, when the client goes, when all must go; each once', () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      const holding = new Holding(10, LONG);
      const client = new AbortController();
      const late = wait(holding, held);
      const gone = wait(holding, held, client.signal);
      client.abort();
      assert.deepEqual([late, gone], [[], ['gave up']]);
      mock.timers.tick(LONG - 1);
      assert.deepEqual(late, []);
      const last = wait(holding, held);
      mock.timers.tick(1);
      assert.deepEqual([late, last], [['gave up'], []]);
      holding.giveUpAll();
      holding.giveUpAll();
      mock.timers.tick(LONG);
      assert.deepEqual([late, gone, last, holding.size], [['gave up'], ['gave up'], ['gave up'], 0]);
    } finally {
      mock.timers.reset();
    }
  });

  it('holds no more than its places, and nobody whose client has gone', () => {
    const holding = new Holding(1, LONG);
    const first = wait(holding, held);
    assert.deepEqual([first, wait(holding, held)], [[], ['no place']]);
    holding.giveUpAll();
    assert.deepEqual(wait(holding, held, AbortSignal.abort()), ['gave up']);
    assert.equal(holding.size, 0);
  });

  it('keeps places for other pods, whatever one pod dials', () => {
    const holding = new Holding(100, LONG);
    const greedy = Array.from({ length: 1_000 }, () => wait(holding, held));
    assert.equal(greedy.filter(([answer]) => answer === 'no place').length, 975);
    assert.deepEqual(wait(holding, held, never(), podUid('two')), []);
    holding.giveUpAll();
    assert.deepEqual(wait(holding, held), []);
    holding.giveUpAll();
  });
});
