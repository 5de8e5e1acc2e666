/** `culvert why --batch`: each line a case of its own, judged from an empty store. */
import { z } from 'zod';
import { parseIp, parseSpiffeId } from '../../mesh/ids.ts';
import type { Ip } from '../../mesh/ids.ts';
import { peerOf } from '../../mesh/policy/compile.ts';
import { judge } from '../../mesh/policy/judge.ts';
import type { Judgement } from '../../mesh/policy/judge.ts';
import type { PolicyRequest, PolicyTarget, RuleRef } from '../../mesh/policy/model.ts';
import { parseAuthorizationPolicy } from '../../mesh/policy/parse.ts';
import { PATH_NORMALIZATIONS } from '../../mesh/policy/path.ts';
import type { PathNormalization } from '../../mesh/policy/path.ts';
import { parsePeerAuthentication } from '../../mesh/policy/peer.ts';
import { PolicyStore } from '../../mesh/policy/store.ts';
import { BAD_REQUEST, httpRequest } from './request.ts';

const text = z.string();
const optional = text.nullish();

const httpSchema = z.looseObject({
  method: optional,
  path: optional,
  host: optional,
  headers: z.record(text, z.union([text, z.array(text)])).nullish(),
});

const address = optional.refine((value) => (value ?? '') === '' || parseIp(value ?? '') !== undefined, {
  error: 'is no IP address',
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
    srcIp: address,
    dstIp: address,
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
  readonly by: WrittenRef | null;
  readonly why: string;
}

/** A RuleRef as JSON has it: every field there. */
export interface WrittenRef extends Omit<RuleRef, 'rule'> {
  readonly rule: number | null;
}

export interface BatchProblem {
  /** As far as it could be read. */
  readonly name: string | null;
  readonly problem: string;
}

const DEFAULT_ROOT = 'istio-system';
const DEFAULT_TRUST_DOMAIN = 'cluster.local';
const DEFAULT_NAMESPACE = 'default';

/** The answer to one line; a sentence when it is no case. Never throws. */
export function answerLine(line: string): BatchAnswer | BatchProblem {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    return { name: null, problem: `is no JSON: ${error instanceof Error ? error.message : String(error)}` };
  }
  const parsed = caseSchema.safeParse(value);
  if (!parsed.success) return { name: nameOf(value), problem: issuesOf(parsed.error) };
  const normalization = normalizationOf(parsed.data.mesh?.pathNormalization);
  if (normalization === undefined)
    return {
      name: parsed.data.name,
      problem: `mesh.pathNormalization: must be DEFAULT or one of ${PATH_NORMALIZATIONS.join(', ')}`,
    };
  return answerCase(parsed.data, normalization);
}

/** `rule: null` rather than no field. */
export function written(by: RuleRef | undefined): WrittenRef | null {
  return by === undefined ? null : { ...by, rule: by.rule ?? null };
}

function nameOf(value: unknown): string | null {
  const named = z.looseObject({ name: text }).safeParse(value);
  return named.success ? named.data.name : null;
}

function issuesOf(error: z.ZodError): string {
  return error.issues
    .slice(0, 5)
    .map(({ path, message }) => (path.length === 0 ? message : `${path.map(String).join('.')}: ${message}`))
    .join('; ');
}

/** As Istio's configuration spells it, or our knob; DEFAULT is BASE (SEMANTICS.md 1.8). */
function normalizationOf(given: string | null | undefined): PathNormalization | undefined {
  const name = (given ?? '').toUpperCase();
  if (name === '' || name === 'DEFAULT') return 'BASE';
  return PATH_NORMALIZATIONS.find((one) => one === name);
}

function answerCase(given: Case, normalization: PathNormalization): BatchAnswer {
  const { name, request } = given;
  const http = request.http ? httpRequest(request.http, normalization) : undefined;
  const asked: PolicyRequest = {
    peer: peerFrom(request.srcPrincipal),
    sourceIp: ipFrom(request.srcIp),
    destinationIp: ipFrom(request.dstIp),
    destinationPort: request.dstPort,
    sni: request.sni ?? undefined,
    http: http === BAD_REQUEST ? undefined : http,
  };
  const target = {
    namespace: (request.dstNamespace ?? '') || DEFAULT_NAMESPACE,
    labels: request.dstLabels ?? {},
  };
  const store = storeOf(given);
  const judged =
    http === BAD_REQUEST ? judgeUnread(store, target, asked) : judge(store, target, asked, 'permissive');
  return { name, verdict: judged.verdict, by: written(judged.by), why: judged.why };
}

/** A request that is answered with 400 by whatever reads it; the port's own demand comes first. */
export function judgeUnread(
  store: PolicyStore,
  target: PolicyTarget,
  asked: PolicyRequest,
  defaultMode: 'strict' | 'permissive' = 'permissive',
): Judgement {
  const judged = judge(store, target, asked, defaultMode);
  if (judged.by?.kind === 'PeerAuthentication') return judged;
  return { verdict: 'deny', by: undefined, why: 'the path of the request is refused (400)' };
}

function storeOf({ mesh, policies, peerAuthentications }: Case): PolicyStore {
  const store = new PolicyStore({
    rootNamespace: (mesh?.rootNamespace ?? '') || DEFAULT_ROOT,
    trustDomain: (mesh?.trustDomain ?? '') || DEFAULT_TRUST_DOMAIN,
    trustDomainAliases: mesh?.trustDomainAliases ?? [],
  });
  const keys = new Set<string>();
  for (const [i, object] of (policies ?? []).entries()) {
    const policy = parseAuthorizationPolicy(named(object, i, parseAuthorizationPolicy))?.policy;
    if (policy !== undefined) store.setPolicy(policy.namespace, keyOf(policy, i, keys), policy);
  }
  for (const [i, object] of (peerAuthentications ?? []).entries()) {
    const peer = parsePeerAuthentication(named(object, i, parsePeerAuthentication))?.peer;
    if (peer !== undefined) store.setPeerAuthentication(peer.namespace, keyOf(peer, i, keys), peer);
  }
  return store;
}

/** Two objects of one name are both in force: a case has no API server that would have refused the second. */
function keyOf(
  { namespace, name }: { readonly namespace: string; readonly name: string },
  index: number,
  keys: Set<string>,
): string {
  const key = keys.has(`${namespace}/${name}`) ? `${name}#${index}` : name;
  keys.add(`${namespace}/${name}`);
  return key;
}

/** An object whose metadata can't be read is none of a cluster's; here it counts, with what can be read of its name. */
function named(object: unknown, index: number, parse: (object: unknown) => unknown): unknown {
  if (parse(object) !== undefined) return object;
  const given = z.looseObject({ metadata: z.unknown().optional() }).safeParse(object);
  const metadata = { name: `#${index}`, ...textsOf(given.data?.metadata) };
  return given.success ? { ...given.data, metadata } : { metadata, spec: object };
}

function textsOf(metadata: unknown): { name?: string; namespace?: string } {
  const name = z.looseObject({ name: text.min(1) }).safeParse(metadata);
  const namespace = z.looseObject({ namespace: text }).safeParse(metadata);
  return {
    ...(name.success ? { name: name.data.name } : {}),
    ...(namespace.success ? { namespace: namespace.data.namespace } : {}),
  };
}

/** An identity of another form than Istio's is none (SEMANTICS.md 3.1). */
function peerFrom(principal: string | null | undefined): PolicyRequest['peer'] {
  const id = parseSpiffeId(principal ?? '');
  return id && peerOf(id);
}

function ipFrom(given: string | null | undefined): Ip | undefined {
  return parseIp(given ?? '');
}
