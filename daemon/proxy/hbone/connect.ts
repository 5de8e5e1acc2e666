/**
 * The words of a CONNECT (HBONE.md 3.7 and 3.8), parsed strictly. Pure.
 */
import type { IncomingHttpHeaders } from 'node:http2';
import { isIpv6, parseIp, parsePort } from '../../mesh/ids.ts';
import type { Ip, Port } from '../../mesh/ids.ts';
import type { Reason } from '../../errors.ts';

export interface Address {
  readonly ip: Ip;
  readonly port: Port;
}

export interface ParsedConnect {
  readonly target: Address;
  readonly forwardedFor: Address | undefined;
  readonly headers: Readonly<Record<string, string>>;
}

/** `a.b.c.d:port` or `[v6]:port`: digits without a sign or leading zero, at most 53 characters. */
const AUTHORITY = /^(?:\[([0-9a-fA-F:.]{2,45})\]|([0-9.]{7,15})):([1-9][0-9]{0,4})$/;
/** Headers that travel with a connection; others are dropped, and none decides anything. */
const KEPT_HEADERS = ['forwarded', 'baggage', 'traceparent', 'x-istio-source'] as const;
const MAX_KEPT_VALUE = 4_096;

/** The address in an authority, or undefined unless it is one literal address and port in canonical form. */
export function parseAuthority(text: string): Address | undefined {
  const match = AUTHORITY.exec(text);
  if (match === null) return undefined;
  const [, v6, v4, digits] = match;
  const literal = v6 ?? v4;
  const ip = literal === undefined ? undefined : parseIp(literal);
  const port = parsePort(Number(digits));
  // An IPv4-mapped literal reads as IPv4: two texts for one target are one too many.
  if (ip === undefined || port === undefined || ip !== literal) return undefined;
  if (isIpv6(ip) !== (v6 !== undefined)) return undefined;
  return { ip, port };
}

/** The client in `forwarded: for="ip:port"`, or undefined when there is none, or anything is odd. Never decides. */
export function parseForwarded(value: string | undefined): Address | undefined {
  if (value === undefined || value.length > MAX_KEPT_VALUE || value.includes(',')) return undefined;
  let found: Address | undefined;
  for (const pair of value.split(';')) {
    const match = /^\s*for=(?:"([^"\\]*)"|([0-9.:]+))\s*$/i.exec(pair);
    if (match === null) continue;
    if (found !== undefined) return undefined;
    found = parseAuthority(match[1] ?? match[2] ?? '');
    if (found === undefined) return undefined;
  }
  return found;
}

/** The request in a HEADERS frame, or undefined when it is no plain CONNECT to an address. */
export function parseConnect(headers: IncomingHttpHeaders): ParsedConnect | undefined {
  if (headers[':method'] !== 'CONNECT') return undefined;
  if (headers[':scheme'] !== undefined || headers[':path'] !== undefined) return undefined;
  if (headers[':protocol'] !== undefined) return undefined;
  const target = parseAuthority(headers[':authority'] ?? '');
  if (target === undefined) return undefined;
  const kept: Record<string, string> = {};
  for (const name of KEPT_HEADERS) {
    const value = headers[name];
    if (typeof value === 'string' && value.length <= MAX_KEPT_VALUE) kept[name] = value;
  }
  return { target, forwardedFor: parseForwarded(kept['forwarded']), headers: kept };
}

/** What a far proxy's answer other than 200 means (HBONE.md 3.8). */
export function reasonOfStatus(status: number): Reason {
  if (status === 401 || status === 403) return 'TUNNEL_REFUSED';
  return status === 400 ? 'TUNNEL_BAD_REQUEST' : 'TUNNEL_UPSTREAM_FAILED';
}
