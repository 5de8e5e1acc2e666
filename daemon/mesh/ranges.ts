/** Address ranges in CIDR notation: canonical text, and a set that answers 'is this address inside?'. */
import ipaddr from 'ipaddr.js';
import { ipFromBytes, isIpv6, parseIp } from './ids.ts';
import type { Ip } from './ids.ts';

interface Range {
  readonly ip: Ip;
  readonly bits: number;
}

/** The range in `text` as canonical `network/len` (host bits cleared), or undefined when it is none. */
export function canonicalCidr(text: string): string | undefined {
  const range = parseCidr(text);
  return range && `${range.ip}/${range.bits}`;
}

/** Whether one of `cidrs` contains `ip`. For short lists; texts that are no range contain nothing. */
export function isInside(ip: Ip, cidrs: readonly string[]): boolean {
  if (cidrs.length === 0) return false;
  return cidrs.some((cidr) => {
    const range = parseCidr(cidr);
    return range !== undefined && isIpv6(range.ip) === isIpv6(ip) && networkOf(ip, range.bits) === range.ip;
  });
}

/**
 * A set of ranges, each counted as often as it was added (two nodes may name the same one). A look-up costs one
 * masking per distinct prefix length, whatever the number of ranges.
 */
export class RangeSet {
  /** Prefix length → network → times added; one table a family. */
  readonly #v4 = new Map<number, Map<Ip, number>>();
  readonly #v6 = new Map<number, Map<Ip, number>>();

  /** Adds a range; text that is none is left out (whoever read it has reported it). */
  add(cidr: string): void {
    this.#change(cidr, 1);
  }

  /** Takes back one `add` of the same range. */
  delete(cidr: string): void {
    this.#change(cidr, -1);
  }

  has(ip: Ip): boolean {
    for (const [bits, networks] of isIpv6(ip) ? this.#v6 : this.#v4)
      if (networks.has(networkOf(ip, bits))) return true;
    return false;
  }

  #change(cidr: string, by: 1 | -1): void {
    const range = parseCidr(cidr);
    if (range === undefined) return;
    const lengths = isIpv6(range.ip) ? this.#v6 : this.#v4;
    const networks = lengths.get(range.bits) ?? new Map<Ip, number>();
    const count = (networks.get(range.ip) ?? 0) + by;
    if (count > 0) networks.set(range.ip, count);
    else networks.delete(range.ip);
    if (networks.size > 0) lengths.set(range.bits, networks);
    else lengths.delete(range.bits);
  }
}

function parseCidr(text: string): Range | undefined {
  const slash = text.indexOf('/');
  const digits = text.slice(slash + 1);
  const address = slash < 0 ? undefined : parseIp(text.slice(0, slash));
  if (address === undefined || !/^\d{1,3}$/.test(digits)) return undefined;
  const bits = Number(digits);
  if (bits > (isIpv6(address) ? 128 : 32)) return undefined;
  return { ip: networkOf(address, bits), bits };
}

/** `ip` with all but its first `bits` bits cleared. */
function networkOf(ip: Ip, bits: number): Ip {
  const address = ipaddr.parse(ip);
  const bytes = address.toByteArray();
  const masked = bytes.map((byte, i) => byte & (0xff00 >> Math.max(0, Math.min(8, bits - i * 8))));
  const wide = new Uint8Array(16);
  if (masked.length === 4) wide.set([0xff, 0xff, ...masked], 10);
  else wide.set(masked, 0);
  return ipFromBytes(wide);
}
