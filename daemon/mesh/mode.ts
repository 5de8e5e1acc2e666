/** What a workload demands of its clients: one function, so that everyone who asks gets the same answer. */
import type { Port } from './ids.ts';
import type { MtlsMode, Workload } from './model.ts';
import type { MeshState } from './state.ts';

/**
 * The mTLS mode of one port of a workload. A pod that is known to have no mesh label demands nothing; all others
 * demand what config `defaultMode` says, on every port.
 */
export const mode: (state: MeshState, workload: Workload, port: Port) => MtlsMode = (state, workload) =>
  state.labelling(workload) === 'absent' ? 'permissive' : state.settings.defaultMode;
