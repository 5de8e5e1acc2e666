/** How values of a policy match: text with one wildcard, addresses, ports, path templates (SEMANTICS.md 1.4, 1.5, 1.8). */
import { parseIp } from '../ids.ts';
import type { Ip } from '../ids.ts';
import { RangeSet, canonicalCidr } from '../ranges.ts';

/** Whether a present value matches. An absent one is the caller's business: it never matches (SEMANTICS.md 1.3). */
export type TextTest = (value: string) => boolean;

/**
 * `*` any text that is not empty, `*x` a suffix, `x*` a prefix, all else literal; tested in this order. `*a*` is the
 * suffix `a*`.
 */
export function textTest(pattern: string): TextTest {
  if (pattern === '*') return (value) => value !== '';
  if (pattern.startsWith('*')) {
    const suffix = pattern.slice(1);
    return (value) => value.endsWith(suffix);
  }
  if (pattern.endsWith('*')) {
    const prefix = pattern.slice(0, -1);
    return (value) => value.startsWith(prefix);
  }
  return (value) => value === pattern;
}

/** Whether `pattern` is literal text: what an index can be made of. */
export function isLiteral(pattern: string): boolean {
  return !pattern.startsWith('*') && !pattern.endsWith('*');
}

/** One test for several patterns; literal ones cost one look-up together. */
export function anyText(patterns: readonly string[]): TextTest {
  const literal = new Set(patterns.filter(isLiteral));
  const others = patterns.filter((pattern) => !isLiteral(pattern)).map(textTest);
  if (others.length === 0) return (value) => literal.has(value);
  return (value) => literal.has(value) || others.some((test) => test(value));
}

/** As `anyText` without regard to case (ASCII): hosts. */
export function anyTextIgnoringCase(patterns: readonly string[]): TextTest {
  const test = anyText(patterns.map((pattern) => pattern.toLowerCase()));
  return (value) => test(value.toLowerCase());
}

/** Whether an address lies in one of the blocks; undefined when a block is neither address nor CIDR. */
export function anyBlock(blocks: readonly string[]): ((ip: Ip) => boolean) | undefined {
  const set = new RangeSet();
  for (const block of blocks) {
    const range = isMapped(block)
      ? mappedRange(block)
      : block.includes('/')
        ? canonicalCidr(block)
        : hostRange(block);
    if (range === undefined) return undefined;
    set.add(range);
  }
  return (ip) => set.has(ip);
}

/** Whether a block is written as IPv6 that holds IPv4: `::ffff:10.0.0.0/104`. */
function isMapped(block: string): boolean {
  const [address = ''] = block.split('/');
  return address.includes(':') && parseIp(address)?.includes(':') === false;
}

/** An IPv6 block, which no IPv4 address is in (SEMANTICS.md 1.5); no peer's address is of the mapped form itself. */
function mappedRange(block: string): string | undefined {
  const [, text = '128', ...rest] = block.split('/');
  const bits = /^\d{1,3}$/.test(text) ? Number(text) : Number.NaN;
  if (rest.length > 0 || !(bits <= 128)) return undefined;
  if (bits >= 96) return NOBODY;
  // What is left is of ::ffff, whose ones begin at bit 80.
  const ones = bits <= 80 ? 0 : (0xffff << (96 - bits)) & 0xffff;
  return `::${ones.toString(16)}:0:0/${bits}`;
}

/** A range without an address: a RangeSet leaves it out. */
const NOBODY = '';

function hostRange(text: string): string | undefined {
  const ip = parseIp(text);
  return ip && `${ip}/${ip.includes(':') ? 128 : 32}`;
}

/** A decimal port from 0 to 65535 as policies write it (zeros may lead), or undefined. */
export function portNumber(text: string): number | undefined {
  const port = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  return port <= 65_535 ? port : undefined;
}

/** Literal segments of templates: Envoy's alphabet, and `=`, which Istio's validator takes. */
const SEGMENT = /^[a-zA-Z0-9\-._~%!$&'()+,;:@=]+$/;

/** Whether a path value is a template. Braces in any other one are refused (Istio's CheckValidPathTemplate). */
export function isTemplate(pattern: string): boolean {
  return pattern.includes('{*}') || pattern.includes('{**}');
}

/**
 * The test of a template: `{*}` one segment that is not empty, `{**}` any text over segments, last of the operators.
 * Undefined when it is malformed.
 */
export function templateTest(pattern: string): TextTest | undefined {
  if (!pattern.startsWith('/')) return undefined;
  const segments = pattern.slice(1).split('/');
  const rest = segments.indexOf('{**}');
  const isWellFormed = segments.every((segment, i) => {
    if (segment === '{**}') return i === rest;
    if (segment === '{*}') return rest < 0 || i < rest;
    // A slash may end it.
    return segment === '' ? i === segments.length - 1 : SEGMENT.test(segment);
  });
  if (!isWellFormed) return undefined;
  if (rest < 0) return (path) => matchSegments(path.slice(1).split('/'), segments) && path.startsWith('/');
  return openTest(segments.slice(0, rest), segments.slice(rest + 1));
}

/** `/head…/{**}/tail…`: the tail is literal, and what `{**}` stands for may be empty but has its slashes. */
function openTest(head: readonly string[], tail: readonly string[]): TextTest {
  const end = tail.length === 0 ? '' : `/${tail.join('/')}`;
  return (path) => {
    if (!path.startsWith('/')) return false;
    const segments = path.slice(1).split('/');
    if (segments.length <= head.length || !matchSegments(segments.slice(0, head.length), head)) return false;
    const open = segments.slice(head.length).join('/');
    // What is left for {**} begins behind the slash that ends the head.
    return end === '' || (open.length >= end.length && open.endsWith(end));
  };
}

function matchSegments(path: readonly string[], pattern: readonly string[]): boolean {
  return (
    path.length === pattern.length &&
    pattern.every((segment, i) => (segment === '{*}' ? path[i] !== '' : segment === path[i]))
  );
}
