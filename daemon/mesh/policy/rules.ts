/** One rule of an AuthorizationPolicy: read, checked as Istio's admission would (SEMANTICS.md 1.2 to 1.8). */
import { anyBlock, isTemplate, portNumber, templateTest } from './match.ts';
import type { Field, FieldValues, Match, PolicyProblem, PolicyRule } from './model.ts';
import { zodProblems } from './problems.ts';
import { ruleSchema } from './schemas.ts';
import type { Condition, Operation, Rule, Source } from './schemas.ts';

interface ReadRule {
  /** undefined: dropped. */
  readonly rule: PolicyRule | undefined;
  /** Paths are below the rule. */
  readonly problems: readonly PolicyProblem[];
}

type Path = readonly (string | number)[];
type Report = (path: Path, reason: string) => void;
type Values = readonly string[] | null | undefined;

const MAX_ACCOUNTS = 16;
const MAX_ACCOUNT_LENGTH = 320;

/** `namespace`: the policy's own, which short service accounts mean. */
export function readRule(value: unknown, index: number, namespace: string): ReadRule {
  const parsed = ruleSchema.safeParse(value);
  if (!parsed.success) return { rule: undefined, problems: zodProblems(parsed.error, []) };
  const problems: PolicyProblem[] = [];
  const report: Report = (path, reason) => problems.push({ path, reason, severity: 'error' });
  const { from, to, when } = parsed.data;
  const rule: PolicyRule = {
    index,
    from: (from ?? []).map(({ source }, i) =>
      readSource(source, namespace, under(report, ['from', i, 'source'])),
    ),
    to: (to ?? []).map(({ operation }, i) => readOperation(operation, under(report, ['to', i, 'operation']))),
    when: (when ?? []).flatMap((one, i) => readCondition(one, namespace, under(report, ['when', i])) ?? []),
  };
  reportEmpty(parsed.data, report);
  return { rule: problems.length === 0 ? rule : undefined, problems };
}

function under(report: Report, path: Path): Report {
  return (rest, reason) => report([...path, ...rest], reason);
}

/** An empty entry never matches, an empty list matches all: refused, so that nobody confuses the two. */
function reportEmpty({ from, to }: Rule, report: Report): void {
  for (const [i, { source }] of (from ?? []).entries())
    if (isEmpty(source)) report(['from', i, 'source'], 'is empty: leave from out to mean any source');
  for (const [i, { operation }] of (to ?? []).entries())
    if (isEmpty(operation)) report(['to', i, 'operation'], 'is empty: leave to out to mean any operation');
}

function isEmpty(entry: Readonly<Record<string, Values>> | null | undefined): boolean {
  return Object.values(entry ?? {}).every((values) => (values ?? []).length === 0);
}

function readSource(source: Source | null | undefined, namespace: string, report: Report): Match {
  const given: Source = source ?? {};
  const fields = [
    pair('principals', given.principals, given.notPrincipals),
    pair('namespaces', given.namespaces, given.notNamespaces),
    accounts(given.serviceAccounts, given.notServiceAccounts, namespace, report),
    pair('trustDomains', given.trustDomains, given.notTrustDomains),
    pair('ipBlocks', given.ipBlocks, given.notIpBlocks),
    pair('remoteIpBlocks', given.remoteIpBlocks, given.notRemoteIpBlocks),
    pair('requestPrincipals', given.requestPrincipals, given.notRequestPrincipals),
  ].filter(isConstrained);
  const has = (field: Field): boolean => fields.some((one) => one.field === field);
  if (has('serviceAccounts') && (has('principals') || has('namespaces')))
    report(['serviceAccounts'], 'must not stand beside principals or namespaces');
  reportBlocks(given, report);
  reportTrustDomains(given, report);
  return fields;
}

function readOperation(operation: Operation | null | undefined, report: Report): Match {
  const given: Operation = operation ?? {};
  reportPorts(given.ports, ['ports'], report);
  reportPorts(given.notPorts, ['notPorts'], report);
  reportPaths(given.paths, ['paths'], report);
  reportPaths(given.notPaths, ['notPaths'], report);
  return [
    pair('ports', given.ports, given.notPorts),
    pair('hosts', given.hosts, given.notHosts),
    pair('methods', given.methods, given.notMethods),
    pair('paths', given.paths, given.notPaths),
  ].filter(isConstrained);
}

