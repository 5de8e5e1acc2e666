/**
 * A second evaluator: the sentences of SEMANTICS.md 1 and 2 one after the other over the objects as written, for each
 * request anew. Slow, plain, and with nothing of daemon/mesh in it, so that the two can disagree.
 */
import { KEYS, isRule, list, positive, table } from './naive-admission.ts';
import type { Raw } from './naive-admission.ts';
import { blockHolds } from './naive-address.ts';
import { matchesPath, matchesText, normalize } from './naive-text.ts';

export type { Raw };

export interface NaiveMesh {
  readonly rootNamespace: string;
  readonly trustDomain: string;
  readonly aliases: readonly string[];
  readonly normalization: string;
}

export interface NaiveHttp {
  readonly method: string;
  readonly path: string;
  readonly host: string | undefined;
  readonly headers: Readonly<Record<string, string>>;
}

export interface NaiveRequest {
  readonly srcPrincipal: string | null;
  readonly srcIp: string;
  readonly dstIp: string;
  readonly dstPort: number;
  readonly dstNamespace: string;
  readonly dstLabels: Readonly<Record<string, string>>;
  readonly sni: string | undefined;
  readonly http: NaiveHttp | undefined;
}

export interface Verdict {
  readonly verdict: 'allow' | 'deny';
  /** `ns/name` or `ns/name rule`. */
  readonly by: string | undefined;
}

interface Asked {
  readonly request: NaiveRequest;
  readonly mesh: NaiveMesh;
  /** Own namespace of the policy that is asked. */
  readonly namespace: string;
}

/** Section 1.1, behind 2.1. */
export function naive(
  policies: readonly Raw[],
  peers: readonly Raw[],
  mesh: NaiveMesh,
  request: NaiveRequest,
): Verdict {
  const strict = strictBy(peers, mesh, request);
  if (strict !== undefined && identity(request) === undefined) return { verdict: 'deny', by: strict };
  const inForce = applying(policies, mesh, request).filter((policy) => !isDry(policy));
  for (const action of ['CUSTOM', 'DENY'] as const) {
    const by = firstMatch(inForce, action, mesh, request);
    if (by !== undefined) return { verdict: 'deny', by };
  }
  if (!inForce.some((policy) => actionOf(policy) === 'ALLOW')) return { verdict: 'allow', by: undefined };
  const by = firstMatch(inForce, 'ALLOW', mesh, request);
  return { verdict: by === undefined ? 'deny' : 'allow', by };
}

/** The mesh's first, then the namespace's, each by name: whose name is told where several match. */
function applying(
  policies: readonly Raw[],
  mesh: NaiveMesh,
  { dstNamespace, dstLabels }: NaiveRequest,
): Raw[] {
  const inScope = policies.filter((policy) => {
    const spec = table(policy['spec']);
    const namespace = meta(policy, 'namespace');
    if (namespace !== dstNamespace && namespace !== mesh.rootNamespace) return false;
    if (spec['targetRef'] || list(spec['targetRefs']).length > 0) return false;
    return selects(spec, dstLabels);
  });
  const rank = (policy: Raw): string =>
    `${meta(policy, 'namespace') === mesh.rootNamespace ? 0 : 1} ${meta(policy, 'name')}`;
  return inScope.sort((a, b) => (rank(a) < rank(b) ? -1 : 1));
}

function selects(spec: Raw, labels: Readonly<Record<string, string>>): boolean {
  return Object.entries(table(table(spec['selector'])['matchLabels'])).every(([k, v]) => labels[k] === v);
}

function isDry(policy: Raw): boolean {
  const text = table(table(policy['metadata'])['annotations'])['istio.io/dry-run'];
  const isYes = ['1', 't', 'T', 'true', 'True', 'TRUE'].some((yes) => yes === text);
  return isYes && (actionOf(policy) === 'ALLOW' || actionOf(policy) === 'DENY');
}

/** An object that is no policy counts as an ALLOW, unless it says that it is something else. */
function actionOf(policy: Raw): string {
  const action = table(policy['spec'])['action'] ?? 'ALLOW';
  return action === 'DENY' || action === 'AUDIT' || action === 'CUSTOM' ? action : 'ALLOW';
}

