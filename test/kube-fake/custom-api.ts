/** An API whose one custom kind comes and goes: discovery, lists and watches from memory, and any fault one asks for. */
import { KubeError } from '../../daemon/kube/seams.ts';
import type { ApiRequest, ApiStream, KubeApi } from '../../daemon/kube/seams.ts';

export const GROUP = 'security.istio.io';
export const RESOURCE = 'authorizationpolicies';

interface Watch {
  readonly path: string;
  readonly lines: string[];
  wake: () => void;
  isOver: boolean;
}

export class CustomApi implements KubeApi {
  /** The versions in which the kind is served. */
  readonly served = new Set<string>();
  /** `METHOD path` of everything that was asked. */
  readonly asked: string[] = [];
  /** What a request is refused with, if with anything. */
  fault: (path: string) => KubeError | undefined = () => undefined;
  readonly #objects = new Map<string, object>();
  readonly #watches = new Set<Watch>();
  readonly #log: { readonly version: number; readonly line: string }[] = [];
  #version = 1;

  /** Watches that are open, by path. */
  get watched(): readonly string[] {
    return [...this.#watches].map(({ path }) => path);
  }

  /** Creates or changes an object in namespace `shop`. */
  put(name: string, spec: object, metadata: object = {}, status?: object): void {
    const resourceVersion = String(++this.#version);
    const object = { metadata: { namespace: 'shop', name, ...metadata, resourceVersion }, spec, status };
    const type = this.#objects.has(name) ? 'MODIFIED' : 'ADDED';
    this.#objects.set(name, object);
    this.#tell({ type, object });
  }

  /** An object as it is now. */
  get(name: string): object | undefined {
    return this.#objects.get(name);
  }

  /** The definition goes; `isSilent`: without a word to whoever watches its objects. */
  vanish(isSilent = false): void {
    this.served.clear();
    if (!isSilent) for (const object of this.#objects.values()) this.#tell({ type: 'DELETED', object });
    this.#objects.clear();
    this.endWatches();
  }

  endWatches(): void {
    for (const watch of this.#watches) {
      watch.isOver = true;
      watch.wake();
    }
  }

  async request({ method, path }: ApiRequest): Promise<unknown> {
    this.#note(method, path);
    await Promise.resolve();
    if (path === '/apis') return { kind: 'APIGroupList', groups: this.#groups().map((name) => ({ name })) };
    const [, , group, version] = path.split('/');
    if (group !== GROUP || this.served.size === 0) throw notFound(path);
    if (version === undefined)
      return { kind: 'APIGroup', name: GROUP, versions: [...this.served].map((one) => ({ version: one })) };
    if (!this.served.has(version)) throw notFound(path);
    return { kind: 'APIResourceList', resources: [{ name: RESOURCE }, { name: `${RESOURCE}/status` }] };
  }

  async stream({ method, path, query, signal }: ApiRequest): Promise<ApiStream> {
    const isWatch = query?.['watch'] === 'true';
    this.#note(isWatch ? 'WATCH' : method, path);
    await Promise.resolve();
    if (!this.served.has(path.split('/')[3] ?? '')) throw notFound(path);
    const list = { metadata: { resourceVersion: String(this.#version) }, items: [...this.#objects.values()] };
    const from = Number(query?.['resourceVersion']);
    const bytes = isWatch ? this.#watch(path, from, signal) : once(JSON.stringify(list));
    return { [Symbol.asyncIterator]: () => bytes, [Symbol.dispose]: () => undefined };
  }

  #groups(): string[] {
    return ['apps', ...(this.served.size > 0 ? [GROUP] : [])];
  }

  #note(method: string, path: string): void {
    this.asked.push(`${method} ${path}`);
    const fault = this.fault(path);
    if (fault !== undefined) throw fault;
  }

  #tell(event: object): void {
    const line = JSON.stringify(event);
    this.#log.push({ version: this.#version, line });
    for (const watch of this.#watches) {
      watch.lines.push(line);
      watch.wake();
    }
  }

  async *#watch(
    path: string,
    from: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const missed = this.#log.filter(({ version }) => version > from).map(({ line }) => line);
    const watch: Watch = { path, lines: missed, wake: () => undefined, isOver: false };
    this.#watches.add(watch);
    const end = (): void => {
      watch.isOver = true;
      watch.wake();
    };
    signal?.addEventListener('abort', end, { once: true });
    try {
      for (;;) {
        for (const line of watch.lines.splice(0)) yield Buffer.from(`${line}\n`);
        if (watch.isOver) return;
        await new Promise<void>((resolve) => (watch.wake = resolve));
      }
    } finally {
      this.#watches.delete(watch);
    }
  }
}

function notFound(path: string): KubeError {
  return new KubeError(404, 'NotFound', `GET ${path}: 404 the server could not find the requested resource`);
}

async function* once(text: string): AsyncGenerator<Uint8Array, void, undefined> {
  yield await Promise.resolve(Buffer.from(text));
}
