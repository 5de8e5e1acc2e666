/**
 * Whether this node is being upgraded or Culvert uninstalled (DESIGN.md 3a). The daemon's DaemonSet and its namespace are
 * watched, not only asked for at the end: `kubectl delete -k` takes our rights away with them, and a watch that stands
 * outlives them. The namespace counts on its own: since Kubernetes 1.33 one that is deleted ends its pods first, and has
 * its DaemonSets whole until the last of them is gone (OrderedNamespaceDeletion).
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

interface Answer {
  readonly fate: Fate;
  /** One sentence. */
  readonly why: string;
}

const TIMEOUT_MS = 5_000;
const NOT_FOUND = 404;

export class DaemonSet implements AsyncDisposable {
  readonly #timeoutMs: number;
  readonly #set: Lasting;
  readonly #namespace: Lasting;

  constructor({ api, namespace, name, onProblem, timeoutMs }: DaemonSetOptions) {
    this.#timeoutMs = timeoutMs ?? TIMEOUT_MS;
    const sets = `/apis/apps/v1/namespaces/${namespace}/daemonsets`;
    this.#set = new Lasting({
      ...{ api, onProblem, name, collection: sets, title: `DaemonSet ${namespace}/${name}` },
      ask: (signal) => api.request({ method: 'GET', path: `${sets}/${name}`, signal }),
    });
    const collection = '/api/v1/namespaces';
    this.#namespace = new Lasting({
      ...{ api, onProblem, name: namespace, collection, title: `namespace ${namespace}` },
      // We may list namespaces, and get none.
      ask: async (signal) => {
        const query = { fieldSelector: `metadata.name=${namespace}` };
        return only(await api.request({ method: 'GET', path: collection, query, signal }), collection);
      },
    });
  }

  start(): void {
    this.#namespace.start();
    this.#set.start();
  }

  /** What becomes of it: as the API says now, or else as it was seen last to go. Where its namespace goes, it goes. */
  async fate(): Promise<Answer> {
    const seen = this.#namespace.seenGoing() ?? this.#set.seenGoing();
    if (seen !== undefined) return seen;
    const signal = AbortSignal.timeout(this.#timeoutMs);
    const [set, namespace] = await Promise.all([this.#set.fate(signal), this.#namespace.fate(signal)]);
    const answers = [namespace, set];
    const worst = (fate: Fate): Answer | undefined => answers.find((one) => one.fate === fate);
    return worst('goes') ?? worst('unknown') ?? set;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#set[Symbol.asyncDispose](), this.#namespace[Symbol.asyncDispose]()]);
  }
}

interface LastingOptions {
  readonly api: KubeApi;
  readonly collection: string;
  readonly name: string;
  readonly title: string;
  /** The object as it is now. @throws KubeError 404 when it is gone */
  readonly ask: (signal: AbortSignal) => Promise<unknown>;
  readonly onProblem: (reason: string) => void;
}

/** One object without which we are not wanted on any node. */
class Lasting implements AsyncDisposable {
  readonly #options: LastingOptions;
  readonly #watched: Reflector<Exclude<Fate, 'unknown'>>;
  #seen: Fate = 'unknown';

  constructor(options: LastingOptions) {
    this.#options = options;
    const { api, name, collection: path, onProblem } = options;
    const fieldSelector = `metadata.name=${name}`;
    this.#watched = new Reflector({ api, path, fieldSelector, decode: fateOf, onProblem });
  }

  start(): void {
    this.#watched.start((changes) => {
      for (const { type, value } of changes) this.#seen = type === 'gone' ? 'goes' : value;
    });
  }

  seenGoing(): Answer | undefined {
    if (this.#seen !== 'goes') return undefined;
    return { fate: 'goes', why: `${this.#options.title} was seen being deleted` };
  }

  async fate(signal: AbortSignal): Promise<Answer> {
    const { title, ask } = this.#options;
    try {
      const fate = fateOf(await ask(signal));
      return { fate, why: fate === 'goes' ? `${title} is being deleted` : `${title} is there` };
    } catch (error) {
      // The watch may have told it meanwhile, and that we may not ask any more is a part of it.
      const seen = this.seenGoing();
      if (seen !== undefined) return seen;
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

/** The one object of a list. @throws KubeError 404 when it is empty */
function only(list: unknown, path: string): unknown {
  const items: unknown = Reflect.get(Object(list), 'items');
  if (!Array.isArray(items)) throw new KubeError(0, 'NotAList', `${path}: the answer is no list`);
  if (items.length === 0) throw new KubeError(NOT_FOUND, 'NotFound', `${path}: ours is not there`);
  return items[0];
}

function fateOf(object: unknown): Exclude<Fate, 'unknown'> {
  const metadata: unknown = Reflect.get(Object(object), 'metadata');
  return typeof Reflect.get(Object(metadata), 'deletionTimestamp') === 'string' ? 'goes' : 'stays';
}
