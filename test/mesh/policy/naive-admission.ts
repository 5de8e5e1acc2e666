/** What admission takes, for the second evaluator (SEMANTICS.md 1.2, 1.5 to 1.8). */
import { isBlock } from './naive-address.ts';

export type Raw = Readonly<Record<string, unknown>>;

/** Condition keys that are as a field. */
export const KEYS = new Map([
  ['source.ip', 'ipBlocks'],
  ['remote.ip', 'remoteIpBlocks'],
  ['source.namespace', 'namespaces'],
  ['source.principal', 'principals'],
  ['source.serviceAccount', 'serviceAccounts'],
  ['source.trustDomain', 'trustDomains'],
  ['destination.port', 'ports'],
]);

/** `notPorts` → `ports`. */
export function positive(name: string): string {
  return /^not[A-Z]/.test(name) ? name.charAt(3).toLowerCase() + name.slice(4) : name;
}

/** Whether admission would take the rule; one that it would not never matches. */
export function isRule(rule: unknown): boolean {
  if (typeof rule !== 'object' || rule === null || Array.isArray(rule)) return false;
  const { from, to, when, ...more } = table(rule);
  return (
    Object.keys(more).length === 0 &&
    list(from).every((one) => isSource(table(one)['source'])) &&
    list(to).every((one) => isEntry(table(one)['operation'], OPERATION)) &&
    list(when).every((one) => isCondition(table(one)))
  );
}

const SOURCE = [
  'principals',
  'namespaces',
  'serviceAccounts',
  'trustDomains',
  'ipBlocks',
  'remoteIpBlocks',
  'requestPrincipals',
];
const OPERATION = ['hosts', 'ports', 'methods', 'paths'];

function isSource(source: unknown): boolean {
  const has = (field: string): boolean =>
    Object.keys(table(source)).some(
      (name) => positive(name) === field && list(table(source)[name]).length > 0,
    );
  return isEntry(source, SOURCE) && !(has('serviceAccounts') && (has('principals') || has('namespaces')));
}

function isEntry(entry: unknown, known: readonly string[]): boolean {
  const names = Object.keys(table(entry));
  return (
    names.some((name) => list(table(entry)[name]).length > 0) &&
    names.every((name) => {
      const field = positive(name);
      return known.includes(field) && list(table(entry)[name]).every((value) => isValue(field, value));
    })
  );
}

function isCondition({ key, values, notValues }: Raw): boolean {
  const all = [...list(values), ...list(notValues)];
  const name = String(key);
  const isKnown =
    KEYS.has(name) ||
    ['destination.ip', 'connection.sni', 'request.auth.principal', 'request.auth.audiences'].includes(name) ||
    /^request\.(headers|auth\.claims)\[.+\]$/.test(name);
  const field = KEYS.get(name) ?? (name === 'destination.ip' ? 'ipBlocks' : 'other');
  return isKnown && all.length > 0 && all.every((value) => isValue(field, value));
}

function isValue(field: string, value: unknown): boolean {
  if (typeof value !== 'string' || value === '') return false;
  if (field === 'ports') return /^[0-9]+$/.test(value) && Number(value) < 65_536;
  if (field === 'ipBlocks' || field === 'remoteIpBlocks') return isBlock(value);
  if (field === 'serviceAccounts') return /^([^/*]+\/)?[^/*]+$/.test(value);
  if (field === 'trustDomains') return /^\*?[^*/]*$|^[^*/]*\*$/.test(value);
  if (field === 'paths') return isPathValue(value);
  return true;
}

/** Operators stand for whole segments, nothing but literals behind `{**}`; no other braces. */
function isPathValue(value: string): boolean {
  if (!/\{\*\*?\}/.test(value)) return !/[{}]/.test(value);
  const literal = "[a-zA-Z0-9\\-._~%!$&'()+,;:@=]+";
  return new RegExp(`^(/(${literal}|\\{\\*\\}))*(/\\{\\*\\*\\}(/${literal})*)?/?$`).test(value);
}

const NOTHING: Raw = {};

export function table(value: unknown): Raw {
  return isTable(value) ? value : NOTHING;
}

function isTable(value: unknown): value is Raw {
  return typeof value === 'object' && value !== null;
}

export function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
