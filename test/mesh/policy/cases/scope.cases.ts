/** For whom a policy is, and whether it is enforced: selector, root namespace, targetRefs, dry run (SEMANTICS.md 1.9). */
import { id, policy, row, source } from '../kit.ts';
import type { Case, Request, Row } from '../kit.ts';

const FRONT: Request = { from: id('shop', 'front') };
const only = (account: string): { from: unknown } => source({ principals: [`*/sa/${account}`] });
const named = (name: string, spec: unknown, more: Record<string, unknown> = {}): unknown =>
  policy(spec, { name, ...more });
const dry = (spec: unknown, value: string, name = 'dry'): unknown =>
  named(name, spec, { annotations: { 'istio.io/dry-run': value } });

const SELECTED = { matchLabels: { app: 'web', version: 'v1' } };
const root = { namespace: 'istio-system' };
const denyAll = (more: Record<string, unknown>, metadata: Record<string, unknown> = {}): unknown =>
  policy({ action: 'DENY', rules: [{}], ...more }, metadata);
const workload = (labels: Record<string, string>, namespace = 'shop'): Request => ({ labels, namespace });

const SCOPE: readonly Row[] = [
  ['a policy is for its namespace', [denyAll({})], workload({}), 'deny'],
  ['a policy is for no other namespace', [denyAll({})], workload({}, 'billing'), 'allow'],
  [
    'an ALLOW of another namespace denies nothing by default',
    [policy({}, { namespace: 'billing' })],
    workload({}),
    'allow',
  ],
  ['a policy of the root namespace is for all', [denyAll({}, root)], workload({}, 'billing'), 'deny'],
  [
    'a policy of the root namespace is for the root namespace',
    [denyAll({}, root)],
    workload({}, 'istio-system'),
    'deny',
  ],
  ['allow-nothing of the root namespace is for all', [policy({}, root)], workload({}, 'billing'), 'deny'],
  [
    'a selector: all its labels',
    [denyAll({ selector: SELECTED })],
    workload({ app: 'web', version: 'v1' }),
    'deny',
  ],
  [
    'a selector: more labels do not matter',
    [denyAll({ selector: SELECTED })],
    workload({ app: 'web', version: 'v1', x: 'y' }),
    'deny',
  ],
  ['a selector: one label is missing', [denyAll({ selector: SELECTED })], workload({ app: 'web' }), 'allow'],
  [
    'a selector: one label is another',
    [denyAll({ selector: SELECTED })],
    workload({ app: 'web', version: 'v2' }),
    'allow',
  ],
  ['a selector: no labels', [denyAll({ selector: SELECTED })], workload({}), 'allow'],
  [
    'a selector in another namespace',
    [denyAll({ selector: SELECTED })],
    workload(SELECTED.matchLabels, 'billing'),
    'allow',
  ],
  [
    'a selector in the root namespace selects everywhere',
    [denyAll({ selector: SELECTED }, root)],
    workload(SELECTED.matchLabels, 'billing'),
    'deny',
  ],
  [
    'a selector in the root namespace selects not all',
    [denyAll({ selector: SELECTED }, root)],
    workload({}, 'billing'),
    'allow',
  ],
  [
    'a selector has no wildcards',
    [denyAll({ selector: { matchLabels: { app: 'web*' } } })],
    workload({ app: 'web1' }),
    'allow',
  ],
  [
    'a selector whose value is empty selects that',
    [denyAll({ selector: { matchLabels: { app: '' } } })],
    workload({ app: '' }),
    'deny',
  ],
  [
    'a selector whose value is empty is not one that is absent',
    [denyAll({ selector: { matchLabels: { app: '' } } })],
    workload({}),
    'allow',
  ],
  ['an empty selector is none', [denyAll({ selector: {} })], workload({}), 'deny'],
  [
    'a selector with empty labels is none',
    [denyAll({ selector: { matchLabels: {} } })],
    workload({}),
    'deny',
  ],
  [
    'an ALLOW for another workload denies nothing by default',
    [policy({ selector: { matchLabels: { app: 'x' } } })],
    workload({ app: 'web' }),
    'allow',
  ],
  [
    'a policy for a Service is for its waypoint',
    [denyAll({ targetRefs: [{ kind: 'Service', group: 'core', name: 'web' }] })],
    FRONT,
    'allow',
  ],
  [
    'a policy for a Gateway likewise',
    [denyAll({ targetRefs: [{ kind: 'Gateway', group: 'gateway.networking.k8s.io', name: 'g' }] })],
    FRONT,
    'allow',
  ],
  [
    'a policy with targetRef likewise',
    [denyAll({ targetRef: { kind: 'Service', group: '', name: 'web' } })],
    FRONT,
    'allow',
  ],
  [
    'an ALLOW for a Service denies nothing by default',
    [policy({ targetRefs: [{ kind: 'Service', name: 'web' }] })],
    FRONT,
    'allow',
  ],
  [
    'a GatewayClass of the root namespace',
    [denyAll({ targetRefs: [{ kind: 'GatewayClass', name: 'istio-waypoint' }] }, root)],
    FRONT,
    'allow',
  ],
  ['targetRefs [] is none', [denyAll({ targetRefs: [] })], FRONT, 'deny'],
  [
    'a policy for waypoints beside one for workloads',
    [denyAll({ targetRefs: [{ kind: 'Service', name: 'web' }] }), named('b', { rules: [only('front')] })],
    FRONT,
    'allow',
  ],
  [
    'a policy for waypoints that is invalid',
    [policy({ rulez: [], targetRefs: [{ kind: 'Service', name: 'web' }] })],
    FRONT,
    'allow',
  ],
];

const DRY: readonly Row[] = [
  ...['1', 't', 'T', 'true', 'True', 'TRUE'].flatMap((yes): Row[] => [
    [
      `dry-run ${yes}: a DENY denies nothing`,
      [dry({ action: 'DENY', rules: [{}] }, yes)],
      FRONT,
      'allow',
      null,
    ],
    [
      `dry-run ${yes}: an ALLOW denies nothing by default`,
      [dry({ rules: [only('x')] }, yes)],
      FRONT,
      'allow',
      null,
    ],
  ]),
  ...['0', 'f', 'F', 'false', 'False', 'FALSE', 'foo', 'yes', 'tRUE', ' true'].map(
    (no): Row => [`dry-run "${no}" is enforced`, [dry({ action: 'DENY', rules: [{}] }, no)], FRONT, 'deny'],
  ),
  [
    'a dry ALLOW beside one that is enforced',
    [dry({ rules: [only('front')] }, 'true'), named('a', { rules: [only('x')] })],
    FRONT,
    'deny',
    null,
  ],
  [
    'a dry DENY beside an ALLOW',
    [dry({ action: 'DENY', rules: [{}] }, 'true'), named('a', { rules: [only('front')] })],
    FRONT,
    'allow',
  ],
  [
    'CUSTOM has no dry run',
    [dry({ action: 'CUSTOM', provider: { name: 'x' }, rules: [{}] }, 'true')],
    FRONT,
    'deny',
  ],
];

const mesh = { rootNamespace: 'mesh-root' };
const ROOT: readonly Case[] = [
  {
    ...row([
      'another root namespace: its policies are for all',
      [denyAll({}, { namespace: 'mesh-root' })],
      FRONT,
      'deny',
    ]),
    mesh,
  },
  {
    ...row(['another root namespace: istio-system is one like others', [denyAll({}, root)], FRONT, 'allow']),
    mesh,
  },
];

export const scopeCases: readonly Case[] = [...[...SCOPE, ...DRY].map(row), ...ROOT];
