/** What enrolment knows of one pod of this node that is, or was a moment ago, ours. */
import { MeshError } from '../errors.ts';
import type { PodUid, SpiffeId } from '../mesh/ids.ts';
import type { Workload } from '../mesh/model.ts';
import type { LocalPod } from '../mesh/wiring.ts';
import type { CapturedPod } from './captured-pod.ts';
import type { Phase } from './machine.ts';

export interface Entry {
  readonly uid: PodUid;
  phase: Phase;
  id: SpiffeId | undefined;
  captured: CapturedPod | undefined;
  /** The sandbox's process, whose namespace is the pod's. */
  sandboxPid: number | undefined;
  /** Was it running, neither captured nor guarded, when it became wanted? Fixed when it does. */
  wasRunning: boolean;
  /** Something of it ran before its guard stood, though it was to be guarded from its start. */
  ranUnguarded: boolean;
  /** A daemon before us enrolled it, and its capture has stood ever since. */
  wasEnrolled: boolean;
  /** The cgroup on which the guard stands. */
  guarded: string | undefined;
  problem: string | undefined;
  /** Its sockets are being closed: nothing is done with it meanwhile. */
  busy: boolean;
  observedMs: number;
  lastWorkload: Workload;
  olderConnections: number;
}

/** A pod that enrolment begins with. */
export function newEntry(
  workload: Workload,
  found: Pick<Entry, 'wasRunning' | 'ranUnguarded' | 'wasEnrolled' | 'guarded'>,
): Entry {
  return {
    uid: workload.uid,
    phase: { state: 'none' },
    id: undefined,
    captured: undefined,
    sandboxPid: undefined,
    ...found,
    problem: undefined,
    busy: false,
    observedMs: 0,
    lastWorkload: workload,
    olderConnections: 0,
  };
}

/** The pod as the workers need it. @throws MeshError while it has no identity. */
export function localPod(entry: Entry, captured: CapturedPod): LocalPod {
  const { lastWorkload, id } = entry;
  if (id === undefined) throw new MeshError('SYSTEM_CALL_FAILED', `pod ${entry.uid} has no identity yet`);
  return {
    uid: entry.uid,
    name: lastWorkload.name,
    namespace: lastWorkload.namespace,
    id,
    ips: captured.ips,
    state: entry.phase.state,
    netnsFd: captured.netnsFd,
    ownPorts: captured.ownPorts,
  };
}
