/**
 * From an AuthorizationPolicy object to what is compiled: never throws, and fails closed (SEMANTICS.md 1.13). A rule
 * that can't be read is dropped; an ALLOW without its rules still counts as one, and so matches less.
 */
import type { z } from 'zod';
import { selectorProblems, zodProblems } from './problems.ts';
import { readRule } from './rules.ts';
import { metadataSchema, policySpecSchema } from './schemas.ts';
import type { AuthorizationPolicy, PolicyAction, PolicyProblem, PolicyRule } from './model.ts';

export interface ParsedPolicy {
  readonly policy: AuthorizationPolicy;
  readonly problems: readonly PolicyProblem[];
}

type Spec = z.infer<typeof policySpecSchema>;

/** strconv.ParseBool's spellings. */
const TRUE = new Set(['1', 't', 'T', 'true', 'TRUE', 'True']);
const FALSE = new Set(['0', 'f', 'F', 'false', 'FALSE', 'False']);
const DRY_RUN = 'istio.io/dry-run';

/** Reads `object`; undefined when not even its name can be told. */
export function parseAuthorizationPolicy(object: unknown): ParsedPolicy | undefined {
  const table = isTable(object) ? object : {};
  const metadata = metadataSchema.safeParse(table['metadata']);
  if (!metadata.success) return undefined;
  const namespace = metadata.data.namespace ?? 'default';
  const spec = policySpecSchema.safeParse(table['spec'] ?? {});
  const common = { namespace, name: metadata.data.name };
  const dryRun = metadata.data.annotations?.[DRY_RUN];
  if (!spec.success) return broken(common, table['spec'], dryRun, zodProblems(spec.error, ['spec']));
  return read(common, spec.data, dryRun);
}

function read(
  common: { readonly namespace: string; readonly name: string },
  spec: Spec,
  dryRunText: string | undefined,
): ParsedPolicy {
  const action = spec.action ?? 'ALLOW';
  const problems: PolicyProblem[] = [];
  const rules = readRules(spec.rules ?? [], action, common.namespace, problems);
  problems.push(...actionProblems(action, spec), ...scopeProblems(spec));
  const dryRun = readDryRun(dryRunText, action, problems);
  const selector = spec.selector?.matchLabels ?? {};
  const policy: AuthorizationPolicy = {
    ...common,
    action,
    rules,
    selector: Object.keys(selector).length === 0 ? undefined : selector,
    isForWaypoint: hasTarget(spec),
    dryRun,
  };
  return { policy, problems };
}

function readRules(
  rules: readonly unknown[],
  action: PolicyAction,
  namespace: string,
  problems: PolicyProblem[],
): PolicyRule[] {
  return rules.flatMap((value, index) => {
    const read = readRule(value, index, namespace);
    const path = ['spec', 'rules', index] as const;
    problems.push(...read.problems.map((problem) => ({ ...problem, path: [...path, ...problem.path] })));
    if (read.rule === undefined)
      problems.push({
        path,
        reason: `the rule is dropped${action === 'ALLOW' ? ': the policy allows less' : ': the policy does NOT deny what it says'}`,
        severity: 'error',
      });
    return read.rule === undefined ? [] : [read.rule];
  });
}

function actionProblems(action: PolicyAction, spec: Spec): PolicyProblem[] {
  const found: PolicyProblem[] = [];
  const path = ['spec', 'rules'];
  const isEmpty = (spec.rules ?? []).length === 0;
  if (isEmpty && (action === 'DENY' || action === 'CUSTOM'))
    found.push({ path, reason: `a ${action} without rules never matches`, severity: 'error' });
  if (isEmpty && action === 'ALLOW')
    found.push({
      path,
      reason: 'an ALLOW without rules allows nothing: all else is denied',
      severity: 'warning',
    });
  if (action === 'CUSTOM')
    found.push({
      path: ['spec', 'action'],
      reason: 'CUSTOM is not supported: what its rules match is denied',
      severity: 'warning',
    });
  if (action === 'CUSTOM' && (spec.provider?.name ?? '') === '')
    found.push({ path: ['spec', 'provider', 'name'], reason: 'CUSTOM needs a provider', severity: 'error' });
  if (action !== 'CUSTOM' && spec.provider !== undefined && spec.provider !== null)
    found.push({ path: ['spec', 'provider'], reason: 'only CUSTOM may have a provider', severity: 'error' });
  return found;
}

