import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { decideMode } from '../../daemon/mesh/mode.ts';
import { evaluate } from '../../daemon/mesh/policy/evaluate.ts';
import { MeshState } from '../../daemon/mesh/state.ts';
import type { Delta, Workload } from '../../daemon/mesh/model.ts';
import {
  ADDRESSES,
  ALL_UIDS,
  NAMES,
  NAMESPACES,
  NODES,
  PORTS,
  anyDeltas,
  ip,
  node,
  pod,
  settings,
  stateOf,
  told,
} from './world.ts';

/** Everything that a state answers, but for wasEnrolled. */
function answers(state: MeshState): unknown {
  return {
    byIp: ADDRESSES.map((address) => [
      state.workloadByIp(address),
      state.isHostAddress(address),
      state.isInMeshRanges(address),
      state.serviceByClusterIp(address),
      state.serviceByExternalIp(address),
    ]),
    byUid: ALL_UIDS.map((uid) => {
      const workload = state.workload(uid);
      const policies = workload && policyAnswers(state, workload);
      return [workload, policies, workload && state.isLabelled(workload), state.published(uid)];
    }),
    services: NAMESPACES.flatMap((namespace) =>
      NAMES.map((name) => {
        const service = state.service(namespace, name);
        return [service, service && state.slicesOf(service)];
      }),
    ),
    nodePorts: PORTS.map((port) => state.serviceByNodePort(port)),
    nodes: NODES.map((name) => state.node(name)),
    namespaces: NAMESPACES.map((name) => state.namespace(name)),
  };
}

/** What each port of a workload demands, and what policies say of a client without an identity. */
function policyAnswers(state: MeshState, workload: Workload): unknown {
  return PORTS.map((port) => [
    decideMode(state, workload, port),
    evaluate(state.policies.policiesOf(workload), {
      peer: undefined,
      sourceIp: undefined,
      destinationIp: undefined,
      destinationPort: port,
      sni: undefined,
      http: undefined,
    }),
  ]);
}

/** The last word on each object; a namespace's counts, when it is gone, while pods of it are there. */
function finalObjects(deltas: readonly Delta[]): Delta[] {
  const last = new Map<string, Delta>();
  const going = new Set<string>();
  for (const delta of deltas) {
    const key = `${delta.kind} ${delta.key}`;
    const isGoing = delta.kind === 'namespace' && delta.value === undefined && last.has(key);
    if (isGoing) going.add(delta.key);
    else last.set(key, delta);
    if (delta.kind === 'namespace' && !isGoing) going.delete(delta.key);
    const lived = new Set(
      [...last.values()].map(({ kind, value }) => kind === 'workload' && value?.namespace),
    );
    for (const name of going) if (!lived.has(name)) last.delete(`namespace ${name}`);
    for (const name of going) if (!lived.has(name)) going.delete(name);
  }
  return [...last.values()].filter(({ value }) => value !== undefined);
}

