/**
 * Path validation outside TLS: what a certificate source gave us, and `culvert svid verify`. Signatures are node's
 * (OpenSSL's) work; the leaf is judged by svid.ts, the same code as in a handshake.
 */
import { X509Certificate, hash } from 'node:crypto';
import type { SpiffeId, TrustDomain } from '../mesh/ids.ts';
import { judgeIssuer, weakKey, weakSignature } from './issuers.ts';
import { verifySvid } from './svid.ts';
import { excerpt } from './text.ts';

export interface ChainOptions {
  readonly trustDomain: TrustDomain;
  /** Wall clock, ms since the epoch. */
  readonly nowMs: number;
  /**
   * bundle.ts `rootHash` of the root that is tried first, if it is one of those given: roots of one name and key, as a
   * renewed one and the one before, fit the same chains.
   */
  readonly preferredRoot?: string | undefined;
}

export type ChainVerdict =
  | {
      readonly ok: true;
      readonly id: SpiffeId;
      readonly leaf: X509Certificate;
      /** The trust anchor that it was found to chain to: of several, the preferred one, else the one that ends last. */
      readonly root: X509Certificate;
    }
  | {
      readonly ok: false;
      readonly reason: 'PEER_CERTIFICATE_INVALID' | 'PEER_TRUST_DOMAIN';
      readonly detail: string;
    };

/** Certificates from the leaf to the root, both counted. */
const MAX_DEPTH = 8;
const MAX_CHAIN = 8;
const MAX_ROOTS = 64;
/** Signatures checked for one chain: cross-signed intermediates could otherwise make 8! paths. */
const MAX_CHECKS = 128;
const MAX_PEM_BYTES = 1 << 20;
const PEM_BLOCK = /-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g;
const PEM_BEGIN = /-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----/g;

/**
 * The identity that a chain proves against `rootsPem`, or why it proves none. Never throws.
 * @param chain PEM, or a list of DER certificates; leaf first, intermediates in any order. At most 8.
 * @param rootsPem trust anchors, at most 64. Only self-signed ones are anchors, as with OpenSSL's defaults; others are
 *   intermediates.
 */
export function verifyChain(
  chain: string | readonly Uint8Array[],
  rootsPem: string,
  options: ChainOptions,
): ChainVerdict {
  try {
    const [leaf, ...intermediates] = readChain(chain);
    if (leaf === undefined) return invalid('there is no certificate');
    const verdict = verifySvid(leaf.raw, options);
    if (!verdict.ok) return verdict;
    const weak = weakKey(leaf, true);
    if (weak !== undefined) return invalid(`it ${weak}`);
    const trusted = readRoots(rootsPem);
    const roots = inOrder(trusted.filter(isSelfSigned), options.preferredRoot);
    const search: Search = {
      intermediates: [...intermediates, ...trusted.filter((one) => !roots.includes(one))],
      roots,
      nowMs: options.nowMs,
      checksLeft: MAX_CHECKS,
      wrong: undefined,
    };
    const root = rootOf(leaf, [leaf], search);
    if (root !== undefined) return { ok: true, id: verdict.id, leaf, root };
    return invalid(search.wrong ?? 'it does not chain to any of the roots');
  } catch (error) {
    return invalid(`the chain can not be used: ${excerpt(error)}`);
  }
}

/** The certificates in a PEM text. @throws RangeError when there are more than `max`, or a block is no certificate. */
export function readPem(pem: string, max: number): X509Certificate[] {
  if (pem.length > MAX_PEM_BYTES) throw new RangeError(`the PEM has more than ${MAX_PEM_BYTES} bytes`);
  const blocks = pem.match(PEM_BLOCK) ?? [];
  if (blocks.length !== (pem.match(PEM_BEGIN) ?? []).length)
    throw new RangeError('a block CERTIFICATE has no end, or is not base64');
  if (blocks.length > max) throw new RangeError(`there are more than ${max} certificates`);
  return blocks.map((block) => new X509Certificate(block));
}

function readRoots(pem: string): X509Certificate[] {
  try {
    return readPem(pem, MAX_ROOTS);
  } catch (error) {
    throw new RangeError(`the roots: ${excerpt(error)}`, { cause: error });
  }
}

function readChain(chain: string | readonly Uint8Array[]): X509Certificate[] {
  if (typeof chain === 'string') return readPem(chain, MAX_CHAIN);
  if (chain.length > MAX_CHAIN) throw new RangeError(`there are more than ${MAX_CHAIN} certificates`);
  return chain.map((der) => new X509Certificate(der));
}

/** The same roots, as they are tried; in whatever order they came. */
function inOrder(roots: readonly X509Certificate[], preferredRoot: string | undefined): X509Certificate[] {
  const isPreferred = (root: X509Certificate): boolean =>
    preferredRoot !== undefined && hash('sha256', root.raw, 'hex') === preferredRoot;
  const byEnd = roots.toSorted((a, b) => b.validToDate.getTime() - a.validToDate.getTime());
  return [...byEnd.filter(isPreferred), ...byEnd.filter((root) => !isPreferred(root))];
}

interface Search {
  readonly intermediates: readonly X509Certificate[];
  readonly roots: readonly X509Certificate[];
  readonly nowMs: number;
  checksLeft: number;
  /** Why the first issuer that fits could not be used. */
  wrong: string | undefined;
}

/** Depth-first over at most 8 levels; `path` is leaf first and ends with `subject`. */
function rootOf(
  subject: X509Certificate,
  path: readonly X509Certificate[],
  search: Search,
): X509Certificate | undefined {
  if (path.length >= MAX_DEPTH) return undefined;
  const anchor = search.roots.find((root) => issued(root, subject, path, search));
  if (anchor !== undefined) return anchor;
  for (const issuer of search.intermediates) {
    if (path.includes(issuer) || !issued(issuer, subject, path, search)) continue;
    const root = rootOf(issuer, [...path, issuer], search);
    if (root !== undefined) return root;
  }
  return undefined;
}

function isSelfSigned(root: X509Certificate): boolean {
  return root.checkIssued(root) && root.verify(root.publicKey);
}

function issued(
  issuer: X509Certificate,
  subject: X509Certificate,
  path: readonly X509Certificate[],
  search: Search,
): boolean {
  if (!subject.checkIssued(issuer)) return false;
  if (search.checksLeft-- <= 0) {
    search.wrong = `it needs more than ${MAX_CHECKS} signature checks`;
    return false;
  }
  if (!subject.verify(issuer.publicKey)) return false;
  const weak = weakSignature(subject);
  const isTrusted = search.roots.includes(issuer);
  const wrong = weak ?? judgeIssuer(issuer, path, search.nowMs, isTrusted);
  const whose = weak === undefined ? `its issuer ${excerpt(issuer.subject)}` : 'a certificate of it';
  search.wrong ??= wrong === undefined ? undefined : `${whose} ${wrong}`;
  return wrong === undefined;
}

function invalid(detail: string): ChainVerdict {
  return { ok: false, reason: 'PEER_CERTIFICATE_INVALID', detail };
}
