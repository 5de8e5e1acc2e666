/** A Kubernetes API in memory for culvert-ca: plain objects with versions, watches that hear of a write before its answer. */
import { KubeError } from '../../../daemon/kube/seams.ts';
import type {
  ApiRequest,
  ApiStream,
  Change,
  KubeApi,
  WatchOptions,
  Watched,
} from '../../../daemon/kube/seams.ts';

export interface Stored {
  readonly metadata: {
    readonly name: string;
    readonly uid?: string;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly labels?: Readonly<Record<string, string>>;
    readonly resourceVersion?: string;
    readonly [field: string]: unknown;
  };
  readonly data?: Readonly<Record<string, string>>;
  readonly [field: string]: unknown;
}

export class Cluster implements KubeApi {
  /** By path of the object. */
  readonly objects = new Map<string, Stored>();
  /** `METHOD path` of every request. */
  readonly asked: string[] = [];
  /** What stands in the way of a request: by the beginning of `METHOD path`. */
  readonly refusals = new Map<string, KubeError>();
  /** Called with each object that was put there, before who put it has its answer. */
  onPut: (path: string, object: Stored) => void = () => undefined;
  /** Called before each request is answered. */
  onAsked: (asked: string) => void = () => undefined;
  readonly #watches = new Set<PathWatched<unknown>>();
  #version = 0;

  readonly watch = <T>(options: WatchOptions<T>): Watched<T> => {
    const watched = new PathWatched(options, this.objects);
    this.#watches.add(watched as PathWatched<unknown>);
    return watched;
  };

  async request({ method, path, body }: ApiRequest): Promise<unknown> {
    await Promise.resolve();
    const asked = `${method} ${path}`;
    this.asked.push(asked);
    this.onAsked(asked);
    for (const [beginning, error] of this.refusals) if (asked.startsWith(beginning)) throw error;
    if (method === 'GET') return structuredClone(this.#find(path));
    const object = body as Stored;
    if (method === 'POST') return this.#post(path, object);
    const of = path.replace(/\/(status|approval)$/, '');
    const known = this.#find(of);
    const wanted = object.metadata.resourceVersion;
    if (wanted !== undefined && wanted !== known.metadata.resourceVersion)
      throw new KubeError(409, 'Conflict', `${of} has been modified`);
    return structuredClone(this.put(of, object));
  }

  stream(): Promise<ApiStream> {
    return Promise.reject(new Error('watches are those of `watch`'));
  }

  /** Puts an object there, by whomever; the watches hear of it. */
  put(path: string, object: Stored): Stored {
    const resourceVersion = String(++this.#version);
    const stored: Stored = { ...object, metadata: { ...object.metadata, resourceVersion } };
    this.objects.set(path, stored);
    for (const watched of this.#watches) watched.changed('set', path, stored);
    this.onPut(path, stored);
    return stored;
  }

  /** Changes an object as a merge patch of its data would. */
  patchData(path: string, data: Readonly<Record<string, string>>): void {
    const known = this.#find(path);
    this.put(path, { ...known, data: { ...known.data, ...data } });
  }

  remove(path: string): void {
    const known = this.#find(path);
    this.objects.delete(path);
    for (const watched of this.#watches) watched.changed('gone', path, known);
  }

  /** How often was asked what begins so. */
  count(beginning: string): number {
    return this.asked.filter((one) => one.startsWith(beginning)).length;
  }

  #post(path: string, object: Stored): unknown {
    const at = `${path}/${object.metadata.name}`;
    if (this.objects.has(at)) throw new KubeError(409, 'AlreadyExists', `${at} exists`);
    return structuredClone(this.put(at, object));
  }

  #find(path: string): Stored {
    const object = this.objects.get(path);
    if (object === undefined) throw new KubeError(404, 'NotFound', `there is no ${path}`);
    return object;
  }
}

/** A watch of the objects under one path, or of the one that the field selector names. */
class PathWatched<T> implements Watched<T> {
  readonly items = new Map<string, T>();
  readonly synced = Promise.resolve();
  readonly #options: WatchOptions<T>;
  readonly #objects: ReadonlyMap<string, Stored>;
  #tell: ((changes: readonly Change<T>[]) => void) | undefined;

  constructor(options: WatchOptions<T>, objects: ReadonlyMap<string, Stored>) {
    this.#options = options;
    this.#objects = objects;
  }

  start(onChanges: (changes: readonly Change<T>[]) => void): void {
    this.#tell = onChanges;
    for (const [path, object] of this.#objects) this.changed('set', path, object);
  }

  changed(type: 'set' | 'gone', path: string, object: Stored): void {
    const key = this.#keyOf(path);
    if (this.#tell === undefined || key === undefined) return;
    const before = this.items.get(key);
    const value = type === 'set' ? this.#options.decode(structuredClone(object)) : undefined;
    if (value !== undefined) {
      this.items.set(key, value);
      this.#tell([{ type: 'set', key, value }]);
    } else if (before !== undefined) {
      this.items.delete(key);
      this.#tell([{ type: 'gone', key, value: before }]);
    }
  }

  #keyOf(path: string): string | undefined {
    const [, parent = '', name = ''] = /^(.*)\/([^/]+)$/.exec(path) ?? [];
    const namespace = /\/namespaces\/([^/]+)\//.exec(path)?.[1];
    const isAll = this.#options.path === parent.replace(/\/namespaces\/[^/]+/, '');
    if (this.#options.path !== parent && !isAll) return undefined;
    const named = /^metadata\.name=(.*)$/.exec(this.#options.fieldSelector ?? '')?.[1];
    if (named !== undefined && named !== name) return undefined;
    return namespace === undefined ? name : `${namespace}/${name}`;
  }

  stalenessMs(): number {
    return 0;
  }
  problem(): string | undefined {
    return undefined;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.resolve();
  }
}
