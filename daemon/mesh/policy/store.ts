/** All policy objects of the mesh as one thread knows them, each compiled once, and the answer for any workload. */
import { compilePolicy } from './compile.ts';
import type { CompiledPolicy } from './compile.ts';
import { combine } from './evaluate.ts';
import type { WorkloadPolicies } from './evaluate.ts';
import { isSelected, peerLevels } from './peer.ts';
import type { PeerLevels } from './peer.ts';
import type { AuthorizationPolicy, PeerAuthentication, PolicySettings, PolicyTarget } from './model.ts';

interface Answers {
  readonly policies: WorkloadPolicies;
  readonly levels: PeerLevels;
}

/** What a namespace's workloads choose from, until an object of it or of the root namespace changes. */
interface Scope {
  readonly policies: readonly CompiledPolicy[];
  /** Those of them that select labels. */
  readonly selecting: readonly CompiledPolicy[];
  readonly peers: readonly PeerAuthentication[];
  /** By which of `selecting` select them: many workloads have the same answer. */
  readonly combined: Map<string, WorkloadPolicies>;
  /** By the workload's labels, as an object: a changed workload has other ones, and other ones may have the same. */
  readonly answers: WeakMap<Readonly<Record<string, string>>, Answers>;
}

/** Namespaces and sets of labels come and go without a policy's change: what was put together for them is let go. */
const MAX_SCOPES = 10_000;
const MAX_COMBINED = 1_000;

export class PolicyStore {
  readonly #settings: PolicySettings;
  /** Namespace → key → object. */
  readonly #policies = new Map<string, Map<string, CompiledPolicy>>();
  readonly #peers = new Map<string, Map<string, PeerAuthentication>>();
  /** By namespace of the workloads; taken out when it is old. */
  readonly #scopes = new Map<string, Scope>();

  constructor(settings: PolicySettings) {
    this.#settings = settings;
  }

  /** Sets or removes one object; `namespace` and `name` are its own. */
  setPolicy(namespace: string, name: string, policy: AuthorizationPolicy | undefined): void {
    const compiled = policy && compilePolicy(policy, this.#settings);
    put(this.#policies, namespace, name, compiled);
    this.#changed(namespace);
  }

  setPeerAuthentication(namespace: string, name: string, peer: PeerAuthentication | undefined): void {
    put(this.#peers, namespace, name, peer);
    this.#changed(namespace);
  }

  /** The AuthorizationPolicies that are in force for the workload. */
  policiesOf(target: PolicyTarget): WorkloadPolicies {
    return this.#answer(target).policies;
  }

  /** The PeerAuthentications that count for the workload. */
  levelsOf(target: PolicyTarget): PeerLevels {
    return this.#answer(target).levels;
  }

  #changed(namespace: string): void {
    if (namespace === this.#settings.rootNamespace) this.#scopes.clear();
    else this.#scopes.delete(namespace);
  }

  #answer(target: PolicyTarget): Answers {
    const scope = this.#scopes.get(target.namespace) ?? this.#newScope(target.namespace);
    const known = scope.answers.get(target.labels);
    if (known !== undefined) return known;
    const levels = peerLevels(scope.peers, target, this.#settings);
    const answers: Answers = { policies: policiesFor(scope, target), levels };
    scope.answers.set(target.labels, answers);
    return answers;
  }

  #newScope(namespace: string): Scope {
    const namespaces = [...new Set([this.#settings.rootNamespace, namespace])];
    const policies = namespaces
      .flatMap((name) => inOrder(this.#policies.get(name)))
      .filter(({ policy }) => !policy.isForWaypoint);
    const scope: Scope = {
      policies,
      selecting: policies.filter(({ policy }) => policy.selector !== undefined),
      peers: namespaces.flatMap((name) => [...(this.#peers.get(name)?.values() ?? [])]),
      combined: new Map(),
      answers: new WeakMap(),
    };
    if (this.#scopes.size >= MAX_SCOPES) this.#scopes.clear();
    this.#scopes.set(namespace, scope);
    return scope;
  }
}

function policiesFor({ policies, selecting, combined }: Scope, target: PolicyTarget): WorkloadPolicies {
  const chosen = new Set<CompiledPolicy>();
  let key = '';
  for (const [i, one] of selecting.entries()) {
    if (!isSelected(one.policy.selector ?? {}, target)) continue;
    chosen.add(one);
    key += `${i} `;
  }
  const known = combined.get(key);
  if (known !== undefined) return known;
  const made = combine(policies.filter((one) => one.policy.selector === undefined || chosen.has(one)));
  if (combined.size >= MAX_COMBINED) combined.clear();
  combined.set(key, made);
  return made;
}

/** By name: the same objects give the same answers, in whatever order they came. */
function inOrder(objects: ReadonlyMap<string, CompiledPolicy> | undefined): readonly CompiledPolicy[] {
  return [...(objects ?? [])].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, compiled]) => compiled);
}

function put<T>(
  index: Map<string, Map<string, T>>,
  namespace: string,
  name: string,
  value: T | undefined,
): void {
  const own = index.get(namespace) ?? new Map<string, T>();
  if (value === undefined) own.delete(name);
  else own.set(name, value);
  if (own.size === 0) index.delete(namespace);
  else index.set(namespace, own);
}
