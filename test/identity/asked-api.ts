/** An API that holds one kind of request objects: what was posted, and the answers that a test gives. */
import { KubeError } from '../../daemon/kube/seams.ts';
import type {
  ApiRequest,
  ApiStream,
  Change,
  KubeApi,
  Watched,
  WatchOptions,
} from '../../daemon/kube/seams.ts';

interface Posted {
  readonly metadata: { readonly name: string };
  readonly spec: Readonly<Record<string, unknown>>;
}

export class AskedApi implements KubeApi {
  readonly posted: Posted[] = [];
  readonly paths: string[] = [];
  /** What every object's status is; a change is seen at the next look. */
  status: unknown = {};
  isAway = false;

  async request({ method, path, body }: ApiRequest): Promise<unknown> {
    await Promise.resolve();
    if (this.isAway) throw new KubeError(0, 'ECONNREFUSED', 'no answer');
    this.paths.push(`${method} ${path}`);
    if (method === 'POST') this.posted.push(body as Posted);
    const found = this.posted.find(({ metadata }) => path.endsWith(`/${metadata.name}`));
    if (method === 'GET' && found === undefined) throw new KubeError(404, 'NotFound', 'not found');
    return { ...found, metadata: { ...found?.metadata, resourceVersion: '7' }, status: this.status };
  }

  /** A watch that ends at once: the source reads anew. */
  async stream(): Promise<ApiStream> {
    await Promise.resolve();
    return {
      [Symbol.dispose]: () => undefined,
      [Symbol.asyncIterator]: () => ({ next: () => Promise.resolve({ done: true, value: undefined }) }),
    };
  }
}

/** A watch of one object, that tells what a test puts there. */
export class OneWatched<T> implements Watched<T> {
  readonly items = new Map<string, T>();
  readonly synced = Promise.resolve();
  readonly options: WatchOptions<T>;
  #tell: (changes: readonly Change<T>[]) => void = () => undefined;

  constructor(options: WatchOptions<T>) {
    this.options = options;
  }

  start(onChanges: (changes: readonly Change<T>[]) => void): void {
    this.#tell = onChanges;
    const changes = [...this.items].map(([key, value]) => ({ type: 'set', key, value }) as const);
    if (changes.length > 0) onChanges(changes);
  }

  put(key: string, object: unknown): void {
    const value = this.options.decode(object);
    if (value === undefined) return;
    this.items.set(key, value);
    this.#tell([{ type: 'set', key, value }]);
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
