/** The local CA: in this process, its root in a folder. For the lab and single nodes; a node that has it can be anyone. */
import { X509Certificate } from 'node:crypto';
import { MeshError } from '../../errors.ts';
import type { SpiffeId, TrustDomain } from '../../mesh/ids.ts';
import type { Clock } from '../clock.ts';
import { keyPem, makeCsr, makeKeyPair, toPem, verifyCsr } from '../csr.ts';
import { parseCertificate } from '../extensions.ts';
import { makeLeaf } from '../issue.ts';
import type { Issuer } from '../issue.ts';
import type { CertificateSource, IssuedCertificate } from './source.ts';
import { openFolder } from './local-folder.ts';

/** Nodes' clocks differ: a leaf is valid a little before it was made. */
const BACKDATE_MS = 60_000;
const SECOND = 1_000;

export interface LocalCaOptions {
  /** Config `caDir`. */
  readonly folder: string;
  readonly trustDomain: TrustDomain;
  readonly clock: Pick<Clock, 'nowMs'>;
}

export class LocalCa implements CertificateSource {
  readonly name = 'local';
  readonly #issuer: Issuer;
  readonly #rootPem: string;
  readonly #rootNotAfterMs: number;
  readonly #clock: Pick<Clock, 'nowMs'>;

  private constructor(issuer: Issuer, root: X509Certificate, clock: Pick<Clock, 'nowMs'>) {
    this.#issuer = issuer;
    this.#rootPem = toPem('CERTIFICATE', root.raw);
    this.#rootNotAfterMs = root.validToDate.getTime();
    this.#clock = clock;
  }

  /**
   * Opens the folder, and makes root and folder on first use; daemons that start on one folder at once agree.
   * @throws MeshError CA_FOLDER_INVALID naming the file and the fix.
   */
  static async open(options: LocalCaOptions): Promise<LocalCa> {
    const { root, key } = await openFolder(options.folder, options.trustDomain, options.clock.nowMs());
    return new LocalCa({ certificate: parseCertificate(root.raw), key }, root, options.clock);
  }

  roots(): Promise<string> {
    return Promise.resolve(this.#rootPem);
  }

  /** @throws MeshError CA_FAILED when the root has expired. */
  async issue(id: SpiffeId, lifetimeMs: number, signal: AbortSignal): Promise<IssuedCertificate> {
    const keys = await makeKeyPair();
    signal.throwIfAborted();
    const chainPem = this.sign(makeCsr(id, keys), id, lifetimeMs);
    return { chainPem, keyPem: keyPem(keys.privateKey), rootsPem: this.#rootPem };
  }

  /**
   * The certificate (PEM) for a request (DER), if it proves its key and asks for `id` and nothing else. Valid from a
   * minute ago until `lifetimeMs` from now, but never longer than the root.
   * @throws MeshError CA_FAILED.
   */
  sign(csrDer: Uint8Array, id: SpiffeId, lifetimeMs: number): string {
    const request = verifyCsr(csrDer);
    if (!request.ok) throw refused(`a request for ${id}`, request.detail);
    if (request.id !== id) throw refused(`a request for ${id}`, `it asks for ${request.id}`);
    const nowMs = this.#clock.nowMs();
    if (nowMs >= this.#rootNotAfterMs)
      throw refused(
        `a certificate for ${id}`,
        'the root has expired; replace root.crt and root.key in caDir',
      );
    // X.509 has whole seconds: rounded up, so that a lifetime of seconds isn't cut by one.
    const wantedMs = Math.ceil((nowMs + lifetimeMs) / SECOND) * SECOND;
    const leaf = makeLeaf(
      {
        id,
        publicKey: request.publicKey,
        notBeforeMs: Math.floor((nowMs - BACKDATE_MS) / SECOND) * SECOND,
        notAfterMs: Math.min(wantedMs, this.#rootNotAfterMs),
      },
      this.#issuer,
    );
    return toPem('CERTIFICATE', leaf);
  }
}

function refused(what: string, why: string): MeshError {
  return new MeshError('CA_FAILED', `the local CA refused ${what}: ${why}`);
}
