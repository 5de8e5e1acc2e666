/**
 * Whether this node is being upgraded or Culvert uninstalled (DESIGN.md 3a). The daemon's DaemonSet is watched, not
 * only asked for at the end: `kubectl delete -k` takes our rights away with it, and a watch that stands outlives them.
 */
import { Reflector } from '../kube/reflector.ts';
import { KubeError } from '../kube/seams.ts';
import type { KubeApi } from '../kube/seams.ts';

export interface DaemonSetOptions {
  readonly api: KubeApi;
  readonly namespace: string;
  readonly name: string;
  readonly onProblem: (reason: string) => void;
  /** For the question at the end. */
  readonly timeoutMs?: number;
}

/** `unknown`: nobody could tell, so nothing may be taken down. */
export type Fate = 'stays' | 'goes' | 'unknown';

const TIMEOUT_MS = 5_000;
const NOT_FOUND = 404;

export class DaemonSet implements AsyncDisposable {
  readonly #options: DaemonSetOptions;
  readonly #watched: Reflector<Exclude<Fate, 'unknown'>>;
  #seen: Fate = 'unknown';

  constructor(options: DaemonSetOptions) {
    this.#options = options;
    this.#watched = new Reflector({
      api: options.api,
      path: `/apis/apps/v1/namespaces/${options.namespace}/daemonsets`,
      fieldSelector: `metadata.name=${options.name}`,
      decode: fateOf,
      onProblem: options.onProblem,
    });
  }

  start(): void {
    this.#watched.start((changes) => {
      for (const { type, value } of changes) this.#seen = type === 'gone' ? 'goes' : value;
    });
  }

  /** What becomes of it: as the API says now, or else as it was seen last to go. */
  async fate(): Promise<{ readonly fate: Fate; readonly why: string }> {
    const { namespace, name, api, timeoutMs } = this.#options;
    const title = `DaemonSet ${namespace}/${name}`;
    if (this.#seen === 'goes') return { fate: 'goes', why: `${title} was seen being deleted` };
    try {
      const signal = AbortSignal.timeout(timeoutMs ?? TIMEOUT_MS);
      const path = `/apis/apps/v1/namespaces/${namespace}/daemonsets/${name}`;
      const fate = fateOf(await api.request({ method: 'GET', path, signal }));
      return { fate, why: fate === 'goes' ? `${title} is being deleted` : `${title} is there` };
    } catch (error) {
      // One that was never there has another name than we think: that must not take a node apart at each upgrade.
      if (error instanceof KubeError && error.status === NOT_FOUND && this.#seen === 'stays')
        return { fate: 'goes', why: `${title} is gone` };
      return { fate: 'unknown', why: error instanceof Error ? error.message : String(error) };
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#watched[Symbol.asyncDispose]();
  }
}

function fateOf(object: unknown): Exclude<Fate, 'unknown'> {
  const metadata: unknown = Reflect.get(Object(object), 'metadata');
  return typeof Reflect.get(Object(metadata), 'deletionTimestamp') === 'string' ? 'goes' : 'stays';
}
