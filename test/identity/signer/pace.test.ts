import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Pace, Turns } from '../../../daemon/identity/signer/pace.ts';

const OPTIONS = { burst: 4, perSecond: 2, maxSources: 3, maxWaitMs: 2_000 };

describe('a flood', () => {
  it('passes at once up to a burst, then at a rate; what it has reserved comes, the rest asks again', () => {
    const pace = new Pace(OPTIONS);
    const waits = Array.from({ length: 10 }, () => pace.take('a', 0));
    assert.deepEqual(
      waits.map(({ waitMs }) => waitMs),
      [0, 0, 0, 0, 500, 1_000, 1_500, 2_000, 2_000, 2_000],
    );
    assert.deepEqual(
      waits.map(({ isReserved }) => isReserved),
      [true, true, true, true, true, true, true, true, false, false],
    );
    assert.equal(pace.take('a', 60_000).waitMs, 0);
  });
  it('of one source costs another nothing, and what is remembered is bounded', () => {
    const pace = new Pace(OPTIONS);
    for (let i = 0; i < 100; i++) pace.take('a', 0);
    assert.equal(pace.take('b', 0).waitMs, 0);
    for (let i = 0; i < 100; i++) pace.take(`source ${i}`, 0);
    assert.equal(pace.size, 3);
  });
  it('waits in a line of its own: sources take turns', () => {
    const turns = new Turns();
    for (let i = 0; i < 1_000; i++) turns.add('flood', `flood-${i}`);
    turns.add('honest', 'one');
    turns.add('honest', 'one');
    assert.equal(turns.size, 1_001);
    assert.deepEqual([turns.next(), turns.next(), turns.next()], ['flood-0', 'one', 'flood-1']);
    while (turns.next() !== undefined);
    assert.equal(turns.size, 0);
  });
});