function firstMatch(
  policies: readonly Raw[],
  action: string,
  mesh: NaiveMesh,
  request: NaiveRequest,
): string | undefined {
  for (const policy of policies.filter((one) => actionOf(one) === action && isSpec(one['spec']))) {
    const namespace = meta(policy, 'namespace');
    const rules = list(table(policy['spec'])['rules']);
    const index = rules.findIndex((rule) => ruleMatches(rule, action, { request, mesh, namespace }));
    if (index >= 0) return `${namespace}/${meta(policy, 'name')} ${index}`;
  }
  return undefined;
}

function isSpec(spec: unknown): boolean {
  const known = ['selector', 'targetRef', 'targetRefs', 'action', 'provider', 'rules'];
  const action = table(spec)['action'] ?? 'ALLOW';
  return (
    Object.keys(table(spec)).every((key) => known.includes(key)) &&
    ['ALLOW', 'DENY', 'AUDIT', 'CUSTOM'].some((one) => one === action)
  );
}

/** Sections 1.3 and 1.10: each part true when absent; without a request an ALLOW with HTTP in it is none. */
function ruleMatches(rule: unknown, action: string, asked: Asked): boolean {
  if (!isRule(rule)) return false;
  const { from, to, when } = table(rule);
  const fields = [
    ...list(from).map((one) => table(table(one)['source'])),
    ...list(to).map((one) => table(table(one)['operation'])),
  ];
  const conditions = list(when).map(table);
  const isHttp =
    fields.some((entry) =>
      Object.keys(entry).some((name) => list(entry[name]).length > 0 && HTTP.has(positive(name))),
    ) || conditions.some(({ key }) => isHttpKey(String(key)));
  if (isHttp && asked.request.http === undefined && action === 'ALLOW') return false;
  const some = (entries: unknown, part: string): boolean =>
    list(entries).length === 0 || list(entries).some((one) => entryMatches(table(table(one)[part]), asked));
  return (
    some(from, 'source') && some(to, 'operation') && conditions.every((one) => conditionHolds(one, asked))
  );
}

const HTTP = new Set(['hosts', 'methods', 'paths', 'requestPrincipals', 'remoteIpBlocks']);

function isHttpKey(key: string): boolean {
  return /^(request\.|remote\.ip$|experimental\.)/.test(key);
}

function entryMatches(entry: Raw, asked: Asked): boolean {
  return Object.keys(entry).every((name) => {
    const values = list(entry[name]).map(String);
    if (values.length === 0) return true;
    const field = positive(name);
    // No bytes of HTTP, and it denies: what can't be answered is taken as true.
    if (HTTP.has(field) && asked.request.http === undefined) return true;
    const isOne = values.some((value) => valueMatches(field, value, asked));
    return field === name ? isOne : !isOne;
  });
}

function conditionHolds({ key, values, notValues }: Raw, asked: Asked): boolean {
  const name = String(key);
  if (isHttpKey(name) && asked.request.http === undefined) return true;
  const matches = (value: unknown): boolean => keyMatches(name, String(value), asked);
  return (
    (list(values).length === 0 || list(values).some(matches)) &&
    !list(notValues).some((value) => matches(value))
  );
}

function valueMatches(field: string, value: string, asked: Asked): boolean {
  const { request, mesh, namespace } = asked;
  const who = identity(request);
  switch (field) {
    case 'principals':
      return who !== undefined && expandPrincipal(value, mesh).some((one) => matchesText(one, who.principal));
    case 'namespaces':
      return who !== undefined && matchesText(value, who.namespace);
    case 'serviceAccounts':
      return who !== undefined && (value.includes('/') ? value : `${namespace}/${value}`) === who.account;
    case 'trustDomains':
      return who !== undefined && expandDomain(value, mesh).some((one) => matchesText(one, who.trustDomain));
    case 'ipBlocks':
    case 'remoteIpBlocks':
      return blockHolds(value, request.srcIp);
    case 'ports':
      return Number(value) === request.dstPort;
    default:
      return httpMatches(field, value, asked);
  }
}

