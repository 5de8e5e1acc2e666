/** Which NetworkPolicies would keep tunnels (TCP 15008) from a labelled pod, and the patch that lets them through. Pure. */
import { z } from 'zod';
import { HBONE_PORT } from '../../mesh/ids.ts';
import { labelsOf } from './objects.ts';
import type { PodObject } from './objects.ts';

const selectorSchema = z
  .looseObject({
    matchLabels: z.record(z.string(), z.string()).nullish(),
    matchExpressions: z
      .array(z.looseObject({ key: z.string(), operator: z.string(), values: z.array(z.string()).nullish() }))
      .nullish(),
  })
  .nullish();
const portSchema = z.looseObject({
  protocol: z.string().nullish(),
  port: z.union([z.number(), z.string()]).nullish(),
  endPort: z.number().nullish(),
});
const rulesSchema = z.array(z.looseObject({ ports: z.array(portSchema).nullish() })).nullish();

export const networkPolicySchema = z.looseObject({
  metadata: z.looseObject({ name: z.string(), namespace: z.string() }),
  spec: z.looseObject({
    podSelector: selectorSchema,
    policyTypes: z.array(z.string()).nullish(),
    ingress: rulesSchema,
    egress: rulesSchema,
  }),
});

export type NetworkPolicy = z.infer<typeof networkPolicySchema>;
type Selector = z.infer<typeof selectorSchema>;
type Rules = z.infer<typeof rulesSchema>;
type Way = 'ingress' | 'egress';

export interface Blocked {
  /** `namespace/name`. */
  readonly policy: string;
  readonly way: Way;
  /** Names of the pods it keeps tunnels from; the first few. */
  readonly pods: readonly string[];
  /** What lets tunnels through and nothing else. */
  readonly patch: string;
}

const SHOWN_PODS = 3;

/**
 * A pod is blocked one way when policies select it for that way and no rule of any of them takes TCP 15008: rules add
 * up (networking.k8s.io/v1). Whom a rule takes it from is not judged.
 */
export function blockedTunnels(
  pods: readonly PodObject[],
  policies: readonly NetworkPolicy[],
): readonly Blocked[] {
  const found = new Map<string, { policy: NetworkPolicy; way: Way; pods: string[] }>();
  for (const pod of pods) {
    const { name, namespace = '' } = pod.metadata;
    const own = policies.filter(
      (policy) => policy.metadata.namespace === namespace && matches(policy.spec.podSelector, labelsOf(pod)),
    );
    for (const way of ['ingress', 'egress'] as const)
      for (const policy of blocking(own, way)) {
        const key = `${policy.metadata.namespace}/${policy.metadata.name} ${way}`;
        const entry = found.get(key) ?? { policy, way, pods: [] };
        if (entry.pods.length < SHOWN_PODS) entry.pods.push(name);
        found.set(key, entry);
      }
  }
  return [...found.values()].map(({ policy, way, pods: names }) => ({
    policy: `${policy.metadata.namespace}/${policy.metadata.name}`,
    way,
    pods: names,
    patch: patchFor(policy, way),
  }));
}

function blocking(policies: readonly NetworkPolicy[], way: Way): readonly NetworkPolicy[] {
  const bound = policies.filter((policy) => covers(policy, way));
  return bound.some(({ spec }) => takesTunnels(spec[way])) ? [] : bound;
}

/** Without policyTypes: ingress always, egress when it has egress rules. */
function covers({ spec }: NetworkPolicy, way: Way): boolean {
  const types = spec.policyTypes ?? ['Ingress', ...((spec.egress ?? []).length > 0 ? ['Egress'] : [])];
  return types.includes(way === 'ingress' ? 'Ingress' : 'Egress');
}

function takesTunnels(rules: Rules): boolean {
  return (rules ?? []).some(({ ports }) => {
    if (ports === null || ports === undefined || ports.length === 0) return true;
    return ports.some(({ protocol, port, endPort }) => {
      if ((protocol ?? 'TCP') !== 'TCP') return false;
      if (port === null || port === undefined) return true;
      return typeof port === 'number' && port <= HBONE_PORT && HBONE_PORT <= (endPort ?? port);
    });
  });
}

/** A label selector (meta/v1 LabelSelector); an unknown operator matches nothing. */
export function matches(selector: Selector, labels: Readonly<Record<string, string>>): boolean {
  const equal = Object.entries(selector?.matchLabels ?? {}).every(([key, value]) => labels[key] === value);
  return equal && (selector?.matchExpressions ?? []).every((one) => isMet(one, labels));
}

function isMet(
  { key, operator, values }: { key: string; operator: string; values?: readonly string[] | null | undefined },
  labels: Readonly<Record<string, string>>,
): boolean {
  const value = labels[key];
  switch (operator) {
    case 'In':
      return value !== undefined && (values ?? []).includes(value);
    case 'NotIn':
      return value === undefined || !(values ?? []).includes(value);
    case 'Exists':
      return value !== undefined;
    case 'DoesNotExist':
      return value === undefined;
    default:
      return false;
  }
}

/** A policy that denies by having no rules has no list either: the API leaves an empty one away. */
function patchFor({ metadata, spec }: NetworkPolicy, way: Way): string {
  const rule = { ports: [{ protocol: 'TCP', port: HBONE_PORT }] };
  const hasRules = (spec[way] ?? []).length > 0;
  const add = hasRules ? { path: `/spec/${way}/-`, value: rule } : { path: `/spec/${way}`, value: [rule] };
  const patch = JSON.stringify([{ op: 'add', ...add }]);
  return `kubectl -n ${metadata.namespace} patch networkpolicy ${metadata.name} --type=json -p '${patch}'`;
}
