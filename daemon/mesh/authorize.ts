/**
 * What the AuthorizationPolicies of a workload say of a connection that came to it, and of what it carries. Pure; the
 * meaning of the policies is policy/'s.
 */
import type { RuleRef } from './policy/model.ts';
import type { HttpRequest, PolicyRequest } from './policy/model.ts';
import { deniedUnread, evaluate, needsBytes } from './policy/evaluate.ts';
import type { PolicyDecision, WorkloadPolicies } from './policy/evaluate.ts';
import { refText } from './policy/ref.ts';

/** What a connection turned out to carry. */
export interface Content {
  /** undefined: bytes that are not HTTP. */
  readonly http: HttpRequest | undefined;
  /** The server name in a TLS greeting. */
  readonly sni: string | undefined;
}

export interface Authorization {
  readonly verdict: 'allow' | 'deny';
  /** The object that decided; undefined: none matched. */
  readonly by: RuleRef | undefined;
  /** For records and people. */
  readonly text: string;
  /** What would have been decided with the dry-run policies in force; undefined: the same. */
  readonly dryRun: Omit<Authorization, 'dryRun'> | undefined;
}

/** Whether nothing is in force that could say anything. */
export function isWithoutPolicy({ custom, deny, hasAllow, dryRun }: WorkloadPolicies): boolean {
  return dryRun === undefined && !hasAllow && deny.rules.length === 0 && custom.rules.length === 0;
}

/**
 * What is decided when a connection comes, before a byte of it was read. `look`: `authorize` must be asked about what
 * it carries, and only a rule that denies all of that has been heard.
 */
export function authorizeUnread(
  policies: WorkloadPolicies,
  request: PolicyRequest,
): Authorization | { readonly verdict: 'look' } {
  const port = request.destinationPort;
  if (needsBytes(policies, port)) {
    const denied = deniedUnread(policies, request);
    return denied === undefined ? { verdict: 'look' } : { ...told(policies, denied), dryRun: undefined };
  }
  const { dryRun } = policies;
  if (dryRun === undefined || !needsBytes(dryRun, port)) return authorize(policies, request);
  const denied = evaluate(policies, request);
  // What a dry-run policy would say is worth reading for; it decides nothing.
  return denied.verdict === 'deny' ? { ...told(policies, denied), dryRun: undefined } : { verdict: 'look' };
}

/** The whole decision; `request.http` undefined means bytes that are not HTTP. */
export function authorize(policies: WorkloadPolicies, request: PolicyRequest): Authorization {
  const { dryRun } = policies;
  const decided = evaluate(policies, request);
  const would = dryRun && evaluate(dryRun, request);
  const isSame = would === undefined || (would.verdict === decided.verdict && would.by === decided.by);
  return {
    ...told(policies, decided),
    dryRun: isSame || dryRun === undefined ? undefined : told(dryRun, would),
  };
}

function told(
  policies: WorkloadPolicies,
  { verdict, by, why }: PolicyDecision,
): Omit<Authorization, 'dryRun'> {
  if (by === undefined) return { verdict, by, text: why };
  const isCustom = policies.custom.rules.some(({ ref }) => ref === by);
  return { verdict, by, text: isCustom ? `${refText(by)}: CUSTOM is not supported` : refText(by) };
}
