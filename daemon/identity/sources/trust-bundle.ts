/** The mesh's trust bundle as culvert-ca publishes it: ConfigMap `culvert-trust-bundle` of our namespace, watched. */
import { z } from 'zod';
import { Reflector } from '../../kube/reflector.ts';
import type { KubeApi, Watched, WatchOptions } from '../../kube/seams.ts';
import { trustBundle } from '../bundle.ts';
import type { TrustBundle } from '../bundle.ts';
import { excerpt } from '../text.ts';

export const BUNDLE_NAME = 'culvert-trust-bundle';
export const BUNDLE_KEY = 'ca.crt';
/** On the ConfigMap: `rootHash` of the root that signs now. */
export const ISSUING_ROOT = 'culvert.dev/issuing-root';

export interface PublishedBundleOptions {
  readonly api: KubeApi;
  readonly namespace: string;
  readonly watch?: <T>(options: WatchOptions<T>) => Watched<T>;
  /** What went wrong and was survived: the bundle in use stays. */
  readonly onProblem: (reason: string) => void;
}

const schema = z.object({
  metadata: z.object({ annotations: z.record(z.string(), z.string()).nullish() }),
  data: z.record(z.string(), z.string()).nullish(),
});

/** The bundle now. What was there once stays in use when the ConfigMap is deleted or broken. */
export class PublishedBundle implements AsyncDisposable {
  readonly #watched: Watched<TrustBundle>;
  readonly #namespace: string;
  readonly #listeners = new Set<(bundle: TrustBundle) => void>();
  readonly #first = Promise.withResolvers<TrustBundle>();
  #current: TrustBundle | undefined;

  constructor({ api, namespace, watch, onProblem }: PublishedBundleOptions) {
    this.#namespace = namespace;
    const options: WatchOptions<TrustBundle> = {
      api,
      path: `/api/v1/namespaces/${namespace}/configmaps`,
      fieldSelector: `metadata.name=${BUNDLE_NAME}`,
      decode: readBundle,
      onProblem,
    };
    this.#watched = watch?.(options) ?? new Reflector(options);
  }

  /** Starts to watch. */
  start(): void {
    this.#watched.start((changes) => {
      for (const change of changes) if (change.type === 'set') this.#take(change.value);
    });
  }

  get current(): TrustBundle | undefined {
    return this.#current;
  }

  /** The bundle now, or the first one. @throws when `signal` ends the wait, saying what is missing. */
  async first(signal: AbortSignal): Promise<TrustBundle> {
    if (this.#current !== undefined) return this.#current;
    const late = Promise.withResolvers<never>();
    const why = this.#watched.problem();
    const where = `ConfigMap ${BUNDLE_NAME} in namespace ${this.#namespace}`;
    const onAbort = (): void =>
      late.reject(
        new Error(
          `there is no trust bundle yet (${where}): is culvert-ca running?${why === undefined ? '' : ` ${why}`}`,
        ),
      );
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      return await Promise.race([this.#first.promise, late.promise]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Calls back with the bundle now, if there is one, and with every other one. Returns the unsubscribe. */
  onBundle(listener: (bundle: TrustBundle) => void): () => void {
    this.#listeners.add(listener);
    if (this.#current !== undefined) listener(this.#current);
    return () => this.#listeners.delete(listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listeners.clear();
    await this.#watched[Symbol.asyncDispose]();
  }

  #take(bundle: TrustBundle): void {
    this.#current = bundle;
    this.#first.resolve(bundle);
    for (const listener of this.#listeners) listener(bundle);
  }
}

/** @throws RangeError when it has no usable root: the reflector keeps what was there, and says so. */
function readBundle(object: unknown): TrustBundle {
  const { metadata, data } = schema.parse(object);
  const pem = data?.[BUNDLE_KEY] ?? '';
  try {
    return trustBundle(pem, metadata.annotations?.[ISSUING_ROOT]);
  } catch (error) {
    throw new RangeError(`the trust bundle can not be used: ${excerpt(error)}`);
  }
}
