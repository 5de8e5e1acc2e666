import assert from 'node:assert/strict';
import { before, beforeEach, describe, it } from 'node:test';
import { bundleHash, unionOf } from '../../../daemon/identity/bundle.ts';
import { makeKeyPair } from '../../../daemon/identity/csr.ts';
import { makeIssuer, readIssuer } from '../../../daemon/identity/signer/issuer.ts';
import type { SigningCa } from '../../../daemon/identity/signer/issuer.ts';
import { firstState, nextStep } from '../../../daemon/identity/signer/rotation.ts';
import type { CaState, NodeReport, Walk } from '../../../daemon/identity/signer/rotation.ts';
import { NOW, TRUST_DOMAIN } from '../forge.ts';

const MINUTE = 60_000;
let one: SigningCa;
let two: SigningCa;
let three: SigningCa;
before(async () => {
  const probe = await makeKeyPair();
  const make = async (): Promise<SigningCa> =>
    readIssuer(await makeIssuer(TRUST_DOMAIN, NOW), TRUST_DOMAIN, probe, NOW);
  [one, two, three] = await Promise.all([make(), make(), make()]);
});

/** A mesh: what is stored, what its nodes say. Everything else is forgotten between two looks, as when a leader dies. */
let state: CaState;
let nodes: Map<string, NodeReport>;
let nowMs: number;
beforeEach(() => {
  nowMs = NOW;
  state = firstState(one, '', NOW);
  nodes = new Map();
  for (const node of ['a', 'b']) says(node, state.bundlePem, { [one.rootHash]: 3 });
});

function says(node: string, bundlePem: string, issuers: Readonly<Record<string, number>>): void {
  const bundle = bundleHash(bundlePem);
  nodes.set(node, { node, pod: `culvert-${node}`, bundle, issuers, notReadySinceMs: undefined });
}

function look(desired: SigningCa): Walk {
  const active = [one, two, three].find((ca) => ca.pems.key === state.active?.key);
  const walk = nextStep({ state, active, desired, reports: [...nodes.values()], nowMs });
  if (walk.type === 'go') state = walk.state;
  return walk;
}

function waits(desired: SigningCa, ...who: readonly string[]): void {
  const walk = look(desired);
  assert.ok(walk.type === 'stay', JSON.stringify(walk));
  assert.deepEqual(
    walk.waiting.map(({ node }) => node),
    who,
  );
}

function steps(desired: SigningCa, to: CaState['step']): void {
  assert.equal(look(desired).type, 'go');
  assert.equal(state.step, to);
}

const signs = (): string | undefined => state.active?.certificates;
const both = (): string => unionOf(one.rootsPem, two.rootsPem);

describe('a rotation', () => {
  it('is steady with one CA', () => {
    assert.equal(state.step, 'steady');
    waits(one);
  });

  it('walks: both roots everywhere, then the new CA signs, then the old root goes', () => {
    steps(two, 'trust');
    assert.equal(state.bundlePem, both());
    assert.equal(signs(), one.pems.certificates, 'the old CA signs until all trust the new one');
    waits(two, 'a', 'b');
    says('a', both(), { [one.rootHash]: 3 });
    waits(two, 'b');
    says('b', both(), { [one.rootHash]: 3 });
    steps(two, 'reissue');
    assert.equal(signs(), two.pems.certificates);
    assert.equal(state.bundlePem, both());
    waits(two, 'a', 'b');
    says('a', both(), { [one.rootHash]: 1, [two.rootHash]: 2 });
    says('b', both(), { [two.rootHash]: 3 });
    waits(two, 'a');
    says('a', both(), { [two.rootHash]: 3 });
    steps(two, 'retire');
    assert.equal(state.bundlePem, two.rootsPem);
    waits(two, 'a', 'b');
    for (const node of nodes.keys()) says(node, two.rootsPem, { [two.rootHash]: 3 });
    steps(two, 'steady');
    waits(two);
  });

  it('trusts a bundle in any order', () => {
    steps(two, 'trust');
    const turned = unionOf(two.rootsPem, one.rootsPem);
    for (const node of nodes.keys()) says(node, turned, {});
    steps(two, 'reissue');
  });

  it('waits for a node that has said nothing, and says so', () => {
    steps(two, 'trust');
    says('a', both(), {});
    nodes.set('b', {
      node: 'b',
      pod: 'culvert-b',
      bundle: undefined,
      issuers: undefined,
      notReadySinceMs: undefined,
    });
    const walk = look(two);
    assert.ok(walk.type === 'stay');
    assert.deepEqual(walk.waiting, [{ node: 'b', why: 'pod culvert-b has not said which roots it trusts' }]);
    says('b', both(), {});
    steps(two, 'reissue');
    nodes.set('b', { ...must('b'), issuers: undefined });
    waits(two, 'b');
  });

  it('lets a node go that is not Ready for ten minutes, with a line', () => {
    steps(two, 'trust');
    says('a', both(), {});
    nodes.set('b', { ...must('b'), notReadySinceMs: nowMs });
    nowMs += 10 * MINUTE - 1;
    waits(two, 'b');
    nowMs += 1;
    const walk = look(two);
    assert.ok(walk.type === 'go');
    assert.deepEqual(walk.left, [{ node: 'b', why: 'not Ready for 10 minutes: not waited for' }]);
  });

  it('begins anew from each step when the CA is replaced once more; no trusted root is lost on the way', () => {
    for (const until of ['trust', 'reissue', 'retire'] as const) {
      state = firstState(one, '', NOW);
      steps(two, 'trust');
      for (const node of nodes.keys()) says(node, both(), { [two.rootHash]: 3 });
      if (until !== 'trust') steps(two, 'reissue');
      if (until === 'retire') steps(two, 'retire');
      const before = state.bundlePem;
      const signedBy = signs();
      steps(three, 'trust');
      assert.equal(state.bundlePem, unionOf(before, three.rootsPem));
      assert.equal(signs(), signedBy);
    }
  });

  it('goes back when the old CA is put back', () => {
    steps(two, 'trust');
    for (const node of nodes.keys()) says(node, both(), { [one.rootHash]: 3 });
    steps(one, 'reissue');
    assert.equal(signs(), one.pems.certificates);
    steps(one, 'retire');
    assert.equal(state.bundlePem, one.rootsPem);
  });

  it('keeps roots that were published before its own state was lost, and signs nothing that they do not know', () => {
    state = firstState(two, one.rootsPem, NOW);
    assert.equal(state.step, 'trust');
    assert.equal(signs(), undefined);
    assert.equal(bundleHash(state.bundlePem), bundleHash(both()));
    waits(two, 'a', 'b');
    for (const node of nodes.keys()) says(node, both(), { [one.rootHash]: 3 });
    steps(two, 'reissue');
    assert.equal(signs(), two.pems.certificates);
  });

  it('retires a root that was taken out of ca.crt', () => {
    state = { ...state, bundlePem: both() };
    for (const node of nodes.keys()) says(node, both(), { [one.rootHash]: 3 });
    steps(one, 'reissue');
    steps(one, 'retire');
    assert.equal(state.bundlePem, one.rootsPem);
  });
});

function must(node: string): NodeReport {
  const report = nodes.get(node);
  assert.ok(report);
  return report;
}
