/**
 * Is this leaf certificate an identity of our mesh? Judged from its DER, never from node's text form of the SAN
 * (CVE-2021-44531). Stricter than ztunnel, which takes the first of several SANs (SEMANTICS.md 3.1 and 3.2).
 * Whether a trusted CA signed it is TLS's job (or chain.ts's).
 */
import { hash } from 'node:crypto';
import { AsnParser } from '@peculiar/asn1-schema';
import {
  BasicConstraints,
  ExtendedKeyUsage,
  SubjectAlternativeName,
  Version,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_subjectAltName,
  id_kp_clientAuth,
  id_kp_serverAuth,
} from '@peculiar/asn1-x509';
import type { Extension, TBSCertificate } from '@peculiar/asn1-x509';
import { splitSpiffeId, parseSpiffeId } from '../mesh/ids.ts';
import type { SpiffeId, TrustDomain } from '../mesh/ids.ts';
import { KEY_USAGE, indexExtensions, keyUsageBits, octets, parseCertificate } from './extensions.ts';
import { excerpt } from './text.ts';

/** A refusal's shape is proxy/seams.ts's Refusal. */
export interface SvidRefusal {
  readonly ok: false;
  readonly reason: 'PEER_CERTIFICATE_INVALID' | 'PEER_TRUST_DOMAIN';
  readonly detail: string;
}
export type SvidVerdict = { readonly ok: true; readonly id: SpiffeId } | SvidRefusal;

export interface SvidOptions {
  readonly trustDomain: TrustDomain;
  /** Wall clock, ms since the epoch. */
  readonly nowMs: number;
}

/** Far above any honest leaf: a 2,048-byte ID, an RSA-4096 key and signature, and room. */
const MAX_LEAF_BYTES = 16_384;
const SEQUENCE_TAG = 0x30;
/** [6] IMPLICIT IA5String: GeneralName's uniformResourceIdentifier. */
const URI_TAG = 0x86;
const JUDGED: ReadonlySet<string> = new Set([
  id_ce_subjectAltName,
  id_ce_basicConstraints,
  id_ce_keyUsage,
  id_ce_extKeyUsage,
]);

/** What a leaf says for ever: all but the clock. */
interface Judged {
  readonly ok: true;
  readonly id: SpiffeId;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** The identity that `leafDer` proves, or why it proves none. Never throws. */
export function verifySvid(leafDer: Uint8Array, options: SvidOptions): SvidVerdict {
  const judged = judgeLeaf(leafDer, options.trustDomain);
  return judged.ok ? judgeValidity(judged, options.nowMs) : judged;
}

/**
 * verifySvid for one trust domain, with the judgements of the last `maxEntries` good leaves kept (by SHA-256 of the
 * DER): it runs in every handshake. The clock is asked each time.
 */
export class SvidVerifier {
  readonly #trustDomain: TrustDomain;
  readonly #maxEntries: number;
  readonly #judged = new Map<string, Judged>();

  constructor(trustDomain: TrustDomain, maxEntries = 4096) {
    this.#trustDomain = trustDomain;
    this.#maxEntries = maxEntries;
  }

  /** Leaves remembered now. */
  get size(): number {
    return this.#judged.size;
  }

