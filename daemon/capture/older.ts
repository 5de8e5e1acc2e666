/** Connections that were opened before a pod was captured: which of them are cut (DESIGN.md 3a). */
import type { PodUid } from '../mesh/ids.ts';
import { mode } from '../mesh/mode.ts';
import type { Workload } from '../mesh/model.ts';
import type { MeshState } from '../mesh/state.ts';
import type { Log } from '../observe/log.ts';
import type { CapturedPod } from './captured-pod.ts';

/** A pod that should have been guarded from its start: all that it opened meanwhile went unguarded. @returns how many. */
export function cutUnguarded(log: Log, uid: PodUid, captured: CapturedPod): number {
  const cut = captured.cutOlder(() => true);
  if (cut > 0)
    log.warn(
      { pod: uid, connections: cut },
      'the pod started before it was guarded: its connections were cut',
    );
  return cut;
}

/** STRICT destroys connections older than enrolment; PERMISSIVE only on the pod's wish. */
export function cutOlderIfAsked(
  { state, log }: { readonly state: MeshState; readonly log: Log },
  workload: Workload,
  captured: CapturedPod,
): void {
  const cut = captured.cutOlder((port) => workload.cutExisting || mode(state, workload, port) === 'strict');
  if (cut > 0) log.info({ pod: workload.uid, connections: cut }, 'connections older than enrolment were cut');
}
