/**
 * Connections that stand are judged again when what they were judged by has changed: pods whose policies, modes or own
 * state are other ones than at the last look, and of these the connections, in slices between which others get a turn.
 */
import type { PodUid } from '../mesh/ids.ts';
import type { Delta } from '../mesh/model.ts';
import type { PeerLevels } from '../mesh/policy/peer.ts';
import type { WorkloadPolicies } from '../mesh/policy/evaluate.ts';
import type { Labelling } from '../mesh/state.ts';
import type { LocalPod } from '../mesh/wiring.ts';
import type { Connection } from './connections.ts';
import type { DataPlane } from './plane.ts';

/** What one slice may take. */
const SLICE_MS = 4;

/** What the connections to a pod were judged by; the same objects until one of the namespace's policies changes. */
interface Basis {
  readonly policies: WorkloadPolicies | undefined;
  readonly levels: PeerLevels | undefined;
  readonly labelling: Labelling | undefined;
  readonly state: LocalPod['state'];
}

export class Rejudging {
  readonly #plane: DataPlane;
  readonly #bases = new Map<PodUid, Basis>();
  /** Pods to compare, and pods found changed; no more than there are pods. */
  readonly #looking = new Set<PodUid>();
  readonly #changed = new Set<PodUid>();
  /** Of the changed pods; those that have closed meanwhile are skipped. */
  #waiting: Connection[] = [];
  #isScheduled = false;

  constructor(plane: DataPlane) {
    this.#plane = plane;
  }

  /** Changes of the cluster have been taken in. */
  deltas(deltas: readonly Delta[]): void {
    if (deltas.some(isAboutPolicy)) this.#look(this.#plane.pods.keys());
    else this.#look(deltas.flatMap((delta) => (delta.kind === 'workload' ? delta.key : [])));
  }

  /** Enrolment has told of this pod, or that it is gone. */
  pod(uid: PodUid): void {
    this.#look([uid]);
  }

  #look(uids: Iterable<PodUid>): void {
    for (const uid of uids) if (this.#plane.pods.has(uid) || this.#bases.has(uid)) this.#looking.add(uid);
    if (this.#looking.size > 0) this.#schedule();
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#slice(performance.now() + SLICE_MS);
      if (this.#looking.size > 0 || this.#changed.size > 0 || this.#waiting.length > 0) this.#schedule();
    });
  }

  #slice(untilMs: number): void {
    for (const uid of this.#looking) {
      this.#looking.delete(uid);
      if (this.#hasChanged(uid)) this.#changed.add(uid);
      if (performance.now() > untilMs) return;
    }
    if (this.#changed.size > 0) {
      this.#waiting = [...new Set([...this.#waiting, ...this.#plane.connections.judged(this.#changed)])];
      this.#changed.clear();
    }
    for (let next = this.#waiting.pop(); next !== undefined; next = this.#waiting.pop()) {
      next.judgeAgain?.();
      if (performance.now() > untilMs) return;
    }
  }

  #hasChanged(uid: PodUid): boolean {
    const pod = this.#plane.pods.get(uid);
    if (pod === undefined) {
      this.#bases.delete(uid);
      return false;
    }
    const before = this.#bases.get(uid);
    const now = this.#basisOf(pod);
    this.#bases.set(uid, now);
    return (
      before === undefined ||
      before.policies !== now.policies ||
      before.levels !== now.levels ||
      before.labelling !== now.labelling ||
      before.state !== now.state
    );
  }

  #basisOf({ uid, state }: LocalPod): Basis {
    const mesh = this.#plane.state;
    const workload = mesh.workload(uid);
    return {
      policies: workload && mesh.policies.policiesOf(workload),
      levels: workload && mesh.policies.levelsOf(workload),
      labelling: workload && mesh.labelling(workload),
      state,
    };
  }
}

function isAboutPolicy({ kind }: Delta): boolean {
  return kind === 'policy' || kind === 'peer-authentication' || kind === 'namespace';
}