  /** As verifySvid. @param nowMs wall clock, ms since the epoch. */
  verify(leafDer: Uint8Array, nowMs: number): SvidVerdict {
    if (leafDer.length > MAX_LEAF_BYTES) return tooLong(leafDer);
    const key = hash('sha256', leafDer, 'base64');
    const known = this.#judged.get(key);
    if (known !== undefined) return judgeValidity(known, nowMs);
    const judged = judgeLeaf(leafDer, this.#trustDomain);
    if (!judged.ok) return judged;
    this.#remember(key, judged);
    return judgeValidity(judged, nowMs);
  }

  #remember(key: string, judged: Judged): void {
    const oldest = this.#judged.keys().next();
    if (this.#judged.size >= this.#maxEntries && oldest.done !== true) this.#judged.delete(oldest.value);
    this.#judged.set(key, judged);
  }
}

function judgeLeaf(leafDer: Uint8Array, trustDomain: TrustDomain): Judged | SvidRefusal {
  if (leafDer.length > MAX_LEAF_BYTES) return tooLong(leafDer);
  try {
    return judge(parseCertificate(leafDer).tbsCertificate, trustDomain);
  } catch (error) {
    return invalid(`it can not be parsed: ${excerpt(error)}`);
  }
}

function judge(tbs: TBSCertificate, trustDomain: TrustDomain): Judged | SvidRefusal {
  if (tbs.version !== Version.v3) return invalid('it is not an X.509 v3 certificate');
  const extensions = indexExtensions(tbs.extensions ?? [], JUDGED);
  if (typeof extensions === 'string') return invalid(extensions);
  const wrong = judgeUsage(extensions);
  if (wrong !== undefined) return invalid(wrong);
  const name = judgeName(extensions.get(id_ce_subjectAltName), tbs.subject.length === 0);
  if (!name.ok) return invalid(name.detail);
  const id = parseSpiffeId(name.uri);
  const parts = splitSpiffeId(name.uri);
  if (id === undefined || parts === undefined)
    return invalid(
      `its URI ${excerpt(name.uri)} is not of the form spiffe://<trust domain>/ns/<ns>/sa/<account>`,
    );
  if (parts.trustDomain !== trustDomain)
    return {
      ok: false,
      reason: 'PEER_TRUST_DOMAIN',
      detail: `${excerpt(id)} is not of trust domain ${trustDomain}`,
    };
  return {
    ok: true,
    id,
    notBeforeMs: tbs.validity.notBefore.getTime().getTime(),
    notAfterMs: tbs.validity.notAfter.getTime().getTime(),
  };
}

function judgeUsage(extensions: ReadonlyMap<string, Extension>): string | undefined {
  const basic = extensions.get(id_ce_basicConstraints);
  if (basic !== undefined && AsnParser.parse(octets(basic), BasicConstraints).cA)
    return 'it is a CA certificate, not a leaf';
  const usage = extensions.get(id_ce_keyUsage);
  if (usage !== undefined) {
    const bits = keyUsageBits(usage);
    if ((bits & (KEY_USAGE.keyCertSign | KEY_USAGE.cRLSign)) !== 0)
      return 'its key usage allows signing certificates or CRLs';
    if ((bits & KEY_USAGE.digitalSignature) === 0) return 'its key usage lacks digitalSignature';
  }
  const extended = extensions.get(id_ce_extKeyUsage);
  if (extended === undefined) return undefined;
  const purposes = new Set<string>(AsnParser.parse(octets(extended), ExtendedKeyUsage));
  return purposes.has(id_kp_serverAuth) && purposes.has(id_kp_clientAuth)
    ? undefined
    : 'its extended key usage lacks serverAuth or clientAuth';
}

type Name = { readonly ok: true; readonly uri: string } | { readonly ok: false; readonly detail: string };

function judgeName(extension: Extension | undefined, subjectEmpty: boolean): Name {
  const bad = (detail: string): Name => ({ ok: false, detail });
  if (extension === undefined) return bad('it has no subject alternative name');
  if (subjectEmpty && !extension.critical)
    return bad('its subject is empty and its subject alternative name not critical');
  const names = AsnParser.parse(octets(extension), SubjectAlternativeName);
  const [only, ...further] = names;
  const uri = only?.uniformResourceIdentifier;
  if (further.length > 0) return bad('it has more than one subject alternative name');
  if (uri === undefined) return bad('its subject alternative name is not a URI');
  // The one encoding of that one name, so that no other reader can see more in it.
  if (!isExactlyUri(octets(extension), uri)) return bad('its subject alternative name is oddly encoded');
  return { ok: true, uri };
}

function isExactlyUri(der: Uint8Array, uri: string): boolean {
  const text = Buffer.from(uri, 'latin1');
  const name = Buffer.concat([header(URI_TAG, text.length), text]);
  return Buffer.concat([header(SEQUENCE_TAG, name.length), name]).equals(der);
}

/** Tag and minimal length; 65,535 bytes at most. */
function header(tag: number, length: number): Buffer {
  if (length < 0x80) return Buffer.of(tag, length);
  return length < 0x100 ? Buffer.of(tag, 0x81, length) : Buffer.of(tag, 0x82, length >> 8, length & 0xff);
}

function judgeValidity(judged: Judged, nowMs: number): SvidVerdict {
  // Written so that an unparsable time (NaN) fails.
  if (!(judged.notBeforeMs <= nowMs)) return invalid(`it is not valid before ${when(judged.notBeforeMs)}`);
  if (!(nowMs <= judged.notAfterMs)) return invalid(`it expired at ${when(judged.notAfterMs)}`);
  return { ok: true, id: judged.id };
}

function when(ms: number): string {
  return Number.isFinite(ms) ? new Date(ms).toISOString() : 'an unreadable time';
}

function tooLong(der: Uint8Array): SvidRefusal {
  return invalid(`it has ${der.length} bytes, more than ${MAX_LEAF_BYTES}`);
}

function invalid(detail: string): SvidRefusal {
  return { ok: false, reason: 'PEER_CERTIFICATE_INVALID', detail };
}
