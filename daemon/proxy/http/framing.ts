/** Where a message of HTTP/1 ends (RFC 9112 section 6), with every doubt refused. Pure. */
import type { Field } from './fields.ts';
import { only } from './fields.ts';
import { refused } from './refusal.ts';
import type { Refused } from './refusal.ts';

export type Framing =
  | { readonly ok: true; readonly kind: 'none' | 'chunked' | 'until-close' }
  | { readonly ok: true; readonly kind: 'length'; readonly length: number };

const NONE: Framing = { ok: true, kind: 'none' };
const CHUNKED: Framing = { ok: true, kind: 'chunked' };
const UNTIL_CLOSE: Framing = { ok: true, kind: 'until-close' };
/** Digits only, no leading zero, far below 2^53. */
const LENGTH = /^(0|[1-9]\d{0,14})$/;

/** The framing that the fields give; undefined when they say nothing of it. */
function stated(fields: readonly Field[], isOld: boolean): Framing | Refused | undefined {
  const encoding = only(fields, 'transfer-encoding');
  const length = only(fields, 'content-length');
  if (typeof encoding === 'object') return encoding;
  if (typeof length === 'object') return length;
  if (encoding !== undefined) {
    if (length !== undefined) return refused('both Content-Length and Transfer-Encoding');
    if (isOld) return refused('Transfer-Encoding in HTTP/1.0');
    return encoding.toLowerCase() === 'chunked' ? CHUNKED : refused('a Transfer-Encoding other than chunked');
  }
  if (length === undefined) return undefined;
  if (!LENGTH.test(length)) return refused('a Content-Length that is no number');
  return { ok: true, kind: 'length', length: Number(length) };
}

/** @param isOld whether the request is of HTTP/1.0. */
export function requestFraming(fields: readonly Field[], isOld: boolean): Framing | Refused {
  const framing = stated(fields, isOld) ?? NONE;
  return framing.ok && framing.kind === 'length' && framing.length === 0 ? NONE : framing;
}

/** @param method of the request that is answered. */
export function responseFraming(
  fields: readonly Field[],
  isOld: boolean,
  status: number,
  method: string,
): Framing | Refused {
  const framing = stated(fields, isOld);
  if (framing?.ok === false) return framing;
  const hasBody = framing?.kind === 'chunked' || (framing?.kind === 'length' && framing.length > 0);
  if ((status < 200 || status === 204) && hasBody) return refused(`a body announced with status ${status}`);
  if (method === 'HEAD' || status < 200 || status === 204 || status === 304) return NONE;
  return framing ?? UNTIL_CLOSE;
}
