/**
 * The cluster CA's own affairs while this replica leads: makes Secret culvert-ca when there is none, publishes the
 * trust bundle, walks a rotation (rotation.ts) and says how far it is. Everything is a reconcile: from what the objects
 * say now to what they should say, once more after each change and every few seconds.
 */
import { z } from 'zod';
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi, WatchOptions, Watched } from '../../kube/seams.ts';
import type { TrustDomain } from '../../mesh/ids.ts';
import type { Log } from '../../observe/log.ts';
import { bundleHash } from '../bundle.ts';
import type { Clock } from '../clock.ts';
import { makeKeyPair } from '../csr.ts';
import type { KeyPair } from '../csr.ts';
import { excerpt } from '../text.ts';
import { makeIssuer, readIssuer } from './issuer.ts';
import type { IssuerPems, SigningCa } from './issuer.ts';
import { Reports } from './reports.ts';
import { firstState, nextStep } from './rotation.ts';
import type { CaState, RotationWorld, Waiting } from './rotation.ts';
import { statusOf } from './rotation-status.ts';
import { CA_SECRET, CaStore, ROTATION_MAP, readCaSecret } from './store.ts';
import type { CaSecret } from './store.ts';

export interface AuthorityOptions {
  readonly api: KubeApi;
  readonly watch: <T>(options: WatchOptions<T>) => Watched<T>;
  readonly namespace: string;
  readonly trustDomain: TrustDomain;
  readonly clock: Clock;
  readonly log: Log;
  /** After each look: the CA that signs, or why none does. */
  readonly onLook?: (ca: SigningCa | string) => void;
  /** Between two looks when nothing changes. */
  readonly pauseMs?: number;
  /** For so long a gate must stay open before a step is taken: what nodes said reaches their threads meanwhile. */
  readonly settleMs?: number;
}

const PAUSE_MS = 5_000;
const SETTLE_MS = 2_000;
const NO_CA = 'the CA has not been read yet';
/** A new root in its place would be a rotation that nobody asked for, in the way of the Secret that is to come. */
const GONE =
  'Secret culvert-ca is gone: what signs now goes on; put the same CA there, or another one to rotate to it';

/** `readIssuer`, remembered for one CA. */
interface Known {
  readonly key: string;
  readonly ca: SigningCa | string;
}

export class Authority implements AsyncDisposable {
  readonly #options: Required<AuthorityOptions>;
  readonly #store: CaStore;
  readonly #reports: Reports;
  readonly #secret: Watched<CaSecret>;
  readonly #request: Watched<string>;
  readonly #ending = new AbortController();
  #probe: KeyPair | undefined;
  #state: CaState | undefined;
  #isStateKnown = false;
  #active: Known | undefined;
  #desired: Known | undefined;
  /** Since when a gate has been open, monotonic. */
  #openSinceMs: number | undefined;
  #ca: SigningCa | string = NO_CA;
  #published = '';
  #running: Promise<void> | undefined;
  #wake: () => void = () => undefined;
  #told = '';

  constructor(options: AuthorityOptions) {
    this.#options = { pauseMs: PAUSE_MS, settleMs: SETTLE_MS, onLook: () => undefined, ...options };
    const { api, watch, namespace, log } = options;
    const onProblem = (reason: string): void => log.warn({ reason }, 'a watch of the CA failed');
    this.#store = new CaStore(api, namespace, this.#ending.signal);
    this.#reports = new Reports({ api, watch, namespace, onProblem });
    const named = <T>(kind: string, name: string, decode: (object: unknown) => T): Watched<T> =>
      watch({
        api,
        path: `/api/v1/namespaces/${namespace}/${kind}`,
        fieldSelector: `metadata.name=${name}`,
        decode,
        onProblem,
      });
    this.#secret = named('secrets', CA_SECRET, readCaSecret);
    this.#request = named('configmaps', ROTATION_MAP, readRequested);
  }

