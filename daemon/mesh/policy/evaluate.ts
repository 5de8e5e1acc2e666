/** The decision over all AuthorizationPolicies that apply to one workload (SEMANTICS.md 1.1). Pure, total, deterministic. */
import type { Check, Clause, CompiledPolicy, CompiledRule } from './compile.ts';
import type { PolicyRequest, RuleRef } from './model.ts';
import { RuleIndex } from './rule-index.ts';

export interface PolicyDecision {
  readonly verdict: 'allow' | 'deny';
  /** The rule that decided; undefined when none did. */
  readonly by: RuleRef | undefined;
  /** A sentence for records and `culvert why`. */
  readonly why: string;
}

/** The policies of one workload. */
export interface WorkloadPolicies {
  readonly custom: RuleIndex;
  readonly deny: RuleIndex;
  readonly allow: RuleIndex;
  /** An ALLOW policy applies, maybe one without a rule: what none allows is denied. */
  readonly hasAllow: boolean;
  /** Ports on which a rule looks at requests; `all` when one is for any port. */
  readonly httpPorts: ReadonlySet<number> | 'all';
  /** The same for rules that ask for the server name of TLS inside. */
  readonly sniPorts: ReadonlySet<number> | 'all';
  /** With dry-run policies in force; undefined when there is none. */
  readonly dryRun: WorkloadPolicies | undefined;
}

/** Puts the policies that apply to a workload into the form that is asked. */
export function combine(policies: readonly CompiledPolicy[]): WorkloadPolicies {
  const inForce = policies.filter(({ policy }) => !policy.dryRun);
  const isAnyDry = inForce.length < policies.length;
  return { ...combineAll(inForce), dryRun: isAnyDry ? combineAll(policies) : undefined };
}

function combineAll(policies: readonly CompiledPolicy[]): WorkloadPolicies {
  const of = (action: string): readonly CompiledRule[] =>
    policies.flatMap(({ policy, rules }) => (policy.action === action ? rules : []));
  const [custom, deny, allow] = [of('CUSTOM'), of('DENY'), of('ALLOW')];
  return {
    custom: new RuleIndex(custom),
    deny: new RuleIndex(deny),
    allow: new RuleIndex(allow),
    hasAllow: policies.some(({ policy }) => policy.action === 'ALLOW'),
    httpPorts: portsOf([...custom, ...deny, ...allow], ({ hasHttp }) => hasHttp),
    sniPorts: portsOf([...custom, ...deny, ...allow], ({ hasSni }) => hasSni),
    dryRun: undefined,
  };
}

function portsOf(
  rules: readonly CompiledRule[],
  which: (rule: CompiledRule) => boolean,
): ReadonlySet<number> | 'all' {
  const ports = new Set<number>();
  for (const rule of rules) {
    if (!which(rule)) continue;
    if (rule.ports === undefined) return 'all';
    for (const port of rule.ports) ports.add(port);
  }
  return ports;
}

/** Whether requests on this port of the workload have to be read to decide. */
export function needsHttp({ httpPorts }: WorkloadPolicies, port: number): boolean {
  return httpPorts === 'all' || httpPorts.has(port);
}

/** Whether a connection to this port has to be looked into to decide: requests, or the server name of TLS. */
export function needsBytes(policies: WorkloadPolicies, port: number): boolean {
  return needsHttp(policies, port) || policies.sniPorts === 'all' || policies.sniPorts.has(port);
}

/** The rule that denies whatever a connection will carry; undefined: it has to be looked into. */
export function deniedUnread(policies: WorkloadPolicies, request: PolicyRequest): PolicyDecision | undefined {
  const test = (rule: CompiledRule): boolean => !rule.hasHttp && !rule.hasSni && matches(rule, request, true);
  const rule = policies.custom.first(request, test, false) ?? policies.deny.first(request, test, false);
  return rule && { verdict: 'deny', by: rule.ref, why: `denied by ${at(rule)}` };
}

/** Whether the connection, or the request on it, is allowed. */
export function evaluate(policies: WorkloadPolicies, request: PolicyRequest): PolicyDecision {
  const custom = policies.custom.first(request, (rule) => matches(rule, request, true), true);
  if (custom !== undefined)
    return {
      verdict: 'deny',
      by: custom.ref,
      why: `a CUSTOM policy matches, which is not supported: ${at(custom)}`,
    };
  const denied = policies.deny.first(request, (rule) => matches(rule, request, true), true);
  if (denied !== undefined) return { verdict: 'deny', by: denied.ref, why: `denied by ${at(denied)}` };
  if (!policies.hasAllow) return { verdict: 'allow', by: undefined, why: 'no ALLOW policy applies' };
  const allowed = policies.allow.first(request, (rule) => matches(rule, request, false), false);
  if (allowed !== undefined) return { verdict: 'allow', by: allowed.ref, why: `allowed by ${at(allowed)}` };
  return { verdict: 'deny', by: undefined, why: 'ALLOW policies apply, and no rule of them matches' };
}

/**
 * Whether a rule matches. Bytes that are not HTTP match no ALLOW rule with HTTP content, and every DENY rule whose
 * other part holds (SEMANTICS.md 1.10, ours). @param denies what an unanswerable field counts as.
 */
function matches(rule: CompiledRule, request: PolicyRequest, denies: boolean): boolean {
  if (request.http === undefined && rule.hasHttp && !denies) return false;
  return (
    allHold(rule.when, request, denies) &&
    clauseHolds(rule.from, request, denies) &&
    clauseHolds(rule.to, request, denies)
  );
}

/** Loops rather than callbacks: thousands of rules are asked for one request. */
function clauseHolds(clause: Clause, request: PolicyRequest, denies: boolean): boolean {
  for (const entry of clause) if (allHold(entry, request, denies)) return true;
  return clause.length === 0;
}

function allHold(checks: readonly Check[], request: PolicyRequest, denies: boolean): boolean {
  for (const check of checks) if (!holds(check, request, denies)) return false;
  return true;
}

function holds(check: Check, request: PolicyRequest, denies: boolean): boolean {
  return check.isHttp && request.http === undefined ? denies : check.holds(request);
}

/** The fields for which a rule does not match; empty when it does. For people: not on a connection's path. */
export function missing(rule: CompiledRule, request: PolicyRequest, denies: boolean): readonly string[] {
  if (request.http === undefined && rule.hasHttp && !denies) return ['the bytes are not HTTP'];
  const failed = (checks: readonly Check[]): string[] =>
    checks.filter((check) => !holds(check, request, denies)).map(({ name }) => name);
  const nearest = (clause: Clause): readonly string[] =>
    clause.map(failed).reduce<readonly string[] | undefined>(fewer, undefined) ?? [];
  return [...failed(rule.when), ...nearest(rule.from), ...nearest(rule.to)];
}

function fewer(best: readonly string[] | undefined, next: readonly string[]): readonly string[] {
  return best === undefined || next.length < best.length ? next : best;
}

/** `rule 2 of shop/backend-access`. */
function at({ ref }: CompiledRule): string {
  return `rule ${ref.rule ?? '-'} of ${ref.namespace}/${ref.name}`;
}