function httpMatches(field: string, value: string, { request: { http }, mesh }: Asked): boolean {
  if (http === undefined) return false;
  if (field === 'hosts')
    return http.host !== undefined && matchesText(value.toLowerCase(), http.host.toLowerCase());
  if (field === 'methods') return matchesText(value, http.method);
  if (field === 'paths')
    return matchesPath(value, normalize(http.path, mesh.normalization).replace(/[?#].*/s, ''));
  return false;
}

function keyMatches(key: string, value: string, asked: Asked): boolean {
  const { http, sni, dstIp } = asked.request;
  const field = KEYS.get(key);
  if (field !== undefined) return valueMatches(field, value, asked);
  if (key === 'destination.ip') return blockHolds(value, dstIp);
  if (key === 'connection.sni') return sni !== undefined && matchesText(value, sni);
  const header = /^request\.headers\[(.*)\]$/.exec(key)?.[1]?.toLowerCase();
  if (header === undefined || http === undefined) return false;
  const sent =
    header === ':authority' || header === 'host'
      ? http.host
      : header === ':method'
        ? http.method
        : http.headers[header];
  return sent !== undefined && matchesText(value, sent);
}

interface Identity {
  readonly principal: string;
  readonly trustDomain: string;
  readonly namespace: string;
  readonly account: string;
}

function identity({ srcPrincipal }: NaiveRequest): Identity | undefined {
  const parts = /^spiffe:\/\/([^/]+)\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(srcPrincipal ?? '');
  if (parts === null) return undefined;
  const [uri, trustDomain = '', namespace = '', account = ''] = parts;
  return { principal: uri.slice(9), trustDomain, namespace, account: `${namespace}/${account}` };
}

/** Section 1.11, as Istio's tests have it. */
function expandPrincipal(value: string, { trustDomain, aliases }: NaiveMesh): readonly string[] {
  const slash = value.indexOf('/');
  const domain = value.slice(0, slash);
  if (aliases.length === 0 || value.split('/').length !== 5 || domain === '*') return [value];
  const owns = [trustDomain, ...aliases];
  const isKnown = domain === 'cluster.local' || owns.some((own) => matchesText(domain, own));
  if (!isKnown) return [value];
  return owns.map((own) =>
    domain.startsWith('*') && matchesText(domain, own) ? value : own + value.slice(slash),
  );
}

function expandDomain(value: string, { trustDomain, aliases }: NaiveMesh): readonly string[] {
  return aliases.length > 0 && [trustDomain, ...aliases].includes(value)
    ? [trustDomain, ...aliases]
    : [value];
}

/** Section 2.1: who says that this port takes no plaintext. */
function strictBy(peers: readonly Raw[], mesh: NaiveMesh, request: NaiveRequest): string | undefined {
  const { dstNamespace, dstLabels, dstPort } = request;
  const oldest = (namespace: string, hasSelector: boolean): Raw | undefined =>
    peers
      .filter((peer) => meta(peer, 'namespace') === namespace && hasLabels(peer) === hasSelector)
      .filter((peer) => selects(table(peer['spec']), dstLabels))
      .sort((a, b) => (age(a) < age(b) ? -1 : 1))[0];
  const isRoot = dstNamespace === mesh.rootNamespace;
  const workload = isRoot ? undefined : oldest(dstNamespace, true);
  const namespace = isRoot ? undefined : oldest(dstNamespace, false);
  const port = table(table(table(workload?.['spec'])['portLevelMtls'])[String(dstPort)])['mode'] ?? 'UNSET';
  if (port !== 'UNSET') return port === 'STRICT' && workload ? nameOf(workload) : undefined;
  for (const peer of [workload, namespace, oldest(mesh.rootNamespace, false)]) {
    const mode = table(table(peer?.['spec'])['mtls'])['mode'] ?? 'UNSET';
    if (mode !== 'UNSET') return mode === 'STRICT' && peer ? nameOf(peer) : undefined;
  }
  return undefined;
}

function hasLabels(peer: Raw): boolean {
  return Object.keys(table(table(table(peer['spec'])['selector'])['matchLabels'])).length > 0;
}

function age(peer: Raw): string {
  return `${meta(peer, 'creationTimestamp')} ${nameOf(peer)}`;
}

function nameOf(object: Raw): string {
  return `${meta(object, 'namespace')}/${meta(object, 'name')}`;
}

function meta(object: Raw, field: string): string {
  const text = table(object['metadata'])[field];
  return typeof text === 'string' ? text : '';
}
