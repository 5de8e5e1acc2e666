/** One rule: its odd values, whether it can match at all, and what its HTTP fields do to bytes that are no HTTP. */
import { isInside } from '../../mesh/ranges.ts';
import { parseIp } from '../../mesh/ids.ts';
import { anyText, isLiteral } from '../../mesh/policy/match.ts';
import type { Field, FieldValues, Match, PolicyAction, PolicyRule } from '../../mesh/policy/model.ts';
import { pathText } from './finding.ts';
import type { Path, Say } from './finding.ts';
import { oddityOf } from './lint-values.ts';
import type { ValueFacts } from './lint-values.ts';

const HTTP: ReadonlySet<Field> = new Set(['hosts', 'methods', 'paths', 'header']);
/** Names that only mutual TLS gives. */
export const IDENTITY: ReadonlySet<Field> = new Set([
  'principals',
  'namespaces',
  'serviceAccounts',
  'trustDomains',
]);

/** A field where it stands. */
interface Placed {
  readonly values: FieldValues;
  /** Of the entry: `spec.rules[0].from[1].source`. */
  readonly at: Path;
  readonly isCondition: boolean;
}

/** Says what is odd about a rule. @returns whether it can match anything. */
export function lintRule(rule: PolicyRule, action: PolicyAction, facts: ValueFacts, say: Say): boolean {
  const base: Path = ['spec', 'rules', rule.index];
  const when = rule.when.map((values, i) => ({ values, at: [...base, 'when', i], isCondition: true }));
  const place = (part: 'from' | 'to', inner: string) => (match: Match, i: number) =>
    match.map((values): Placed => ({ values, at: [...base, part, i, inner], isCondition: false }));
  const from = rule.from.map(place('from', 'source'));
  const to = rule.to.map(place('to', 'operation'));
  for (const placed of [...from, ...to, when].flat()) lintField(placed, facts, say);
  const alive = [lintClause(from, when, facts, say), lintClause(to, when, facts, say)];
  const isAlive = alive.every(Boolean) && isPossible([], when, facts, say);
  if (!isAlive) say('warning', base, `the rule can never match: ${effect(action)}`);
  return isAlive;
}

function effect(action: PolicyAction): string {
  return action === 'ALLOW' ? 'it allows nothing' : `it ${action === 'DENY' ? 'denies' : 'concerns'} nothing`;
}

function lintField(placed: Placed, facts: ValueFacts, say: Say): void {
  const { values, notValues } = placed.values;
  for (const [i, value] of (values ?? []).entries()) {
    const odd = oddityOf(placed.values, value, facts);
    if (odd !== undefined) say('warning', [...pathOf(placed, false), i], odd.why);
  }
  for (const [i, value] of (notValues ?? []).entries()) {
    const odd = oddityOf(placed.values, value, facts);
    const always = odd?.never === true ? ', so that this exclusion excludes nothing' : '';
    if (odd !== undefined) say('warning', [...pathOf(placed, true), i], `${odd.why}${always}`);
  }
}

function pathOf({ values: { field }, at, isCondition }: Placed, isNot: boolean): Path {
  if (isCondition) return [...at, isNot ? 'notValues' : 'values'];
  return [...at, isNot ? `not${field.charAt(0).toUpperCase()}${field.slice(1)}` : field];
}

/** Whether one of the entries can hold together with the conditions; says which can't. */
function lintClause(
  entries: readonly (readonly Placed[])[],
  when: readonly Placed[],
  facts: ValueFacts,
  say: Say,
): boolean {
  return entries.length === 0 || entries.map((entry) => isPossible(when, entry, facts, say)).some(Boolean);
}

/** Whether all of these fields can hold at once; says so of `added` only. */
function isPossible(
  given: readonly Placed[],
  added: readonly Placed[],
  facts: ValueFacts,
  say: Say,
): boolean {
  const all = [...given, ...added];
  let isAlive = true;
  for (const [i, one] of all.entries()) {
    const { values } = one.values;
    if (values?.every((value) => oddityOf(one.values, value, facts)?.never === true) === true)
      isAlive = false;
    const clash = all.slice(0, i + 1).find((other) => excludes(other.values, one.values));
    if (clash === undefined) continue;
    isAlive = false;
    const what = clash === one ? 'its own exclusions' : `${pathText(clash.at.slice(3))} of the same rule`;
    if (i >= given.length)
      say('warning', pathOf(one, values === undefined), `contradicts ${what}: nothing can be both`);
  }
  return isAlive;
}

