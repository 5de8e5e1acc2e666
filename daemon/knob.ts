/**
 * How the text of one knob is read: what a person types, to a value or to a sentence that says what is expected.
 * Pure; config.ts has the table of knobs.
 */
import ipaddr from 'ipaddr.js';
import { parsePort, parseTrustDomain } from './mesh/ids.ts';
import type { Port, TrustDomain } from './mesh/ids.ts';
import { PATH_NORMALIZATIONS } from './mesh/policy/path.ts';
import type { PathNormalization } from './mesh/policy/path.ts';

export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly expected: string };

export interface Knob<T> {
  readonly parse: (text: string) => Parsed<T>;
  /** As a person would type it. '' means: none. */
  readonly fallback: string;
  readonly unit: string;
  readonly group: 'node' | 'capture' | 'enrolment' | 'proxy' | 'limits' | 'identity' | 'observe';
  readonly doc: string;
}

/** A line of the table. */
export const knob = <T>(
  parse: Knob<T>['parse'],
  fallback: string,
  unit: string,
  group: Knob<T>['group'],
  doc: string,
): Knob<T> => ({ parse, fallback, unit, group, doc });

const ok = <T>(value: T): Parsed<T> => ({ ok: true, value });
const bad = (expected: string): Parsed<never> => ({ ok: false, expected });

/** Any text. */
export const text = (value: string): Parsed<string> => ok(value);
/** Any text but none; `what` names it. */
export const required =
  (what: string) =>
  (value: string): Parsed<string> =>
    value === '' ? bad(what) : ok(value);
/** One of these words. */
export const oneOf =
  <T extends string>(...values: readonly T[]) =>
  (value: string): Parsed<T> => {
    const found = values.find((candidate) => candidate === value);
    return found === undefined ? bad(values.join(' | ')) : ok(found);
  };
/** An integer from `min` to `max`, both included. */
export const integer =
  (min: number, max: number) =>
  (value: string): Parsed<number> => {
    const number = /^\d+$/.test(value) ? Number(value) : Number.NaN;
    return Number.isInteger(number) && number >= min && number <= max
      ? ok(number)
      : bad(`an integer from ${min} to ${max}`);
  };
/** 1 to 65535. */
export const port = (value: string): Parsed<Port> => {
  const parsed = /^\d+$/.test(value) ? parsePort(Number(value)) : undefined;
  return parsed === undefined ? bad('a port from 1 to 65535') : ok(parsed);
};

const DURATION_UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
/** `500ms`, `10s`, `5m`, `24h` → milliseconds. */
export const duration =
  (minMs: number, maxMs: number) =>
  (value: string): Parsed<number> => {
    const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(value);
    const ms =
      match === null
        ? Number.NaN
        : Math.round(Number(match[1]) * (DURATION_UNITS[match[2] ?? ''] ?? Number.NaN));
    return ms >= minMs && ms <= maxMs
      ? ok(ms)
      : bad(`a duration such as 500ms, 10s or 24h, from ${minMs} ms to ${maxMs} ms`);
  };
/** Ranges, joined by commas; none: []. */
export const cidrs = (value: string): Parsed<readonly string[]> => {
  const items = value.split(',').filter((item) => item !== '');
  return items.every((item) => ipaddr.isValidCIDR(item))
    ? ok(items)
    : bad('ranges such as 10.244.0.0/16,fd00::/48');
};
/** Whole names of users, joined by commas; no patterns. */
export const userNames = (value: string): Parsed<readonly string[]> => {
  const names = value.split(',').filter((name) => name !== '');
  return names.every((name) => !/[\s*]/.test(name))
    ? ok(names)
    : bad('whole names of users such as system:serviceaccount:NAMESPACE:NAME, joined by commas');
};
/** A SPIFFE trust domain. */
export const trustDomain = (value: string): Parsed<TrustDomain> => {
  const parsed = parseTrustDomain(value);
  return parsed === undefined ? bad('a trust domain of a-z 0-9 . _ -') : ok(parsed);
};
/** Trust domains, joined by commas; none: []. */
export const trustDomains = (value: string): Parsed<readonly TrustDomain[]> => {
  const items = value.split(',').filter((item) => item !== '');
  const parsed = items.flatMap((item) => parseTrustDomain(item) ?? []);
  return parsed.length === items.length
    ? ok(parsed)
    : bad('trust domains of a-z 0-9 . _ -, joined by commas');
};
/** `merge_slashes`, or as Istio's configuration spells it. */
export const pathNormalization = (value: string): Parsed<PathNormalization> => {
  const found = PATH_NORMALIZATIONS.find((one) => one === value.toUpperCase());
  return found === undefined ? bad(PATH_NORMALIZATIONS.join(' | ').toLowerCase()) : ok(found);
};
/** The name of a namespace (RFC 1123 label). */
export const namespaceName = (value: string): Parsed<string> =>
  /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(value) ? ok(value) : bad('the name of a namespace');
