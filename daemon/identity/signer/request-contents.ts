/**
 * What anybody's certificate request asks for, where it decides who may have it: a URI name, or to be a CA. Whatever can
 * not be read in full is refused, as another reader might see in it what we do not. Pure.
 */
import { AsnConvert } from '@peculiar/asn1-schema';
import { CertificationRequest } from '@peculiar/asn1-csr';
import {
  BasicConstraints,
  Extensions,
  SubjectAlternativeName,
  id_ce_basicConstraints,
  id_ce_subjectAltName,
} from '@peculiar/asn1-x509';
import type { Extension } from '@peculiar/asn1-x509';
import { isDer } from '../der.ts';
import { octets } from '../extensions.ts';
import { excerpt } from '../text.ts';

export type Contents =
  | { readonly ok: true; readonly hasUri: boolean; readonly isCa: boolean }
  /** `detail` is a sentence. */
  | { readonly ok: false; readonly detail: string };

/** PKCS #9 extensionRequest, and Microsoft's, which OpenSSL reads too. */
const EXTENSION_REQUESTS: readonly string[] = ['1.2.840.113549.1.9.14', '1.3.6.1.4.1.311.2.1.14'];

/** Reads a request (DER). Its signature is the issuer's to check. Never throws. */
export function readContents(der: Uint8Array): Contents {
  if (!isDer(der)) return { ok: false, detail: 'it is not one DER value' };
  try {
    const extensions = extensionsIn(AsnConvert.parse(der, CertificationRequest));
    const of = (oid: string): Uint8Array[] => extensions.filter(({ extnID }) => extnID === oid).map(contents);
    const names = of(id_ce_subjectAltName).flatMap((value) => [
      ...AsnConvert.parse(value, SubjectAlternativeName),
    ]);
    return {
      ok: true,
      hasUri: names.some((name) => name.uniformResourceIdentifier !== undefined),
      isCa: of(id_ce_basicConstraints).some((value) => AsnConvert.parse(value, BasicConstraints).cA),
    };
  } catch (error) {
    return { ok: false, detail: `it can not be parsed: ${excerpt(error)}` };
  }
}

/** Of every attribute, and every value of it: one reader takes the first, another the last. */
function extensionsIn({ certificationRequestInfo }: CertificationRequest): Extension[] {
  return certificationRequestInfo.attributes
    .filter(({ type }) => EXTENSION_REQUESTS.includes(type))
    .flatMap(({ values }) => values.flatMap((value) => [...AsnConvert.parse(value, Extensions)]));
}

/** @throws RangeError */
function contents(extension: Extension): Uint8Array {
  const value = octets(extension);
  if (!isDer(value)) throw new RangeError(`extension ${excerpt(extension.extnID)} is not one DER value`);
  return value;
}
