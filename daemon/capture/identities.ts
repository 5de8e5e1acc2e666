/** Which identities this node's pods need, and which of their certificates the workers have. */
import type { SpiffeId } from '../mesh/ids.ts';

export interface IdentityEvents {
  wantIdentity(id: SpiffeId, urgent: boolean): void;
  releaseIdentity(id: SpiffeId): void;
}

export class WantedIdentities {
  readonly #events: IdentityEvents;
  readonly #certificates = new Map<SpiffeId, { readonly notAfterMs: number } | { readonly failed: string }>();

  constructor(events: IdentityEvents) {
    this.#events = events;
  }

  /** The workers have a certificate of it. */
  ready(id: SpiffeId, notAfterMs: number): void {
    this.#certificates.set(id, { notAfterMs });
  }

  /** It could not be had; one that the workers have already stays in use. */
  failed(id: SpiffeId, reason: string): void {
    if (!this.has(id)) this.#certificates.set(id, { failed: reason });
  }

  /** Whether the workers have a certificate of it. */
  has(id: SpiffeId | undefined): boolean {
    const known = id === undefined ? undefined : this.#certificates.get(id);
    return known !== undefined && 'notAfterMs' in known;
  }

  /** Why there is none, when that is known. */
  whyNot(id: SpiffeId | undefined): string | undefined {
    const known = id === undefined ? undefined : this.#certificates.get(id);
    return known !== undefined && 'failed' in known ? known.failed : undefined;
  }

  /** One more pod waits for it; `isShared`: another one had asked for it before. */
  want(id: SpiffeId, isShared: boolean): void {
    if (!isShared || !this.has(id)) this.#events.wantIdentity(id, true);
  }

  /** The last pod that needed it is gone. */
  release(id: SpiffeId): void {
    this.#certificates.delete(id);
    this.#events.releaseIdentity(id);
  }
}
