/**
 * The startup taint of our own node (manifests/startup-taint): a node that registers with it takes no pod that does not
 * tolerate it, until a daemon of ours guards the node and takes it off. Never put back: pods that run stay guarded while
 * a daemon is away. Watched, not only looked at: a Node object may be made again.
 */
import { Reflector } from '../kube/reflector.ts';
import type { KubeApi } from '../kube/seams.ts';
import { KubeError } from '../kube/seams.ts';

export const STARTUP_TAINT = 'culvert.dev/not-ready';

export interface StartupTaintOptions {
  readonly api: KubeApi;
  readonly node: string;
  readonly onRemoved: () => void;
  readonly onProblem: (reason: string) => void;
  /** After a failure, ms. */
  readonly retryMs?: number;
}

/** What is kept of the Node. */
interface Tainted {
  readonly version: string;
  /** Those that are not ours, as JSON; undefined: ours is not there. */
  readonly others: string | undefined;
}

const RETRY_MS = 5_000;
const CONFLICT = 409;

export class StartupTaint implements AsyncDisposable {
  readonly #options: Required<StartupTaintOptions>;
  readonly #watched: Reflector<Tainted>;
  readonly #closing = new AbortController();
  #writing: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: StartupTaintOptions) {
    this.#options = { retryMs: RETRY_MS, ...options };
    this.#watched = new Reflector<Tainted>({
      api: options.api,
      path: '/api/v1/nodes',
      fieldSelector: `metadata.name=${options.node}`,
      decode: tainted,
      onProblem: options.onProblem,
    });
  }

  /** To be called once the node is guarded: takes the taint off now and whenever it is there. */
  start(): void {
    this.#watched.start(() => this.#look());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#timer);
    this.#closing.abort();
    await this.#writing;
    await this.#watched[Symbol.asyncDispose]();
  }

  #look(): void {
    const node = this.#watched.items.get(this.#options.node);
    if (node?.others === undefined || this.#writing !== undefined || this.#closing.signal.aborted) return;
    this.#writing = this.#remove(node.version, JSON.parse(node.others)).finally(() => {
      this.#writing = undefined;
      // The watch may have brought another version meanwhile.
      if (this.#watched.items.get(this.#options.node)?.version !== node.version) this.#look();
    });
  }

  async #remove(version: string, others: unknown): Promise<void> {
    const { api, node, onProblem, onRemoved, retryMs } = this.#options;
    try {
      await api.request({
        method: 'PATCH',
        path: `/api/v1/nodes/${node}`,
        patch: 'application/merge-patch+json',
        // The version: a taint that somebody has added meanwhile must not go too (409).
        body: { metadata: { resourceVersion: version }, spec: { taints: others } },
        signal: this.#closing.signal,
      });
      onRemoved();
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      const isOld = error instanceof KubeError && error.status === CONFLICT;
      if (!isOld)
        onProblem(
          `taint ${STARTUP_TAINT} could not be removed: ${error instanceof Error ? error.message : String(error)}`,
        );
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#look(), retryMs);
    }
  }
}

function tainted(object: unknown): Tainted | undefined {
  const version: unknown = Reflect.get(Object(Reflect.get(Object(object), 'metadata')), 'resourceVersion');
  const taints: unknown = Reflect.get(Object(Reflect.get(Object(object), 'spec')), 'taints');
  if (typeof version !== 'string') return undefined;
  const all: readonly unknown[] = Array.isArray(taints) ? taints : [];
  const others = all.filter((taint) => Reflect.get(Object(taint), 'key') !== STARTUP_TAINT);
  return { version, others: others.length === all.length ? undefined : JSON.stringify(others) };
}
