/**
 * The objects of the cluster CA in its namespace, read and written. Every write of what matters carries the version
 * that it was made from, so that a replica that leads no more is told `Conflict` instead of undoing another's work.
 */
import { z } from 'zod';
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi } from '../../kube/seams.ts';
import { BUNDLE_KEY, BUNDLE_NAME, ISSUING_ROOT } from '../sources/trust-bundle.ts';
import { MADE_FOR, dataOf, markOf, pemsIn, secretSchema as objectSchema } from './ca-secret.ts';
import type { CaSecret } from './ca-secret.ts';
import { SIGNER_NAME } from './request.ts';
import type { IssuerPems } from './issuer.ts';
import type { CaState, Step } from './rotation.ts';

/** The CA as the user sees and may replace it. */
export const CA_SECRET = 'culvert-ca';
/** What signs now, and how far a rotation is: ours alone. */
export const STATE_SECRET = 'culvert-ca-state';
/** `requested`: what a person asks for; `status`: what became of it. */
export const ROTATION_MAP = 'culvert-ca-rotation';
const CLUSTER_BUNDLE = 'culvert.dev:workload:bundle';
const BUNDLE_VERSIONS = ['v1', 'v1beta1', 'v1alpha1'] as const;
/** In Secret culvert-ca-state: the request that was answered last. A Secret of before, put back, does not ask it again. */
const HEEDED = 'heeded';
const LABELS = { 'app.kubernetes.io/name': 'culvert', 'app.kubernetes.io/component': 'ca' } as const;

const STEPS: readonly Step[] = ['steady', 'trust', 'reissue', 'retire'];

type KubeObject = z.infer<typeof objectSchema>;

export class CaStore {
  readonly #api: KubeApi;
  readonly #namespace: string;
  readonly #signal: AbortSignal;
  #state: KubeObject | undefined;

  /** `signal`: nothing is written after it. */
  constructor(api: KubeApi, namespace: string, signal: AbortSignal) {
    this.#api = api;
    this.#namespace = namespace;
    this.#signal = signal;
  }

  /** Makes Secret culvert-ca. @throws KubeError `AlreadyExists`: it is never overwritten. */
  async createCa(pems: IssuerPems): Promise<void> {
    const annotations = { [MADE_FOR]: markOf('first', pems) };
    const metadata = { name: CA_SECRET, labels: LABELS, annotations };
    const body = {
      apiVersion: 'v1',
      kind: 'Secret',
      type: 'kubernetes.io/tls',
      metadata,
      data: dataOf(pems),
    };
    await this.#send('POST', this.#path('secrets'), body);
  }

  /**
   * Puts a new CA of ours in the place of `known`, which was ours; or the same one, to mark it.
   * @throws KubeError `Conflict` when it has changed.
   */
  async replaceCa(known: CaSecret, pems: IssuerPems, madeFor: string): Promise<void> {
    const path = this.#path('secrets', CA_SECRET);
    const secret = objectSchema.parse(await this.#send('GET', path));
    const { metadata } = secret;
    const annotations = { ...metadata.annotations, [MADE_FOR]: markOf(madeFor, pems) };
    const data = { ...secret.data, ...dataOf(pems) };
    const body = { ...secret, metadata: { ...metadata, annotations, resourceVersion: known.version }, data };
    await this.#send('PUT', path, body);
  }

  /** How far we are, or undefined when that was never stored. @throws KubeError */
  async readState(): Promise<CaState | undefined> {
    const object = await this.#get(this.#path('secrets', STATE_SECRET));
    this.#state = object;
    return object === undefined ? undefined : stateIn(object);
  }

  /** What a person has asked for last and was answered; '' before `readState`, and when there was nothing. */
  get heeded(): string {
    return Buffer.from(this.#state?.data?.[HEEDED] ?? '', 'base64').toString();
  }

  /** Stores that this request was answered. @throws KubeError `Conflict` as `writeState`. */
  async rememberHeeded(request: string): Promise<void> {
    await this.#putState({ ...this.#state?.data, [HEEDED]: Buffer.from(request).toString('base64') });
  }

  /** Stores `state`, made from what `readState` or the last write saw. @throws KubeError `Conflict` */
  async writeState(state: CaState): Promise<void> {
    const text = (value: string): string => Buffer.from(value, 'latin1').toString('base64');
    const heeded = this.#state?.data?.[HEEDED];
    await this.#putState({
      ...(heeded === undefined ? {} : { [HEEDED]: heeded }),
      ...(state.active === undefined ? {} : dataOf(state.active)),
      'bundle.crt': text(state.bundlePem),
      step: text(state.step),
      since: text(new Date(state.sinceMs).toISOString()),
    });
  }

