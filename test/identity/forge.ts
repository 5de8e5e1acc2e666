/** Certificates byte by byte, also such as no library makes. Mostly unsigned: svid.ts leaves that to TLS. */
import { createPrivateKey, createPublicKey, generateKeyPairSync, sign } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { toPem } from '../../daemon/identity/csr.ts';
import { parseTrustDomain, spiffeId } from '../../daemon/mesh/ids.ts';
import type { SpiffeId, TrustDomain } from '../../daemon/mesh/ids.ts';
import type { TestCa } from '../support/pki.ts';

export const NOW = Date.UTC(2026, 5, 1);
const HOUR = 3_600_000;

export function domain(text: string): TrustDomain {
  const parsed = parseTrustDomain(text);
  if (parsed === undefined) throw new Error(`no trust domain: ${text}`);
  return parsed;
}

export const TRUST_DOMAIN = domain('cluster.local');
export const WEB = 'spiffe://cluster.local/ns/shop/sa/web';

export function id(account: string, namespace = 'shop'): SpiffeId {
  return spiffeId(TRUST_DOMAIN, namespace, account);
}

/** Tag, minimal length, contents. */
export function tlv(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const contents = Buffer.concat(parts);
  const length = contents.length;
  if (length < 0x80) return Buffer.concat([Buffer.of(tag, length), contents]);
  const size = length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.of(tag, ...size), contents]);
}

/** An OID from its encoded contents in hex. */
export function oid(hex: string): Buffer {
  return tlv(0x06, Buffer.from(hex, 'hex'));
}

const TRUE = tlv(0x01, Buffer.of(0xff));
export const OID = { san: '551d11', ku: '551d0f', bc: '551d13', eku: '551d25', nameConstraints: '551d1e' };
export const SERVER_AUTH = oid('2b06010505070301');
export const CLIENT_AUTH = oid('2b06010505070302');
const ECDSA_SHA256 = tlv(0x30, oid('2a8648ce3d040302'));

export function extension(type: string, critical: boolean, value: Uint8Array): Buffer {
  return tlv(0x30, oid(type), ...(critical ? [TRUE] : []), tlv(0x04, value));
}

export const uri = (text: string): Buffer => tlv(0x86, Buffer.from(text, 'latin1'));
export const dns = (text: string): Buffer => tlv(0x82, Buffer.from(text, 'latin1'));
export const san = (...names: readonly Uint8Array[]): Buffer => extension(OID.san, true, tlv(0x30, ...names));
export const keyUsage = (...bytes: readonly number[]): Buffer =>
  extension(OID.ku, true, tlv(0x03, Buffer.of(...bytes)));
export const extKeyUsage = (...purposes: readonly Uint8Array[]): Buffer =>
  extension(OID.eku, false, tlv(0x30, ...purposes));
export const basicConstraints = (ca: boolean, ...pathLength: readonly Uint8Array[]): Buffer =>
  extension(OID.bc, true, tlv(0x30, ...(ca ? [TRUE] : []), ...pathLength));

export interface Forgery {
  readonly extensions?: readonly Uint8Array[];
  readonly subject?: Uint8Array;
  readonly notBeforeMs?: number;
  readonly notAfterMs?: number;
  readonly issuer?: Uint8Array;
  /** SubjectPublicKeyInfo; some P-256 key's when left out. */
  readonly spki?: Uint8Array;
  /** Who signs; without it the signature is garbage. */
  readonly key?: KeyObject;
  /** v3 when left out. */
  readonly version?: Uint8Array;
  /** How `key` signs; ECDSA with SHA-256 when left out. */
  readonly algorithm?: { readonly identifier: Uint8Array; readonly digest: string | null };
}

const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const SPKI = publicKey.export({ type: 'spki', format: 'der' });

/** The form of an ECDSA signature. */
const GARBAGE = Buffer.from('3006020101020101', 'hex');

/** What istiod issues: one critical URI SAN, no subject, digitalSignature and keyEncipherment, both purposes. */
export const HONEST = [
  keyUsage(5, 0xa0),
  extKeyUsage(SERVER_AUTH, CLIENT_AUTH),
  basicConstraints(false),
  san(uri(WEB)),
] as const;

export function forge(forgery: Forgery = {}): Buffer {
  const { identifier, digest } = forgery.algorithm ?? { identifier: ECDSA_SHA256, digest: 'sha256' };
  const tbs = tlv(
    0x30,
    forgery.version ?? tlv(0xa0, tlv(0x02, Buffer.of(2))),
    tlv(0x02, Buffer.of(1, 2, 3)),
    identifier,
    forgery.issuer ?? commonName('some CA'),
    tlv(0x30, time(forgery.notBeforeMs ?? NOW - HOUR), time(forgery.notAfterMs ?? NOW + HOUR)),
    forgery.subject ?? tlv(0x30),
    forgery.spki ?? SPKI,
    tlv(0xa3, tlv(0x30, ...(forgery.extensions ?? HONEST))),
  );
  const signature = forgery.key === undefined ? GARBAGE : sign(digest, tbs, forgery.key);
  return tlv(0x30, tbs, identifier, tlv(0x03, Buffer.of(0), signature));
}

/** An honest leaf but for its SAN extension(s). */
export function forgeSan(...sans: readonly Uint8Array[]): Buffer {
  return forge({ extensions: [...HONEST.slice(0, 3), ...sans] });
}

export function commonName(text: string): Buffer {
  return tlv(0x30, tlv(0x31, tlv(0x30, oid('550403'), tlv(0x0c, Buffer.from(text)))));
}

function time(ms: number): Buffer {
  const digits = new Date(ms).toISOString().replace(/[-:T]/g, '').slice(2, 14);
  return tlv(0x17, Buffer.from(`${digits}Z`));
}

/** The root `ca` once more: its name and its key, but valid for longer. No key identifier: the first one's fits. */
export function renewedRoot(ca: TestCa): TestCa {
  const key = createPrivateKey(ca.keyPem);
  const der = forge({
    issuer: commonName(ca.name),
    subject: commonName(ca.name),
    spki: createPublicKey(key).export({ type: 'spki', format: 'der' }),
    key,
    notBeforeMs: Date.now() - HOUR,
    notAfterMs: Date.now() + 2_400 * HOUR,
    extensions: [basicConstraints(true), keyUsage(1, 0x06)],
  });
  return { ...ca, der, certPem: toPem('CERTIFICATE', der) };
}
