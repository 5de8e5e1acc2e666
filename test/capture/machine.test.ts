import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { facetsOf, nextDeadline, nextPhase, publishedOf, reasonOf } from '../../daemon/capture/machine.ts';
import type { Phase, PodFacts } from '../../daemon/capture/machine.ts';
import { untilNextLook } from '../../daemon/capture/pace.ts';

const TIMING = { joinWait: 5_000, leaveWait: 3_000, leaveGrace: 30_000 };
const NOTHING: PodFacts = {
  wanted: false,
  hasNetns: false,
  wasRunning: false,
  wasEnrolled: false,
  certificate: false,
  listening: false,
  nowMs: 1_000,
};
const WANTED: PodFacts = { ...NOTHING, wanted: true };
const READY: PodFacts = { ...WANTED, hasNetns: true, certificate: true, listening: true };
const NONE: Phase = { state: 'none' };

const step = (phase: Phase, facts: PodFacts): Phase => nextPhase(phase, facts, TIMING);

describe('the states of a pod', () => {
  it('of one that appears after its label: pending, opening, enrolled', () => {
    const pending = step(NONE, WANTED);
    assert.deepEqual(pending, { state: 'pending', sinceMs: 1_000 });
    assert.equal(step(pending, WANTED), pending);
    const opening = step(pending, { ...WANTED, hasNetns: true });
    assert.deepEqual(opening, { state: 'opening', sinceMs: 1_000, wasEnrolled: false });
    for (const missing of ['certificate', 'listening'] as const)
      assert.equal(step(opening, { ...READY, [missing]: false }), opening, missing);
    assert.equal(step(opening, READY).state, 'enrolled');
  });

  it('of one that runs before its label: joining, published once it is ready, enrolled joinWait later', () => {
    const joining = step(NONE, { ...READY, wasRunning: true, certificate: false });
    assert.deepEqual(joining, { state: 'joining', sinceMs: 1_000, publishedMs: undefined });
    assert.equal(step(joining, { ...READY, certificate: false, nowMs: 900_000 }), joining);
    const published = step(joining, { ...READY, nowMs: 2_000 });
    assert.deepEqual(published, { ...joining, publishedMs: 2_000 });
    assert.equal(step(published, { ...READY, nowMs: 6_999 }), published);
    assert.equal(nextDeadline(published, TIMING), 7_000);
    assert.deepEqual(step(published, { ...READY, nowMs: 7_000 }), { state: 'enrolled', sinceMs: 7_000 });
  });

  it('of one that leaves: redirected for leaveWait, its tunnels for leaveGrace more, then none', () => {
    const leaving = step({ state: 'enrolled', sinceMs: 0 }, NOTHING);
    assert.deepEqual(leaving, { state: 'leaving', sinceMs: 1_000, redirected: true });
    assert.equal(step(leaving, { ...NOTHING, nowMs: 3_999 }), leaving);
    const grace = step(leaving, { ...NOTHING, nowMs: 4_000 });
    assert.deepEqual(grace, { ...leaving, redirected: false });
    assert.equal(nextDeadline(grace, TIMING), 34_000);
    assert.equal(step(grace, { ...NOTHING, nowMs: 33_999 }), grace);
    assert.deepEqual(step(grace, { ...NOTHING, nowMs: 34_000 }), NONE);
  });

  it('of one labelled again while it leaves: it joins, published at once when nothing went off', () => {
    const leaving: Phase = { state: 'leaving', sinceMs: 0, redirected: true };
    assert.deepEqual(step(leaving, READY), { state: 'joining', sinceMs: 1_000, publishedMs: 1_000 });
    assert.deepEqual(step({ ...leaving, redirected: false }, READY), {
      state: 'joining',
      sinceMs: 1_000,
      publishedMs: undefined,
    });
  });

  it('of one that an earlier daemon enrolled: opening, published; leaving when its label went', () => {
    const opening = step(NONE, { ...READY, wasEnrolled: true });
    assert.deepEqual(opening, { state: 'opening', sinceMs: 1_000, wasEnrolled: true });
    assert.equal(publishedOf(opening), 'enrolled');
    const left = { ...NOTHING, hasNetns: true, wasEnrolled: true };
    assert.deepEqual(step(NONE, left), { state: 'leaving', sinceMs: 1_000, redirected: true });
    assert.equal(step(NONE, { ...left, wasEnrolled: false }), NONE);
  });

  it('that unwanted pods take the way out from wherever they are', () => {
    assert.deepEqual(step({ state: 'pending', sinceMs: 0 }, NOTHING), NONE);
    for (const phase of [
      { state: 'opening', sinceMs: 0, wasEnrolled: false },
      { state: 'joining', sinceMs: 0, publishedMs: undefined },
    ] as const)
      assert.equal(step(phase, NOTHING).state, 'leaving');
  });
});

