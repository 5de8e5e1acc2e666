/** In which order changes of one batch are told. Pure. */
import type { Delta } from '../mesh/model.ts';

/** Readers of the deltas meet a pod's namespace and its policies before the pod, and the pod before its state. */
const RANK: Readonly<Record<Delta['kind'], number>> = {
  namespace: 0,
  node: 1,
  'peer-authentication': 2,
  policy: 3,
  workload: 4,
  service: 5,
  slice: 6,
  published: 7,
};

/** Namespaces first, published states last; changes of one kind stay in the order in which they came. */
export function inOrder(deltas: readonly Delta[]): Delta[] {
  return deltas.toSorted((a, b) => RANK[a.kind] - RANK[b.kind]);
}

/** The delta that takes back what `delta` said. */
export function gone(delta: Delta): Delta {
  return delta.kind === 'workload' || delta.kind === 'published'
    ? { kind: delta.kind, key: delta.key, value: undefined }
    : { kind: delta.kind, key: delta.key, value: undefined };
}
