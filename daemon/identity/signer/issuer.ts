/**
 * The CA itself: from the data of Secret `culvert-ca`, as we, `openssl` or cert-manager write it: `tls.crt` (the signing
 * certificate, then its intermediates, a root perhaps), `tls.key` (PKCS #8, SEC 1 or PKCS #1), `ca.crt` (the root).
 */
import { X509Certificate, createHash, createPrivateKey } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { MeshError } from '../../errors.ts';
import type { TrustDomain } from '../../mesh/ids.ts';
import { spiffeId } from '../../mesh/ids.ts';
import { rootHash, unionOf } from '../bundle.ts';
import { readPem, verifyChain } from '../chain.ts';
import { keyPem, makeKeyPair, toPem } from '../csr.ts';
import type { KeyPair } from '../csr.ts';
import { parseCertificate } from '../extensions.ts';
import { makeLeaf, makeRoot, unusableKey } from '../issue.ts';
import type { Issuer } from '../issue.ts';
import { excerpt } from '../text.ts';
import type { Grant } from './decide.ts';

/** PEM texts of a Secret. */
export interface IssuerPems {
  readonly certificates: string;
  readonly key: string;
  /** Root(s); '' when they are left out: the last of `certificates` is the root then. */
  readonly roots: string;
}

/** A CA that signs. */
export interface SigningCa extends Issuer {
  readonly pems: IssuerPems;
  /** SHA-256 (hex) of the signing certificate. */
  readonly fingerprint: string;
  /** What follows the leaf in a chain; PEM, may be ''. */
  readonly intermediatesPem: string;
  readonly rootsPem: string;
  /** `rootHash` of the root that its certificates chain to. */
  readonly rootHash: string;
  /** When the first certificate between leaf and root ends. */
  readonly notAfterMs: number;
}

const MAX_CHAIN = 8;
const MAX_ROOTS = 64;
/** Nodes' clocks differ: a leaf is valid a little before it was made. */
const BACKDATE_MS = 60_000;
const ROOT_BACKDATE_MS = 3_600_000;
const ROOT_LIFETIME_MS = 10 * 365 * 86_400_000;
const SECOND = 1_000;

/** A fresh P-256 root for ten years, in the form of the Secret. */
export async function makeIssuer(trustDomain: TrustDomain, nowMs: number): Promise<IssuerPems> {
  const keys = await makeKeyPair();
  const wholeMs = Math.floor(nowMs / SECOND) * SECOND;
  const name = `Culvert cluster CA ${new Date(wholeMs).toISOString()}`;
  const der = makeRoot(keys, trustDomain, wholeMs - ROOT_BACKDATE_MS, wholeMs + ROOT_LIFETIME_MS, name);
  const pem = toPem('CERTIFICATE', der);
  return { certificates: pem, key: keyPem(keys.privateKey), roots: pem };
}

/**
 * The CA in `pems`, tried: what it signs is accepted by the very check that daemons make.
 * @param probe any key pair, for the certificate that is tried.
 * @throws MeshError CA_FAILED with what is wrong and what to do.
 */
export function readIssuer(
  pems: IssuerPems,
  trustDomain: TrustDomain,
  probe: KeyPair,
  nowMs: number,
): SigningCa {
  const key = readKey(pems.key);
  const chain = readCertificates('tls.crt', pems.certificates, MAX_CHAIN);
  const [first, ...rest] = chain;
  if (first === undefined) throw invalid('tls.crt holds no certificate');
  const last = chain.at(-1);
  const given = readCertificates('ca.crt', pems.roots, MAX_ROOTS);
  const roots = given.length === 0 && last !== undefined && isRoot(last) ? [last] : given;
  if (roots.length === 0) throw invalid('ca.crt is missing, and the last certificate of tls.crt is no root');
  if (!first.checkPrivateKey(key))
    throw invalid('tls.key is not the key of the first certificate of tls.crt');
  if (!first.ca) throw invalid('the first certificate of tls.crt is no CA (basic constraints CA:TRUE)');
  const intermediates = [first, ...rest].filter((one) => !isRoot(one));
  const ca = {
    certificate: parseCertificate(first.raw),
    key,
    pems,
    fingerprint: createHash('sha256').update(first.raw).digest('hex'),
    intermediatesPem: toPems(intermediates),
    rootsPem: unionOf(toPems(roots)),
    notAfterMs: Math.min(...[first, ...intermediates].map(endOf)),
  };
  const root = tried(ca, trustDomain, probe, nowMs);
  return { ...ca, notAfterMs: Math.min(ca.notAfterMs, endOf(root)), rootHash: rootHash(root) };
}

/**
 * The chain (PEM) for what was granted: leaf first, then intermediates. Valid from a minute ago, and never longer than
 * the CA. @throws MeshError CA_FAILED when the CA has expired.
 */
export function signGrant(
  ca: Omit<SigningCa, 'rootHash'>,
  { id, publicKey, lifetimeMs }: Omit<Grant, 'node'>,
  nowMs: number,
): string {
  if (nowMs >= ca.notAfterMs) throw invalid(`it expired at ${new Date(ca.notAfterMs).toISOString()}`);
  const leaf = makeLeaf(
    {
      id,
      publicKey,
      notBeforeMs: Math.floor((nowMs - BACKDATE_MS) / SECOND) * SECOND,
      // X.509 has whole seconds: rounded up, so that a short lifetime is not cut by one.
      notAfterMs: Math.min(Math.ceil((nowMs + lifetimeMs) / SECOND) * SECOND, ca.notAfterMs),
    },
    ca,
  );
  return toPem('CERTIFICATE', leaf) + ca.intermediatesPem;
}

/** Signs for ourselves and looks at it as a daemon would; the root that it ends at. */
function tried(
  ca: Omit<SigningCa, 'rootHash'>,
  trustDomain: TrustDomain,
  probe: KeyPair,
  nowMs: number,
): X509Certificate {
  const id = spiffeId(trustDomain, 'culvert-system', 'culvert-ca');
  const chain = signGrant(ca, { id, publicKey: probe.publicKey, lifetimeMs: BACKDATE_MS }, nowMs);
  const verdict = verifyChain(chain, ca.rootsPem, { trustDomain, nowMs });
  if (!verdict.ok)
    throw invalid(`what it signs would be refused by those who trust ca.crt: ${verdict.detail}`);
  return verdict.root;
}

function readKey(pem: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    // Without the cause: nothing of a key goes into an error.
    throw invalid('tls.key is no private key in PEM without a passphrase');
  }
  const wrong = unusableKey(key);
  if (wrong !== undefined) throw invalid(wrong);
  return key;
}

function readCertificates(field: string, pem: string, max: number): X509Certificate[] {
  try {
    return readPem(pem, max);
  } catch (error) {
    throw invalid(`${field} can not be read: ${excerpt(error)}`);
  }
}

function endOf(certificate: X509Certificate): number {
  return certificate.validToDate.getTime();
}

function isRoot(certificate: X509Certificate): boolean {
  return certificate.checkIssued(certificate) && certificate.verify(certificate.publicKey);
}

function toPems(certificates: readonly X509Certificate[]): string {
  return certificates.map(({ raw }) => toPem('CERTIFICATE', raw)).join('');
}

function invalid(what: string): MeshError {
  return new MeshError('CA_FAILED', `the CA of Secret culvert-ca can not sign: ${what}`);
}
