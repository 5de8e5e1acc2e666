/** An AuthorizationPolicy that was read: what it really does. */
import type { AuthorizationPolicy, PolicyRule } from '../../mesh/policy/model.ts';
import { peerLevels, peerMode } from '../../mesh/policy/peer.ts';
import type { PeerAuthentication } from '../../mesh/policy/model.ts';
import type { Path, Say } from './finding.ts';
import { rawPorts, selected, strangePort } from './lint-ports.ts';
import type { Scope } from './lint-ports.ts';
import { IDENTITY, httpFieldsOf, lintRule, portsOf } from './lint-rule.ts';
import type { MeshFacts } from './lint-values.ts';
import type { World } from './world.ts';

export interface LintFacts {
  readonly mesh: MeshFacts;
  readonly world: World;
  /** All that are among the files. */
  readonly peers: readonly PeerAuthentication[];
}

/** Says what an accepted policy does that one may not expect. `isWhole`: none of its rules was dropped. */
export function lintPolicy(policy: AuthorizationPolicy, isWhole: boolean, facts: LintFacts, say: Say): void {
  const { mesh, world } = facts;
  const isRoot = policy.namespace === mesh.rootNamespace;
  const scope: Scope = {
    namespace: isRoot ? undefined : policy.namespace,
    selector: policy.selector ?? {},
  };
  if (policy.dryRun)
    say('note', ['metadata', 'annotations'], 'dry run: it is not enforced, only told what it would do');
  if (policy.action === 'AUDIT') say('note', ['spec', 'action'], 'AUDIT decides nothing: it is not enforced');
  if (policy.isForWaypoint) return;
  lintScope(policy.namespace, scope, policy.selector !== undefined, facts, say);
  const alive = policy.rules.map((rule) => lintRule(rule, policy.action, { mesh, world }, say));
  if (isWhole && policy.action === 'ALLOW' && alive.length > 0 && !alive.some(Boolean))
    say('warning', ['spec', 'rules'], 'no rule can match: the policy allows nothing, and all else is denied');
  for (const rule of policy.rules) {
    lintBare(policy, rule, say);
    lintHttp(policy, rule, scope, facts, say);
    lintPlaintext(policy, rule, facts, say);
    for (const { port, path } of placedPorts(rule)) {
      const strange = strangePort(scope, world, port);
      if (strange !== undefined) say('warning', path, strange);
    }
  }
}

/** The namespace and selector of either kind. */
export function lintScope(
  namespace: string,
  scope: Scope,
  hasSelector: boolean,
  { mesh, world }: Pick<LintFacts, 'mesh' | 'world'>,
  say: Say,
): void {
  const isRoot = namespace === mesh.rootNamespace;
  if (world.namespaces.size > 0 && !world.namespaces.has(namespace) && !isRoot)
    say('warning', ['metadata', 'namespace'], `there is no namespace ${namespace} among the files`);
  if (isRoot && hasSelector && scope.namespace === undefined)
    say('note', ['spec', 'selector'], `${namespace} is the root namespace: it selects in all namespaces`);
  if (world.workloads.length === 0 || selected(scope, world).length > 0) return;
  const where = isRoot ? 'any namespace' : `namespace ${namespace}`;
  const path = hasSelector ? ['spec', 'selector'] : ['metadata', 'namespace'];
  say('warning', path, `selects no workload: none of those among the files, in ${where}, has these labels`);
}

function lintBare(policy: AuthorizationPolicy, rule: PolicyRule, say: Say): void {
  if (rule.from.length + rule.to.length + rule.when.length > 0) return;
  const what = { ALLOW: 'allows', DENY: 'denies', CUSTOM: 'denies', AUDIT: 'is about' }[policy.action];
  say('note', ['spec', 'rules', rule.index], `an empty rule matches all: it ${what} everything`);
}

/** What HTTP fields mean for bytes that are no HTTP (SEMANTICS.md 1.10, ours). */
function lintHttp(
  { action }: AuthorizationPolicy,
  rule: PolicyRule,
  scope: Scope,
  { world }: LintFacts,
  say: Say,
): void {
  const fields = httpFieldsOf(rule);
  if (fields.length === 0 || action === 'AUDIT') return;
  const path: Path = ['spec', 'rules', rule.index];
  const ports = portsOf(rule);
  const names = fields.join(', ');
  const isAllow = action === 'ALLOW';
  for (const [port, how] of rawPorts(scope, world, ports)) {
    const consequence = isAllow
      ? 'the rule never matches there'
      : 'there the rule denies without looking at them';
    say('warning', path, `${names} on port ${port}, which is not HTTP (${how}): ${consequence}`);
  }
  if (isAllow) return;
  const denied = `bytes that are not HTTP (TLS, databases) are denied wherever the rest of the rule holds`;
  if (ports === undefined)
    say('warning', path, `${names} without ports: on every port of the workload, ${denied}`);
  else say('note', path, `${names}: on these ports, ${denied}`);
}

/** Rules about identities, and clients that have none. */
function lintPlaintext(policy: AuthorizationPolicy, rule: PolicyRule, facts: LintFacts, say: Say): void {
  const identities = [...rule.from, rule.when].flat().filter(({ field }) => IDENTITY.has(field));
  const isDeny = policy.action === 'DENY' || policy.action === 'CUSTOM';
  const isNamed = identities.some(({ values }) => values !== undefined);
  const isExcluded = identities.some(({ notValues }) => notValues !== undefined);
  if ((isDeny && !isNamed) || (!isDeny && (isNamed || !isExcluded)) || policy.action === 'AUDIT') return;
  const target = { namespace: policy.namespace, labels: policy.selector ?? {} };
  const levels = peerLevels(facts.peers, target, facts.mesh);
  const [port = 1] = portsOf(rule) ?? [];
  if (peerMode(levels, port, facts.mesh.defaultMode).mode === 'strict') return;
  const path: Path = ['spec', 'rules', rule.index];
  if (isDeny)
    say(
      'note',
      path,
      'plaintext has no identity and passes it: a PeerAuthentication STRICT refuses plaintext',
    );
  else
    say(
      'note',
      path,
      'plaintext has no identity and is let in by it: a PeerAuthentication STRICT refuses it',
    );
}

function placedPorts(rule: PolicyRule): readonly { readonly port: number; readonly path: Path }[] {
  const base: Path = ['spec', 'rules', rule.index];
  const to = rule.to.flatMap((match, i) =>
    match
      .filter(({ field }) => field === 'ports')
      .flatMap(({ values }) =>
        (values ?? []).map((value, j) => ({
          port: Number(value),
          path: [...base, 'to', i, 'operation', 'ports', j],
        })),
      ),
  );
  const when = rule.when.flatMap(({ field, values }, i) =>
    field === 'ports'
      ? (values ?? []).map((value, j) => ({ port: Number(value), path: [...base, 'when', i, 'values', j] }))
      : [],
  );
  return [...to, ...when];
}