describe('what a state asks of the kernel and tells others', () => {
  const rows: readonly (readonly [Phase, string, string | undefined])[] = [
    [NONE, '', undefined],
    [{ state: 'pending', sinceMs: 0 }, 'guard', undefined],
    [{ state: 'opening', sinceMs: 0, wasEnrolled: false }, 'hbone steer capture', undefined],
    [{ state: 'joining', sinceMs: 0, publishedMs: undefined }, 'hbone steer', 'joining'],
    [{ state: 'joining', sinceMs: 0, publishedMs: 0 }, 'hbone steer capture', 'enrolled'],
    [{ state: 'enrolled', sinceMs: 0 }, 'hbone steer capture', 'enrolled'],
    [{ state: 'leaving', sinceMs: 0, redirected: true }, 'hbone steer capture', 'leaving'],
    [{ state: 'leaving', sinceMs: 0, redirected: false }, 'hbone', 'leaving'],
  ];
  for (const [phase, facets, published] of rows)
    it(JSON.stringify(phase), () => {
      const on = Object.entries(facetsOf(phase)).filter(([, isOn]) => isOn === true);
      assert.equal(on.map(([name]) => name).join(' '), facets);
      assert.equal(publishedOf(phase), published);
    });

  it('a reason for every state but the good ones, and the missing certificate by its code', () => {
    const reason = (phase: Phase, certificate: boolean): string | undefined =>
      reasonOf(phase, { certificate, hasNetns: true });
    assert.equal(reason({ state: 'enrolled', sinceMs: 0 }, true), undefined);
    const joining: Phase = { state: 'joining', sinceMs: 0, publishedMs: undefined };
    assert.match(reason(joining, false) ?? '', /^JOINING_NO_CERTIFICATE: /);
    assert.match(reason(joining, true) ?? '', /^JOINING: /);
    const opening: Phase = { state: 'opening', sinceMs: 0, wasEnrolled: false };
    assert.match(reason(opening, false) ?? '', /^OPENING_NO_CERTIFICATE: /);
    assert.match(reason({ state: 'pending', sinceMs: 0 }, true) ?? '', /^PENDING_SANDBOX: /);
  });
});

describe('how long the loop rests', () => {
  const timing = { ...TIMING, rescanInterval: 1_000 };
  const ips = ['10.0.0.1'];

  it('until the next rescan, or a deadline that comes before it', () => {
    assert.equal(untilNextLook([], timing, 0), 1_000);
    const phase: Phase = { state: 'joining', sinceMs: 0, publishedMs: 0 };
    assert.equal(untilNextLook([{ phase, captured: { ips } }], timing, 4_700), 300);
    assert.equal(untilNextLook([{ phase, captured: { ips } }], timing, 9_000), 1);
  });

  it('hardly at all for a pod without a network, and longer the longer it has none', () => {
    const waiting = { phase: { state: 'pending', sinceMs: 0 }, captured: undefined } as const;
    assert.equal(untilNextLook([waiting], timing, 100), 10);
    assert.equal(untilNextLook([waiting], timing, 10_000), 200);
    assert.equal(untilNextLook([waiting], timing, 900_000), 1_000);
    assert.equal(untilNextLook([{ phase: NONE, captured: undefined }], timing, 0), 1_000);
  });
});
