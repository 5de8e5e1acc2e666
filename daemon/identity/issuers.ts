/**
 * Whether a CA certificate may have signed what is below it, and whether keys and signatures are strong enough: what
 * OpenSSL asks in a handshake (security level 2, both TLS purposes, RFC 5280 section 4.2.1.10), and SPIFFE beyond it.
 */
import type { X509Certificate } from 'node:crypto';
import { AsnParser } from '@peculiar/asn1-schema';
import {
  BasicConstraints,
  ExtendedKeyUsage,
  NameConstraints,
  SubjectAlternativeName,
  id_ce_basicConstraints,
  id_ce_certificatePolicies,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_nameConstraints,
  id_ce_subjectAltName,
  id_kp_clientAuth,
  id_kp_serverAuth,
} from '@peculiar/asn1-x509';
import type { Extension, GeneralName, GeneralSubtree } from '@peculiar/asn1-x509';
import { KEY_USAGE, indexExtensions, keyUsageBits, octets, parseCertificate } from './extensions.ts';

/** Extensions of issuers that are judged here. No policy is ever demanded, so certificate policies say nothing. */
const JUDGED: ReadonlySet<string> = new Set([
  id_ce_basicConstraints,
  id_ce_certificatePolicies,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_nameConstraints,
  id_ce_subjectAltName,
]);

const MIN_RSA_BITS = 2_048;
/** Curves that TLS 1.3 signs a handshake with. */
const LEAF_CURVES: ReadonlySet<string> = new Set(['prime256v1', 'secp384r1', 'secp521r1']);
/** Those that node can show, too: with another (secp256k1, brainpool) its legacy form of a peer's chain ends the process. */
const CA_CURVES: ReadonlySet<string> = new Set([...LEAF_CURVES, 'secp224r1']);
const OBJECT_IDENTIFIER = 0x06;
const EC_KEY = '1.2.840.10045.2.1';
const RSA_PSS = '1.2.840.113549.1.1.10';
/** SHA-256, SHA-384 or SHA-512, as an OID in DER. */
const SHA_2 = /608648016503040[12][0-3]/;
/** SHA-2 and SHA-3 with ECDSA and RSA, EdDSA, ML-DSA. */
const STRONG_SIGNATURES =
  /^(1\.2\.840\.10045\.4\.3\.[1-4]|1\.2\.840\.113549\.1\.1\.1[1-4]|1\.3\.101\.11[23]|2\.16\.840\.1\.101\.3\.4\.3\.(9|1[0-9]))$/;

/**
 * What stops `issuer` from having signed `below` (leaf first, its own subject last), or undefined.
 * @param isTrusted it is one of the given roots.
 * @throws when a certificate is not DER.
 */
export function judgeIssuer(
  issuer: X509Certificate,
  below: readonly X509Certificate[],
  nowMs: number,
  isTrusted: boolean,
): string | undefined {
  const tbs = parseCertificate(issuer.raw).tbsCertificate;
  if (!(tbs.validity.notBefore.getTime().getTime() <= nowMs)) return 'is not valid yet';
  if (!(nowMs <= tbs.validity.notAfter.getTime().getTime())) return 'has expired';
  const extensions = indexExtensions(tbs.extensions ?? [], JUDGED);
  if (typeof extensions === 'string') return `can not be used: ${extensions}`;
  return (
    judgeConstraints(extensions, below) ??
    judgeUsages(extensions, isTrusted) ??
    judgeNames(extensions.get(id_ce_nameConstraints), below) ??
    weakKey(issuer)
  );
}

function judgeConstraints(
  extensions: ReadonlyMap<string, Extension>,
  below: readonly X509Certificate[],
): string | undefined {
  const basic = extensions.get(id_ce_basicConstraints);
  const constraints = basic === undefined ? undefined : AsnParser.parse(octets(basic), BasicConstraints);
  if (constraints?.cA !== true) return 'is no CA certificate';
  // RFC 5280 section 4.2.1.9: self-issued ones are not counted.
  const counted = below.slice(1).filter((one) => one.subject !== one.issuer).length;
  return (constraints.pathLenConstraint ?? Infinity) < counted
    ? 'has a path length that is exceeded'
    : undefined;
}

function judgeUsages(extensions: ReadonlyMap<string, Extension>, isTrusted: boolean): string | undefined {
  const usage = extensions.get(id_ce_keyUsage);
  // Roots that `openssl req -x509` makes have no key usage; what we are told to trust may lack it, nothing else.
  const maySign = usage === undefined ? isTrusted : (keyUsageBits(usage) & KEY_USAGE.keyCertSign) !== 0;
  if (!maySign) return 'has no key usage keyCertSign';
  const extended = extensions.get(id_ce_extKeyUsage);
  if (extended === undefined) return undefined;
  const purposes = new Set<string>(AsnParser.parse(octets(extended), ExtendedKeyUsage));
  return purposes.has(id_kp_serverAuth) && purposes.has(id_kp_clientAuth)
    ? undefined
    : 'has an extended key usage that lacks serverAuth or clientAuth';
}

