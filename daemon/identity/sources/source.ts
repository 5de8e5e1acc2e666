/** What every CA looks like to certificates.ts: one file a CA in this folder. */
import type { SpiffeId } from '../../mesh/ids.ts';
import type { TrustBundle } from '../bundle.ts';

/** A fresh certificate with its key. PEM. Not trusted until certificates.ts has checked it. */
export interface IssuedCertificate {
  /** Leaf first, then intermediates; no root. */
  readonly chainPem: string;
  /** PKCS #8. */
  readonly keyPem: string;
  /** All roots that peers of this mesh may chain to. */
  readonly rootsPem: string;
}

/** The CA has answered, and its answer is no, in a sentence: asked again at once it would say the same. */
export class Refused extends Error {
  override readonly name = 'Refused';
}

export interface CertificateSource {
  /** The value of config `certSource`. */
  readonly name: string;
  /**
   * A certificate for `id` under a fresh key.
   * @param lifetimeMs asked for, in ms; the CA may give less.
   * @throws Refused; any other error when there is no answer now. certificates.ts tries again. `signal` ends the attempt.
   */
  issue(id: SpiffeId, lifetimeMs: number, signal: AbortSignal): Promise<IssuedCertificate>;
  /** The trust anchors now, PEM. */
  roots(): Promise<string>;
  /**
   * Where roots can change while we run: calls back with the bundle as it is, if there is one yet, and with every
   * other one. Returns the unsubscribe.
   */
  onBundle?(listener: (bundle: TrustBundle) => void): () => void;
}
