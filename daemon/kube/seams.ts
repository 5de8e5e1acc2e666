/**
 * What the rooms that need a Kubernetes API see of it. `daemon/kube` knows how to talk to an API server (configuration,
 * authentication, requests, list and watch) and nothing of what the objects mean.
 */

export type PatchType =
  | 'application/json-patch+json'
  | 'application/merge-patch+json'
  | 'application/strategic-merge-patch+json'
  | 'application/apply-patch+yaml';

export interface ApiRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Absolute path without query: `/api/v1/namespaces/shop/pods/web-1/status`. */
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** With PATCH only. */
  readonly patch?: PatchType;
  /** Default: `application/json`. */
  readonly accept?: string;
  readonly signal?: AbortSignal;
}

/** A request's answer was not 2xx, or there was none. `status` 0: no answer (refused, timeout, TLS). */
export class KubeError extends Error {
  override readonly name = 'KubeError';
  readonly status: number;
  /** `reason` of the API's Status object (`NotFound`, `Conflict`, `Forbidden`, `Expired` …), or a code of the system. */
  readonly reason: string;
  /** Retry-After, in ms, where the server sent one. */
  readonly retryAfterMs: number | undefined;

  constructor(status: number, reason: string, message: string, retryAfterMs?: number, cause?: unknown) {
    super(message, { cause });
    this.status = status;
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }
}

/** The body of a 2xx answer, as it comes; iterating throws KubeError when it breaks off. Disposing ends it, silently. */
export interface ApiStream extends AsyncIterable<Uint8Array>, Disposable {}

export interface KubeApi {
  /** One request; its answer's JSON, not yet checked. Bounded in time and size. @throws KubeError */
  request(request: ApiRequest): Promise<unknown>;
  /** One request whose answer goes on (a watch); bounded in time until it begins only. @throws KubeError */
  stream(request: ApiRequest): Promise<ApiStream>;
}

/** One change of a watched collection. `key` is `namespace/name`, or `name` of cluster-scoped objects. */
export type Change<T> =
  | { readonly type: 'set'; readonly key: string; readonly value: T }
  | { readonly type: 'gone'; readonly key: string; readonly value: T };

/** A collection of the API, listed and watched for as long as it lives; what is kept is what `decode` made. */
export interface Watched<T> extends AsyncDisposable {
  /** Resolves with the first complete list; never rejects: an API that is away is waited for. */
  readonly synced: Promise<void>;
  /** Starts once. A relist is told as differences only. */
  start(onChanges: (changes: readonly Change<T>[]) => void): void;
  /** What is held now, by key. */
  readonly items: ReadonlyMap<string, T>;
  /** ms since the server was heard last (an event, a bookmark, a list); for the staleness metric. */
  stalenessMs(): number;
  /** What keeps it from being current, in one sentence; undefined while all is well. */
  problem(): string | undefined;
}

/** One event of a watch. */
export interface WatchEvent {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK';
  readonly object: unknown;
  /** The collection's version after this event. */
  readonly version: string | undefined;
}

export interface ListPage {
  readonly items: readonly unknown[];
  readonly version: string;
  /** Token of the next page; '' on the last one. */
  readonly next: string;
}

/** How lists and watches are written: in JSON (wire.ts), which every kind has; in protobuf, for the API's own kinds. */
export interface Wire {
  /** Media type of a list; of a watch with `;stream=watch`. */
  readonly mediaType: string;
  /** @throws when it is no list. */
  page(bytes: Uint8Array): ListPage;
  /**
   * Whole events, as they come. Reading one throws when it is nonsense, and a KubeError when it is the server's word
   * that something is wrong. @throws when one is longer than `maxBytes`.
   */
  events(stream: AsyncIterable<Uint8Array>, maxBytes: number): AsyncIterable<readonly (() => WatchEvent)[]>;
}

/** What to watch. */
export interface WatchOptions<T> {
  readonly api: KubeApi;
  /** `/api/v1/pods`, `/apis/discovery.k8s.io/v1/endpointslices`, … */
  readonly path: string;
  readonly fieldSelector?: string;
  readonly labelSelector?: string;
  /** How it is written; default JSON. `decode` gets objects as JSON has them in any case, with the fields that the wire has. */
  readonly wire?: Wire;
  /**
   * From an object's JSON to what is kept of it; undefined: not kept. When it throws, the object stays as it was, and
   * that is a problem. Must not keep references into the JSON.
   */
  readonly decode: (object: unknown) => T | undefined;
  /** Whether two values mean the same: nothing is told then. Default: deep equality. */
  readonly isSame?: (a: T, b: T) => boolean;
  /** Something that went wrong and was survived, in one sentence: to be counted, and logged. */
  readonly onProblem?: (reason: string) => void;
}
