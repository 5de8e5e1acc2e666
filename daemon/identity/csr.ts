/** Key pairs and certificate requests as every source takes them: ECDSA P-256, empty subject, one critical URI SAN. */
import { createPublicKey, generateKeyPair, sign, verify } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { promisify } from 'node:util';
import { AsnConvert, OctetString } from '@peculiar/asn1-schema';
import { Attributes, CertificationRequest, CertificationRequestInfo } from '@peculiar/asn1-csr';
import {
  AlgorithmIdentifier,
  Attribute,
  Extension,
  Extensions,
  GeneralName,
  Name,
  SubjectAlternativeName,
  SubjectPublicKeyInfo,
  id_ce_subjectAltName,
} from '@peculiar/asn1-x509';
import type { SpiffeId } from '../mesh/ids.ts';
import { parseSpiffeId } from '../mesh/ids.ts';
import { isDer } from './der.ts';
import { excerpt } from './text.ts';

/** ecdsa-with-SHA256, RFC 5758 section 3.2. */
const ECDSA_SHA256 = '1.2.840.10045.4.3.2';
/** PKCS #9 extensionRequest, RFC 2985 section 5.4.2. */
const EXTENSION_REQUEST = '1.2.840.113549.1.9.14';
const MAX_CSR_BYTES = 16_384;
const PEM_LINE = 64;

export interface KeyPair {
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
}

const generate = promisify(generateKeyPair);

/** A fresh P-256 key pair, made off the thread. It lives in memory only; nothing here logs or stores it. */
export async function makeKeyPair(): Promise<KeyPair> {
  return await generate('ec', { namedCurve: 'P-256' });
}

/** PKCS #8 PEM of a private key. */
export function keyPem(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' });
}

/** The request (DER) for `id`, signed by its key. */
export function makeCsr(id: SpiffeId, keys: KeyPair): Uint8Array {
  const wanted = new Extensions([uriSan(id)]);
  const attribute = new Attribute({ type: EXTENSION_REQUEST, values: [AsnConvert.serialize(wanted)] });
  const info = new CertificationRequestInfo({
    subject: new Name(),
    subjectPKInfo: publicKeyInfo(keys.publicKey),
    attributes: new Attributes([attribute]),
  });
  const raw = AsnConvert.serialize(info);
  const request = new CertificationRequest({
    certificationRequestInfo: info,
    certificationRequestInfoRaw: raw,
    signatureAlgorithm: ecdsaSha256(),
    signature: signEcdsa(raw, keys.privateKey),
  });
  return new Uint8Array(AsnConvert.serialize(request));
}

export type CsrVerdict =
  | { readonly ok: true; readonly id: SpiffeId; readonly publicKey: KeyObject }
  | { readonly ok: false; readonly detail: string };

/**
 * What a request asks for, when it is exactly of makeCsr's form and proves its key: P-256, ECDSA with SHA-256, empty
 * subject, one attribute with one extension, one URI SAN of Istio's form. Never throws.
 */
export function verifyCsr(csrDer: Uint8Array): CsrVerdict {
  if (csrDer.length > MAX_CSR_BYTES) return refused(`it has more than ${MAX_CSR_BYTES} bytes`);
  if (!isDer(csrDer)) return refused('it is not one DER value');
  try {
    return judgeCsr(AsnConvert.parse(csrDer, CertificationRequest));
  } catch (error) {
    return refused(`it can not be parsed: ${excerpt(error)}`);
  }
}

