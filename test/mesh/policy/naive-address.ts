/** Addresses as bits (SEMANTICS.md 1.5). */

/** The bits of an address, or undefined: 32 of IPv4, 128 of IPv6. */
function bitsOf(address: string): string | undefined {
  if (!address.includes(':')) return dotted(address);
  const last = address.slice(address.lastIndexOf(':') + 1);
  const tail = last.includes('.') ? dotted(last) : '';
  if (tail === undefined) return undefined;
  const text =
    tail === ''
      ? address
      : address.slice(0, -last.length) + `${hex(tail.slice(0, 16))}:${hex(tail.slice(16))}`;
  const [head = '', rest, ...more] = text.split('::');
  const groups = (part: string): string[] => (part === '' ? [] : part.split(':'));
  const missing = 8 - groups(head).length - groups(rest ?? '').length;
  if (more.length > 0 || (rest === undefined ? missing !== 0 : missing < 1)) return undefined;
  const all = [...groups(head), ...Array.from({ length: missing }, () => '0'), ...groups(rest ?? '')];
  if (!all.every((group) => /^[0-9a-fA-F]{1,4}$/.test(group))) return undefined;
  return all.map((group) => Number.parseInt(group, 16).toString(2).padStart(16, '0')).join('');
}

function dotted(address: string): string | undefined {
  const parts = address.split('.');
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9][0-9]{0,2})$/.test(part) && Number(part) < 256))
    return undefined;
  return parts.map((part) => Number(part).toString(2).padStart(8, '0')).join('');
}

function hex(bits: string): string {
  return Number.parseInt(bits, 2).toString(16);
}

/** Whether `block` is an address or a range. */
export function isBlock(block: string): boolean {
  return prefixOf(block) !== undefined;
}

interface Prefix {
  readonly family: number;
  readonly bits: string;
}

function prefixOf(block: string): Prefix | undefined {
  const [address = '', length, ...more] = block.split('/');
  const bits = bitsOf(address);
  if (bits === undefined || more.length > 0) return undefined;
  if (length === undefined) return { family: bits.length, bits };
  if (!/^[0-9]{1,3}$/.test(length) || Number(length) > bits.length) return undefined;
  return { family: bits.length, bits: bits.slice(0, Number(length)) };
}

/** A client in the mapped form is an IPv4 one; the families never meet. */
export function blockHolds(block: string, ip: string): boolean {
  const prefix = prefixOf(block);
  const bits = bitsOf(ip.replace(/^::ffff:(?=.*\.)/i, ''));
  return prefix !== undefined && bits?.length === prefix.family && bits.startsWith(prefix.bits);
}