/** Only URIs are compared: a leaf has no other name. Constraints of names that are there, and not compared, refuse. */
function judgeNames(extension: Extension | undefined, below: readonly X509Certificate[]): string | undefined {
  if (extension === undefined) return undefined;
  const given = AsnParser.parse(octets(extension), NameConstraints);
  const permitted: readonly GeneralSubtree[] = given.permittedSubtrees ?? [];
  const excluded: readonly GeneralSubtree[] = given.excludedSubtrees ?? [];
  const named = below.filter((one, i) => i === 0 || one.subject !== one.issuer);
  const others = [...permitted, ...excluded].some(({ base }) => base.uniformResourceIdentifier === undefined);
  if (others && named.some(hasOtherNames)) return 'has name constraints of a kind that is not judged';
  const allowed = permitted.flatMap(({ base }) => base.uniformResourceIdentifier ?? []);
  const forbidden = excluded.flatMap(({ base }) => base.uniformResourceIdentifier ?? []);
  for (const uri of named.flatMap(urisOf)) {
    const host = /^[^:]+:\/\/([^/:]*)/.exec(uri)?.[1] ?? '';
    const isAllowed = allowed.length === 0 || allowed.some((base) => isWithin(host, base));
    if (!isAllowed || forbidden.some((base) => isWithin(host, base)))
      return 'has name constraints that forbid this name';
  }
  return undefined;
}

/** `.local` is every host below it, `cluster.local` that one. */
function isWithin(host: string, base: string): boolean {
  const [name, constraint] = [host.toLowerCase(), base.toLowerCase()];
  return constraint.startsWith('.')
    ? name.length > constraint.length && name.endsWith(constraint)
    : name === constraint;
}

/** A subject, or a SAN that is no URI. */
function hasOtherNames(certificate: X509Certificate, index: number): boolean {
  // Whatever a CA is called: node gives '' or undefined for an empty subject.
  const hasSubject = index === 0 && Boolean(certificate.subject);
  return hasSubject || namesOf(certificate).some(({ uniformResourceIdentifier: uri }) => uri === undefined);
}

function urisOf(certificate: X509Certificate): readonly string[] {
  return namesOf(certificate).flatMap(({ uniformResourceIdentifier: uri }) => uri ?? []);
}

function namesOf(certificate: X509Certificate): readonly GeneralName[] {
  const { extensions } = parseCertificate(certificate.raw).tbsCertificate;
  const names = extensions?.find(({ extnID }) => extnID === id_ce_subjectAltName);
  return names === undefined ? [] : AsnParser.parse(octets(names), SubjectAlternativeName);
}

/** Whether OpenSSL finds a key too small (112 bits of security), or TLS 1.3 can't use a leaf's. */
export function weakKey(certificate: X509Certificate, isLeaf = false): string | undefined {
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = certificate.publicKey;
  if (type === 'rsa' || type === 'rsa-pss') {
    const bits = details?.modulusLength ?? 0;
    return bits < MIN_RSA_BITS ? `has an RSA key of ${bits} bits, fewer than ${MIN_RSA_BITS}` : undefined;
  }
  if (type === 'ec') return weakCurve(certificate, details?.namedCurve ?? '', isLeaf);
  const isKnown = type === 'ed25519' || type === 'ed448' || type?.startsWith('ml-dsa') === true;
  return isKnown ? undefined : `has a key of a kind that TLS does not use (${type ?? 'unknown'})`;
}

function weakCurve(certificate: X509Certificate, curve: string, isLeaf: boolean): string | undefined {
  const { algorithm } = parseCertificate(certificate.raw).tbsCertificate.subjectPublicKeyInfo;
  const parameters = new Uint8Array(algorithm.parameters ?? new ArrayBuffer());
  if (algorithm.algorithm !== EC_KEY || parameters[0] !== OBJECT_IDENTIFIER)
    return 'has an elliptic curve that is written out instead of named';
  const isUsable = (isLeaf ? LEAF_CURVES : CA_CURVES).has(curve);
  return isUsable ? undefined : `has a key on curve ${curve}, which can not be used`;
}

/** Whether the signature on `certificate` is made with a digest that OpenSSL finds too weak (SHA-1, MD5). */
export function weakSignature(certificate: X509Certificate): string | undefined {
  const { algorithm, parameters } = parseCertificate(certificate.raw).signatureAlgorithm;
  const isStrong =
    algorithm === RSA_PSS
      ? SHA_2.test(Buffer.from(parameters ?? new ArrayBuffer()).toString('hex'))
      : STRONG_SIGNATURES.test(algorithm);
  return isStrong ? undefined : `is signed with an algorithm that is too weak or not known (${algorithm})`;
}
