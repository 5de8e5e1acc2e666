/** Makes certificates: a root that signs, and the leaves of workloads (SEMANTICS.md 3.1, HBONE.md 3.4). Pure but for randomness. */
import { createHash, randomBytes } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { AsnConvert } from '@peculiar/asn1-schema';
import {
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
import { arrayBuffer, ecdsaSha256, extensionOf, publicKeyInfo, signEcdsa, uriSan } from './csr.ts';
import type { KeyPair } from './csr.ts';

const SERIAL_BYTES = 16;
const COMMON_NAME = '2.5.4.3';

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
): Uint8Array {
  const name = commonName('Culvert local root CA');
  const keyId = keyIdentifier(keys.publicKey);
  const usage = new KeyUsage(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign);
  const tbs = toBeSigned(keys.publicKey, notBeforeMs, notAfterMs, [
    extensionOf(id_ce_basicConstraints, new BasicConstraints({ cA: true }), true),
    extensionOf(id_ce_keyUsage, usage, true),
    extensionOf(id_ce_subjectKeyIdentifier, new SubjectKeyIdentifier(keyId), false),
    nonCritical(uriSan(`spiffe://${trustDomain}`)),
  ]);
  tbs.issuer = name;
  tbs.subject = name;
  return signed(tbs, keys.privateKey);
}

/** A workload's certificate (DER): empty subject, one critical URI SAN, for both ends of a handshake. */
export function makeLeaf(request: LeafRequest, issuer: Issuer): Uint8Array {
  const issuerKey = new KeyIdentifier(issuerKeyId(issuer));
  const keyId = keyIdentifier(request.publicKey);
  const purposes = new ExtendedKeyUsage([id_kp_serverAuth, id_kp_clientAuth]);
  const authority = new AuthorityKeyIdentifier({ keyIdentifier: issuerKey });
  const tbs = toBeSigned(request.publicKey, request.notBeforeMs, request.notAfterMs, [
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
  publicKey: KeyObject,
  notBeforeMs: number,
  notAfterMs: number,
  extensions: Extension[],
): TBSCertificate {
  return new TBSCertificate({
    version: Version.v3,
    serialNumber: serialNumber(),
    signature: ecdsaSha256(),
    validity: new Validity({ notBefore: new Date(notBeforeMs), notAfter: new Date(notAfterMs) }),
    subject: new Name(),
    subjectPublicKeyInfo: publicKeyInfo(publicKey),
    extensions: new Extensions(extensions),
  });
}

function signed(tbs: TBSCertificate, key: KeyObject): Uint8Array {
  const raw = AsnConvert.serialize(tbs);
  const certificate = new Certificate({
    tbsCertificate: tbs,
    tbsCertificateRaw: raw,
    signatureAlgorithm: ecdsaSha256(),
    signatureValue: signEcdsa(raw, key),
  });
  return new Uint8Array(AsnConvert.serialize(certificate));
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
