/** From a policy that has been read to tests that a decision runs: done once for each object. */
import type { SpiffeId } from '../ids.ts';
import { splitSpiffeId } from '../ids.ts';
import {
  anyBlock,
  anyText,
  anyTextIgnoringCase,
  isLiteral,
  isTemplate,
  portNumber,
  templateTest,
  textTest,
} from './match.ts';
import type { TextTest } from './match.ts';
import type {
  AuthorizationPolicy,
  Field,
  FieldValues,
  HttpRequest,
  Match,
  PolicyPeer,
  PolicyRequest,
  PolicyRule,
  PolicySettings,
  RuleRef,
} from './model.ts';

/** One field of a rule: its values, or those of its `not` twin. */
export interface Check {
  /** As users write it: `principals`, `notPaths`, `request.headers[x-user]`. */
  readonly name: string;
  /** Needs a request: bytes that are not HTTP have no answer. */
  readonly isHttp: boolean;
  readonly holds: (request: PolicyRequest) => boolean;
}

/** Entries ORed, the checks of one ANDed; no entry: any. */
export type Clause = readonly (readonly Check[])[];

export interface CompiledRule {
  readonly ref: RuleRef;
  readonly from: Clause;
  readonly to: Clause;
  readonly when: readonly Check[];
  readonly hasHttp: boolean;
  /** Asks for the server name of TLS that passes through: the connection's first bytes have it. */
  readonly hasSni: boolean;
  /** Ports outside of which it can't match; undefined: any. */
  readonly ports: ReadonlySet<number> | undefined;
  /** Principals, namespaces, or service accounts, outside of which it can't match; undefined: any. For the index. */
  readonly principals: ReadonlySet<string> | undefined;
  readonly namespaces: ReadonlySet<string> | undefined;
  readonly accounts: ReadonlySet<string> | undefined;
  /** Paths, exact or with a star at the end, outside of which no request matches; undefined: any. For the index. */
  readonly paths: ReadonlySet<string> | undefined;
  /** A header and its values outside of which no request matches. For the index. */
  readonly header: { readonly name: string; readonly values: ReadonlySet<string> } | undefined;
}

export interface CompiledPolicy {
  readonly policy: AuthorizationPolicy;
  readonly rules: readonly CompiledRule[];
}

/** Compiles `policy`. Total: what could not be compiled was dropped when it was read. */
export function compilePolicy(policy: AuthorizationPolicy, settings: PolicySettings): CompiledPolicy {
  return { policy, rules: policy.rules.map((rule) => compileRule(policy, rule, settings)) };
}

/** The forms in which policies name an identity. */
export function peerOf(id: SpiffeId): PolicyPeer | undefined {
  const parts = splitSpiffeId(id);
  if (parts === undefined) return undefined;
  const { trustDomain, namespace, serviceAccount } = parts;
  return {
    principal: id.slice('spiffe://'.length),
    trustDomain,
    namespace,
    account: `${namespace}/${serviceAccount}`,
  };
}

function compileRule(policy: AuthorizationPolicy, rule: PolicyRule, settings: PolicySettings): CompiledRule {
  const clause = (entries: readonly Match[]): Clause =>
    entries.map((entry) => entry.flatMap((values) => checksOf(values, settings)));
  const from = clause(rule.from);
  const to = clause(rule.to);
  const when = rule.when.flatMap((values) => checksOf(values, settings));
  const { namespace, name } = policy;
  return {
    ref: { kind: 'AuthorizationPolicy', namespace, name, rule: rule.index },
    from,
    to,
    when,
    hasHttp: [...from, ...to, when].some((checks) => checks.some(({ isHttp }) => isHttp)),
    hasSni: [...rule.from, ...rule.to, rule.when].some((fields) =>
      fields.some(({ field }) => field === 'sni'),
    ),
    ports: numbersOf(literals(rule.to, rule.when, 'ports')),
    principals: literals(rule.from, rule.when, 'principals', (values) => expandPrincipals(values, settings)),
    namespaces: literals(rule.from, rule.when, 'namespaces'),
    accounts: literals(rule.from, rule.when, 'serviceAccounts'),
    paths: pathsOf(rule.to),
    header: headerOf(rule.when),
  };
}

/** The literal values one of which a field must have; undefined when it may have others. */
function literals(
  entries: readonly Match[],
  when: Match,
  field: Field,
  expand: (values: readonly string[]) => readonly string[] = (values) => values,
): ReadonlySet<string> | undefined {
  const condition = when.find((one) => one.field === field && one.values !== undefined);
  const lists =
    condition === undefined
      ? entries.map((entry) => entry.find((one) => one.field === field)?.values)
      : [condition.values];
  if (lists.length === 0) return undefined;
  const all = new Set<string>();
  for (const list of lists) {
    if (list === undefined) return undefined;
    for (const value of expand(list)) {
      if (value.startsWith('*') || value.endsWith('*')) return undefined;
      all.add(value);
    }
  }
  return all;
}

function pathsOf(entries: readonly Match[]): ReadonlySet<string> | undefined {
  const lists = entries.map((entry) => entry.find((one) => one.field === 'paths')?.values);
  const all = lists.flatMap((list) => list ?? ['*']);
  return lists.length === 0 || all.some((value) => value.startsWith('*') || isTemplate(value))
    ? undefined
    : new Set(all);
}

function headerOf(when: Match): CompiledRule['header'] {
  for (const { field, header: name, values } of when) {
    if (field !== 'header' || name === undefined || name === 'host' || name.startsWith(':')) continue;
    if (values?.every(isLiteral) === true) return { name, values: new Set(values) };
  }
  return undefined;
}

