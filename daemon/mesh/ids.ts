/**
 * Branded identifiers and their only constructors. A value of one of these types has been checked;
 * nothing else in the house casts to them.
 */
import ipaddr from 'ipaddr.js';

declare const brand: unique symbol;
type Brand<T, B extends string> = T & { readonly [brand]: B };

/** `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, exactly (SEMANTICS.md 3.1). */
export type SpiffeId = Brand<string, 'SpiffeId'>;
/** A Kubernetes pod UID. The only name a pod has inside the house: names and addresses are reused. */
export type PodUid = Brand<string, 'PodUid'>;
/** An address in canonical text: dotted IPv4 (also for IPv4-mapped IPv6), else RFC 5952 IPv6. */
export type Ip = Brand<string, 'Ip'>;
/** 1 to 65535. */
export type Port = Brand<number, 'Port'>;
/** A SPIFFE trust domain, lower case, 1 to 255 of `[a-z0-9._-]`. */
export type TrustDomain = Brand<string, 'TrustDomain'>;

const TRUST_DOMAIN = /^[a-z0-9._-]{1,255}$/;
const SEGMENT = /^[A-Za-z0-9._-]+$/;
/** Pod UIDs are UUIDs; static pods have 32 hex digits (their config hash). */
const POD_UID = /^[A-Za-z0-9-]{1,64}$/;
/** SPIFFE-ID section 2.4: 2048 bytes must be supported, and need not be more. */
const MAX_SPIFFE_ID = 2048;
/** Four decimals from 0 to 255, none with a leading zero. */
const FOUR_PART_DECIMAL = /^(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){3}$/;
const MAPPED = '::ffff:';

/** The trust domain in `text`, or undefined when it is none. Upper case is not accepted: see SEMANTICS.md 3.1. */
export function parseTrustDomain(text: string): TrustDomain | undefined {
  return TRUST_DOMAIN.test(text) ? (text as TrustDomain) : undefined;
}

/** The identity in `text`, or undefined when it has not exactly the Istio form. Nothing is normalised. */
export function parseSpiffeId(text: string): SpiffeId | undefined {
  return splitSpiffeId(text) === undefined ? undefined : (text as SpiffeId);
}

/** The identity of a service account. @throws RangeError when a part has a character that no identity can have. */
export function spiffeId(trustDomain: TrustDomain, namespace: string, serviceAccount: string): SpiffeId {
  const id = parseSpiffeId(`spiffe://${trustDomain}/ns/${namespace}/sa/${serviceAccount}`);
  if (id === undefined)
    throw new RangeError(
      `no SPIFFE ID can be made of namespace "${namespace}" and service account "${serviceAccount}"`,
    );
  return id;
}

/** The parts of an identity, or undefined when `text` is none. */
export function splitSpiffeId(
  text: string,
): { trustDomain: TrustDomain; namespace: string; serviceAccount: string } | undefined {
  if (text.length > MAX_SPIFFE_ID || !text.startsWith('spiffe://')) return undefined;
  const [domain, ns, namespace, sa, serviceAccount, ...rest] = text.slice('spiffe://'.length).split('/');
  if (domain === undefined || namespace === undefined || serviceAccount === undefined) return undefined;
  if (ns !== 'ns' || sa !== 'sa' || rest.length > 0) return undefined;
  const trustDomain = parseTrustDomain(domain);
  if (trustDomain === undefined || !isSegment(namespace) || !isSegment(serviceAccount)) return undefined;
  return { trustDomain, namespace, serviceAccount };
}

function isSegment(text: string): boolean {
  return SEGMENT.test(text) && text !== '.' && text !== '..';
}

/** The UID in `text`, or undefined when no kubelet would write such a one. */
export function parsePodUid(text: string): PodUid | undefined {
  return POD_UID.test(text) ? (text as PodUid) : undefined;
}

/** The port in `value`, or undefined when it is not an integer from 1 to 65535. */
export function parsePort(value: number): Port | undefined {
  return Number.isInteger(value) && value >= 1 && value <= 65_535 ? (value as Port) : undefined;
}

/** The port of the mTLS listeners' traffic, as peers dial it (HBONE.md 3.1): steered to us in every enrolled pod. */
export const HBONE_PORT = 15_008 as Port;

/** The address in `text` in canonical form, or undefined. Zone ids, short IPv4 and octal forms are refused. */
export function parseIp(text: string): Ip | undefined {
  // By hand: once per connection, whose address a dual-stack listener gives in mapped form; the parser throws inside,
  // and takes 12 µs to say that a mapped address is no IPv4 one.
  const dotted = text.startsWith(MAPPED) ? text.slice(MAPPED.length) : text;
  if (FOUR_PART_DECIMAL.test(dotted)) return dotted as Ip;
  // The parser takes ::1.2.3.4 for ::ffff:1.2.3.4; it is the IPv6 address ::102:304 (RFC 4291 section 2.5.5.1).
  const full = text.replace(/^::(?=\d+\.)/, '0:0:0:0:0:0:');
  if (!full.includes(':') || full.includes('%') || !ipaddr.IPv6.isValid(full)) return undefined;
  return ipFromBytes(Uint8Array.from(ipaddr.IPv6.parse(full).toByteArray()));
}

/** The address in 16 bytes at `offset` (IPv4 as ::ffff:a.b.c.d, the form that all BPF maps use). */
export function ipFromBytes(bytes: Uint8Array, offset = 0): Ip {
  if (isMapped(bytes, offset))
    return `${bytes[offset + 12]}.${bytes[offset + 13]}.${bytes[offset + 14]}.${bytes[offset + 15]}` as Ip;
  return new ipaddr.IPv6([...bytes.subarray(offset, offset + 16)]).toRFC5952String() as Ip;
}

function isMapped(bytes: Uint8Array, offset: number): boolean {
  for (let i = 0; i < 10; i++) if (bytes[offset + i] !== 0) return false;
  return bytes[offset + 10] === 0xff && bytes[offset + 11] === 0xff;
}

/** Writes the 16-byte form of `ip` at `offset` of `into` (IPv4 as ::ffff:a.b.c.d). */
export function ipToBytes(ip: Ip, into: Uint8Array, offset = 0): void {
  if (isIpv6(ip)) into.set(ipaddr.parse(ip).toByteArray(), offset);
  else writeMapped(ip, into, offset);
}

/** By hand: once per connection, and a general parser takes longer than the system call that follows. */
function writeMapped(ip: Ip, into: Uint8Array, offset: number): void {
  into.fill(0, offset, offset + 10);
  into.fill(0xff, offset + 10, offset + 12);
  let at = offset + 12;
  let value = 0;
  for (let i = 0; i < ip.length; i++) {
    const code = ip.charCodeAt(i);
    if (code !== DOT) {
      value = value * 10 + code - ZERO;
      continue;
    }
    into[at++] = value;
    value = 0;
  }
  into[at] = value;
}

const DOT = 46;
const ZERO = 48;

/** Whether `ip` is IPv6 (never true for a mapped IPv4 address, which has IPv4 text). */
export function isIpv6(ip: Ip): boolean {
  return ip.includes(':');
}

/** `ip:port`, with IPv6 in brackets: an HBONE authority and an access record's form. */
export function hostPort(ip: Ip, port: number): string {
  return isIpv6(ip) ? `[${ip}]:${port}` : `${ip}:${port}`;
}
