/** What a request asks for: target and host, read strictly, in the one form that is judged and goes upstream. Pure. */
import { normalizeTarget, pathOf } from '../../mesh/policy/path.ts';
import type { PathNormalization } from '../../mesh/policy/path.ts';
import { refused } from './refusal.ts';
import type { Refused } from './refusal.ts';

export interface Target {
  readonly ok: true;
  /** Origin form (or `*`), normalised: what goes upstream. */
  readonly target: string;
  /** The same without query: what is judged. */
  readonly path: string;
}

/** Visible ASCII; a fragment has no business in a request. */
const TARGET = /^[\x21\x22\x24-\x7e]+$/;
/** An escape is `%` and two digits. */
const BROKEN_ESCAPE = /%(?![0-9a-fA-F]{2})/;
/** UTF-8 in more bytes than the character needs: %C0%AF for `/`. */
const OVERLONG = /%c[01]%[89ab]|%e0%[89]|%f0%8|%f8%8[0-7]|%fc%8[0-3]/i;
const HOST = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~]+)(:\d{1,5})?$/;
const ABSOLUTE = /^https?:\/\/([^/?#]*)(.*)$/i;

/** Whether `host` can be read in one way only: a name or address, and perhaps a port. */
export function isHost(host: string): boolean {
  return HOST.test(host);
}

/**
 * Reads a request's target. `host` is its Host; an absolute target must name the same.
 * @returns 400 for everything that two readers could take for two things.
 */
export function readTarget(
  raw: string,
  method: string,
  host: string | undefined,
  normalization: PathNormalization,
): Target | Refused {
  if (raw === '*')
    return method === 'OPTIONS' ? { ok: true, target: '*', path: '*' } : refused('* is for OPTIONS only');
  const origin = raw.startsWith('/') ? raw : originOf(raw, host);
  if (typeof origin !== 'string') return origin;
  if (!TARGET.test(origin)) return refused('a character that no target has');
  const path = pathOf(origin);
  if (BROKEN_ESCAPE.test(path)) return refused('a broken escape in the path');
  if (OVERLONG.test(path)) return refused('an overlong escape in the path');
  const target = normalizeTarget(origin, normalization);
  return target === undefined ? refused('a NUL in the path') : { ok: true, target, path: pathOf(target) };
}

/** The origin form of an absolute target. */
function originOf(raw: string, host: string | undefined): string | Refused {
  const [, authority, rest = ''] = ABSOLUTE.exec(raw) ?? [];
  if (authority === undefined) return refused('a target that is neither a path nor an address');
  if (host === undefined || authority.toLowerCase() !== host.toLowerCase())
    return refused('the target names another host than Host does');
  return rest.startsWith('/') ? rest : `/${rest}`;
}
