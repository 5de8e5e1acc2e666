/** What enrolment tells: to other nodes the published state, to people `culvert status`. Only when it changed. */
import { enrolmentNotes, whyNotEnrollable } from '../mesh/enrollable.ts';
import type { PodUid } from '../mesh/ids.ts';
import type { PodSaying, PublishedState, Workload } from '../mesh/model.ts';
import type { MeshState } from '../mesh/state.ts';
import type { PodStatus } from '../mesh/wiring.ts';
import type { Entry } from './entry.ts';
import type { WantedIdentities } from './identities.ts';
import { publishedOf, reasonOf } from './machine.ts';
import { Sayings } from './sayings.ts';

export interface ReportEvents {
  /** The whole truth about this node's pods. */
  pods(pods: readonly PodStatus[]): void;
  /** All that this node publishes. */
  publish(sayings: readonly PodSaying[]): void;
  /** A pod ran before it was guarded; so many connections of its first moments were cut. */
  unguarded(uid: PodUid, connections: number): void;
}

export class Reports {
  readonly #state: MeshState;
  readonly #identities: WantedIdentities;
  readonly #events: ReportEvents;
  readonly #sayings = new Sayings(() => performance.now());
  #lastStatus = '';
  #lastPublished = '';

  constructor(state: MeshState, identities: WantedIdentities, events: ReportEvents) {
    this.#state = state;
    this.#identities = identities;
    this.#events = events;
  }

  /** Another daemon may have published meanwhile: what comes next is told in any case. */
  forget(): void {
    this.#lastPublished = '';
  }

  /** `local`: every pod of this node that may be ours. */
  tell(entries: ReadonlyMap<PodUid, Entry>, local: ReadonlyMap<PodUid, Workload>): void {
    const status = this.#status(entries, local);
    const sayings = this.#sayings.of(publishedStates(entries.values()), status);
    const text = JSON.stringify(sayings);
    if (text !== this.#lastPublished) {
      this.#lastPublished = text;
      this.#events.publish(sayings);
    }
    const statusText = JSON.stringify(status);
    if (statusText === this.#lastStatus) return;
    this.#lastStatus = statusText;
    this.#events.pods(status);
  }

  #status(entries: ReadonlyMap<PodUid, Entry>, local: ReadonlyMap<PodUid, Workload>): PodStatus[] {
    // One that is being taken apart is ours no longer.
    const all = [...entries.values()].filter(isListed).map((entry) => this.#statusOf(entry));
    for (const workload of local.values())
      if (!entries.has(workload.uid) && this.#state.isLabelled(workload))
        all.push(this.#withoutEntry(workload));
    return all;
  }

  /** Labelled and not ours: it can't be, or has no cgroup here yet. */
  #withoutEntry(workload: Workload): PodStatus {
    const why = whyNotEnrollable(workload, this.#state.namespace(workload.namespace));
    return {
      uid: workload.uid,
      name: workload.name,
      namespace: workload.namespace,
      state: why === undefined ? 'pending' : 'unenrollable',
      reason:
        why === undefined
          ? 'PENDING_CGROUP: the pod has no cgroup on this node yet'
          : `${why.code}: ${why.text}`,
      id: undefined,
      ips: workload.ips,
      olderConnections: 0,
      sinceMs: workload.createdMs,
    };
  }

  #statusOf(entry: Entry): PodStatus {
    const { phase, lastWorkload } = entry;
    const failed = this.#identities.whyNot(entry.id);
    const base = reasonOf(phase, {
      certificate: this.#identities.has(entry.id),
      hasNetns: entry.captured !== undefined,
    });
    return {
      uid: entry.uid,
      name: lastWorkload.name,
      namespace: lastWorkload.namespace,
      state: phase.state,
      reason:
        entry.problem ??
        (base === undefined || failed === undefined ? base : `${base} (${failed})`) ??
        note(lastWorkload),
      id: entry.id,
      ips: entry.captured?.ips ?? [],
      olderConnections: entry.olderConnections,
      sinceMs: phase.state === 'none' ? 0 : phase.sinceMs,
    };
  }
}

function isListed({ phase, busy }: Entry): boolean {
  return phase.state !== 'none' || !busy;
}

function publishedStates(entries: Iterable<Entry>): PublishedState[] {
  const published: PublishedState[] = [];
  for (const { uid, phase } of entries) {
    const state = publishedOf(phase);
    if (state !== undefined && phase.state !== 'none') published.push({ uid, state, sinceMs: phase.sinceMs });
  }
  return published;
}

/** What a user should know of a pod that is enrolled all the same. */
function note(workload: Workload): string | undefined {
  const [first] = enrolmentNotes(workload);
  return first === undefined ? undefined : `${first.code}: ${first.text}`;
}
