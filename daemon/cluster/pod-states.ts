/**
 * Publishes the states of this node's pods as annotations. What should be is compared with what the watch shows, so
 * whatever is lost on the way is made good; a state of a daemon before us, or one that a template carries, is removed.
 */
import type { KubeApi } from '../kube/seams.ts';
import { KubeError } from '../kube/seams.ts';
import { MeshError } from '../errors.ts';
import type { PodUid } from '../mesh/ids.ts';
import type { PodSaying } from '../mesh/model.ts';
import type { PodView } from './kubernetes.ts';
import { STATE_ANNOTATION, stateText } from './state-annotation.ts';

export interface PodStateWriterOptions {
  readonly api: KubeApi;
  /** This node's pods as the API showed them last. */
  readonly pods: () => Iterable<PodView>;
  /** Monotonic, ms. */
  readonly nowMs?: () => number;
  /** 0 to 1. */
  readonly random?: () => number;
}

/** What was written, while the watch still shows what was there before. */
interface Written {
  readonly text: string | undefined;
  readonly shown: string | undefined;
}

interface Due {
  readonly pod: PodView;
  readonly text: string | undefined;
}

const MAX_IN_FLIGHT = 8;
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 30_000;
const NOT_FOUND = 404;

export class PodStateWriter implements Disposable {
  readonly #options: Required<PodStateWriterOptions>;
  readonly #closing = new AbortController();
  readonly #written = new Map<PodUid, Written>();
  readonly #failed = new Map<PodUid, { readonly failures: number; readonly notBeforeMs: number }>();
  /** undefined before the first `publish`: nothing is known to be wrong. */
  #wanted: ReadonlyMap<PodUid, string> | undefined;
  #writing: Promise<void> | undefined;

  constructor(options: PodStateWriterOptions) {
    this.#options = { nowMs: () => performance.now(), random: Math.random, ...options };
  }

  /**
   * Makes `sayings` all that this node's pods carry. Resolves when that has been tried once for each pod; calls made
   * meanwhile are joined. @throws MeshError CLUSTER_WRITE_FAILED naming the first pod of those that could not be written.
   */
  publish(sayings: readonly PodSaying[]): Promise<void> {
    this.#wanted = new Map(sayings.map((saying) => [saying.uid, stateText(saying)]));
    return this.retry();
  }

  /** Writes what is due: what failed before, and what somebody else has changed. @throws as publish */
  retry(): Promise<void> {
    this.#writing ??= this.#writeAll().finally(() => {
      this.#writing = undefined;
    });
    return this.#writing;
  }

  [Symbol.dispose](): void {
    this.#closing.abort();
  }

  async #writeAll(): Promise<void> {
    let problem: Error | undefined;
    for (;;) {
      const due = this.#due();
      if (due.length === 0 || this.#closing.signal.aborted) break;
      const queue = due.values();
      const lane = async (): Promise<void> => {
        for (const one of queue) problem = (await this.#write(one)) ?? problem;
      };
      await Promise.all(Array.from({ length: Math.min(MAX_IN_FLIGHT, due.length) }, lane));
    }
    if (problem === undefined || this.#closing.signal.aborted) return;
    const why = `the state of a pod could not be published: ${problem.message}`;
    throw new MeshError('CLUSTER_WRITE_FAILED', why, { cause: problem });
  }

  #due(): readonly Due[] {
    if (this.#wanted === undefined) return [];
    const due: Due[] = [];
    const present = new Set<PodUid>();
    for (const pod of this.#options.pods()) {
      const { uid } = pod.workload;
      present.add(uid);
      const text = this.#wanted.get(uid);
      const notBeforeMs = this.#failed.get(uid)?.notBeforeMs ?? 0;
      if (this.#isThere(pod) !== text && this.#options.nowMs() >= notBeforeMs) due.push({ pod, text });
    }
    for (const uid of this.#written.keys()) if (!present.has(uid)) this.#written.delete(uid);
    for (const uid of this.#failed.keys()) if (!present.has(uid)) this.#failed.delete(uid);
    return due;
  }

  /** What the pod carries now: what we wrote last, until the watch shows something else than before. */
  #isThere(pod: PodView): string | undefined {
    const { shown } = pod;
    const written = this.#written.get(pod.workload.uid);
    if (written !== undefined && written.shown === shown) return written.text;
    this.#written.delete(pod.workload.uid);
    return shown;
  }

  /** @returns why it could not be done; undefined when it was, or is not needed any more. */
  async #write({ pod, text }: Due): Promise<Error | undefined> {
    const { uid, namespace, name } = pod.workload;
    try {
      await this.#options.api.request({
        method: 'PATCH',
        path: `/api/v1/namespaces/${namespace}/pods/${name}/status`,
        patch: 'application/merge-patch+json',
        // The UID: of another pod of that name the API server takes nothing (409).
        body: { metadata: { uid, annotations: { [STATE_ANNOTATION]: text ?? null } } },
        signal: this.#closing.signal,
      });
    } catch (error) {
      if (!(error instanceof KubeError) || error.status !== NOT_FOUND) return this.#fail(uid, error);
    }
    this.#failed.delete(uid);
    this.#written.set(uid, { text, shown: pod.shown });
    return undefined;
  }

  #fail(uid: PodUid, error: unknown): Error {
    const { nowMs, random } = this.#options;
    const failures = (this.#failed.get(uid)?.failures ?? 0) + 1;
    const waitMs = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(failures - 1, 30));
    const askedMs = error instanceof KubeError ? (error.retryAfterMs ?? 0) : 0;
    const notBeforeMs = nowMs() + Math.max(askedMs, waitMs * (0.5 + random() / 2));
    this.#failed.set(uid, { failures, notBeforeMs });
    return error instanceof Error ? error : new Error(String(error));
  }
}
