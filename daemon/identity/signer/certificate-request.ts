/** CertificateRequest objects (cert-manager.io/v1) to the issuer of the mesh, as the approver reads them. Pure. */
import { z } from 'zod';
import type { IssuerRef } from '../issuer-ref.ts';
import { decideIdentity } from './decide.ts';
import type { Decision, DenyReason, SignerRules, SignerWorld } from './decide.ts';
import { derOf, keyHashOf, oneOf, summaryOf } from './request.ts';
import type { Phase, RequestSummary, SigningRequest } from './request.ts';
import { readContents } from './request-contents.ts';
import { excerpt } from '../text.ts';

export const GROUP = 'cert-manager.io';
export const ALL_PATH = `/apis/${GROUP}/v1/certificaterequests`;

const word = z.string().max(1_024);
const schema = z.object({
  metadata: z.object({
    name: word,
    namespace: word,
    uid: word,
    creationTimestamp: z.string().max(64).nullish(),
  }),
  spec: z.object({
    issuerRef: z.object({ name: word, kind: word.nullish(), group: word.nullish() }),
    /** base64 of PEM. */
    request: z.string(),
    duration: z.string().max(64).nullish(),
    isCA: z.boolean().nullish(),
    usages: z.array(word).max(64).nullish(),
    /** These two as cert-manager's webhook wrote them: who asked the API server. */
    username: word.nullish(),
    extra: z.record(z.string(), z.array(z.string())).nullish(),
  }),
  status: z
    .object({
      conditions: z
        .array(z.object({ type: word, status: word, reason: word.nullish() }))
        .max(64)
        .nullish(),
      certificate: z.string().nullish(),
    })
    .nullish(),
});
type Parsed = z.infer<typeof schema>;

/** One request to the issuer of the mesh, by whomever. */
export interface IssuerRequest {
  readonly namespace: string;
  /** Of the object. Usages and `duration` stand in `request`. */
  readonly isCa: boolean;
  readonly request: SigningRequest;
}

/** Which requests are ours to answer. */
export interface IssuerScope {
  readonly issuer: IssuerRef;
  /** Our own, where an Issuer is. */
  readonly namespace: string;
}

/** The request in an API object, or undefined when it is none to our issuer. @throws ZodError when it is nonsense. */
export function readIssuerRequest(object: unknown, scope: IssuerScope): IssuerRequest | undefined {
  const parsed = schema.parse(object);
  if (!isOurs(parsed, scope)) return undefined;
  const { metadata, spec } = parsed;
  const der = derOf(spec.request);
  const { username, extra, usages, isCA, duration } = spec;
  const request = {
    name: metadata.name,
    uid: metadata.uid,
    createdMs: Date.parse(metadata.creationTimestamp ?? ''),
    signerName: `${scope.issuer.kind}/${scope.issuer.name}`,
    phase: phaseOf(parsed),
    requester: {
      username: username ?? '',
      podName: oneOf(extra, 'pod-name'),
      podUid: oneOf(extra, 'pod-uid'),
      nodeName: oneOf(extra, 'node-name'),
    },
    usages: usages ?? [],
    expirationSeconds: secondsOf(duration ?? ''),
    der,
    keyHash: der === undefined ? undefined : keyHashOf(der),
  };
  return { namespace: metadata.namespace, isCa: isCA === true, request };
}

/** What is kept of a request while only watching; other people wait in one line for each namespace. */
export function issuerSummaryOf({ namespace, request }: IssuerRequest): RequestSummary {
  const summary = summaryOf(request);
  const isPods = request.requester.podUid !== undefined;
  return { ...summary, source: isPods ? summary.source : `${namespace}/${summary.username}` };
}

function isOurs({ metadata, spec }: Parsed, { issuer, namespace }: IssuerScope): boolean {
  const { name, kind, group } = spec.issuerRef;
  // As cert-manager reads what is left out.
  if ((group || GROUP) !== GROUP || (kind || 'Issuer') !== issuer.kind || name !== issuer.name) return false;
  return issuer.kind === 'ClusterIssuer' || metadata.namespace === namespace;
}

