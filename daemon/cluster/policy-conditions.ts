/**
 * What is said on a policy object of itself: a condition with type and reasons as Istio's ambient mode has them
 * (SEMANTICS.md 1.10), so that scripts with `kubectl wait` go on working. Pure.
 */
import { parseAuthorizationPolicy } from '../mesh/policy/parse.ts';
import { parsePeerAuthentication } from '../mesh/policy/peer.ts';
import type { AuthorizationPolicy, Field, PeerAuthentication, PolicyProblem } from '../mesh/policy/model.ts';
import { pathText } from './documents.ts';
import { unsupported } from './policies.ts';
import type { PolicyKind } from './policies.ts';

export const ZTUNNEL = 'ZtunnelAccepted';
export const WAYPOINT = 'WaypointAccepted';

export interface PolicyCondition {
  readonly type: typeof ZTUNNEL | typeof WAYPOINT;
  readonly status: 'True' | 'False';
  readonly reason: 'Accepted' | 'Invalid' | 'PartiallyInvalid' | 'UnsupportedValue' | 'AncestorNotBound';
  readonly message: string;
}

const MAX_MESSAGE = 1_000;
const MAX_PROBLEMS = 8;
const HTTP: ReadonlySet<Field> = new Set<Field>(['hosts', 'methods', 'paths', 'header']);

/** The condition that `object` should have; undefined when not even its name can be told. */
export function conditionOf(
  kind: PolicyKind,
  object: unknown,
  rootNamespace: string,
): PolicyCondition | undefined {
  if (kind === 'PeerAuthentication') {
    const parsed = parsePeerAuthentication(object);
    return parsed && peerCondition(parsed.peer, parsed.problems, rootNamespace);
  }
  const parsed = parseAuthorizationPolicy(object);
  return parsed && policyCondition(parsed.policy, parsed.problems);
}

function policyCondition(policy: AuthorizationPolicy, problems: readonly PolicyProblem[]): PolicyCondition {
  const { action, rules } = policy;
  if (policy.isForWaypoint)
    return said(
      WAYPOINT,
      'False',
      'AncestorNotBound',
      'there is no waypoint: no node enforces what has targetRefs',
    );
  const all = problems.map(sentence);
  if (action === 'CUSTOM') return said(ZTUNNEL, 'False', 'UnsupportedValue', ...all);
  const errors = problems.filter(({ severity }) => severity === 'error');
  if (errors.length > 0)
    return rules.length === 0
      ? said(ZTUNNEL, 'False', 'Invalid', ...errors.map(sentence))
      : said(ZTUNNEL, 'True', 'PartiallyInvalid', ...errors.map(sentence));
  if (action === 'AUDIT')
    return said(ZTUNNEL, 'False', 'UnsupportedValue', 'AUDIT is not supported: it decides nothing anyway');
  const absent = unsupported(policy);
  if (absent.length > 0) return said(ZTUNNEL, 'True', 'UnsupportedValue', ...absent.map(sentence));
  return said(ZTUNNEL, 'True', 'Accepted', ...notes(policy), ...all);
}

/** What a policy that is in force does that may surprise. */
function notes({ action, dryRun, rules }: AuthorizationPolicy): readonly string[] {
  const hasHttp = rules.some(({ from, to, when }) =>
    [...from, ...to, when].some((match) => match.some(({ field }) => HTTP.has(field))),
  );
  const raw =
    action === 'DENY'
      ? 'bytes that are not HTTP are denied where the rest of a rule holds'
      : 'bytes that are not HTTP match no rule with HTTP content';
  return [
    dryRun ? 'a dry run: it decides nothing, and is only recorded' : 'attached to every node',
    ...(hasHttp ? [`requests are judged at the node; ${raw}`] : []),
  ];
}

function peerCondition(
  peer: PeerAuthentication,
  problems: readonly PolicyProblem[],
  rootNamespace: string,
): PolicyCondition {
  const errors = problems.filter(({ severity }) => severity === 'error');
  if (errors.some(({ path }) => path.join('.') === 'spec'))
    return said(ZTUNNEL, 'False', 'Invalid', ...errors.map(sentence));
  if (peer.namespace === rootNamespace && peer.selector !== undefined)
    return said(
      ZTUNNEL,
      'False',
      'Invalid',
      `a selector in the root namespace ${rootNamespace}: the object is ignored`,
    );
  if (errors.length > 0) return said(ZTUNNEL, 'True', 'PartiallyInvalid', ...errors.map(sentence));
  return said(ZTUNNEL, 'True', 'Accepted', 'attached to every node', ...problems.map(sentence));
}

function sentence({ path, reason }: PolicyProblem): string {
  return `${pathText(path)}${reason}`;
}

function said(
  type: PolicyCondition['type'],
  status: PolicyCondition['status'],
  reason: PolicyCondition['reason'],
  ...sentences: readonly string[]
): PolicyCondition {
  const rest = sentences.length - MAX_PROBLEMS;
  const told = [...sentences.slice(0, MAX_PROBLEMS), ...(rest > 0 ? [`and ${rest} more`] : [])];
  return { type, status, reason, message: told.join('; ').slice(0, MAX_MESSAGE) };
}
