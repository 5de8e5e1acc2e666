/**
 * Requests on their way to an answer: taken from a watch once pods are known, one source after the other, a few at a
 * time, and looked at again when they could not be answered yet.
 */
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi, WatchOptions, Watched } from '../../kube/seams.ts';
import type { Log } from '../../observe/log.ts';
import type { Clock } from '../clock.ts';
import { excerpt } from '../text.ts';
import type { PodFacts, SignerRules } from './decide.ts';
import { Pace, Turns } from './pace.ts';
import type { RequestSummary } from './request.ts';
import { PODS_PATH, WatchedWorld, podReader } from './world.ts';

export interface QueueOptions {
  readonly api: KubeApi;
  readonly watch: <T>(options: WatchOptions<T>) => Watched<T>;
  readonly rules: SignerRules;
  readonly daemonSet: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly pace?: Pace;
}

/** What is asked of whom. */
export interface QueueWork {
  readonly requests: Pick<WatchOptions<RequestSummary>, 'path' | 'fieldSelector' | 'decode'>;
  /** Whether there is still something to do about it. */
  readonly isOpen: (request: RequestSummary) => boolean;
  /** Looks at one request; never twice at once. @returns ms until it has to be looked at again; 0: it is done. */
  readonly advance: (key: string) => Promise<number>;
}

/** A request that is looked at now. */
interface Flight {
  /** Of the object that was known when the look began; undefined once that one is gone. */
  uid: string | undefined;
  /** The watch has told something since: of our own write most often. */
  hasChanged: boolean;
}

const MAX_IN_FLIGHT = 8;
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 30_000;

export class RequestQueue implements AsyncDisposable {
  readonly world: WatchedWorld;
  readonly #options: QueueOptions;
  readonly #work: QueueWork;
  readonly #pace: Pace;
  readonly #turns = new Turns();
  /** Requests that wait for their next look, with how to end the wait. */
  readonly #later = new Map<string, () => void>();
  readonly #failures = new Map<string, number>();
  /** Requests that have had their turn, and may be looked at again. */
  readonly #admitted = new Set<string>();
  readonly #ending = new AbortController();
  readonly #pods: Watched<PodFacts>;
  readonly #requests: Watched<RequestSummary>;
  readonly #inFlight = new Map<string, Flight>();

  constructor(options: QueueOptions, work: QueueWork) {
    this.#options = options;
    this.#work = work;
    this.#pace = options.pace ?? new Pace();
    const { api, watch, log } = options;
    const onProblem = (reason: string): void => log.warn({ reason }, 'a watch of the CA failed');
    const decode = podReader(options.rules.namespace, options.daemonSet);
    this.#pods = watch({ api, path: PODS_PATH, decode, onProblem });
    this.#requests = watch({ api, ...work.requests, onProblem });
    this.world = new WatchedWorld(this.#pods, () => options.clock.nowMs());
  }

  /** Requests that have no answer yet. */
  get waiting(): number {
    return this.#turns.size + this.#later.size + this.#inFlight.size;
  }

  /** Ends with `stop`. */
  get signal(): AbortSignal {
    return this.#ending.signal;
  }

  /** Starts, once pods are known. */
  start(): void {
    this.#pods.start((changes) => this.world.podsChanged(changes));
    void this.#pods.synced.then(() => {
      if (this.#ending.signal.aborted) return;
      this.#requests.start((changes) => {
        this.world.requestsChanged(changes);
        for (const { type, key } of changes) {
          if (type === 'set') this.#queue(key);
          else this.#forget(key);
        }
      });
    });
  }

  /** Acts no more from now on: no write is begun after this, and none under way is waited for. */
  stop(): void {
    this.#ending.abort(new Error('this replica leads no more'));
    for (const cancel of this.#later.values()) cancel();
    this.#later.clear();
  }

  /** Writes an object, unless it has been stopped. @throws KubeError */
  async put(path: string, body: unknown): Promise<unknown> {
    this.#ending.signal.throwIfAborted();
    return await this.#options.api.request({ method: 'PUT', path, body, signal: this.#ending.signal });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    await Promise.all([this.#pods[Symbol.asyncDispose](), this.#requests[Symbol.asyncDispose]()]);
  }

  #queue(key: string): void {
    const summary = this.world.requests.get(key);
    if (this.#ending.signal.aborted || summary === undefined || !this.#work.isOpen(summary)) return;
    const flight = this.#inFlight.get(key);
    if (flight !== undefined) {
      flight.hasChanged = true;
      return;
    }
    this.#later.get(key)?.();
    this.#later.delete(key);
    this.#turns.add(summary.source, key);
    this.#pump();
  }

  #forget(key: string): void {
    this.#later.get(key)?.();
    this.#later.delete(key);
    this.#failures.delete(key);
    this.#admitted.delete(key);
    const flight = this.#inFlight.get(key);
    if (flight !== undefined) flight.uid = undefined;
  }

  #pump(): void {
    while (this.#inFlight.size < MAX_IN_FLIGHT && !this.#ending.signal.aborted) {
      const key = this.#turns.next();
      if (key === undefined) return;
      const flight: Flight = { uid: this.world.requests.get(key)?.uid, hasChanged: false };
      this.#inFlight.set(key, flight);
      void this.#take(key).then((waitMs) => {
        this.#inFlight.delete(key);
        this.#landed(key, flight, waitMs);
        this.#pump();
      });
    }
  }

  #landed(key: string, { uid, hasChanged }: Flight, waitMs: number): void {
    const isOther = this.world.requests.get(key)?.uid !== uid;
    // What is done is not looked at for what we have written ourselves.
    if (isOther || (hasChanged && waitMs > 0)) this.#queue(key);
    else if (waitMs > 0) this.#lookAgain(key, waitMs);
  }

  #lookAgain(key: string, waitMs: number): void {
    if (this.#ending.signal.aborted || this.#later.has(key)) return;
    const cancel = this.#options.clock.after(waitMs, () => {
      this.#later.delete(key);
      this.#queue(key);
    });
    this.#later.set(key, cancel);
  }

  async #take(key: string): Promise<number> {
    const pausedMs = this.#paused(key);
    if (pausedMs > 0) return pausedMs;
    try {
      const waitMs = await this.#work.advance(key);
      this.#failures.delete(key);
      return waitMs;
    } catch (error) {
      if (this.#ending.signal.aborted) return 0;
      return this.#afterError(key, error);
    }
  }

  /** Ms that a request waits for its turn, as its source asks too often; it is not denied for that. */
  #paused(key: string): number {
    const source = this.world.requests.get(key)?.source;
    if (source === undefined || this.#admitted.has(key)) return 0;
    const { waitMs, isReserved } = this.#pace.take(source, this.#options.clock.monotonicMs());
    if (isReserved) this.#admitted.add(key);
    return waitMs;
  }

  #afterError(key: string, error: unknown): number {
    if (error instanceof KubeError && error.status === 404) return 0;
    const failures = (this.#failures.get(key) ?? 0) + 1;
    this.#failures.set(key, failures);
    const isConflict = error instanceof KubeError && error.status === 409;
    if (!isConflict) this.#options.log.warn({ csr: excerpt(key), reason: excerpt(error) }, 'a request waits');
    return Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(failures - 1, 10));
  }
}