function phaseOf({ status }: Parsed): Phase {
  const conditions = status?.conditions ?? [];
  const has = (type: string): boolean => conditions.some((one) => one.type === type && one.status === 'True');
  const ready = conditions.find(({ type }) => type === 'Ready');
  if (has('Denied')) return 'denied';
  if (has('InvalidRequest') || ready?.reason === 'Failed') return 'failed';
  if (status?.certificate) return 'issued';
  return has('Approved') ? 'approved' : 'pending';
}

const DURATION = /^(?:\d+(?:\.\d+)?(?:h|m|s|ms|us|µs|ns))+$/;
const PART = /(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)/g;
const SECONDS: Readonly<Record<string, number>> = {
  h: 3_600,
  m: 60,
  s: 1,
  ms: 1e-3,
  us: 1e-6,
  µs: 1e-6,
  ns: 1e-9,
};

/** Seconds of a Go duration such as `24h0m0s`, rounded up; undefined when it is none. */
function secondsOf(duration: string): number | undefined {
  if (!DURATION.test(duration)) return undefined;
  let seconds = 0;
  for (const [, number, unit] of duration.matchAll(PART))
    seconds += Number(number) * (SECONDS[unit ?? ''] ?? Number.NaN);
  return Math.ceil(seconds);
}

export interface ApproverRules extends SignerRules {
  /** Users, by name, who may have CA certificates of this issuer. */
  readonly caUsers: readonly string[];
}

export type Approval =
  /** `claimsIdentity`: it is for a daemon. `detail` is a sentence for a person. */
  | {
      readonly verdict: 'approve';
      readonly claimsIdentity: boolean;
      readonly reason: string;
      readonly detail: string;
    }
  | Exclude<Decision, { verdict: 'grant' }>;

/**
 * Whether a request to the issuer is approved (DESIGN.md section 6): one with a URI name only in our own namespace, for
 * the daemon of a node that runs such a pod; one for a CA only for users named in the configuration, as it could sign any
 * identity; all others as cert-manager itself would.
 */
export function decideApproval(asked: IssuerRequest, world: SignerWorld, rules: ApproverRules): Approval {
  const { request } = asked;
  if (request.der === undefined) return deny('RequestInvalid', 'it holds no PEM certificate request');
  const contents = readContents(request.der);
  if (!contents.ok) return deny('RequestInvalid', contents.detail);
  const isCa = asked.isCa || contents.isCa || request.usages.includes('cert sign');
  if (isCa) return decideCa(request, contents.hasUri, rules);
  if (!contents.hasUri)
    return {
      verdict: 'approve',
      claimsIdentity: false,
      reason: 'NoIdentity',
      detail: 'it asks for no URI name',
    };
  const bounds = { field: 'duration', least: 1, most: rules.maxLifetimeMs / 1_000 } as const;
  const decision = decideIdentity(request, world, rules, bounds);
  if (decision.verdict === 'deny') return decision;
  // Daemons may make requests nowhere else: another namespace's says that it is a daemon's, and is not.
  if (asked.namespace !== rules.namespace)
    return deny(
      'OtherNamespace',
      `daemons ask in namespace ${rules.namespace}; it is in ${excerpt(asked.namespace)}`,
    );
  if (decision.verdict === 'wait') return decision;
  const detail = `node ${decision.node} runs a pod of ${decision.id}`;
  return { verdict: 'approve', claimsIdentity: true, reason: 'NodeRunsWorkload', detail };
}

function decideCa({ requester }: SigningRequest, hasUri: boolean, { caUsers }: ApproverRules): Approval {
  const { username } = requester;
  if (hasUri)
    return deny('CaNotAllowed', 'it asks for a CA certificate with a URI name: nobody may have that');
  if (username === '' || !caUsers.includes(username))
    return deny(
      'CaNotAllowed',
      `it asks for a CA certificate, which could sign any identity of the mesh: ${excerpt(username)} is not in certCaUsers`,
    );
  return {
    verdict: 'approve',
    claimsIdentity: false,
    reason: 'CaUser',
    detail: `certCaUsers names ${excerpt(username)}`,
  };
}

function deny(reason: DenyReason, detail: string): Approval {
  return { verdict: 'deny', reason, detail };
}