  async #putState(data: Record<string, string>): Promise<void> {
    const known = this.#state;
    const metadata = known?.metadata ?? { name: STATE_SECRET, labels: LABELS };
    const body = { apiVersion: 'v1', kind: 'Secret', type: 'Opaque', metadata, data };
    const path = known === undefined ? this.#path('secrets') : this.#path('secrets', STATE_SECRET);
    this.#state = objectSchema.parse(await this.#send(known === undefined ? 'POST' : 'PUT', path, body));
  }

  /** The roots in ConfigMap culvert-trust-bundle; '' when there are none. @throws KubeError */
  async publishedRoots(): Promise<string> {
    const object = await this.#get(this.#path('configmaps', BUNDLE_NAME));
    return object?.data?.[BUNDLE_KEY] ?? '';
  }

  /**
   * Publishes the bundle to ConfigMap culvert-trust-bundle, where it is not there already.
   * @throws KubeError `Conflict` also when what is stored is another's by now, whose bundle is the right one.
   */
  async publish(bundlePem: string, issuingRoot: string | undefined): Promise<void> {
    const annotations: Record<string, string> =
      issuingRoot === undefined ? {} : { [ISSUING_ROOT]: issuingRoot };
    const isCurrent = (): Promise<void> => this.#mustBeCurrent();
    await this.#putMap(BUNDLE_NAME, { data: { [BUNDLE_KEY]: bundlePem }, annotations }, isCurrent);
  }

  async #mustBeCurrent(): Promise<void> {
    const stored = await this.#get(this.#path('secrets', STATE_SECRET));
    if (stored?.metadata.resourceVersion === this.#state?.metadata.resourceVersion) return;
    throw new KubeError(409, 'Conflict', `Secret ${STATE_SECRET} is not as this replica has left it`);
  }

  /** Says how far a rotation is, for `culvert ca status`. @throws KubeError */
  async writeStatus(status: string): Promise<void> {
    await this.#putMap(ROTATION_MAP, { data: { status }, annotations: {} });
  }

  /**
   * Publishes the bundle as a ClusterTrustBundle, where the cluster has that API.
   * @returns whether it has. @throws KubeError
   */
  async publishClusterBundle(bundlePem: string): Promise<boolean> {
    const version = await this.#clusterBundleVersion();
    if (version === undefined) return false;
    const path = `/apis/certificates.k8s.io/${version}/clustertrustbundles`;
    const known = await this.#get(`${path}/${CLUSTER_BUNDLE}`);
    const spec = { signerName: SIGNER_NAME, trustBundle: bundlePem };
    const head = { apiVersion: `certificates.k8s.io/${version}`, kind: 'ClusterTrustBundle' };
    if (known === undefined) {
      const metadata = {
        name: CLUSTER_BUNDLE,
        labels: LABELS,
        ownerReferences: [await this.#ownNamespace()],
      };
      await this.#send('POST', path, { ...head, metadata, spec });
    } else if (trustIn(known) !== bundlePem)
      await this.#send('PUT', `${path}/${CLUSTER_BUNDLE}`, { ...known, spec });
    return true;
  }

  /** What our namespace owns goes with it: `kubectl delete -k` knows nothing of what we have made outside of it. */
  async #ownNamespace(): Promise<Readonly<Record<string, string>>> {
    const object = await this.#send('GET', `/api/v1/namespaces/${this.#namespace}`);
    const { uid } = namespaceSchema.parse(object).metadata;
    return { apiVersion: 'v1', kind: 'Namespace', name: this.#namespace, uid };
  }

  /** The newest version that is served. */
  async #clusterBundleVersion(): Promise<string | undefined> {
    for (const version of BUNDLE_VERSIONS) {
      const found = resourcesSchema.safeParse(
        await this.#send('GET', `/apis/certificates.k8s.io/${version}`).catch(noneIfMissing),
      );
      if (found.success && found.data.resources.some(({ name }) => name === 'clustertrustbundles'))
        return version;
    }
    return undefined;
  }

  /** `beforeWriting`: not called where everything stands there already. */
  async #putMap(
    name: string,
    { data, annotations }: MapContents,
    beforeWriting: () => Promise<void> = () => Promise.resolve(),
  ): Promise<void> {
    const known = await this.#get(this.#path('configmaps', name));
    if (known !== undefined && has(known.data, data) && has(known.metadata.annotations, annotations)) return;
    await beforeWriting();
    if (known === undefined) {
      await this.#send('POST', this.#path('configmaps'), {
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { name, labels: LABELS, annotations },
        data,
      });
      return;
    }
    const { metadata } = known;
    const merged = { ...metadata, annotations: { ...metadata.annotations, ...annotations } };
    await this.#send('PUT', this.#path('configmaps', name), {
      ...known,
      metadata: merged,
      data: { ...known.data, ...data },
    });
  }

  async #get(path: string): Promise<KubeObject | undefined> {
    const object = await this.#send('GET', path).catch(noneIfMissing);
    return object === undefined ? undefined : objectSchema.parse(object);
  }

  async #send(method: 'GET' | 'POST' | 'PUT', path: string, body?: unknown): Promise<unknown> {
    this.#signal.throwIfAborted();
    return await this.#api.request({
      method,
      path,
      signal: this.#signal,
      ...(body === undefined ? {} : { body }),
    });
  }

  #path(kind: 'secrets' | 'configmaps', name?: string): string {
    const all = `/api/v1/namespaces/${this.#namespace}/${kind}`;
    return name === undefined ? all : `${all}/${name}`;
  }
}

