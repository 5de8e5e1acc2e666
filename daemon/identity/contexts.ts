/**
 * A worker's identities: certificates from the main thread made into TLS contexts, one per identity and generation
 * (one per connection costs a quarter to a half of the handshake rate). Shapes are those of proxy/seams.ts.
 */
import { constants, X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import type { SecureContext } from 'node:tls';
import type { SpiffeId, TrustDomain } from '../mesh/ids.ts';
import type { CertificateMessage } from '../mesh/wiring.ts';
import { verifyChain } from './chain.ts';
import { systemClock } from './clock.ts';
import type { Clock } from './clock.ts';
import { SvidVerifier } from './svid.ts';
import type { SvidVerdict } from './svid.ts';
import { excerpt } from './text.ts';

/** proxy/seams.ts LocalIdentity. */
export interface StoredIdentity {
  readonly id: SpiffeId;
  readonly context: SecureContext;
  readonly notAfterMs: number;
  readonly generation: number;
}

export type IdentityResult =
  | { readonly ok: true; readonly identity: StoredIdentity }
  | {
      readonly ok: false;
      readonly reason: 'CERTIFICATE_NOT_READY' | 'CERTIFICATE_EXPIRED';
      readonly detail: string | undefined;
    };

export interface IdentityStoreOptions {
  readonly trustDomain: TrustDomain;
  readonly clock?: Pick<Clock, 'nowMs'>;
  /** Identities kept at most; main never wants more on one node (certificates.ts). */
  readonly maxIdentities?: number;
}

interface Entry {
  readonly chainPem: string;
  readonly rootsPem: string;
  readonly trust: RootTrust;
  readonly found: { readonly ok: true; readonly identity: StoredIdentity };
}

/** RFC 8446 names. AES-128 first: it is what the benchmark's figures are for; ztunnel offers both. */
const CIPHERS = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384';
const CURVES = 'X25519:P-256:X25519MLKEM768';
const DEFAULT_MAX_IDENTITIES = 10_000;

/** The worker's side of identity/. Every method is synchronous; none throws. */
export class IdentityStore {
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #maxIdentities: number;
  readonly #trustDomain: TrustDomain;
  readonly #verifier: SvidVerifier;
  readonly #entries = new Map<SpiffeId, Entry>();
  /** Why an identity is not there, for those that main has tried. */
  readonly #failures = new Map<SpiffeId, string>();
  readonly #listeners = new Set<(id: SpiffeId) => void>();
  #generation = 0;

  constructor(options: IdentityStoreOptions) {
    this.#clock = options.clock ?? systemClock;
    this.#maxIdentities = options.maxIdentities ?? DEFAULT_MAX_IDENTITIES;
    this.#trustDomain = options.trustDomain;
    this.#verifier = new SvidVerifier(options.trustDomain);
  }

  /** Identities held. */
  get size(): number {
    return this.#entries.size;
  }

  /**
   * Takes a certificate from the main thread, which has checked it. The same one again changes nothing. One that
   * OpenSSL does not take counts as failed; an older one stays in use.
   */
  set(certificate: CertificateMessage): void {
    const { id, chainPem, rootsPem, notAfterMs } = certificate;
    const known = this.#entries.get(id);
    if (known?.chainPem === chainPem && known.rootsPem === rootsPem) return;
    if (known === undefined && this.#entries.size >= this.#maxIdentities) {
      this.fail(id, `this worker holds ${this.#maxIdentities} identities already`);
      return;
    }
    const context = makeContext(certificate);
    if (typeof context === 'string') {
      this.fail(id, context);
      return;
    }
    const identity = { id, context, notAfterMs, generation: ++this.#generation };
    const trust = known?.rootsPem === rootsPem ? known.trust : new RootTrust(rootsPem, this.#trustDomain);
    this.#entries.set(id, { chainPem, rootsPem, trust, found: { ok: true, identity } });
    this.#failures.delete(id);
    this.#announce(id);
  }

  /** Main could not get a certificate. One that is there already stays in use until it expires. */
  fail(id: SpiffeId, reason: string): void {
    if (this.#failures.size < this.#maxIdentities || this.#failures.has(id)) this.#failures.set(id, reason);
    this.#announce(id);
  }

  /** Forgets an identity and its key. What is open under it stays open. */
  remove(id: SpiffeId): void {
    this.#failures.delete(id);
    if (this.#entries.delete(id)) this.#announce(id);
  }

  /**
   * The identity now, by wall clock. One that is not valid yet is given: only a clock that stepped back makes such
   * one, main renews it at once, and the peer judges by its own clock.
   */
  get(id: SpiffeId): IdentityResult {
    const entry = this.#entries.get(id);
    const failure = this.#failures.get(id);
    if (entry === undefined) return { ok: false, reason: 'CERTIFICATE_NOT_READY', detail: failure };
    if (this.#clock.nowMs() <= entry.found.identity.notAfterMs) return entry.found;
    const since = new Date(entry.found.identity.notAfterMs).toISOString();
    const detail = failure === undefined ? `expired ${since}` : `expired ${since}: ${failure}`;
    return { ok: false, reason: 'CERTIFICATE_EXPIRED', detail };
  }

  /** Whom a peer's leaf (DER) proves. The chain must have been verified by TLS. */
  verifyPeer(leafDer: Uint8Array): SvidVerdict {
    return this.#verifier.verify(leafDer, this.#clock.nowMs());
  }

  /** proxy/seams.ts Trust: another object when the identity's roots have changed. */
  trust(id: SpiffeId): RootTrust | undefined {
    return this.#entries.get(id)?.trust;
  }

  /** Calls back when a certificate arrives, rotates, fails or is removed. Returns the unsubscribe. */
  onChange(listener: (id: SpiffeId) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #announce(id: SpiffeId): void {
    for (const listener of this.#listeners) listener(id);
  }
}

/** The roots of one identity, asked about chains that TLS has verified before. */
class RootTrust {
  readonly #rootsPem: string;
  readonly #trustDomain: TrustDomain;

  constructor(rootsPem: string, trustDomain: TrustDomain) {
    this.#rootsPem = rootsPem;
    this.#trustDomain = trustDomain;
  }

  /** By the roots alone: a certificate that has ended since does not end what was opened with it. */
  holds(chain: readonly Uint8Array[]): boolean {
    const [leaf] = chain;
    if (leaf === undefined) return false;
    const nowMs = new X509Certificate(leaf).validToDate.getTime();
    return verifyChain(chain, this.#rootsPem, { trustDomain: this.#trustDomain, nowMs }).ok;
  }
}

/** A context for both ends of HBONE: TLS 1.3 only, no tickets (HBONE.md trap 1). A sentence when it can't be made. */
function makeContext(certificate: CertificateMessage): SecureContext | string {
  try {
    return createSecureContext({
      cert: certificate.chainPem,
      key: certificate.keyPem,
      ca: certificate.rootsPem,
      minVersion: 'TLSv1.3',
      maxVersion: 'TLSv1.3',
      ciphers: CIPHERS,
      ecdhCurve: CURVES,
      honorCipherOrder: true,
      secureOptions: constants.SSL_OP_NO_TICKET,
    });
  } catch (error) {
    return `OpenSSL does not take our certificate: ${excerpt(error)}`;
  }
}
