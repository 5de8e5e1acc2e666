/** What is wrong with the cluster's state, as `culvert status` tells it. Pure. */
import type { ClusterSource, SourceProblem } from '../mesh/model.ts';
import type { MeshState } from '../mesh/state.ts';

/** What the source could not use, and the namespaces that pods are in and whose objects are not there. */
export function problemsOf(
  source: Pick<ClusterSource, 'problems'>,
  state: Pick<MeshState, 'missingNamespaces'>,
): SourceProblem[] {
  const missing = state.missingNamespaces().map((name) => ({
    where: `Namespace ${name}`,
    line: undefined,
    reason: 'can not be read, or is not there while pods of it are: they stay as they were until it is',
  }));
  return [...source.problems(), ...missing];
}
