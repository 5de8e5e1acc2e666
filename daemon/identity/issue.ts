/** Makes certificates: a root that signs, and the leaves of workloads (SEMANTICS.md 3.1, HBONE.md 3.4). Pure but for randomness. */
import { createHash, randomBytes, sign } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { AsnConvert } from '@peculiar/asn1-schema';
import {
  AlgorithmIdentifier,
  AttributeTypeAndValue,
  AttributeValue,
  AuthorityKeyIdentifier,
  BasicConstraints,
  Certificate,
  ExtendedKeyUsage,
  Extensions,
  KeyIdentifier,
  KeyUsage,
  KeyUsageFlags,
  Name,
  RelativeDistinguishedName,
  SubjectKeyIdentifier,
  TBSCertificate,
  Validity,
  Version,
  id_ce_authorityKeyIdentifier,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectKeyIdentifier,
  id_kp_clientAuth,
  id_kp_serverAuth,
} from '@peculiar/asn1-x509';
import type { Extension } from '@peculiar/asn1-x509';
import type { SpiffeId, TrustDomain } from '../mesh/ids.ts';
import { arrayBuffer, extensionOf, publicKeyInfo, uriSan } from './csr.ts';
import type { KeyPair } from './csr.ts';

const SERIAL_BYTES = 16;
const COMMON_NAME = '2.5.4.3';
/** Signature algorithms by the issuer's kind of key: RFC 5758 section 3.2, RFC 4055 section 5 (whose parameters are NULL). */
const ALGORITHMS: Readonly<Record<string, { readonly oid: string; readonly hash: string }>> = {
  prime256v1: { oid: '1.2.840.10045.4.3.2', hash: 'sha256' },
  secp384r1: { oid: '1.2.840.10045.4.3.3', hash: 'sha384' },
  secp521r1: { oid: '1.2.840.10045.4.3.4', hash: 'sha512' },
  rsa: { oid: '1.2.840.113549.1.1.11', hash: 'sha256' },
};
const NULL = Uint8Array.of(5, 0).buffer;
const MIN_RSA_BITS = 2_048;

/** A certificate authority: its certificate and the key that signs for it. */
export interface Issuer {
  readonly certificate: Certificate;
  readonly key: KeyObject;
}

