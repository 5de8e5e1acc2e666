/** What certificates.ts tells the rest of the main thread. */
import type { SpiffeId } from '../mesh/ids.ts';
import type { CertificateMessage } from '../mesh/wiring.ts';

export type CertificateState = 'waiting' | 'issuing' | 'ready' | 'renewing' | 'expired';

export type CertificateEvent =
  /** The first one, a newer one, or the same one with another set of roots. */
  | { readonly type: 'certificate'; readonly certificate: CertificateMessage }
  /** An attempt failed; `state` says what holds meanwhile. */
  | {
      readonly type: 'failed';
      readonly id: SpiffeId;
      readonly reason: string;
      readonly state: CertificateState;
    }
  /** Once per certificate that ran out before its successor came. */
  | { readonly type: 'expired'; readonly id: SpiffeId }
  | { readonly type: 'released'; readonly id: SpiffeId };

/** One line of `culvert certs`. Times in ms since the epoch. */
export interface CertificateStatus {
  readonly id: SpiffeId;
  readonly state: CertificateState;
  readonly serial: string | undefined;
  readonly notBeforeMs: number | undefined;
  readonly notAfterMs: number | undefined;
  /** SHA-256 (hex) of the root that it chains to. */
  readonly rootHash: string | undefined;
  readonly lastError: string | undefined;
  /** The next attempt; undefined while one is under way or queued. */
  readonly nextAttemptMs: number | undefined;
}
