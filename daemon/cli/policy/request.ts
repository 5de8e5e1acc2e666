/** A request as a person or a test writes it → as policies judge it. */
import type { HttpRequest } from '../../mesh/policy/model.ts';
import { normalizeTarget, pathOf } from '../../mesh/policy/path.ts';
import type { PathNormalization } from '../../mesh/policy/path.ts';

export interface WrittenRequest {
  readonly method?: string | null | undefined;
  /** The raw request target. */
  readonly path?: string | null | undefined;
  readonly host?: string | null | undefined;
  readonly headers?: Readonly<Record<string, string | readonly string[]>> | null | undefined;
}

/** The proxy would answer with 400. */
export const BAD_REQUEST = 'bad request';

/** What of the request policies look at, its path normalised. */
export function httpRequest(
  given: WrittenRequest,
  normalization: PathNormalization,
): HttpRequest | typeof BAD_REQUEST {
  const headers = joined(given.headers ?? {});
  const { target, authority } = originForm(given.path ?? headers.get(':path') ?? '');
  const normalized = normalizeTarget(target, normalization);
  if (normalized === undefined) return BAD_REQUEST;
  return {
    // A request always has a method; none matches nothing.
    method: given.method ?? headers.get(':method') ?? '',
    path: pathOf(normalized),
    target: normalized,
    host: given.host ?? headers.get(':authority') ?? headers.get('host') ?? authority,
    headers,
  };
}

function joined(headers: Readonly<Record<string, string | readonly string[]>>): Map<string, string> {
  const all = new Map<string, string[]>();
  for (const [name, value] of Object.entries(headers)) {
    const key = name.toLowerCase();
    const values = all.get(key) ?? [];
    values.push(...(typeof value === 'string' ? [value] : value));
    all.set(key, values);
  }
  return new Map([...all].map(([name, values]) => [name, values.join(',')]));
}

/** RFC 9112 section 3.2.2: a server takes path and host of an absolute-form target. */
function originForm(target: string): { target: string; authority: string | undefined } {
  const [absolute, authority] = /^[a-z][a-z0-9+.-]*:\/\/([^/?#]*)/i.exec(target) ?? [];
  if (absolute === undefined) return { target, authority: undefined };
  const rest = target.slice(absolute.length);
  return { target: rest.startsWith('/') ? rest : `/${rest}`, authority };
}
