/** What svid.ts (leaves) and chain.ts (their issuers) share of reading a certificate: strictly, or not at all. */
import { AsnParser } from '@peculiar/asn1-schema';
import { Certificate, KeyUsage } from '@peculiar/asn1-x509';
import type { Extension } from '@peculiar/asn1-x509';
import { isDer, isTaggedAsCertificate } from './der.ts';
import { excerpt } from './text.ts';

const MAX_EXTENSIONS = 32;
/** Class bits of a tag: no extension's value is one of these, and the ASN.1 library would take it for a SEQUENCE. */
const CONTEXT_SPECIFIC = 0x80;

/** Bits of the first byte of a KeyUsage. */
export const KEY_USAGE = { digitalSignature: 0x80, keyCertSign: 0x04, cRLSign: 0x02 } as const;

/** The certificate in `der`. @throws when `der` is not exactly one, in DER. */
export function parseCertificate(der: Uint8Array): Certificate {
  if (!isDer(der)) throw new RangeError('it is not one DER value');
  if (!isTaggedAsCertificate(der)) throw new RangeError('it has a tag where a certificate has none');
  return AsnParser.parse(der, Certificate);
}

/**
 * Extensions by OID, or what is wrong with them as a whole: one that is there twice, a judged one that is no DER,
 * one that is critical and not judged (RFC 5280 section 4.2 demands refusal).
 */
export function indexExtensions(
  extensions: readonly Extension[],
  judged: ReadonlySet<string>,
): ReadonlyMap<string, Extension> | string {
  if (extensions.length > MAX_EXTENSIONS) return `it has more than ${MAX_EXTENSIONS} extensions`;
  const byOid = new Map<string, Extension>();
  for (const extension of extensions) {
    const oid = extension.extnID;
    if (byOid.has(oid)) return `it has extension ${excerpt(oid)} twice`;
    const value = octets(extension);
    if (judged.has(oid) && (!isDer(value) || (value[0] ?? 0) >= CONTEXT_SPECIFIC))
      return `its extension ${excerpt(oid)} is not one DER value`;
    if (extension.critical && !judged.has(oid)) return `its critical extension ${excerpt(oid)} is not known`;
    byOid.set(oid, extension);
  }
  return byOid;
}

/** The bytes inside an extension. */
export function octets(extension: Extension): Uint8Array {
  return new Uint8Array(extension.extnValue.buffer);
}

/** The first byte of a KeyUsage. A bit that is set counts, also one that is declared unused. */
export function keyUsageBits(extension: Extension): number {
  const bits = new Uint8Array(AsnParser.parse(octets(extension), KeyUsage).value);
  return bits[0] ?? 0;
}