/** Whether no attribute can satisfy both; `a` and `b` may be the same. */
function excludes(a: FieldValues, b: FieldValues): boolean {
  if (a.field !== b.field || a.header !== b.header) return crossExcludes(a, b) || crossExcludes(b, a);
  const [first, second] = [a.values, b.values];
  const covers = (values: readonly string[] | undefined, nots: readonly string[] | undefined): boolean =>
    values !== undefined && nots !== undefined && values.every((value) => isCovered(a.field, value, nots));
  if (covers(first, b.notValues) || covers(second, a.notValues)) return true;
  if (first === undefined || second === undefined || a === b) return false;
  return !first.some((value) => second.some((other) => overlap(a.field, value, other)));
}

/** principals say the namespace, the trust domain and the account, too. */
function crossExcludes(a: FieldValues, b: FieldValues): boolean {
  if (a.field !== 'principals' || a.values === undefined || b.values === undefined) return false;
  if (a.values.some((value) => !isLiteral(value))) return false;
  const part = (value: string): string | undefined => {
    const [domain, , namespace = '', , account = ''] = value.split('/');
    if (b.field === 'namespaces') return namespace;
    if (b.field === 'trustDomains') return domain;
    return b.field === 'serviceAccounts' ? `${namespace}/${account}` : undefined;
  };
  const test = anyText(b.values);
  return a.values.every((value) => {
    const known = part(value);
    return known !== undefined && !test(known);
  });
}

function isCovered(field: Field, value: string, nots: readonly string[]): boolean {
  return nots.some((not) => {
    if (isAddress(field)) return isWithin(value, not);
    if (field === 'ports') return Number(value) === Number(not);
    const [one, by] = field === 'hosts' ? [value.toLowerCase(), not.toLowerCase()] : [value, not];
    return one === by || by === '*' || isPatternWithin(one, by);
  });
}

function isPatternWithin(value: string, by: string): boolean {
  if (isLiteral(value)) return anyText([by])(value);
  if (by.startsWith('*')) return value.startsWith('*') && value.endsWith(by.slice(1));
  return (
    by.endsWith('*') && value.endsWith('*') && !value.startsWith('*') && value.startsWith(by.slice(0, -1))
  );
}

/** Whether some attribute could satisfy both values; when that can't be told, yes. */
function overlap(field: Field, a: string, b: string): boolean {
  if (isAddress(field)) return isWithin(a, b) || isWithin(b, a);
  if (field === 'ports') return Number(a) === Number(b);
  if (field === 'paths' || field === 'hosts') return true;
  if (isLiteral(a)) return anyText([b])(a);
  return isLiteral(b) ? anyText([a])(b) : true;
}

function isAddress(field: Field): boolean {
  return field === 'ipBlocks' || field === 'destinationIps' || field === 'remoteIpBlocks';
}

function isWithin(block: string, by: string): boolean {
  const [address = '', bits] = block.split('/');
  const [outer = '', outerBits] = by.split('/');
  const ip = parseIp(address);
  if (ip === undefined) return false;
  const full = ip.includes(':') ? 128 : 32;
  const length = Number(outerBits ?? full);
  return length <= Number(bits ?? full) && isInside(ip, [`${outer}/${length}`]);
}

/** The HTTP fields of a rule, as people write them. */
export function httpFieldsOf(rule: PolicyRule): readonly string[] {
  const all = [...rule.from, ...rule.to, rule.when].flat().filter(({ field }) => HTTP.has(field));
  return [
    ...new Set(
      all.map(({ field, header, values }) =>
        header !== undefined
          ? `request.headers[${header}]`
          : values === undefined
            ? `not${field.charAt(0).toUpperCase()}${field.slice(1)}`
            : field,
      ),
    ),
  ];
}

/** The ports that a rule names; undefined when it may be about any. */
export function portsOf(rule: PolicyRule): readonly number[] | undefined {
  const condition = rule.when.find(({ field, values }) => field === 'ports' && values !== undefined);
  if (condition !== undefined) return (condition.values ?? []).map(Number);
  const lists = rule.to.map((match) => match.find(({ field }) => field === 'ports')?.values);
  if (lists.length === 0 || lists.some((list) => list === undefined)) return undefined;
  return lists.flatMap((list) => list ?? []).map(Number);
}
