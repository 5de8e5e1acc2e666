/**
 * Certificates for tests, written in DER by hand: right ones, and wrong ones that no library would make. Synchronous,
 * P-256 (about 0.3 ms each), nothing on disk.
 */
import {
  constants,
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  randomBytes,
  sign,
} from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { parseSpiffeId } from '../../daemon/mesh/ids.ts';
import type { LocalIdentity } from '../../daemon/proxy/seams.ts';

export interface TestCa {
  readonly name: string;
  readonly certPem: string;
  readonly keyPem: string;
  readonly der: Uint8Array;
  /** CA certificates between this one's children and a root, leaf's issuer first; empty for a root. */
  readonly intermediatesPem: string;
}

export interface Issued {
  /** Leaf first, then intermediates. */
  readonly chainPem: string;
  readonly keyPem: string;
  /** The leaf. */
  readonly der: Uint8Array;
}

export interface IssueOptions {
  readonly notBefore?: Date;
  readonly notAfter?: Date;
  /** DNS names beside the URIs. */
  readonly dns?: readonly string[];
  /** basicConstraints cA; default false. */
  readonly isCa?: boolean;
  /** Names of extended key usages; default both; an empty list leaves the extension out. */
  readonly usages?: readonly ('serverAuth' | 'clientAuth')[];
  /** Bits of keyUsage's first byte; default digitalSignature (0x80). */
  readonly keyUsage?: number;
  /** Common name; default none (an empty subject). */
  readonly commonName?: string;
  /** Organizations of the subject, beside a common name: Kubernetes reads them as groups. */
  readonly organizations?: readonly string[];
  /** IPv4 addresses beside the URIs. */
  readonly ips?: readonly string[];
  /** Leaves the SAN uncritical, though the subject is empty. */
  readonly sanNotCritical?: boolean;
}

const HOUR = 3_600_000;
const OID = {
  commonName: '2.5.4.3',
  organization: '2.5.4.10',
  ecPublicKey: '1.2.840.10045.2.1',
  ecdsaSha256: '1.2.840.10045.4.3.2',
  subjectKeyId: '2.5.29.14',
  keyUsage: '2.5.29.15',
  altName: '2.5.29.17',
  authorityKeyId: '2.5.29.35',
  basicConstraints: '2.5.29.19',

  extKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
} as const;

/** A self-signed root. */
export function makeCa(name = `test root ${randomBytes(4).toString('hex')}`): TestCa {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const der = certificate({
    issuer: dn(name),
    subject: dn(name),
    issuerKey: privateKey,
    publicKey,
    notBefore: new Date(Date.now() - HOUR),
    notAfter: new Date(Date.now() + 240 * HOUR),
    extensions: [basicConstraints(true), keyUsage(0x06)],
  });
  return { name, certPem: pem('CERTIFICATE', der), keyPem: keyToPem(privateKey), der, intermediatesPem: '' };
}

/** A CA signed by `ca`: what it issues carries it in the chain. */
export function makeIntermediate(ca: TestCa): TestCa {
  const name = `test intermediate ${randomBytes(4).toString('hex')}`;
  const made = issue(ca, [], { isCa: true, keyUsage: 0x06, usages: [], commonName: name });
  return {
    name,
    certPem: pem('CERTIFICATE', made.der),
    keyPem: made.keyPem,
    der: made.der,
    intermediatesPem: made.chainPem,
  };
}

/** A leaf of `ca` with these URI SANs (none, one or several). Valid from an hour ago for 25 hours by default. */
export function issue(ca: TestCa, uris: string | readonly string[], options: IssueOptions = {}): Issued {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const issuerKey = createPrivateKey(ca.keyPem);
  const der = leaf(publicKey, { name: ca.name, key: issuerKey }, uris, options);
  return {
    chainPem: pem('CERTIFICATE', der) + ca.intermediatesPem,
    keyPem: keyToPem(privateKey),
    der,
  };
}

/** A liar's certificate: any SAN, signed by nobody but itself. */
export function selfSigned(uris: string | readonly string[], options: IssueOptions = {}): Issued {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const name = options.commonName ?? 'liar';
  const der = leaf(publicKey, { name, key: privateKey }, uris, { ...options, commonName: name });
  return { chainPem: pem('CERTIFICATE', der), keyPem: keyToPem(privateKey), der };
}

/** What every SecureContext of the mesh has (HBONE.md 3.3 and trap 1). */
export const MESH_TLS = {
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
  ciphers: 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384',
  secureOptions: constants.SSL_OP_NO_TICKET,
  sessionIdContext: 'culvert',
} as const;

/** An identity as the proxy takes it. @throws RangeError when `id` is no identity. */
export function localIdentity(id: string, issued: Issued, rootsPem: string, generation = 1): LocalIdentity {
  const parsed = parseSpiffeId(id);
  if (parsed === undefined) throw new RangeError(`no SPIFFE ID: ${id}`);
  const context = createSecureContext({
    ...MESH_TLS,
    key: issued.keyPem,
    cert: issued.chainPem,
    ca: rootsPem,
  });
  return { id: parsed, context, notAfterMs: Date.now() + 24 * HOUR, generation };
}

