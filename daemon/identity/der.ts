/**
 * Strictness that the ASN.1 library does not have: it reads BER, where one value has many encodings and two readers
 * (it and OpenSSL) may see two certificates. X.690 section 10 leaves one encoding; only that is let through.
 */

const MAX_DEPTH = 24;
const CONSTRUCTED = 0x20;
const UNIVERSAL_SEQUENCE = 0x10;
const UNIVERSAL_SET = 0x11;
const SEQUENCE = 0x30;
const OBJECT_IDENTIFIER = 0x06;
/** [0] and [3] of a TBSCertificate: version and extensions; serial number to key come between. */
const VERSION_TAG = 0xa0;
const EXTENSIONS_TAG = 0xa3;
const BETWEEN = 6;
/** RFC 5280 section 4.1.2.5: to the second, in UTC. */
const UTC_TIME_DIGITS = 12;
const GENERALIZED_TIME_DIGITS = 14;

/**
 * Whether `bytes` are exactly one DER value: definite and minimal lengths, no trailing bytes at any level, one-byte
 * tags, strings in one piece, times as RFC 5280 has them. Contents of OCTET and BIT STRINGs are not looked into.
 */
export function isDer(bytes: Uint8Array): boolean {
  const end = valueEnd(bytes, 0, bytes.length, 0);
  return end === bytes.length;
}

/**
 * Whether the context-specific tags in `der` (which isDer has passed) stand only where a certificate has them. The
 * ASN.1 library takes any of them, constructed, in a SEQUENCE's place; OpenSSL and Go refuse such a certificate.
 */
export function isTaggedAsCertificate(der: Uint8Array): boolean {
  const root = readHeader(der, 0, der.length);
  if (root?.tag !== SEQUENCE) return false;
  const [tbs, ...rest] = valuesIn(der, root);
  if (tbs?.tag !== SEQUENCE || !rest.every((value) => isPlain(der, value))) return false;
  const fields = valuesIn(der, tbs);
  const version = fields[0]?.tag === VERSION_TAG ? 1 : 0;
  return fields.every((value, index) => {
    const isTagged = index < version || (index >= version + BETWEEN && value.tag === EXTENSIONS_TAG);
    return isTagged ? valuesIn(der, value).every((inner) => isPlain(der, inner)) : isPlain(der, value);
  });
}

/** No constructed context-specific tag in it, but for the parameters of an algorithm: they are its own. */
function isPlain(bytes: Uint8Array, value: Header): boolean {
  if ((value.tag & CONSTRUCTED) === 0) return true;
  if (!isUniversal(value.tag)) return false;
  const inner = valuesIn(bytes, value);
  return inner[0]?.tag === OBJECT_IDENTIFIER || inner.every((one) => isPlain(bytes, one));
}

function valuesIn(bytes: Uint8Array, { contents, end }: Header): Header[] {
  const values: Header[] = [];
  for (let at = contents; at < end; ) {
    const value = readHeader(bytes, at, end);
    if (value === undefined) break;
    values.push(value);
    at = value.end;
  }
  return values;
}

/** The end of the value that starts at `start`, or -1 when it is no DER or passes `limit`. */
function valueEnd(bytes: Uint8Array, start: number, limit: number, depth: number): number {
  const header = readHeader(bytes, start, limit);
  if (header === undefined || depth > MAX_DEPTH) return -1;
  const { tag, contents, end } = header;
  if ((tag & CONSTRUCTED) === 0) return isPrimitive(bytes, tag, contents, end) ? end : -1;
  if (isUniversal(tag) && !isCollection(tag)) return -1;
  for (let at = contents; at < end; ) {
    at = valueEnd(bytes, at, end, depth + 1);
    if (at < 0) return -1;
  }
  return end;
}

interface Header {
  readonly tag: number;
  readonly contents: number;
  readonly end: number;
}

function readHeader(bytes: Uint8Array, start: number, limit: number): Header | undefined {
  const tag = bytes[start];
  const first = bytes[start + 1];
  if (tag === undefined || first === undefined || start + 2 > limit) return undefined;
  // Tag 0 is BER's end of contents; 31 starts a tag of several bytes, which no certificate has.
  if (tag === 0 || (tag & 0x1f) === 0x1f) return undefined;
  if (first < 0x80) return within(tag, start + 2, first, limit);
  const octets = first & 0x7f;
  if (octets === 0 || octets > 3 || start + 2 + octets > limit) return undefined;
  let length = 0;
  for (let i = 0; i < octets; i++) length = length * 256 + (bytes[start + 2 + i] ?? 0);
  const least = octets === 1 ? 0x80 : 256 ** (octets - 1);
  return length < least ? undefined : within(tag, start + 2 + octets, length, limit);
}

function within(tag: number, contents: number, length: number, limit: number): Header | undefined {
  return contents + length > limit ? undefined : { tag, contents, end: contents + length };
}

function isUniversal(tag: number): boolean {
  return (tag & 0xc0) === 0;
}

function isCollection(tag: number): boolean {
  return (tag & 0x1f) === UNIVERSAL_SEQUENCE || (tag & 0x1f) === UNIVERSAL_SET;
}

function isPrimitive(bytes: Uint8Array, tag: number, contents: number, end: number): boolean {
  if (!isUniversal(tag)) return true;
  if (isCollection(tag)) return false;
  const length = end - contents;
  const first = bytes[contents] ?? 0;
  const second = bytes[contents + 1] ?? 0;
  switch (tag) {
    case 0x01: // BOOLEAN: FALSE is 00, TRUE is FF
      return length === 1 && (first === 0 || first === 0xff);
    case 0x02: // INTEGER: no superfluous leading byte
      return length > 0 && !(length > 1 && isSuperfluous(first, second));
    case 0x05: // NULL
      return length === 0;
    case 0x03: // BIT STRING: its first byte counts unused bits
      return length > 0 && first <= 7;
    case 0x17: // UTCTime
      return isTime(bytes.subarray(contents, end), UTC_TIME_DIGITS);
    case 0x18: // GeneralizedTime
      return isTime(bytes.subarray(contents, end), GENERALIZED_TIME_DIGITS);
    default:
      return true;
  }
}

/** Digits and a Z: the library reads a time as JavaScript reads numbers, blanks and all. */
function isTime(text: Uint8Array, digits: number): boolean {
  const isDigit = (byte: number): boolean => byte >= 0x30 && byte <= 0x39;
  return text.length === digits + 1 && text[digits] === 0x5a && text.subarray(0, digits).every(isDigit);
}

function isSuperfluous(first: number, second: number): boolean {
  return (first === 0 && second < 0x80) || (first === 0xff && second >= 0x80);
}
