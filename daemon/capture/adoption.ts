/**
 * What a daemon before us left in the kernel. Its pods stay as closed as they are until each is ours, has left in
 * order, or is gone; what belongs to nobody is removed.
 */
import type { PodUid } from '../mesh/ids.ts';
import type { Log } from '../observe/log.ts';
import type { Entry } from './entry.ts';
import { cgroupIdOrZero } from './kubepods.ts';
import type { KernelState } from './programs.ts';
import { knownOf, removeStrangers, unseenOf } from './strangers.ts';
import type { Adopted, Removing } from './strangers.ts';

/** What of the kernel is needed for it. */
export type Adopting = Pick<KernelState, 'inventory' | 'removeOtherLayouts'> & Removing;

export class Adoption {
  readonly #kernel: Adopting;
  readonly #log: Log;
  #adopted: Adopted;
  /** Pods of daemons with another map layout, until we hold them all. */
  #elsewhere: readonly PodUid[] | undefined;
  /** At the start, whenever a pod of `adopted` has gone, and again after a failure. */
  #isDue = true;
  #failure: string | undefined;

  constructor(kernel: Adopting, log: Log, adopted: Adopted) {
    this.#kernel = kernel;
    this.#log = log;
    this.#adopted = adopted;
    if (adopted.otherLayouts.length > 0) this.#elsewhere = adopted.podsElsewhere;
  }

  /** Whether a daemon before us enrolled the pod, and nobody has let it go since. */
  wasEnrolled(uid: PodUid, cgroup: string): boolean {
    return (
      this.#adopted.enrolledCgroups.includes(cgroupIdOrZero(cgroup)) ||
      this.#adopted.podsElsewhere.includes(uid)
    );
  }

  /** Whether a daemon before us left the pod guarded. */
  isGuarded(uid: PodUid): boolean {
    return this.#adopted.guards.includes(uid);
  }

  /**
   * Removes what belongs to nobody, but for pods that live and that we have not heard of (yet). Never throws: what the
   * kernel refuses is told and tried again at the next call. `guarded`: new pods that we guard and nobody knows yet.
   */
  settle(
    entries: ReadonlyMap<PodUid, Entry>,
    cgroups: ReadonlyMap<PodUid, string>,
    isSeen: (uid: PodUid) => boolean,
    guarded: Iterable<PodUid> = [],
  ): void {
    this.#endStrangers(entries, cgroups, isSeen, guarded);
    this.#endOtherLayouts(entries);
  }

  #endStrangers(
    entries: ReadonlyMap<PodUid, Entry>,
    cgroups: ReadonlyMap<PodUid, string>,
    isSeen: (uid: PodUid) => boolean,
    guarded: Iterable<PodUid>,
  ): void {
    const unseen = unseenOf(this.#adopted, cgroups, isSeen);
    this.#isDue ||=
      unseen.enrolledCgroups.length < this.#adopted.enrolledCgroups.length ||
      unseen.guards.length < this.#adopted.guards.length;
    this.#adopted = unseen;
    if (!this.#isDue) return;
    try {
      const failures = removeStrangers(
        this.#kernel,
        this.#kernel.inventory(),
        knownOf(entries, unseen, cgroups, guarded),
      );
      this.#isDue = failures.length > 0;
      this.#tell(failures[0]);
    } catch (error) {
      this.#tell(error);
    }
  }

  /** Once for each new failure, not each second. */
  #tell(error: unknown): void {
    const text = error instanceof Error ? error.message : undefined;
    if (text !== undefined && text !== this.#failure)
      this.#log.error({ err: error }, 'what an earlier daemon left could not be removed; it is tried again');
    this.#failure = text;
  }

  /** Pins of another layout keep their pods closed until each is captured by ours, or has left. */
  #endOtherLayouts(entries: ReadonlyMap<PodUid, Entry>): void {
    const isHeld = (uid: PodUid): boolean => {
      const entry = entries.get(uid);
      return entry === undefined || entry.phase.state === 'leaving' || entry.captured?.isCapturing === true;
    };
    if (this.#elsewhere?.every(isHeld) !== true) return;
    try {
      const removed = this.#kernel.removeOtherLayouts();
      this.#elsewhere = undefined;
      this.#log.info({ removed }, 'the pods of a daemon with another map layout are ours now');
    } catch (error) {
      this.#tell(error);
    }
  }
}