  /** What signs now, or why nothing does. */
  ca(): SigningCa | string {
    return this.#ca;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Acts no more from now on. */
  stop(): void {
    this.#ending.abort(new Error('this replica leads no more'));
    this.#ca = 'this replica leads no more';
    this.#wake();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    await this.#running;
    await Promise.all([
      this.#reports[Symbol.asyncDispose](),
      this.#secret[Symbol.asyncDispose](),
      this.#request[Symbol.asyncDispose](),
    ]);
  }

  async #run(): Promise<void> {
    const wake = (): void => this.#wake();
    this.#secret.start(wake);
    this.#request.start(wake);
    this.#reports.start(wake);
    const ended = new Promise<void>((resolve) =>
      this.#ending.signal.addEventListener('abort', () => resolve(), { once: true }),
    );
    const synced = Promise.all([this.#secret.synced, this.#request.synced, this.#reports.synced]);
    await Promise.race([synced, ended]);
    while (!this.#ending.signal.aborted) {
      const slept = this.#sleep();
      await this.#look().catch((error: unknown) => this.#failed(error));
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

  async #look(): Promise<void> {
    const { clock, trustDomain, onLook } = this.#options;
    this.#probe ??= await makeKeyPair();
    const secret = this.#secret.items.get(`${this.#options.namespace}/${CA_SECRET}`);
    await this.#readState();
    if (secret === undefined && this.#state === undefined) return this.#first();
    this.#desired = secret === undefined ? undefined : this.#read(secret.pems, this.#desired);
    const desired = this.#desired?.ca ?? GONE;
    if (secret !== undefined && typeof desired !== 'string') {
      this.#state ??= await this.#begin(
        firstState(desired, await this.#store.publishedRoots(), clock.nowMs()),
      );
      await this.#walk(desired);
      if (this.#state.step === 'steady') await this.#heed(secret);
    }
    this.#ca = this.#signing(desired);
    onLook(this.#ca);
    await this.#tell(trustDomain, secret, desired);
  }

  /** Makes the first CA. Another one that was made meanwhile, by whomever, stays. */
  async #first(): Promise<void> {
    const { trustDomain, clock, log } = this.#options;
    const made = await makeIssuer(trustDomain, clock.nowMs());
    try {
      await this.#store.createCa(made);
      log.info({}, 'made Secret culvert-ca with a new root for ten years');
    } catch (error) {
      if (!(error instanceof KubeError) || error.status !== 409) throw error;
    }
  }

  async #readState(): Promise<void> {
    if (this.#isStateKnown) return;
    this.#state = await this.#store.readState();
    this.#isStateKnown = true;
    this.#published = '';
    if (this.#state !== undefined) this.#take(this.#state);
  }

  async #begin(state: CaState): Promise<CaState> {
    await this.#store.writeState(state);
    this.#take(state);
    return state;
  }

  #take(state: CaState): void {
    this.#state = state;
    this.#active = state.active === undefined ? undefined : this.#read(state.active, this.#active);
  }

  /** As many steps as the world allows now. Each is stored before it takes effect. */
  async #walk(desired: SigningCa): Promise<void> {
    for (;;) {
      await this.#publish();
      const world = this.#world(desired);
      const walk = world === undefined ? undefined : nextStep(world);
      if (walk === undefined || world === undefined) return;
      if (walk.type === 'stay') {
        this.#openSinceMs = undefined;
        return;
      }
      if (!this.#hasSettled(world.state, walk.state)) return;
      for (const { node, why } of walk.left)
        this.#options.log.warn({ node, why }, 'a node has left the gate');
      this.#options.log.info({ from: world.state.step, to: walk.state.step }, 'the rotation takes a step');
      await this.#begin(walk.state);
    }
  }

  #world(desired: SigningCa): RotationWorld | undefined {
    const state = this.#state;
    if (state === undefined) return undefined;
    const active = this.#active?.ca;
    return {
      state,
      active: typeof active === 'object' ? active : undefined,
      desired,
      reports: this.#reports.all(this.#options.clock.nowMs()),
      nowMs: this.#options.clock.nowMs(),
    };
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

  /** Does what a person has asked for, once: a CA of our own gets a successor, one that the user supplied does not. */
  async #heed(secret: CaSecret): Promise<void> {
    const requested = this.#requested();
    if (requested === '' || secret.madeFor === undefined || secret.madeFor === requested) return;
    const { trustDomain, clock, log } = this.#options;
    await this.#store.replaceCa(secret, await makeIssuer(trustDomain, clock.nowMs()), requested);
    log.info({ requested: excerpt(requested) }, 'made a new root, as was asked for');
  }

  #requested(): string {
    return this.#request.items.get(`${this.#options.namespace}/${ROTATION_MAP}`) ?? '';
  }

  async #publish(): Promise<void> {
    const state = this.#state;
    if (state === undefined) return;
    const active = this.#active?.ca;
    const issuingRoot = typeof active === 'object' ? active.rootHash : undefined;
    const wanted = `${bundleHash(state.bundlePem)} ${issuingRoot ?? ''}`;
    if (this.#published === wanted) return;
    await this.#store.publish(state.bundlePem, issuingRoot);
    await this.#store.publishClusterBundle(state.bundlePem);
    this.#published = wanted;
  }

  #signing(desired: SigningCa | string): SigningCa | string {
    const active = this.#active?.ca;
    if (active !== undefined) return active;
    return typeof desired === 'string' ? desired : 'the new CA signs once every node trusts its root';
  }

  async #tell(
    trustDomain: TrustDomain,
    secret: CaSecret | undefined,
    desired: SigningCa | string,
  ): Promise<void> {
    const world = typeof desired === 'string' ? undefined : this.#world(desired);
    const walk = world === undefined ? undefined : nextStep(world);
    const waiting: readonly Waiting[] = walk?.type === 'stay' ? walk.waiting : [];
    const status = statusOf({
      trustDomain,
      state: this.#state,
      ca: this.#ca,
      desired,
      isOurs: secret?.madeFor !== undefined,
      requested: this.#requested(),
      madeFor: secret?.madeFor ?? '',
      waiting,
      left: walk?.left ?? [],
    });
    if (status === this.#told) return;
    await this.#store.writeStatus(status);
    this.#told = status;
  }

  #read(pems: IssuerPems, known: Known | undefined): Known {
    const { trustDomain, clock, log } = this.#options;
    const key = JSON.stringify(pems);
    if (known?.key === key && typeof known.ca === 'object') return known;
    if (this.#probe === undefined) return { key, ca: NO_CA };
    try {
      return { key, ca: readIssuer(pems, trustDomain, this.#probe, clock.nowMs()) };
    } catch (error) {
      const why = excerpt(error);
      if (known?.ca !== why) log.error({ reason: why }, 'the CA can not be used');
      return { key, ca: why };
    }
  }
}

const requestSchema = z.object({ data: z.record(z.string(), z.string()).nullish() });

function readRequested(object: unknown): string {
  return requestSchema.parse(object).data?.['requested'] ?? '';
}
