/** Which pods are to be ours. */
import { whyNotEnrollable } from '../mesh/enrollable.ts';
import type { Workload } from '../mesh/model.ts';
import type { MeshState } from '../mesh/state.ts';

/**
 * Whether a pod is to be ours: its label says so, it can be enrolled and is not over. A pod that is ours already (or
 * that a daemon before us left closed) stays so until its label was read as absent: a namespace that nobody has read,
 * because its file is broken or its watch is late, says nothing.
 */
export function isWanted(state: MeshState, workload: Workload, isOurs: boolean): boolean {
  if (whyNotEnrollable(workload, state.namespace(workload.namespace)) !== undefined) return false;
  const labelling = state.labelling(workload);
  return labelling === 'enabled' || (labelling === 'unread' && isOurs);
}
