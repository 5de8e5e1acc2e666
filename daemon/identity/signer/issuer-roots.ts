/**
 * The roots of cert-manager's issuer while this replica leads: read where config `certIssuerBundle` says, and published
 * for the daemons like those of a CA of our own. When others take their place, old and new are trusted until no
 * certificate of the old is left (rotation.ts). cert-manager signs with the new CA from the moment that it has it, so for
 * a while no identity is approved: what nobody trusts yet is better not there.
 */
import type { X509Certificate } from 'node:crypto';
import { z } from 'zod';
import type { Watched } from '../../kube/seams.ts';
import type { TrustDomain } from '../../mesh/ids.ts';
import { bundleHash, rootHash, unionOf } from '../bundle.ts';
import { readPem } from '../chain.ts';
import type { BundleRef } from '../issuer-ref.ts';
import { excerpt } from '../text.ts';
import type { IssuerPems } from './issuer.ts';
import type { CaFacts } from './rotation.ts';
import { statusOf } from './rotation-status.ts';
import { RotationWalk } from './rotation-walk.ts';
import type { WalkOptions } from './rotation-walk.ts';

export interface IssuerRootsOptions extends WalkOptions {
  readonly trustDomain: TrustDomain;
  readonly bundle: BundleRef;
  /** After each look: when the first of the roots ends, wall clock ms, or why there are none. */
  readonly onLook?: (notAfterMs: number | string) => void;
}

/** Roots, as a rotation sees a CA. */
interface Roots extends CaFacts {
  readonly notAfterMs: number;
}

const MAX_ROOTS = 32;
/** A node that does not answer holds up no pod for longer. */
const HOLD_MS = 60_000;
const NOT_READ = 'the roots of the issuer have not been read yet';

export class IssuerRoots implements AsyncDisposable {
  readonly #options: IssuerRootsOptions;
  readonly #walk: RotationWalk;
  /** The roots, or what is wrong with them. */
  readonly #bundle: Watched<Roots | string>;
  #problem = '';
  #told = '';

  constructor(options: IssuerRootsOptions) {
    this.#options = options;
    const { api, watch, log, bundle } = options;
    this.#bundle = watch({
      api,
      path: `/api/v1/namespaces/${bundle.namespace}/${bundle.kind.toLowerCase()}s`,
      fieldSelector: `metadata.name=${bundle.name}`,
      decode: (object) => readRoots(object, bundle),
      onProblem: (reason) => log.warn({ reason }, 'a watch of the CA failed'),
    });
    this.#walk = new RotationWalk(options, {
      watched: [this.#bundle],
      look: () => this.#look(),
      readActive: (pems) => {
        const roots = rootsOf(pems.roots);
        return typeof roots === 'string' ? undefined : roots;
      },
    });
  }

  /** Why no identity is to be approved now; undefined when it is. */
  hold(): string | undefined {
    const { state } = this.#walk;
    if (state === undefined) return NOT_READ;
    const isNew = state.step === 'trust' && this.#options.clock.nowMs() - state.sinceMs < HOLD_MS;
    return isNew ? 'the issuer has a new root that not every node trusts yet' : undefined;
  }

  start(): void {
    this.#walk.start();
  }

  /** Acts no more from now on. */
  stop(): void {
    this.#walk.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#walk[Symbol.asyncDispose]();
  }

  async #look(): Promise<void> {
    const { bundle, onLook } = this.#options;
    await this.#walk.load();
    const desired = this.#bundle.items.get(`${bundle.namespace}/${bundle.name}`) ?? missing(bundle);
    this.#say(desired);
    if (typeof desired !== 'string') await this.#walk.walk(desired);
    onLook?.(typeof desired === 'string' ? desired : desired.notAfterMs);
    await this.#tell(desired);
  }

  /** What is published stays so while the roots can't be read. */
  #say(desired: Roots | string): void {
    const problem = typeof desired === 'string' ? desired : '';
    if (problem !== '' && problem !== this.#problem)
      this.#options.log.error({ reason: problem }, 'the roots of the issuer can not be used');
    this.#problem = problem;
  }

  async #tell(desired: Roots | string): Promise<void> {
    const walk = typeof desired === 'string' ? undefined : this.#walk.next(desired);
    const active = this.#walk.state?.active;
    const status = statusOf({
      trustDomain: this.#options.trustDomain,
      state: this.#walk.state,
      ca: active === undefined ? NOT_READ : rootsOf(active.roots),
      desired,
      isOurs: false,
      requested: '',
      madeFor: '',
      heeded: '',
      besides: this.#walk.problem,
      waiting: walk?.type === 'stay' ? walk.waiting : [],
      left: walk?.left ?? [],
    });
    if (status === this.#told) return;
    await this.#walk.store.writeStatus(status);
    this.#told = status;
  }
}

const schema = z.object({ data: z.record(z.string(), z.string()).nullish() });

function readRoots(object: unknown, { kind, key }: BundleRef): Roots | string {
  const text = schema.parse(object).data?.[key] ?? '';
  const roots = rootsOf(kind === 'Secret' ? Buffer.from(text, 'base64').toString('latin1') : text);
  return typeof roots === 'string' ? `certIssuerBundle, key ${key}: ${roots}` : roots;
}

/** The self-signed ones of `pem`: a chain may stand there, and only they are trust anchors. */
function rootsOf(pem: string): Roots | string {
  try {
    const roots = readPem(pem, MAX_ROOTS).filter(isRoot);
    if (roots.length === 0) return 'there is no self-signed root in it';
    const rootsPem = unionOf(...roots.map((root) => root.toString()));
    const pems: IssuerPems = { certificates: '', key: '', roots: rootsPem };
    const hashes = new Set(roots.map(rootHash));
    const [only = ''] = hashes.size === 1 ? hashes : [];
    const notAfterMs = Math.min(...roots.map((root) => root.validToDate.getTime()));
    return { pems, fingerprint: bundleHash(rootsPem), rootsPem, rootHash: only, notAfterMs };
  } catch (error) {
    return excerpt(error);
  }
}

function isRoot(certificate: X509Certificate): boolean {
  return certificate.ca && certificate.checkIssued(certificate) && certificate.verify(certificate.publicKey);
}

function missing({ kind, namespace, name }: BundleRef): string {
  return `certIssuerBundle: there is no ${kind} ${name} in namespace ${namespace}`;
}
