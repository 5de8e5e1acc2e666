/** `culvert why --batch`: each line a case of its own, judged from an empty store. */
import { z } from 'zod';
import { parseIp, parseSpiffeId } from '../../mesh/ids.ts';
import type { Ip } from '../../mesh/ids.ts';
import { peerOf } from '../../mesh/policy/compile.ts';
import { judge } from '../../mesh/policy/judge.ts';
import type { HttpRequest, PolicyRequest, RuleRef } from '../../mesh/policy/model.ts';
import { parseAuthorizationPolicy } from '../../mesh/policy/parse.ts';
import { PATH_NORMALIZATIONS, normalizeTarget, pathOf } from '../../mesh/policy/path.ts';
import type { PathNormalization } from '../../mesh/policy/path.ts';
import { parsePeerAuthentication } from '../../mesh/policy/peer.ts';
import { PolicyStore } from '../../mesh/policy/store.ts';

const text = z.string();
const optional = text.nullish();

const httpSchema = z.looseObject({
  method: text,
  path: text,
  host: optional,
  headers: z.record(text, z.union([text, z.array(text)])).nullish(),
});

const caseSchema = z.looseObject({
  name: text,
  policies: z.array(z.unknown()).nullish(),
  peerAuthentications: z.array(z.unknown()).nullish(),
  mesh: z
    .looseObject({
      rootNamespace: optional,
      trustDomain: optional,
      trustDomainAliases: z.array(text).nullish(),
      pathNormalization: optional,
    })
    .nullish(),
  request: z.looseObject({
    srcPrincipal: optional,
    srcNamespace: optional,
    srcIp: optional,
    dstIp: optional,
    dstPort: z.number().int().min(0).max(65_535),
    dstNamespace: optional,
    dstLabels: z.record(text, text).nullish(),
    sni: optional,
    http: httpSchema.nullish(),
  }),
});

type Case = z.infer<typeof caseSchema>;

export interface BatchAnswer {
  readonly name: string;
  readonly verdict: 'allow' | 'deny';
  readonly by: RuleRef | null;
  readonly why: string;
}

const DEFAULT_ROOT = 'istio-system';
const DEFAULT_TRUST_DOMAIN = 'cluster.local';

/** The answer to one line; a sentence when it is no case. */
export function answerLine(line: string): BatchAnswer | { readonly problem: string } {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) };
  }
  const parsed = caseSchema.safeParse(value);
  if (!parsed.success) return { problem: z.prettifyError(parsed.error).replaceAll('\n', ' ') };
  const normalization = normalizationOf(parsed.data.mesh?.pathNormalization);
  if (normalization === undefined)
    return { problem: `mesh.pathNormalization: must be DEFAULT or one of ${PATH_NORMALIZATIONS.join(', ')}` };
  return answerCase(parsed.data, normalization);
}

/** As Istio's configuration spells it; DEFAULT is BASE (SEMANTICS.md 1.8). */
function normalizationOf(given: string | null | undefined): PathNormalization | undefined {
  const name = given === null || given === undefined || given === 'DEFAULT' ? 'BASE' : given;
  return PATH_NORMALIZATIONS.find((one) => one === name);
}

function answerCase(given: Case, normalization: PathNormalization): BatchAnswer {
  const { name, request } = given;
  const http = request.http ? readHttp(request.http, normalization) : undefined;
  if (http === 'bad request')
    return { name, verdict: 'deny', by: null, why: 'the path of the request is refused (400)' };
  const asked: PolicyRequest = {
    peer: peerFrom(request.srcPrincipal),
    sourceIp: ipFrom(request.srcIp),
    destinationIp: ipFrom(request.dstIp),
    destinationPort: request.dstPort,
    sni: request.sni ?? undefined,
    http,
  };
  const target = { namespace: request.dstNamespace ?? 'default', labels: request.dstLabels ?? {} };
  const { verdict, by, why } = judge(storeOf(given), target, asked, 'permissive');
  return { name, verdict, by: by ?? null, why };
}

function storeOf({ mesh, policies, peerAuthentications }: Case): PolicyStore {
  const store = new PolicyStore({
    rootNamespace: mesh?.rootNamespace ?? DEFAULT_ROOT,
    trustDomain: mesh?.trustDomain ?? DEFAULT_TRUST_DOMAIN,
    trustDomainAliases: mesh?.trustDomainAliases ?? [],
  });
  for (const object of policies ?? []) {
    const policy = parseAuthorizationPolicy(object)?.policy;
    if (policy !== undefined) store.setPolicy(policy.namespace, policy.name, policy);
  }
  for (const object of peerAuthentications ?? []) {
    const peer = parsePeerAuthentication(object)?.peer;
    if (peer !== undefined) store.setPeerAuthentication(peer.namespace, peer.name, peer);
  }
  return store;
}

/** An identity of another form than Istio's is none (SEMANTICS.md 3.1). */
function peerFrom(principal: string | null | undefined): PolicyRequest['peer'] {
  const id = parseSpiffeId(principal ?? '');
  return id && peerOf(id);
}

function ipFrom(text: string | null | undefined): Ip | undefined {
  return parseIp(text ?? '');
}

function readHttp(
  { method, path, host, headers }: z.infer<typeof httpSchema>,
  normalization: PathNormalization,
): HttpRequest | 'bad request' {
  const target = normalizeTarget(originForm(path), normalization);
  if (target === undefined) return 'bad request';
  const joined = new Map<string, string>();
  for (const [name, value] of Object.entries(headers ?? {})) {
    const key = name.toLowerCase();
    const values = [
      ...(joined.has(key) ? [joined.get(key)] : []),
      ...(Array.isArray(value) ? value : [value]),
    ];
    joined.set(key, values.join(','));
  }
  return { method, path: pathOf(target), host: host ?? joined.get('host'), headers: joined };
}

/** RFC 9112 section 3.2.2: a server takes the path of an absolute-form target. */
function originForm(target: string): string {
  const absolute = /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i.exec(target)?.[0];
  if (absolute === undefined) return target;
  const rest = target.slice(absolute.length);
  return rest.startsWith('/') ? rest : `/${rest}`;
}