function numbersOf(ports: ReadonlySet<string> | undefined): ReadonlySet<number> | undefined {
  return ports && new Set([...ports].flatMap((port) => portNumber(port) ?? []));
}

/** A test of a field that answers undefined when the request has no such attribute. */
type Answer = (request: PolicyRequest) => boolean | undefined;

const HTTP_FIELDS: ReadonlySet<Field> = new Set([
  'remoteIpBlocks',
  'requestPrincipals',
  'hosts',
  'methods',
  'paths',
  'header',
  'absent',
]);

/** An absent attribute: a positive match is false, even `*`; a negative one is true (SEMANTICS.md 1.3). */
function checksOf(given: FieldValues, settings: PolicySettings): Check[] {
  const { field, header, values, notValues } = given;
  const isHttp = HTTP_FIELDS.has(field);
  const name = header === undefined ? field : `request.headers[${header}]`;
  const checks: Check[] = [];
  if (values !== undefined) {
    const answer = answerOf(given, values, settings);
    checks.push({ name, isHttp, holds: (request) => answer(request) === true });
  }
  if (notValues !== undefined) {
    const answer = answerOf(given, notValues, settings);
    const twin = `not${name.charAt(0).toUpperCase()}${name.slice(1)}`;
    checks.push({ name: twin, isHttp, holds: (request) => answer(request) !== true });
  }
  return checks;
}

function answerOf(
  { field, header }: FieldValues,
  values: readonly string[],
  settings: PolicySettings,
): Answer {
  switch (field) {
    case 'principals': {
      const test = anyText(expandPrincipals(values, settings));
      return ({ peer }) => peer && test(peer.principal);
    }
    case 'namespaces': {
      const test = anyText(values);
      return ({ peer }) => peer && test(peer.namespace);
    }
    case 'serviceAccounts': {
      const accounts = new Set(values);
      return ({ peer }) => peer && accounts.has(peer.account);
    }
    case 'trustDomains': {
      const test = anyText(expandTrustDomains(values, settings));
      return ({ peer }) => peer && test(peer.trustDomain);
    }
    case 'ipBlocks':
    case 'remoteIpBlocks': {
      // No hop in front of the node is trusted: the original client is the direct one.
      const test = anyBlock(values);
      return ({ sourceIp }) => sourceIp && test?.(sourceIp);
    }
    case 'destinationIps': {
      const test = anyBlock(values);
      return ({ destinationIp }) => destinationIp && test?.(destinationIp);
    }
    case 'ports': {
      const ports = new Set(values.map(portNumber));
      return ({ destinationPort }) => ports.has(destinationPort);
    }
    case 'sni': {
      const test = anyText(values);
      return ({ sni }) => (sni === undefined ? undefined : test(sni));
    }
    case 'requestPrincipals':
    case 'absent':
      return () => undefined;
    case 'hosts':
    case 'methods':
    case 'paths':
    case 'header':
      return httpAnswer(field, header, values);
  }
}

function httpAnswer(
  field: 'hosts' | 'methods' | 'paths' | 'header',
  header: string | undefined,
  values: readonly string[],
): Answer {
  const test =
    field === 'paths' ? anyPath(values) : field === 'hosts' ? anyTextIgnoringCase(values) : anyText(values);
  const attribute = attributeOf(field, header);
  return ({ http }) => {
    const value = http && attribute(http);
    return value === undefined ? undefined : test(value);
  };
}

function attributeOf(
  field: 'hosts' | 'methods' | 'paths' | 'header',
  header: string | undefined,
): (http: HttpRequest) => string | undefined {
  if (field === 'methods' || header === ':method') return ({ method }) => method;
  if (header === ':path') return ({ path, target }) => target ?? path;
  if (field === 'paths') return ({ path }) => path;
  if (field === 'hosts' || header === ':authority' || header === 'host') return ({ host }) => host;
  return ({ headers }) => headers.get(header ?? '');
}

function anyPath(values: readonly string[]): TextTest {
  const plain = anyText(values.filter((value) => !isTemplate(value)));
  const templates = values.filter(isTemplate).flatMap((value) => templateTest(value) ?? []);
  if (templates.length === 0) return plain;
  return (path) => plain(path) || templates.some((test) => test(path));
}

/**
 * With aliases, `cluster.local`, the own trust domain and the aliases mean all of them (SEMANTICS.md 1.11). A suffix
 * stays for those that it matches itself: `*-td` goes on matching others too.
 */
function expandPrincipals(values: readonly string[], settings: PolicySettings): readonly string[] {
  if (settings.trustDomainAliases.length === 0) return values;
  return values.flatMap((value) => {
    const [domain = '', ...rest] = value.split('/');
    const owns = ownDomains(settings);
    const isOwn = domain === 'cluster.local' || owns.some((own) => isAlike(domain, own));
    if (rest.length !== 4 || domain === '*' || !isOwn) return value;
    const isSuffix = domain.startsWith('*');
    return owns.map((own) => (isSuffix && textTest(domain)(own) ? value : [own, ...rest].join('/')));
  });
}

/** Whether two trust domains can be one: equal, or either is a pattern that the other has. */
function isAlike(a: string, b: string): boolean {
  return textTest(a)(b) || textTest(b)(a);
}

/** Here `cluster.local` is a name like others, and patterns stay what they are. */
function expandTrustDomains(values: readonly string[], settings: PolicySettings): readonly string[] {
  if (settings.trustDomainAliases.length === 0) return values;
  const owns = ownDomains(settings);
  return values.flatMap((value) => (owns.includes(value) ? owns : value));
}

function ownDomains({ trustDomain, trustDomainAliases }: PolicySettings): readonly string[] {
  return [...new Set([trustDomain, ...trustDomainAliases])];
}