function scopeProblems(spec: Spec): PolicyProblem[] {
  const given = [spec.selector, spec.targetRef, spec.targetRefs].filter(
    (one) => one !== undefined && one !== null,
  );
  const found: PolicyProblem[] = [];
  if (given.length > 1)
    found.push({
      path: ['spec'],
      reason: 'at most one of selector, targetRef and targetRefs may be set',
      severity: 'error',
    });
  if (hasTarget(spec))
    found.push({
      path: ['spec', spec.targetRef === undefined || spec.targetRef === null ? 'targetRefs' : 'targetRef'],
      reason: 'policies for waypoints and gateways are enforced by no node',
      severity: 'warning',
    });
  found.push(...selectorProblems(spec.selector?.matchLabels ?? {}));
  if (spec.selector && Object.keys(spec.selector.matchLabels ?? {}).length === 0)
    found.push({
      path: ['spec', 'selector'],
      reason: 'an empty selector is no selector: the policy is for every workload of its scope',
      severity: 'warning',
    });
  return found;
}

function hasTarget({ targetRef, targetRefs }: { targetRef?: unknown; targetRefs?: unknown }): boolean {
  return (
    (targetRef !== undefined && targetRef !== null) || (Array.isArray(targetRefs) && targetRefs.length > 0)
  );
}

function readDryRun(text: string | undefined, action: PolicyAction, problems: PolicyProblem[]): boolean {
  if (text === undefined || FALSE.has(text)) return false;
  const path = ['metadata', 'annotations', DRY_RUN];
  if (!TRUE.has(text)) {
    problems.push({ path, reason: `"${text}" is no boolean: the policy is enforced`, severity: 'error' });
    return false;
  }
  if (action === 'ALLOW' || action === 'DENY') return true;
  problems.push({ path, reason: `${action} has no dry run: it is as without`, severity: 'error' });
  return false;
}

/** The spec is no policy: a DENY is lost, and said so; all else counts as an ALLOW that never matches. */
function broken(
  common: { readonly namespace: string; readonly name: string },
  spec: unknown,
  dryRunText: string | undefined,
  found: readonly PolicyProblem[],
): ParsedPolicy {
  const table = isTable(spec) ? spec : {};
  const given = table['action'];
  const action: PolicyAction = given === 'DENY' || given === 'AUDIT' || given === 'CUSTOM' ? given : 'ALLOW';
  const effect: PolicyProblem = {
    path: ['spec'],
    reason:
      action === 'ALLOW'
        ? 'the object is invalid: it counts as an ALLOW that never matches'
        : `the object is invalid: this ${action} is NOT enforced`,
    severity: 'error',
  };
  const problems = [...found, effect];
  const policy: AuthorizationPolicy = {
    ...common,
    action,
    rules: [],
    selector: selectorOf(table),
    isForWaypoint: hasTarget({ targetRef: table['targetRef'], targetRefs: table['targetRefs'] }),
    dryRun: readDryRun(dryRunText, action, problems),
  };
  return { policy, problems };
}

/** The selector of a broken spec, where at least that can be read. */
function selectorOf(spec: Readonly<Record<string, unknown>>): Record<string, string> | undefined {
  const parsed = policySpecSchema.shape.selector.safeParse(spec['selector']);
  const labels = parsed.success ? (parsed.data?.matchLabels ?? {}) : {};
  return Object.keys(labels).length === 0 ? undefined : labels;
}

function isTable(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