function judgeCsr(request: CertificationRequest): CsrVerdict {
  const info = request.certificationRequestInfo;
  const publicKey = createPublicKey({
    key: Buffer.from(AsnConvert.serialize(info.subjectPKInfo)),
    format: 'der',
    type: 'spki',
  });
  if (publicKey.asymmetricKeyType !== 'ec' || publicKey.asymmetricKeyDetails?.namedCurve !== 'prime256v1')
    return refused('its key is not ECDSA P-256');
  if (request.signatureAlgorithm.algorithm !== ECDSA_SHA256)
    return refused('it is not signed by ECDSA with SHA-256');
  const raw = request.certificationRequestInfoRaw;
  if (raw === undefined || !verify('sha256', Buffer.from(raw), publicKey, Buffer.from(request.signature)))
    return refused('its signature is wrong');
  if (info.subject.length > 0) return refused('its subject is not empty');
  const asked = requestedId(info.attributes);
  return asked.ok
    ? { ok: true, id: asked.id, publicKey }
    : refused(`it does not ask for exactly one Istio identity: ${asked.why}`);
}

type Asked = { readonly ok: true; readonly id: SpiffeId } | { readonly ok: false; readonly why: string };

function requestedId(attributes: Attributes): Asked {
  const not = (why: string): Asked => ({ ok: false, why });
  const [attribute, ...otherAttributes] = attributes;
  const [value, ...otherValues] = attribute?.values ?? [];
  if (attribute?.type !== EXTENSION_REQUEST || value === undefined) return not('it asks for no extension');
  if (otherAttributes.length > 0 || otherValues.length > 0) return not('it has further attributes');
  const [extension, ...otherExtensions] = AsnConvert.parse(value, Extensions);
  if (extension?.extnID !== id_ce_subjectAltName || otherExtensions.length > 0)
    return not('it asks for other extensions than one subject alternative name');
  if (!isDer(new Uint8Array(extension.extnValue.buffer))) return not('its name is not one DER value');
  const [name, ...otherNames] = AsnConvert.parse(extension.extnValue.buffer, SubjectAlternativeName);
  const uri = name?.uniformResourceIdentifier;
  if (otherNames.length > 0) return not('it has several names');
  if (uri === undefined) return not('its name is not a URI');
  const id = parseSpiffeId(uri);
  return id === undefined ? not(`${excerpt(uri)} is none`) : { ok: true, id };
}

function refused(detail: string): CsrVerdict {
  return { ok: false, detail };
}

/** The critical SAN extension with the one URI `uri`. */
export function uriSan(uri: string): Extension {
  const names = new SubjectAlternativeName([new GeneralName({ uniformResourceIdentifier: uri })]);
  return extensionOf(id_ce_subjectAltName, names, true);
}

/** An extension around an ASN.1 value of the library. */
export function extensionOf(oid: string, value: object, critical: boolean): Extension {
  return new Extension({
    extnID: oid,
    critical,
    extnValue: new OctetString(AsnConvert.serialize(value)),
  });
}

/** The algorithm identifier of all that we sign. */
export function ecdsaSha256(): AlgorithmIdentifier {
  return new AlgorithmIdentifier({ algorithm: ECDSA_SHA256 });
}

/** ECDSA with SHA-256, in the DER form that X.509 carries. */
export function signEcdsa(bytes: ArrayBuffer, key: KeyObject): ArrayBuffer {
  return arrayBuffer(sign('sha256', Buffer.from(bytes), key));
}

/** A public key in the library's form. */
export function publicKeyInfo(key: KeyObject): SubjectPublicKeyInfo {
  return AsnConvert.parse(key.export({ type: 'spki', format: 'der' }), SubjectPublicKeyInfo);
}

/** A copy of `bytes` in an ArrayBuffer of its own, which is what the library stores. */
export function arrayBuffer(bytes: Uint8Array): ArrayBuffer {
  const copy = new ArrayBuffer(bytes.length);
  new Uint8Array(copy).set(bytes);
  return copy;
}

/** RFC 7468 text of DER bytes; `label` is `CERTIFICATE` or `CERTIFICATE REQUEST`. */
export function toPem(label: 'CERTIFICATE' | 'CERTIFICATE REQUEST', der: Uint8Array): string {
  const text = Buffer.from(der).toString('base64');
  const lines: string[] = [];
  for (let at = 0; at < text.length; at += PEM_LINE) lines.push(text.slice(at, at + PEM_LINE));
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}
