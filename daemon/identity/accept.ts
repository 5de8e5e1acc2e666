/** A certificate source is believed nothing: what it gave is checked before it is used. */
import { createPrivateKey } from 'node:crypto';
import type { SpiffeId } from '../mesh/ids.ts';
import type { CertificateMessage } from '../mesh/wiring.ts';
import { rootHash } from './bundle.ts';
import { verifyChain } from './chain.ts';
import type { ChainOptions } from './chain.ts';
import type { IssuedCertificate } from './sources/source.ts';

export type Acceptance =
  | {
      readonly ok: true;
      readonly certificate: CertificateMessage;
      /** bundle.ts `rootHash` of the root that it chains to. */
      readonly rootHash: string;
    }
  | { readonly ok: false; readonly reason: string };

/** The certificate as workers get it, if it proves `id`, chains to its roots, is valid now and its key fits. */
export function acceptIssued(issued: IssuedCertificate, id: SpiffeId, options: ChainOptions): Acceptance {
  const verdict = verifyChain(issued.chainPem, issued.rootsPem, options);
  if (!verdict.ok)
    return { ok: false, reason: `the certificate we were given is unusable: ${verdict.detail}` };
  if (verdict.id !== id) return { ok: false, reason: `the certificate we were given is for ${verdict.id}` };
  const { leaf } = verdict;
  if (!keyFits(leaf, issued.keyPem))
    return { ok: false, reason: 'the key we were given is not the one of the certificate' };
  const certificate = {
    id,
    chainPem: issued.chainPem,
    keyPem: issued.keyPem,
    rootsPem: issued.rootsPem,
    notBeforeMs: leaf.validFromDate.getTime(),
    notAfterMs: leaf.validToDate.getTime(),
    serial: leaf.serialNumber,
  };
  return { ok: true, certificate, rootHash: rootHash(verdict.root) };
}

function keyFits(
  leaf: { checkPrivateKey(key: ReturnType<typeof createPrivateKey>): boolean },
  pem: string,
): boolean {
  try {
    return leaf.checkPrivateKey(createPrivateKey(pem));
  } catch {
    // What OpenSSL says of a key stays out of errors.
    return false;
  }
}
