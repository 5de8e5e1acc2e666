/**
 * The roots as a ClusterTrustBundle, for pods outside of the mesh that want them. No daemon reads it, and a cluster's
 * policies may well forbid it: the CA waits for nothing here, says what is wrong, and tries again with its next look.
 */
import type { Log } from '../../observe/log.ts';
import { bundleHash } from '../bundle.ts';
import type { Clock } from '../clock.ts';
import { excerpt } from '../text.ts';
import type { CaStore } from './store.ts';

/** It takes up to four requests to see whether somebody has changed it. */
const CHECK_MS = 60_000;

export interface ClusterBundleOptions {
  readonly store: Pick<CaStore, 'publishClusterBundle'>;
  readonly clock: Pick<Clock, 'monotonicMs'>;
  readonly log: Pick<Log, 'warn'>;
  /** Nothing is said after it. */
  readonly signal: AbortSignal;
}

export class ClusterBundle {
  readonly #options: ClusterBundleOptions;
  #problem: string | undefined;
  /** What stood there when, monotonic. */
  #kept: { readonly hash: string; readonly atMs: number } | undefined;

  constructor(options: ClusterBundleOptions) {
    this.#options = options;
  }

  /** What keeps it from being written, for the status; undefined while all is well. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Sees to it that it holds these roots, where the cluster has that API. Never rejects. */
  async keep(bundlePem: string): Promise<void> {
    const { store, clock, log, signal } = this.#options;
    const [hash, nowMs] = [bundleHash(bundlePem), clock.monotonicMs()];
    if (this.#kept?.hash === hash && nowMs - this.#kept.atMs < CHECK_MS) return;
    try {
      await store.publishClusterBundle(bundlePem);
      this.#kept = { hash, atMs: nowMs };
      this.#problem = undefined;
    } catch (error) {
      if (signal.aborted) return;
      this.#kept = undefined;
      const why = `the roots can not be published as a ClusterTrustBundle, which the mesh itself does not need: ${excerpt(error)}`;
      if (why !== this.#problem)
        log.warn({ reason: excerpt(error) }, 'the ClusterTrustBundle can not be written');
      this.#problem = why;
    }
  }
}
