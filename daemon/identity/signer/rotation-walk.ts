/**
 * A rotation as it is walked while this replica leads: what is stored, what is published, and the next step as soon as the
 * nodes' reports allow it (rotation.ts). Everything is a reconcile: `look` is called once more after each change and every
 * few seconds, from what the objects say now to what they should say.
 */
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi, WatchOptions, Watched } from '../../kube/seams.ts';
import type { Log } from '../../observe/log.ts';
import type { Clock } from '../clock.ts';
import { excerpt } from '../text.ts';
import { ClusterBundle } from './cluster-bundle.ts';
import type { IssuerPems } from './issuer.ts';
import { Reports } from './reports.ts';
import { firstState, nextStep } from './rotation.ts';
import type { CaFacts, CaState, RotationWorld, Walk } from './rotation.ts';
import { CaStore } from './store.ts';

export interface WalkOptions {
  readonly api: KubeApi;
  readonly watch: <T>(options: WatchOptions<T>) => Watched<T>;
  readonly namespace: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Between two looks when nothing changes. */
  readonly pauseMs?: number;
  /** For so long a gate must stay open before a step is taken: what nodes said reaches their threads meanwhile. */
  readonly settleMs?: number;
}

export interface WalkWork {
  /** Looked at before the first look, and whose changes cause one. */
  readonly watched: readonly Watched<unknown>[];
  readonly look: () => Promise<void>;
  /** What is stored as active, read; undefined when it can't be used. */
  readonly readActive: (pems: IssuerPems) => CaFacts | undefined;
}

const PAUSE_MS = 5_000;
/** Daemons report every 7.5 s at most (cluster/own-pod.ts): what was signed just before a step is in the next report. */
const SETTLE_MS = 10_000;

export class RotationWalk implements AsyncDisposable {
  readonly store: CaStore;
  readonly #options: Required<WalkOptions>;
  readonly #work: WalkWork;
  readonly #reports: Reports;
  readonly #clusterBundle: ClusterBundle;
  readonly #ending = new AbortController();
  #state: CaState | undefined;
  #isStateKnown = false;
  /** Since when a gate has been open, monotonic. */
  #openSinceMs: number | undefined;
  #running: Promise<void> | undefined;
  #wake: () => void = () => undefined;

  constructor(options: WalkOptions, work: WalkWork) {
    this.#options = { pauseMs: PAUSE_MS, settleMs: SETTLE_MS, ...options };
    this.#work = work;
    const { api, watch, namespace, clock, log } = options;
    const { signal } = this.#ending;
    this.store = new CaStore(api, namespace, signal);
    this.#clusterBundle = new ClusterBundle({ store: this.store, clock, log, signal });
    const onProblem = (reason: string): void => log.warn({ reason }, 'a watch of the CA failed');
    this.#reports = new Reports({ api, watch, namespace, onProblem });
  }

  /** As it is stored; undefined before `load`, and when nothing is. */
  get state(): CaState | undefined {
    return this.#state;
  }

  /** What is stored as active, read. */
  get active(): CaFacts | undefined {
    return this.#state?.active === undefined ? undefined : this.#work.readActive(this.#state.active);
  }

  /** What is not as it should be, though the rotation does not wait for it; undefined while all is well. */
  get problem(): string | undefined {
    return this.#clusterBundle.problem;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Acts no more from now on. */
  stop(): void {
    this.#ending.abort(new Error('this replica leads no more'));
    this.#wake();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    await this.#running;
    const parts = [this.#reports, ...this.#work.watched];
    await Promise.all(parts.map((part) => part[Symbol.asyncDispose]()));
  }

  /**
   * Reads what is stored, unless that is known, and publishes it where somebody has taken it away or changed it.
   * @throws KubeError
   */
  async load(): Promise<void> {
    if (!this.#isStateKnown) this.#state = await this.store.readState();
    this.#isStateKnown = true;
    if (this.#state !== undefined) await this.#publish(this.#state);
  }

  /**
   * Begins where nothing is stored, and takes as many steps towards `desired` as the world allows now. Each is stored
   * before it takes effect. @throws KubeError
   */
  async walk(desired: CaFacts): Promise<CaState> {
    const { clock, log } = this.#options;
    let state =
      this.#state ??
      (await this.#enter(firstState(desired, await this.store.publishedRoots(), clock.nowMs())));
    for (;;) {
      const walk = nextStep(this.#world(state, desired));
      if (walk.type === 'stay') {
        this.#openSinceMs = undefined;
        return state;
      }
      if (!this.#hasSettled(state, walk.state)) return state;
      for (const { node, why } of walk.left) log.warn({ node, why }, 'a node has left the gate');
      log.info({ from: state.step, to: walk.state.step }, 'the rotation takes a step');
      state = await this.#enter(walk.state);
    }
  }

  /** What `walk` would do next. */
  next(desired: CaFacts): Walk | undefined {
    return this.#state === undefined ? undefined : nextStep(this.#world(this.#state, desired));
  }

  async #run(): Promise<void> {
    const wake = (): void => this.#wake();
    for (const watched of this.#work.watched) watched.start(wake);
    this.#reports.start(wake);
    const ended = new Promise<void>((resolve) =>
      this.#ending.signal.addEventListener('abort', () => resolve(), { once: true }),
    );
    const synced = Promise.all([this.#reports, ...this.#work.watched].map((part) => part.synced));
    await Promise.race([synced, ended]);
    while (!this.#ending.signal.aborted) {
      const slept = this.#sleep();
      await this.#work.look().catch((error: unknown) => this.#failed(error));
      await slept;
    }
  }

  /** Until something changes, or the pause is over. A change during a look counts. */
  #sleep(): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.#options.clock.after(this.#options.pauseMs, () => resolve());
      this.#wake = () => {
        cancel();
        resolve();
      };
      if (this.#ending.signal.aborted) this.#wake();
    });
  }

  #failed(error: unknown): void {
    if (this.#ending.signal.aborted) return;
    // Somebody else wrote it: read anew.
    if (error instanceof KubeError && error.status === 409) this.#isStateKnown = false;
    this.#options.log.warn({ reason: excerpt(error) }, 'the CA could not do its work; it tries again');
  }

  async #enter(state: CaState): Promise<CaState> {
    await this.store.writeState(state);
    this.#state = state;
    await this.#publish(state);
    return state;
  }

  #world(state: CaState, desired: CaFacts): RotationWorld {
    const nowMs = this.#options.clock.nowMs();
    return { state, active: this.active, desired, reports: this.#reports.all(nowMs), nowMs };
  }

  /** A step that a gate let through waits a moment more; one that only adds trust does not. */
  #hasSettled(from: CaState, to: CaState): boolean {
    if (to.step === 'trust' || from.step === to.step || from.step === 'steady') return true;
    const nowMs = this.#options.clock.monotonicMs();
    this.#openSinceMs ??= nowMs;
    const leftMs = this.#openSinceMs + this.#options.settleMs - nowMs;
    if (leftMs <= 0) {
      this.#openSinceMs = undefined;
      return true;
    }
    this.#options.clock.after(leftMs, () => this.#wake());
    return false;
  }

  async #publish({ bundlePem }: CaState): Promise<void> {
    // Where nobody knows which of several roots signs, nothing is said.
    const issuingRoot = this.active?.rootHash || undefined;
    await this.store.publish(bundlePem, issuingRoot);
    await this.#clusterBundle.keep(bundlePem);
  }
}