/** Condition keys whose values are as a field's of the same meaning. */
const CONDITIONS: Readonly<Record<string, Field>> = {
  'source.ip': 'ipBlocks',
  'source.namespace': 'namespaces',
  'source.principal': 'principals',
  'source.serviceAccount': 'serviceAccounts',
  'source.trustDomain': 'trustDomains',
  'destination.ip': 'destinationIps',
  'destination.port': 'ports',
  'connection.sni': 'sni',
  'remote.ip': 'remoteIpBlocks',
  'request.auth.principal': 'requestPrincipals',
  'request.auth.audiences': 'absent',
  'request.auth.presenter': 'absent',
};
const HEADER = /^request\.headers\[([^\]]+)\]$/;
const ABSENT = [/^request\.auth\.claims\[.+\]$/, /^experimental\.envoy\.filters\.[^[]*\[.+\]$/];

function readCondition(
  { key, values, notValues }: Condition,
  namespace: string,
  report: Report,
): FieldValues | undefined {
  if ((values ?? []).length === 0 && (notValues ?? []).length === 0)
    report([], `${key} has neither values nor notValues`);
  const header = HEADER.exec(key)?.[1];
  if (header !== undefined) return readHeader(header, values, notValues, report);
  const isAbsent = ABSENT.some((pattern) => pattern.test(key));
  const field = isAbsent ? 'absent' : Object.hasOwn(CONDITIONS, key) ? CONDITIONS[key] : undefined;
  if (field === undefined) {
    report(['key'], `"${key}" is no condition that is known`);
    return undefined;
  }
  if (field === 'serviceAccounts') return accounts(values, notValues, namespace, under(report, ['values']));
  if (field === 'trustDomains')
    for (const each of [values, notValues]) reportWildcards(each, ['values'], report);
  if (field === 'ports') for (const each of [values, notValues]) reportPorts(each, ['values'], report);
  if (field === 'ipBlocks' || field === 'destinationIps' || field === 'remoteIpBlocks')
    for (const each of [values, notValues]) reportBlock(each, ['values'], report);
  return pair(field, values, notValues);
}

function readHeader(name: string, values: Values, notValues: Values, report: Report): FieldValues {
  // RFC 9110 token, or a pseudo-header.
  if (!/^:?[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(name)) report(['key'], `"${name}" is no name of a header`);
  return { ...pair('header', values, notValues), header: name.toLowerCase() };
}

/** `ns/sa`, or `sa` of the policy's own namespace; literal. */
function accounts(values: Values, notValues: Values, namespace: string, report: Report): FieldValues {
  const full = (given: Values, name: string): readonly string[] | undefined => {
    if ((given ?? []).length > MAX_ACCOUNTS) report([name], `has more than ${MAX_ACCOUNTS} items`);
    return given?.map((value) => {
      const isName = /^(?:[^/]+\/)?[^/]+$/.test(value) && value.length <= MAX_ACCOUNT_LENGTH;
      if (!isName || value.includes('*')) report([name], `"${value}" is neither NAME nor NAMESPACE/NAME`);
      return value.includes('/') ? value : `${namespace}/${value}`;
    });
  };
  return pair('serviceAccounts', full(values, 'serviceAccounts'), full(notValues, 'notServiceAccounts'));
}

/** An empty list constrains nothing, as an absent one. */
function pair(field: Field, values: Values, notValues: Values): FieldValues {
  const given = (list: Values): readonly string[] | undefined =>
    list === null || list === undefined || list.length === 0 ? undefined : list;
  return { field, values: given(values), notValues: given(notValues) };
}

function isConstrained({ values, notValues }: FieldValues): boolean {
  return values !== undefined || notValues !== undefined;
}

function reportPorts(ports: Values, path: Path, report: Report): void {
  for (const port of ports ?? [])
    if (portNumber(port) === undefined) report(path, `"${port}" is no port from 0 to 65535`);
}

function reportBlocks(source: Source, report: Report): void {
  for (const name of ['ipBlocks', 'notIpBlocks', 'remoteIpBlocks', 'notRemoteIpBlocks'] as const)
    reportBlock(source[name], [name], report);
}

function reportBlock(blocks: Values, path: Path, report: Report): void {
  for (const block of blocks ?? [])
    if (anyBlock([block]) === undefined) report(path, `"${block}" is neither an address nor a range`);
}

function reportTrustDomains(source: Source, report: Report): void {
  for (const name of ['trustDomains', 'notTrustDomains'] as const) {
    reportWildcards(source[name], [name], report);
    for (const value of source[name] ?? [])
      if (value.includes('/')) report([name], `"${value}" is no trust domain: it has a slash`);
  }
}

function reportWildcards(values: Values, path: Path, report: Report): void {
  for (const value of values ?? [])
    if (value.slice(1, -1).includes('*') || /^\*.*\*$/.test(value))
      report(path, `"${value}" may have one *, at one of its ends`);
}

function reportPaths(paths: Values, path: Path, report: Report): void {
  for (const value of paths ?? [])
    if (isTemplate(value) ? templateTest(value) === undefined : /[{}]/.test(value))
      report(path, `"${value}" is no template: {*} and {**} stand for whole segments, {**} is the last`);
}
