import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { problemsOf } from '../../daemon/admin/problems.ts';
import { pod, stateOf, told } from '../mesh/world.ts';

describe('problems of the cluster state', () => {
  it('are those of its objects, and namespaces that pods are in and that can not be read', () => {
    const broken = { where: 'a.yaml', line: 3, reason: 'is broken' };
    const state = stateOf([told.pod(pod('a', '10.244.1.1')), told.namespace('bank', undefined)]);
    const found = problemsOf({ problems: () => [broken] }, state);
    assert.deepEqual(
      found.map(({ where }) => where),
      ['a.yaml', 'Namespace shop'],
    );
    state.apply([told.namespace('shop', undefined)]);
    assert.deepEqual(problemsOf({ problems: () => [] }, state), []);
  });
});
