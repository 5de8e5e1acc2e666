/** What Istio's admission refuses, and a node does not care about: such a policy can't be in a cluster of Istio's (SEMANTICS.md 1.9, 1.12). */
import { z } from 'zod';
import type { AuthorizationPolicy, Field } from '../../mesh/policy/model.ts';
import type { Say } from './finding.ts';

const refSchema = z.looseObject({
  group: z.string().nullish(),
  kind: z.string().nullish(),
  name: z.string().nullish(),
  namespace: z.string().nullish(),
});
const specSchema = z.looseObject({
  spec: z.looseObject({ targetRef: z.unknown().optional(), targetRefs: z.array(z.unknown()).nullish() }),
});

/** Kind → the groups it may be of. */
const TARGETS: Readonly<Record<string, readonly string[]>> = {
  Gateway: ['gateway.networking.k8s.io'],
  GatewayClass: ['gateway.networking.k8s.io'],
  Service: ['', 'core'],
  ServiceEntry: ['networking.istio.io'],
};
/** What an external authorizer is asked without. */
const NOT_CUSTOM: ReadonlySet<Field> = new Set([
  'principals',
  'namespaces',
  'serviceAccounts',
  'trustDomains',
  'requestPrincipals',
  'absent',
]);

/** Says what the webhook would refuse. `value`: the object as it was written. */
export function sayAdmission(value: unknown, policy: AuthorizationPolicy, isRoot: boolean, say: Say): void {
  const parsed = specSchema.safeParse(value);
  if (parsed.success) {
    const { targetRef, targetRefs } = parsed.data.spec;
    if (targetRef !== undefined && targetRef !== null)
      sayTarget(targetRef, ['spec', 'targetRef'], isRoot, say);
    for (const [i, one] of (targetRefs ?? []).entries())
      sayTarget(one, ['spec', 'targetRefs', i], isRoot, say);
  }
  if (policy.action !== 'CUSTOM') return;
  for (const rule of policy.rules)
    for (const { field } of [...rule.from, rule.when].flat())
      if (NOT_CUSTOM.has(field))
        say(
          'error',
          ['spec', 'rules', rule.index],
          `CUSTOM must not be about ${field === 'absent' ? 'tokens' : field}`,
        );
}

function sayTarget(given: unknown, path: readonly (string | number)[], isRoot: boolean, say: Say): void {
  const parsed = refSchema.safeParse(given);
  const ref = parsed.success ? parsed.data : {};
  const kind = ref.kind ?? '';
  const groups = Object.hasOwn(TARGETS, kind) ? TARGETS[kind] : undefined;
  if ((ref.name ?? '') === '') say('error', path, 'needs a name');
  if (groups === undefined)
    say('error', path, `kind "${kind}" is none of ${Object.keys(TARGETS).join(', ')}`);
  else if (!groups.includes(ref.group ?? ''))
    say(
      'error',
      path,
      `group "${ref.group ?? ''}" is not ${groups.map((one) => `"${one}"`).join(' or ')}, that of ${kind}`,
    );
  if (kind === 'GatewayClass' && !isRoot)
    say('error', path, 'only policies of the root namespace may be for a GatewayClass');
  if ((ref.namespace ?? '') !== '')
    say('error', path, "must not have a namespace: it is in the policy's own");
}
