/**
 * Pods whose cgroup appears before their object has been read: what they are is not known, and in the clear is no
 * answer. They are guarded until their object says what they are, for a bounded time: a watch that is broken must not
 * close the pods of namespaces that never asked for us.
 */
import type { PodUid } from '../mesh/ids.ts';
import type { Log } from '../observe/log.ts';
import { cgroupId, cgroupIdOrZero } from './kubepods.ts';
import type { KernelState } from './programs.ts';
import { hasProcesses } from './sandbox.ts';

/** What of the kernel is needed for it. */
export type Guarding = Pick<
  KernelState,
  'setPodCgroup' | 'deletePodCgroup' | 'guardPending' | 'unguardPending'
>;

/**
 * How the API server writes UIDs. A static pod's cgroup is named after a hash of its file, which no object of the API
 * has as its UID: nobody would ever say what it is.
 */
const API_UID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** A guard that somebody else takes over. */
export interface HandedOver {
  /** The cgroup that is guarded. */
  readonly cgroup: string;
  /** Something ran in it before: what that has opened went unguarded. */
  readonly ranBefore: boolean;
}

interface Guarded extends HandedOver {
  readonly untilMs: number;
}

export class UnknownPods {
  readonly #kernel: Guarding;
  readonly #holdMs: number;
  readonly #log: Log;
  readonly #guarded = new Map<PodUid, Guarded>();
  /** Pods that need no guard of ours: known by now, waited for long enough, or older than us. */
  #settled: Set<PodUid> | undefined;

  /** `holdMs`: how long a pod is guarded at most while its object is awaited. */
  constructor(kernel: Guarding, holdMs: number, log: Log) {
    this.#kernel = kernel;
    this.#holdMs = holdMs;
    this.#log = log;
  }

  /** Guards pods that nobody knows, from their cgroup's appearance. The first call only learns what ran before us. */
  look(cgroups: ReadonlyMap<PodUid, string>, isKnown: (uid: PodUid) => boolean, nowMs: number): void {
    if (this.#settled === undefined) {
      this.#settled = new Set(cgroups.keys());
      return;
    }
    for (const uid of this.#settled) if (!cgroups.has(uid)) this.#settled.delete(uid);
    for (const [uid, { untilMs }] of this.#guarded) {
      if (!cgroups.has(uid)) this.#open(uid);
      else if (nowMs >= untilMs) this.#giveUp(uid);
    }
    for (const [uid, cgroup] of cgroups) {
      if (this.#settled.has(uid) || this.#guarded.has(uid)) continue;
      if (isKnown(uid) || !API_UID.test(uid)) this.#settled.add(uid);
      else this.#guard(uid, cgroup, nowMs + this.#holdMs);
    }
  }

  /** Pods that are guarded now. */
  get uids(): Iterable<PodUid> {
    return this.#guarded.keys();
  }

  /** When the next one has been waited for long enough, ms since the epoch; Infinity: none waits. */
  get deadlineMs(): number {
    return Math.min(Infinity, ...[...this.#guarded.values()].map(({ untilMs }) => untilMs));
  }

  /** The pod is somebody else's from here on, with its guard. @returns the guard, if there is one. */
  handOver(uid: PodUid): HandedOver | undefined {
    const guarded = this.#guarded.get(uid);
    this.#guarded.delete(uid);
    this.#settled?.add(uid);
    return guarded;
  }

  /** The pod is known not to be ours. */
  release(uid: PodUid): void {
    if (!this.#guarded.has(uid)) return;
    this.#open(uid);
    this.#settled?.add(uid);
  }

  /** We are leaving: nobody is guarded any more. */
  releaseAll(): void {
    for (const uid of [...this.#guarded.keys()]) this.release(uid);
  }

  #guard(uid: PodUid, cgroup: string, untilMs: number): void {
    try {
      // Its connects first: they are what a program does first.
      this.#kernel.setPodCgroup(cgroupId(cgroup), { state: 'pending', netnsCookie: 0n, allowNested: false });
      // Looked at only now: what starts from here on is guarded.
      this.#guarded.set(uid, { cgroup, untilMs, ranBefore: hasProcesses(cgroup) });
      this.#kernel.guardPending(uid, cgroup);
    } catch (error) {
      // Gone already, most likely; if not, it is tried again at the next look.
      this.#log.warn({ pod: uid, err: error }, 'a pod that nobody knows yet could not be guarded');
      this.#open(uid);
    }
  }

  #giveUp(uid: PodUid): void {
    this.#log.warn(
      { pod: uid, waitedMs: this.#holdMs },
      'a new pod’s object was not read in time: it goes on unguarded; is the cluster’s state current?',
    );
    this.release(uid);
  }

  #open(uid: PodUid): void {
    const guarded = this.#guarded.get(uid);
    if (guarded === undefined) return;
    this.#kernel.unguardPending(uid);
    this.#kernel.deletePodCgroup(cgroupIdOrZero(guarded.cgroup));
    this.#guarded.delete(uid);
  }
}
