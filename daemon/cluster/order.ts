/** In which order changes of one batch are told. Pure. */
import type { Delta } from '../mesh/model.ts';

/** Readers of the deltas meet a pod's namespace before the pod, and the pod before its state. */
const RANK: Readonly<Record<Delta['kind'], number>> = {
  namespace: 0,
  node: 1,
  workload: 2,
  service: 3,
  slice: 4,
  published: 5,
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
