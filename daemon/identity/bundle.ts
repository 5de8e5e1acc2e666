/** Trust bundles: the roots that peers may chain to, as PEM, and what tells two of them apart. Pure. */
import { X509Certificate, createHash } from 'node:crypto';
import { readPem, verifyChain } from './chain.ts';
import type { ChainOptions } from './chain.ts';
import { toPem } from './csr.ts';

/** As chain.ts reads them. */
export const MAX_ROOTS = 64;

/** Roots as they reach this node. */
export interface TrustBundle {
  /** PEM, one block a root, each once. */
  readonly rootsPem: string;
  /** Of the set of roots: `bundleHash`. What a daemon reports and a rotation waits for. */
  readonly hash: string;
  /** `rootHash` of the root under which certificates are issued now; undefined where nobody says. */
  readonly issuingRoot: string | undefined;
}

/** A bundle from PEM text. @throws RangeError when it has no certificate, too many, or a broken one. */
export function trustBundle(pem: string, issuingRoot?: string): TrustBundle {
  const roots = uniqueRoots(pem);
  if (roots.length === 0) throw new RangeError('there is no certificate in the trust bundle');
  const rootsPem = roots.map((root) => toPem('CERTIFICATE', root.raw)).join('');
  return { rootsPem, hash: hashOf(roots), issuingRoot };
}

/** SHA-256 (hex) of the DER certificates, sorted and joined: the same for every order. @throws RangeError as trustBundle. */
export function bundleHash(pem: string): string {
  return hashOf(uniqueRoots(pem));
}

/** SHA-256 (hex) of one root's DER. */
export function rootHash(root: X509Certificate): string {
  return createHash('sha256').update(root.raw).digest('hex');
}

/** `rootHash` of every root. @throws RangeError as trustBundle. */
export function rootHashes(pem: string): string[] {
  return uniqueRoots(pem).map(rootHash);
}

/** Every root of the given PEM texts once, in order of first appearance. @throws RangeError as trustBundle. */
export function unionOf(...pems: readonly string[]): string {
  return uniqueRoots(pems.join('\n'))
    .map((root) => toPem('CERTIFICATE', root.raw))
    .join('');
}

/**
 * `rootHash` of the root of `bundle` that a chain (PEM) leads to: of several the one that issues; undefined when it leads
 * to none of them, or proves nothing now.
 */
export function rootIn(
  { rootsPem, issuingRoot }: TrustBundle,
  chainPem: string,
  options: ChainOptions,
): string | undefined {
  const verdict = verifyChain(chainPem, rootsPem, { ...options, preferredRoot: issuingRoot });
  return verdict.ok ? rootHash(verdict.root) : undefined;
}

function uniqueRoots(pem: string): X509Certificate[] {
  const byHash = new Map(readPem(pem, MAX_ROOTS).map((root) => [rootHash(root), root]));
  return [...byHash.values()];
}

function hashOf(roots: readonly X509Certificate[]): string {
  const hash = createHash('sha256');
  for (const der of roots.map(({ raw }) => raw).sort((a, b) => Buffer.compare(a, b))) hash.update(der);
  return hash.digest('hex');
}