function leaf(
  publicKey: KeyObject,
  issuer: { name: string; key: KeyObject },
  uris: string | readonly string[],
  options: IssueOptions,
): Uint8Array {
  const names = [
    ...(typeof uris === 'string' ? [uris] : uris).map((uri) => tlv(0x86, Buffer.from(uri, 'latin1'))),
    ...(options.dns ?? []).map((name) => tlv(0x82, Buffer.from(name, 'latin1'))),
    ...(options.ips ?? []).map((address) => tlv(0x87, Buffer.from(address.split('.').map(Number)))),
  ];
  const usages = options.usages ?? ['serverAuth', 'clientAuth'];
  const emptySubject = options.commonName === undefined;
  const extensions = [basicConstraints(options.isCa ?? false), keyUsage(options.keyUsage ?? 0x80)];
  if (usages.length > 0)
    extensions.push(extension(OID.extKeyUsage, false, sequence(...usages.map((usage) => oid(OID[usage])))));
  if (names.length > 0)
    extensions.push(
      extension(OID.altName, emptySubject && options.sanNotCritical !== true, sequence(...names)),
    );
  return certificate({
    issuer: dn(issuer.name),
    subject: emptySubject ? sequence() : dn(options.commonName ?? '', options.organizations),
    issuerKey: issuer.key,
    publicKey,
    notBefore: options.notBefore ?? new Date(Date.now() - HOUR),
    notAfter: options.notAfter ?? new Date(Date.now() + 24 * HOUR),
    extensions,
  });
}

interface CertificateParts {
  readonly issuer: Buffer;
  readonly subject: Buffer;
  readonly issuerKey: KeyObject;
  readonly publicKey: KeyObject;
  readonly notBefore: Date;
  readonly notAfter: Date;
  readonly extensions: readonly Buffer[];
}

function certificate(parts: CertificateParts): Uint8Array {
  const algorithm = sequence(oid(OID.ecdsaSha256));
  const spki = parts.publicKey.export({ type: 'spki', format: 'der' });
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  const tbs = sequence(
    tlv(0xa0, integer(Buffer.from([2]))),
    integer(serial),
    algorithm,
    parts.issuer,
    sequence(time(parts.notBefore), time(parts.notAfter)),
    parts.subject,
    spki,
    tlv(0xa3, sequence(...parts.extensions, ...keyIds(spki, parts.issuerKey))),
  );
  const signature = sign('sha256', tbs, parts.issuerKey);
  return sequence(tbs, algorithm, bitString(signature, 0));
}

function keyIds(subjectSpki: Buffer, issuerKey: KeyObject): readonly Buffer[] {
  const keyId = (spki: Buffer): Buffer => createHash('sha1').update(spki).digest();
  const issuerSpki = createPublicKey(issuerKey).export({ type: 'spki', format: 'der' });
  return [
    extension(OID.subjectKeyId, false, tlv(0x04, keyId(subjectSpki))),
    extension(OID.authorityKeyId, false, sequence(tlv(0x80, keyId(issuerSpki)))),
  ];
}

function basicConstraints(isCa: boolean): Buffer {
  return extension(OID.basicConstraints, true, isCa ? sequence(tlv(0x01, Buffer.from([0xff]))) : sequence());
}

function keyUsage(bits: number): Buffer {
  let unused = 0;
  while (unused < 7 && ((bits >> unused) & 1) === 0) unused++;
  return extension(OID.keyUsage, true, bitString(Buffer.from([bits]), unused));
}

function extension(id: string, critical: boolean, value: Buffer): Buffer {
  const octets = tlv(0x04, value);
  return critical ? sequence(oid(id), tlv(0x01, Buffer.from([0xff])), octets) : sequence(oid(id), octets);
}

function dn(name: string, organizations: readonly string[] = []): Buffer {
  const attribute = (id: string, value: string): Buffer =>
    tlv(0x31, sequence(oid(id), tlv(0x0c, Buffer.from(value, 'utf8'))));
  const groups = organizations.map((organization) => attribute(OID.organization, organization));
  return sequence(...groups, attribute(OID.commonName, name));
}

function time(date: Date): Buffer {
  const digits = date
    .toISOString()
    .replace(/\.\d+Z$/, 'Z')
    .replace(/[-:T]/g, '');
  // RFC 5280 4.1.2.5: UTCTime until 2049, GeneralizedTime after.
  return date.getUTCFullYear() < 2050
    ? tlv(0x17, Buffer.from(digits.slice(2), 'latin1'))
    : tlv(0x18, Buffer.from(digits, 'latin1'));
}

function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const groups = [arc & 0x7f];
    for (let left = arc >>> 7; left > 0; left >>>= 7) groups.unshift((left & 0x7f) | 0x80);
    bytes.push(...groups);
  }
  return tlv(0x06, Buffer.from(bytes));
}

function integer(bytes: Buffer): Buffer {
  return tlv(0x02, bytes);
}

function bitString(bytes: Buffer, unusedBits: number): Buffer {
  return tlv(0x03, Buffer.concat([Buffer.from([unusedBits]), bytes]));
}

function sequence(...parts: readonly Uint8Array[]): Buffer {
  return tlv(0x30, Buffer.concat(parts));
}

function tlv(tag: number, body: Uint8Array): Buffer {
  const length = body.length;
  let head: readonly number[];
  if (length < 0x80) head = [tag, length];
  else if (length < 0x100) head = [tag, 0x81, length];
  else head = [tag, 0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from(head), body]);
}

function pem(label: string, der: Uint8Array): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

function keyToPem(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' });
}