export interface LeafRequest {
  readonly id: SpiffeId;
  readonly publicKey: KeyObject;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** A self-signed root (DER) that carries its trust domain as URI, as SPIFFE asks of signing certificates. */
export function makeRoot(
  keys: KeyPair,
  trustDomain: TrustDomain,
  notBeforeMs: number,
  notAfterMs: number,
  subject = 'Culvert local root CA',
): Uint8Array {
  const name = commonName(subject);
  const keyId = keyIdentifier(keys.publicKey);
  const usage = new KeyUsage(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign);
  const validity = { publicKey: keys.publicKey, notBeforeMs, notAfterMs };
  const tbs = toBeSigned(validity, keys.privateKey, [
    extensionOf(id_ce_basicConstraints, new BasicConstraints({ cA: true }), true),
    extensionOf(id_ce_keyUsage, usage, true),
    extensionOf(id_ce_subjectKeyIdentifier, new SubjectKeyIdentifier(keyId), false),
    nonCritical(uriSan(`spiffe://${trustDomain}`)),
  ]);
  tbs.issuer = name;
  tbs.subject = name;
  return signed(tbs, keys.privateKey);
}

/** Why `key` can not sign certificates here, or undefined when it can: ECDSA P-256, P-384, P-521, or RSA from 2048 bits. */
export function unusableKey(key: KeyObject): string | undefined {
  const { namedCurve, modulusLength } = key.asymmetricKeyDetails ?? {};
  const kind = namedCurve ?? key.asymmetricKeyType ?? 'unknown';
  if (ALGORITHMS[kind] === undefined) return `its key is ${kind}, not ECDSA P-256, P-384, P-521 or RSA`;
  return kind === 'rsa' && (modulusLength ?? 0) < MIN_RSA_BITS
    ? `its RSA key has ${modulusLength ?? 0} bits, less than ${MIN_RSA_BITS}`
    : undefined;
}

/**
 * A workload's certificate (DER): empty subject, one critical URI SAN, for both ends of a handshake.
 * @throws RangeError when the issuer's key is of a kind that `unusableKey` names.
 */
export function makeLeaf(request: LeafRequest, issuer: Issuer): Uint8Array {
  const issuerKey = new KeyIdentifier(issuerKeyId(issuer));
  const keyId = keyIdentifier(request.publicKey);
  const purposes = new ExtendedKeyUsage([id_kp_serverAuth, id_kp_clientAuth]);
  const authority = new AuthorityKeyIdentifier({ keyIdentifier: issuerKey });
  const tbs = toBeSigned(request, issuer.key, [
    extensionOf(id_ce_keyUsage, new KeyUsage(KeyUsageFlags.digitalSignature), true),
    extensionOf(id_ce_extKeyUsage, purposes, false),
    extensionOf(id_ce_basicConstraints, new BasicConstraints({ cA: false }), true),
    extensionOf(id_ce_subjectKeyIdentifier, new SubjectKeyIdentifier(keyId), false),
    extensionOf(id_ce_authorityKeyIdentifier, authority, false),
    uriSan(request.id),
  ]);
  tbs.issuer = issuer.certificate.tbsCertificate.subject;
  return signed(tbs, issuer.key);
}

function toBeSigned(
  { publicKey, notBeforeMs, notAfterMs }: Omit<LeafRequest, 'id'>,
  signer: KeyObject,
  extensions: Extension[],
): TBSCertificate {
  return new TBSCertificate({
    version: Version.v3,
    serialNumber: serialNumber(),
    signature: algorithmOf(signer).identifier,
    validity: new Validity({ notBefore: new Date(notBeforeMs), notAfter: new Date(notAfterMs) }),
    subject: new Name(),
    subjectPublicKeyInfo: publicKeyInfo(publicKey),
    extensions: new Extensions(extensions),
  });
}

function signed(tbs: TBSCertificate, key: KeyObject): Uint8Array {
  const raw = AsnConvert.serialize(tbs);
  const { identifier, hash } = algorithmOf(key);
  const certificate = new Certificate({
    tbsCertificate: tbs,
    tbsCertificateRaw: raw,
    signatureAlgorithm: identifier,
    signatureValue: arrayBuffer(sign(hash, Buffer.from(raw), key)),
  });
  return new Uint8Array(AsnConvert.serialize(certificate));
}

function algorithmOf(key: KeyObject): { identifier: AlgorithmIdentifier; hash: string } {
  const kind = key.asymmetricKeyDetails?.namedCurve ?? key.asymmetricKeyType ?? '';
  const found = ALGORITHMS[kind];
  if (found === undefined) throw new RangeError(unusableKey(key) ?? 'its key can not sign');
  const parameters = kind === 'rsa' ? { parameters: NULL } : {};
  return { identifier: new AlgorithmIdentifier({ algorithm: found.oid, ...parameters }), hash: found.hash };
}

/** 128 random bits behind a zero byte where the first bit would make it negative. */
function serialNumber(): ArrayBuffer {
  const random = randomBytes(SERIAL_BYTES);
  // A leading zero byte is superfluous (no DER) unless the next byte's first bit is set: set a bit that keeps it short.
  if (random[0] === 0) random[0] = 1;
  return arrayBuffer((random[0] ?? 0) < 0x80 ? random : Buffer.concat([Buffer.of(0), random]));
}

/** RFC 7093 method 1 in spirit: the leftmost 160 bits of SHA-256 of the public key's bits. */
function keyIdentifier(publicKey: KeyObject): ArrayBuffer {
  const bits = Buffer.from(publicKeyInfo(publicKey).subjectPublicKey);
  return arrayBuffer(createHash('sha256').update(bits).digest().subarray(0, 20));
}

/** What the issuer itself says its key is called; a root that someone else made may have another method. */
function issuerKeyId(issuer: Issuer): ArrayBuffer {
  const tbs = issuer.certificate.tbsCertificate;
  const own = tbs.extensions?.find((extension) => extension.extnID === id_ce_subjectKeyIdentifier);
  if (own !== undefined) return AsnConvert.parse(own.extnValue.buffer, SubjectKeyIdentifier).buffer;
  const bits = Buffer.from(tbs.subjectPublicKeyInfo.subjectPublicKey);
  return arrayBuffer(createHash('sha256').update(bits).digest().subarray(0, 20));
}

function commonName(text: string): Name {
  const value = new AttributeValue({ utf8String: text });
  return new Name([new RelativeDistinguishedName([new AttributeTypeAndValue({ type: COMMON_NAME, value })])]);
}

function nonCritical(extension: Extension): Extension {
  extension.critical = false;
  return extension;
}