describe('MeshState', () => {
  it('answers after any edits as a state made from the final objects does, in any order', () => {
    fc.assert(
      fc.property(anyDeltas, fc.boolean(), (deltas, isReversed) => {
        const final = finalObjects(deltas);
        const fresh = stateOf(isReversed ? final.reverse() : final);
        const edited = stateOf([]);
        for (const delta of deltas) {
          edited.apply([delta]);
          // What is asked on the way must not stick.
          answers(edited);
        }
        assert.deepEqual(answers(edited), answers(fresh));
      }),
      { numRuns: 400 },
    );
  });

  it('gives a snapshot that makes an equal state, once-enrolled pods included', () => {
    fc.assert(
      fc.property(anyDeltas, (deltas) => {
        const state = stateOf(deltas);
        const copy = stateOf(state.snapshot());
        assert.deepEqual(answers(copy), answers(state));
        for (const uid of ALL_UIDS) {
          assert.equal(copy.wasEnrolled(uid), state.wasEnrolled(uid));
          assert.equal(copy.wasWithdrawn(uid), state.wasWithdrawn(uid));
        }
      }),
      { numRuns: 400 },
    );
  });

  it('remembers an enrolled pod exactly while it exists and its label stands', () => {
    fc.assert(
      fc.property(anyDeltas, (deltas) => {
        const state = new MeshState(settings());
        const once = new Set<string>();
        for (const delta of deltas) {
          state.apply([delta]);
          for (const uid of ALL_UIDS) {
            const workload = state.workload(uid);
            if (workload === undefined || state.labelling(workload) === 'absent') once.delete(uid);
            else if (state.isEnrolled(uid)) once.add(uid);
            assert.equal(state.wasEnrolled(uid), once.has(uid));
          }
        }
      }),
      { numRuns: 400 },
    );
  });

  it('gives a reused address to the newest pod that lives', () => {
    const old = pod('old', '10.244.1.9', { createdMs: 1 });
    const young = pod('young', '10.244.1.9', { createdMs: 2 });
    const state = stateOf([told.pod(young), told.pod(old)]);
    assert.equal(state.workloadByIp(ip('10.244.1.9'))?.name, 'young');
    state.apply([told.pod({ ...young, phase: 'Succeeded' })]);
    assert.equal(state.workloadByIp(ip('10.244.1.9'))?.name, 'old');
    state.apply([told.noPod(old)]);
    assert.equal(state.workloadByIp(ip('10.244.1.9')), undefined);
  });

  it('prefers a pod that stays to a newer one that is being deleted', () => {
    const leaving = pod('leaving', '10.244.1.9', { createdMs: 5, terminating: true });
    const staying = pod('staying', '10.244.1.9', { createdMs: 2 });
    const state = stateOf([told.pod(leaving), told.pod(staying)]);
    assert.equal(state.workloadByIp(ip('10.244.1.9'))?.name, 'staying');
  });

  it('lets the pod label win over the namespace label, both ways', () => {
    const state = stateOf([told.namespace('shop', 'enabled'), told.namespace('bank', undefined)]);
    assert.equal(state.isLabelled(pod('a', '10.244.1.1')), true);
    assert.equal(state.isLabelled(pod('a', '10.244.1.1', { meshLabel: 'disabled' })), false);
    assert.equal(state.isLabelled(pod('a', '10.244.1.1', { namespace: 'bank' })), false);
    assert.equal(state.isLabelled(pod('a', '10.244.1.1', { namespace: 'bank', meshLabel: 'enabled' })), true);
  });

  it('tells a namespace that it has not read from one without the label', () => {
    const own = pod('own', '10.244.1.3', { meshLabel: 'disabled' });
    const silent = pod('silent', '10.244.1.1');
    const state = stateOf([told.pod(silent), told.pod(own), told.published(silent, 'enrolled')]);
    assert.equal(state.labelling(silent), 'unread');
    assert.equal(state.isLabelled(silent), false);
    assert.equal(state.wasEnrolled(silent.uid), true);
    assert.equal(state.labelling(own), 'absent');
    assert.deepEqual(state.missingNamespaces(), ['shop']);
    state.apply([told.namespace('shop', undefined)]);
    assert.equal(state.labelling(silent), 'absent');
    assert.equal(state.wasEnrolled(silent.uid), false);
    assert.deepEqual(state.missingNamespaces(), []);
  });

  it('keeps the label of a namespace that is gone while pods of it are there, and no longer', () => {
    const [a, b] = [pod('a', '10.244.1.1'), pod('b', '10.244.1.2')];
    const gone: Delta = { kind: 'namespace', key: 'shop', value: undefined };
    const state = stateOf([told.namespace('shop', 'enabled'), told.pod(a), told.pod(b), gone]);
    for (const each of [state, stateOf(state.snapshot())]) {
      assert.equal(each.labelling(a), 'enabled');
      assert.deepEqual(each.missingNamespaces(), ['shop']);
      each.apply([told.noPod(a)]);
      assert.equal(each.labelling(b), 'enabled');
      each.apply([told.noPod(b)]);
      assert.equal(each.labelling(b), 'unread');
      assert.equal(each.namespace('shop'), undefined);
    }
  });

  it('believes a namespace that is back without its label', () => {
    const a = pod('a', '10.244.1.1');
    const gone: Delta = { kind: 'namespace', key: 'shop', value: undefined };
    const state = stateOf([told.namespace('shop', 'enabled'), told.pod(a), gone]);
    state.apply([told.namespace('shop', undefined)]);
    assert.equal(state.labelling(a), 'absent');
    assert.deepEqual(state.missingNamespaces(), []);
  });

  it('ignores a published state that names another pod', () => {
    const a = pod('a', '10.244.1.1');
    const b = pod('b', '10.244.1.2');
    const state = stateOf([
      told.pod(a),
      { kind: 'published', key: a.uid, value: { uid: b.uid, state: 'enrolled', sinceMs: 1 } },
    ]);
    assert.equal(state.isEnrolled(a.uid), false);
    assert.equal(state.isEnrolled(b.uid), false);
  });

  it('forgets that a pod was enrolled when the label goes, be it for a moment', () => {
    const a = pod('a', '10.244.1.1');
    const [on, off] = [told.namespace('shop', 'enabled'), told.namespace('shop', undefined)];
    const state = stateOf([told.pod(a), on, told.published(a, 'enrolled'), told.published(a, undefined)]);
    assert.equal(state.wasEnrolled(a.uid), true);
    state.apply([off, on]);
    assert.equal(state.wasEnrolled(a.uid), false);
  });

  it('keeps a range that two nodes named until the second is gone', () => {
    const range = { podCidrs: ['10.244.0.0/16'] };
    const state = stateOf([told.node(node('a', range)), told.node(node('b', range))]);
    state.apply([{ kind: 'node', key: 'a', value: undefined }]);
    assert.equal(state.isInMeshRanges(ip('10.244.200.3')), true);
    assert.equal(state.isInMeshRanges(ip('10.245.0.1')), false);
    state.apply([{ kind: 'node', key: 'b', value: undefined }]);
    assert.equal(state.isInMeshRanges(ip('10.244.200.3')), false);
  });
});
