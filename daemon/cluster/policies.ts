/**
 * AuthorizationPolicies and PeerAuthentications as deltas. One that is wrong is a delta all the same: what is left of
 * it is what the mesh's policy room makes of it, which closes and never opens (SEMANTICS.md 1.13). Pure.
 */
import type { Delta } from '../mesh/model.ts';
import { parseAuthorizationPolicy } from '../mesh/policy/parse.ts';
import { parsePeerAuthentication } from '../mesh/policy/peer.ts';
import type { AuthorizationPolicy, Field, PolicyProblem } from '../mesh/policy/model.ts';
import type { Note } from './fields.ts';
import type { policyHeadSchema } from './schemas.ts';
import type { z } from 'zod';

export const POLICY_GROUP = 'security.istio.io';
/** The versions that are read, the preferred one first; their fields are the same. */
export const POLICY_VERSIONS = ['v1', 'v1beta1'] as const;
export type PolicyVersion = (typeof POLICY_VERSIONS)[number];
export type PolicyKind = 'AuthorizationPolicy' | 'PeerAuthentication';

/** The collection of one kind of policy; its resource is also the name of its series in the metrics. */
export interface PolicyCollection {
  readonly group: string;
  readonly versions: readonly PolicyVersion[];
  readonly kind: PolicyKind;
  readonly resource: string;
}

export const POLICY_COLLECTIONS: readonly PolicyCollection[] = [
  {
    group: POLICY_GROUP,
    versions: POLICY_VERSIONS,
    kind: 'AuthorizationPolicy',
    resource: 'authorizationpolicies',
  },
  {
    group: POLICY_GROUP,
    versions: POLICY_VERSIONS,
    kind: 'PeerAuthentication',
    resource: 'peerauthentications',
  },
];

type PolicyObject = z.infer<typeof policyHeadSchema>;
type Read<T> = { readonly value: T; readonly problems: readonly PolicyProblem[] };

/** The delta that an AuthorizationPolicy is; what is wrong with it, or not supported, is noted. */
export function toPolicy(object: PolicyObject, note: Note): Delta | undefined {
  const read = readTolerantly(object, note, (given) => {
    const parsed = parseAuthorizationPolicy(given);
    return parsed && { value: parsed.policy, problems: parsed.problems };
  });
  if (read === undefined) return undefined;
  for (const problem of read.problems) if (isTold(problem)) note(problem.path, problem.reason);
  for (const { path, reason } of unsupported(read.value)) note(path, reason);
  const { namespace, name } = read.value;
  return { kind: 'policy', key: `${namespace}/${name}`, value: read.value };
}

/** The delta that a PeerAuthentication is. */
export function toPeerAuthentication(object: PolicyObject, note: Note): Delta | undefined {
  const read = readTolerantly(object, note, (given) => {
    const parsed = parsePeerAuthentication(given);
    return parsed && { value: parsed.peer, problems: parsed.problems };
  });
  if (read === undefined) return undefined;
  for (const problem of read.problems) if (isTold(problem)) note(problem.path, problem.reason);
  const { namespace, name } = read.value;
  return { kind: 'peer-authentication', key: `${namespace}/${name}`, value: read.value };
}

/** Metadata that can't be read must not take the policy away: it is read again with what names it. */
function readTolerantly<T>(
  object: PolicyObject,
  note: Note,
  parse: (object: unknown) => Read<T> | undefined,
): Read<T> | undefined {
  const read = parse(object);
  if (read !== undefined) return read;
  note(['metadata'], 'has something that is no metadata: all but name and namespace is ignored');
  const { name, namespace } = object.metadata;
  return parse({ ...object, metadata: { name, namespace } });
}

/** To allow nothing is what many write on purpose: all else that parsing says is told. */
function isTold({ severity, path }: PolicyProblem): boolean {
  return severity === 'error' || path.join('.') !== 'spec.rules';
}

const NAMES: Partial<Record<Field, string>> = {
  requestPrincipals: 'requestPrincipals',
  absent: 'this condition',
};

/** What nothing here provides: tokens and Envoy's metadata count as absent (SEMANTICS.md 1.3). */
export function unsupported({ rules }: AuthorizationPolicy): readonly PolicyProblem[] {
  return rules.flatMap(({ index, from, when }) => {
    const rule = ['spec', 'rules', index];
    const sources = from.flatMap((match, i) =>
      match.map(({ field }) => ({ field, path: [...rule, 'from', i, 'source', field] })),
    );
    const conditions = when.map(({ field }, i) => ({ field, path: [...rule, 'when', i, 'key'] }));
    return [...sources, ...conditions].flatMap(({ field, path }): PolicyProblem[] => {
      const name = NAMES[field];
      if (name === undefined) return [];
      const reason = `${name} is not supported: no token is validated, so that it is always absent`;
      return [{ path, reason, severity: 'warning' }];
    });
  });
}
