/** The CA's own affairs in a cluster in memory: one replica that leads, a clock that tests move, a node that says things. */
import assert from 'node:assert/strict';
import { bundleHash } from '../../../daemon/identity/bundle.ts';
import { Authority } from '../../../daemon/identity/signer/authority.ts';
import type { IssuerPems, SigningCa } from '../../../daemon/identity/signer/issuer.ts';
import { createLog } from '../../../daemon/observe/log.ts';
import { until } from '../../support/wait.ts';
import { FakeClock } from '../fake-clock.ts';
import { TRUST_DOMAIN } from '../forge.ts';
import { Cluster } from './cluster.ts';
import type { Stored } from './cluster.ts';

export const OWN = '/api/v1/namespaces/culvert-system';
export const SECRET = `${OWN}/secrets/culvert-ca`;
export const STATE = `${OWN}/secrets/culvert-ca-state`;
export const BUNDLE = `${OWN}/configmaps/culvert-trust-bundle`;
export const ROTATION = `${OWN}/configmaps/culvert-ca-rotation`;
export const CLUSTER_BUNDLES = '/apis/certificates.k8s.io/v1/clustertrustbundles';
export const CLUSTER_BUNDLE = `${CLUSTER_BUNDLES}/culvert.dev:workload:bundle`;

const POD = `${OWN}/pods/culvert-a`;
const PAUSE_MS = 5_000;

export interface Status {
  readonly step: string;
  readonly problem?: string;
  readonly request?: string;
  readonly waiting: readonly { readonly node: string }[];
}

export class CaWorld implements AsyncDisposable {
  readonly cluster = new Cluster();
  readonly clock = new FakeClock();
  readonly lines: string[] = [];
  #authority: Authority | undefined;

  constructor() {
    this.cluster.put(OWN, { metadata: { name: 'culvert-system', uid: 'uid-own' } });
    this.cluster.put('/apis/certificates.k8s.io/v1', {
      metadata: { name: 'v1' },
      resources: [{ name: 'clustertrustbundles' }],
    });
  }

  /** Starts a replica in the place of the one before: all that this one knew is forgotten. */
  async lead(): Promise<void> {
    await this.#authority?.[Symbol.asyncDispose]();
    const write = (line: string): void => void this.lines.push(line);
    this.#authority = new Authority({
      api: this.cluster,
      watch: this.cluster.watch,
      namespace: 'culvert-system',
      clock: this.clock,
      log: createLog({ thread: 'test', level: 'info', destination: { write } }),
      trustDomain: TRUST_DOMAIN,
      pauseMs: PAUSE_MS,
      settleMs: 0,
    });
    this.#authority.start();
  }

  /** A first replica leads, has made a CA and published it, and node a uses it. */
  async begin(): Promise<SigningCa> {
    await this.lead();
    const ca = await this.comes('a CA', () => usable(this.ca()));
    await this.comes('its roots', () => this.bundlePem !== '');
    this.obeys(ca.rootHash);
    await this.comes('calm', () => this.status()?.step === 'steady');
    return ca;
  }

  /** Looks of the CA go on, pause by pause, until `what` holds. */
  async comes<T>(what: string, probe: () => T | false | undefined): Promise<T> {
    const detail = (): string => `${JSON.stringify(this.status())}\n${this.lines.slice(-10).join('')}`;
    return until(
      what,
      async () => {
        const found = probe();
        if (found === undefined || found === false) await this.clock.advance(PAUSE_MS);
        return found;
      },
      { everyMs: 2, detail },
    );
  }

  /** What is under way has ended, and `n` further looks have been taken. */
  async looks(n = 1): Promise<void> {
    for (let i = 0; i < n; i++) {
      await this.#quiet();
      await this.clock.advance(PAUSE_MS);
    }
    await this.#quiet();
  }

  /** No request for a while: keys, made by other threads, take a few ms. */
  async #quiet(): Promise<void> {
    let asked = -1;
    await until(
      'quiet',
      () => {
        const before = asked;
        asked = this.cluster.asked.length;
        return before === asked;
      },
      { everyMs: 15 },
    );
  }

  ca(): SigningCa | string {
    return this.#authority?.ca() ?? 'nobody leads';
  }

  status(): Status | undefined {
    const text = this.cluster.objects.get(ROTATION)?.data?.['status'];
    return text === undefined ? undefined : (JSON.parse(text) as Status);
  }

  get bundlePem(): string {
    return this.cluster.objects.get(BUNDLE)?.data?.['ca.crt'] ?? '';
  }

  /** Which root signs now, as daemons are told. */
  get issuingRoot(): string | undefined {
    return this.cluster.objects.get(BUNDLE)?.metadata.annotations?.['culvert.dev/issuing-root'];
  }

  /** What the object will have been from now on. */
  history(path: string): readonly Stored[] {
    const seen: Stored[] = [];
    this.cluster.onPut = (at, object) => {
      if (at === path) seen.push(object);
    };
    return seen;
  }

  get secret(): Stored {
    const secret = this.cluster.objects.get(SECRET);
    assert.ok(secret, 'there is no Secret culvert-ca');
    return secret;
  }

  /** As `kubectl apply` of a Secret with these would: what it does not name stays. */
  apply(pems: Partial<IssuerPems>): void {
    const named = { 'tls.crt': pems.certificates, 'tls.key': pems.key, 'ca.crt': pems.roots };
    const data = Object.entries(named).flatMap(([key, pem]) =>
      pem === undefined ? [] : [[key, Buffer.from(pem).toString('base64')] as const],
    );
    if (this.cluster.objects.has(SECRET)) this.cluster.patchData(SECRET, Object.fromEntries(data));
    else this.cluster.put(SECRET, { metadata: { name: 'culvert-ca' }, data: Object.fromEntries(data) });
  }

  /** As `culvert ca rotate` does. */
  rotate(requested: string): void {
    this.cluster.patchData(ROTATION, { requested });
  }

  /** Node a says that it uses what is published now, with certificates of one root only. */
  obeys(rootHash: string): void {
    const said = { bundle: bundleHash(this.bundlePem), issuers: { [rootHash]: 1 } };
    this.cluster.put('/api/v1/nodes/node-a', {
      metadata: { name: 'node-a' },
      status: { conditions: [{ type: 'Ready', status: 'True' }] },
    });
    this.cluster.put(POD, {
      metadata: { name: 'culvert-a', annotations: { 'culvert.dev/node': JSON.stringify(said) } },
      spec: { nodeName: 'node-a' },
    });
  }

  /** Node a does as it is told at each step until another root than `oldRoot` signs and all is steady. */
  async walked(oldRoot: string): Promise<SigningCa> {
    await this.comes('trust in both', () => this.status()?.step === 'trust');
    this.obeys(oldRoot);
    const fresh = await this.comes('the new CA', () => {
      const ca = usable(this.ca());
      return ca?.rootHash === oldRoot ? undefined : ca;
    });
    for (const step of ['reissue', 'retire'] as const) {
      await this.comes(step, () => this.status()?.step === step);
      this.obeys(fresh.rootHash);
    }
    await this.comes('calm', () => this.status()?.step === 'steady');
    return fresh;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#authority?.[Symbol.asyncDispose]();
  }
}

/** The CA, where it can sign. */
export function usable(ca: SigningCa | string): SigningCa | undefined {
  return typeof ca === 'string' ? undefined : ca;
}
