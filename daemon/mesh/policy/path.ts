/** The path of a request as policies judge it and as it goes upstream (SEMANTICS.md 1.8). */

export type PathNormalization = 'NONE' | 'BASE' | 'MERGE_SLASHES' | 'DECODE_AND_MERGE_SLASHES';

export const PATH_NORMALIZATIONS: readonly PathNormalization[] = [
  'NONE',
  'BASE',
  'MERGE_SLASHES',
  'DECODE_AND_MERGE_SLASHES',
];

/**
 * The normalised request target, query included (it is left as it is); undefined when it must be refused with 400: a
 * NUL, also an escaped one in the path.
 */
export function normalizeTarget(target: string, how: PathNormalization): string | undefined {
  const end = target.search(/[?#]/);
  const path = end < 0 ? target : target.slice(0, end);
  const rest = end < 0 ? '' : target.slice(end);
  // Nothing is resolved in `*` (OPTIONS) nor in what is no path.
  if (hasNul(path) || rest.includes('\0')) return undefined;
  return how === 'NONE' || !path.startsWith('/') ? target : normalizePath(path, how) + rest;
}

/** The path that values are compared with: without query and fragment. */
export function pathOf(target: string): string {
  const end = target.search(/[?#]/);
  return end < 0 ? target : target.slice(0, end);
}

function hasNul(path: string): boolean {
  return /\0|%00/.test(path);
}

function normalizePath(path: string, how: PathNormalization): string {
  let text = path;
  if (how === 'DECODE_AND_MERGE_SLASHES') text = text.replace(/%2f/gi, '/').replace(/%5c/gi, '\\');
  text = decodeUnreserved(text).replaceAll('\\', '/');
  const resolved = resolveDots(text);
  return how === 'BASE' ? resolved : resolved.replace(/\/{2,}/g, '/');
}

/** %XX of unreserved characters only, once: `%2541` becomes `%2541`, not `A`. */
function decodeUnreserved(text: string): string {
  return text.replace(/%([0-9a-f]{2})/gi, (escape: string, hex: string) => {
    const char = String.fromCharCode(Number.parseInt(hex, 16));
    return /[A-Za-z0-9\-._~]/.test(char) ? char : escape;
  });
}

/** RFC 3986 section 5.2.4, keeping empty segments. */
function resolveDots(path: string): string {
  const segments = path.slice(1).split('/');
  const kept: string[] = [];
  for (const [i, segment] of segments.entries()) {
    const isLast = i === segments.length - 1;
    if (segment === '..') kept.pop();
    else if (segment !== '.') kept.push(segment);
    if (isLast && (segment === '.' || segment === '..')) kept.push('');
  }
  return `/${kept.join('/')}`;
}