/** What of a ConfigMap is ours. */
interface MapContents {
  readonly data: Record<string, string>;
  readonly annotations: Record<string, string>;
}

function has(
  from: Readonly<Record<string, string>> | null | undefined,
  wanted: Record<string, string>,
): boolean {
  return Object.entries(wanted).every(([key, value]) => from?.[key] === value);
}

const resourcesSchema = z.object({ resources: z.array(z.object({ name: z.string() })) });
const namespaceSchema = z.object({ metadata: z.object({ uid: z.string() }) });
const trustSchema = z.object({ spec: z.object({ trustBundle: z.string() }) });

function trustIn(object: unknown): string | undefined {
  const parsed = trustSchema.safeParse(object);
  return parsed.success ? parsed.data.spec.trustBundle : undefined;
}

function noneIfMissing(error: unknown): undefined {
  if (error instanceof KubeError && error.status === 404) return undefined;
  throw error;
}

function stateIn(object: KubeObject): CaState | undefined {
  const text = (key: string): string => Buffer.from(object.data?.[key] ?? '', 'base64').toString('latin1');
  const step = STEPS.find((one) => one === text('step'));
  const sinceMs = Date.parse(text('since'));
  const bundlePem = text('bundle.crt');
  if (step === undefined || Number.isNaN(sinceMs) || bundlePem === '') return undefined;
  // Of a CA that others sign with, only the roots are stored.
  const isThere = text('tls.key') !== '' || text('ca.crt') !== '';
  return { step, sinceMs, active: isThere ? pemsIn(object.data) : undefined, bundlePem };
}
