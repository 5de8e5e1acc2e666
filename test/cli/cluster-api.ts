/** A Kubernetes API of plain objects for the command line's tests: lists with label selectors, merge patches, deletes. */
import { KubeError } from '../../daemon/kube/seams.ts';
import type { ApiRequest, ApiStream, KubeApi } from '../../daemon/kube/seams.ts';

export interface FakeObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly labels?: Record<string, string>;
    readonly annotations?: Record<string, string>;
  };
  readonly [field: string]: unknown;
}

export class ClusterApi implements KubeApi {
  /** By path of the object. */
  readonly objects = new Map<string, FakeObject>();
  readonly asked: ApiRequest[] = [];
  /** Answers to anything else, by `METHOD path`. */
  readonly answers = new Map<string, (request: ApiRequest) => unknown>();
  /** Called after each change, as daemons would see it. */
  onChange: (path: string) => void = () => undefined;

  add(path: string, object: FakeObject): void {
    this.objects.set(path, object);
  }

  request(request: ApiRequest): Promise<unknown> {
    this.asked.push(request);
    const answer = this.answers.get(`${request.method} ${request.path}`);
    if (answer !== undefined) return Promise.resolve(answer(request));
    if (request.method === 'GET') return Promise.resolve(this.#get(request));
    const object = this.objects.get(request.path);
    if (object === undefined) return Promise.reject(notFound(request.path));
    if (request.method === 'DELETE') this.objects.delete(request.path);
    else this.objects.set(request.path, merge(object, request.body) as FakeObject);
    this.onChange(request.path);
    return Promise.resolve({});
  }

  stream(): Promise<ApiStream> {
    return Promise.reject(new Error('the command line watches nothing'));
  }

  #get({ path, query }: ApiRequest): unknown {
    const object = this.objects.get(path);
    if (object !== undefined) return object;
    const resource = path.split('/').at(-1) ?? '';
    const isCollection = /^[a-z]+s$/.test(resource) && !/\/namespaces\/[^/]+$/.test(path);
    if (!isCollection) throw notFound(path);
    const inAll = path.replace(`/${resource}`, '');
    const found = [...this.objects].filter(
      ([key, one]) =>
        key.startsWith(inAll) &&
        key.split('/').at(-2) === resource &&
        selects(query?.['labelSelector'] ?? '', one.metadata.labels ?? {}),
    );
    return pageOf(
      found.map(([, one]) => one),
      Number(query?.['continue'] ?? 0),
    );
  }
}

/** Two to a page, so that every test pages. */
function pageOf(items: readonly FakeObject[], from: number): unknown {
  const next = from + 2;
  return {
    metadata: next < items.length ? { continue: String(next) } : {},
    items: items.slice(from, next),
  };
}

function selects(selector: string, labels: Readonly<Record<string, string>>): boolean {
  return selector
    .split(',')
    .filter((part) => part !== '')
    .every((part) => {
      const [key = '', value] = part.split('=');
      return value === undefined ? key in labels : labels[key] === value;
    });
}

/** RFC 7386. */
function merge(target: unknown, patch: unknown): unknown {
  if (!isTable(patch)) return patch;
  const merged = new Map(Object.entries(isTable(target) ? target : {}));
  for (const [key, value] of Object.entries(patch))
    if (value === null) merged.delete(key);
    else merged.set(key, merge(merged.get(key), value));
  return Object.fromEntries(merged);
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function notFound(path: string): KubeError {
  return new KubeError(404, 'NotFound', `${path} not found`);
}
