/**
 * A worker's file descriptors, counted by pod before they are taken: running out of them would hit whoever comes next,
 * not the pod that has too many. Connections and tunnels draw on one account; idle tunnels make room for others.
 */
import type { PodUid } from '../mesh/ids.ts';

/** Of one worker: a connection through a tunnel holds one descriptor, any other two; a tunnel holds one. */
export interface DescriptorLimits {
  readonly perPod: number;
  readonly total: number;
}

/**
 * A worker's share of the node's limits. Workers do not ask each other for each connection; the kernel deals
 * connections out at random, so that shares fill alike.
 */
export function shareOf(limits: DescriptorLimits, workers: number): DescriptorLimits {
  return { perPod: Math.ceil(limits.perPod / workers), total: Math.ceil(limits.total / workers) };
}

export class Descriptors {
  readonly #limits: DescriptorLimits;
  readonly #closeIdle: (uid: PodUid | undefined) => boolean;
  readonly #perPod = new Map<PodUid, number>();
  #total = 0;

  /** `closeIdle` closes the idle tunnel, of that pod or of any, that was used longest ago, and says whether it did. */
  constructor(limits: DescriptorLimits, closeIdle: (uid: PodUid | undefined) => boolean) {
    this.#limits = limits;
    this.#closeIdle = closeIdle;
  }

  /** Counts one descriptor more, also over the limits: it must be given back. @returns whether it is within them. */
  take(uid: PodUid): boolean {
    const ofPod = this.#perPod.get(uid) ?? 0;
    const isPodFull = ofPod >= this.#limits.perPod;
    const isFull = this.#total >= this.#limits.total;
    this.#perPod.set(uid, ofPod + 1);
    this.#total += 1;
    if (isPodFull) return this.#closeIdle(uid);
    return !isFull || this.#closeIdle(undefined);
  }

  give(uid: PodUid, count = 1): void {
    this.#total -= count;
    const left = (this.#perPod.get(uid) ?? 0) - count;
    if (left > 0) this.#perPod.set(uid, left);
    else this.#perPod.delete(uid);
  }
}
