/**
 * The cluster CA's own affairs while this replica leads: makes Secret culvert-ca when there is none, publishes the
 * trust bundle, walks a rotation (rotation.ts) and says how far it is. Everything is a reconcile: from what the objects
 * say now to what they should say, once more after each change and every few seconds.
 */
import { z } from 'zod';
import { KubeError } from '../../kube/seams.ts';
import type { Watched } from '../../kube/seams.ts';
import type { TrustDomain } from '../../mesh/ids.ts';
import { makeKeyPair } from '../csr.ts';
import type { KeyPair } from '../csr.ts';
import { excerpt } from '../text.ts';
import { readCaSecret } from './ca-secret.ts';
import type { CaSecret } from './ca-secret.ts';
import { makeIssuer, readIssuer } from './issuer.ts';
import type { IssuerPems, SigningCa } from './issuer.ts';
import type { Waiting } from './rotation.ts';
import { statusOf } from './rotation-status.ts';
import { RotationWalk } from './rotation-walk.ts';
import type { WalkOptions } from './rotation-walk.ts';
import { CA_SECRET, ROTATION_MAP } from './store.ts';

export interface AuthorityOptions extends WalkOptions {
  readonly trustDomain: TrustDomain;
  /** After each look: the CA that signs, or why none does. */
  readonly onLook?: (ca: SigningCa | string) => void;
}

const NO_CA = 'the CA has not been read yet';
/** A new root in its place would be a rotation that nobody asked for, in the way of the Secret that is to come. */
const GONE =
  'Secret culvert-ca is gone: what signs now goes on; put the same CA there, or another one to rotate to it';

const HEED = "'culvert ca rotate' has a new root made in its place";

/** `readIssuer`, remembered for one CA. */
interface Known {
  readonly key: string;
  readonly ca: SigningCa | string;
}

export class Authority implements AsyncDisposable {
  readonly #options: AuthorityOptions;
  readonly #walk: RotationWalk;
  readonly #secret: Watched<CaSecret>;
  readonly #request: Watched<string>;
  #probe: KeyPair | undefined;
  #active: Known | undefined;
  #desired: Known | undefined;
  #ca: SigningCa | string = NO_CA;
  #told = '';

  constructor(options: AuthorityOptions) {
    this.#options = options;
    const { api, watch, namespace, log } = options;
    const onProblem = (reason: string): void => log.warn({ reason }, 'a watch of the CA failed');
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
    this.#walk = new RotationWalk(options, {
      watched: [this.#secret, this.#request],
      look: () => this.#look(),
      readActive: (pems) => {
        const active = this.#readActive(pems);
        return typeof active === 'string' ? undefined : active;
      },
    });
  }

  /** What signs now, or why nothing does. */
  ca(): SigningCa | string {
    return this.#ca;
  }

  start(): void {
    this.#walk.start();
  }

  /** Acts no more from now on. */
  stop(): void {
    this.#ca = 'this replica leads no more';
    this.#walk.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    await this.#walk[Symbol.asyncDispose]();
  }

  async #look(): Promise<void> {
    const { trustDomain, onLook } = this.#options;
    this.#probe ??= await makeKeyPair();
    const secret = this.#secret.items.get(`${this.#options.namespace}/${CA_SECRET}`);
    await this.#walk.load();
    if (secret === undefined && this.#walk.state === undefined) return this.#first();
    const desired = this.#readDesired(secret);
    // What can not be used can not be walked to: a successor is all that helps then, and waits for nothing.
    const isFree = typeof desired === 'string' || (await this.#walk.walk(desired)).step === 'steady';
    this.#ca = this.#signing(desired);
    if (secret !== undefined) await this.#heed(secret, isFree);
    onLook?.(this.#ca);
    await this.#tell(trustDomain, secret, desired);
  }

  /** Makes the first CA. Another one that was made meanwhile, by whomever, stays. */
  async #first(): Promise<void> {
    const { trustDomain, clock, log } = this.#options;
    const made = await makeIssuer(trustDomain, clock.nowMs());
    try {
      await this.#walk.store.createCa(made);
      log.info({}, 'made Secret culvert-ca with a new root for ten years');
    } catch (error) {
      if (!(error instanceof KubeError) || error.status !== 409) throw error;
    }
  }

  /** Does what a person has asked for, once: a CA of our own gets a successor, one that the user supplied does not. */
  async #heed(secret: CaSecret, isFree: boolean): Promise<void> {
    const { store } = this.#walk;
    const { madeFor, hasOldMark, pems } = secret;
    if (madeFor !== undefined && hasOldMark) return store.replaceCa(secret, pems, madeFor);
    const requested = this.#requested();
    if (requested === '' || requested === store.heeded) return;
    if (madeFor === undefined || madeFor === requested) return store.rememberHeeded(requested);
    if (!isFree) return;
    const { trustDomain, clock, log } = this.#options;
    await store.replaceCa(secret, await makeIssuer(trustDomain, clock.nowMs()), requested);
    log.info({ requested: excerpt(requested) }, 'made a new root, as was asked for');
  }

  /** The CA of the Secret, or why it is none and what helps. */
  #readDesired(secret: CaSecret | undefined): SigningCa | string {
    this.#desired = secret === undefined ? undefined : this.#read(secret.pems, this.#desired);
    const desired = this.#desired?.ca ?? GONE;
    if (typeof desired !== 'string' || secret === undefined) return desired;
    return `${desired}; ${secret.madeFor === undefined ? 'put another one there' : HEED}`;
  }

  #requested(): string {
    return this.#request.items.get(`${this.#options.namespace}/${ROTATION_MAP}`) ?? '';
  }

  #signing(desired: SigningCa | string): SigningCa | string {
    const active = this.#walk.state?.active;
    if (active !== undefined) return this.#readActive(active);
    return typeof desired === 'string' ? desired : 'the new CA signs once every node trusts its root';
  }

  async #tell(
    trustDomain: TrustDomain,
    secret: CaSecret | undefined,
    desired: SigningCa | string,
  ): Promise<void> {
    const walk = typeof desired === 'string' ? undefined : this.#walk.next(desired);
    const waiting: readonly Waiting[] = walk?.type === 'stay' ? walk.waiting : [];
    const status = statusOf({
      trustDomain,
      state: this.#walk.state,
      ca: this.#ca,
      desired,
      isOurs: secret?.madeFor !== undefined,
      requested: this.#requested(),
      madeFor: secret?.madeFor ?? '',
      heeded: this.#walk.store.heeded,
      besides: this.#walk.problem,
      waiting,
      left: walk?.left ?? [],
    });
    if (status === this.#told) return;
    await this.#walk.store.writeStatus(status);
    this.#told = status;
  }

  #readActive(pems: IssuerPems): SigningCa | string {
    this.#active = this.#read(pems, this.#active);
    return this.#active.ca;
  }

  #read(pems: IssuerPems, known: Known | undefined): Known {
    const { trustDomain, clock, log } = this.#options;
    const [key, nowMs] = [JSON.stringify(pems), clock.nowMs()];
    // What could sign once can do so until it ends.
    if (known?.key === key && typeof known.ca === 'object' && nowMs < known.ca.notAfterMs) return known;
    if (this.#probe === undefined) return { key, ca: NO_CA };
    try {
      return { key, ca: readIssuer(pems, trustDomain, this.#probe, nowMs) };
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
