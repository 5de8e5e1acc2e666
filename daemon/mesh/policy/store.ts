/** All policy objects of the mesh as one thread knows them, each compiled once, and the answer for any workload. */
import { compilePolicy } from './compile.ts';
import type { CompiledPolicy } from './compile.ts';
import { combine } from './evaluate.ts';
import type { WorkloadPolicies } from './evaluate.ts';
import { isSelected, peerLevels } from './peer.ts';
import type { PeerLevels } from './peer.ts';
import type { AuthorizationPolicy, PeerAuthentication, PolicySettings, PolicyTarget } from './model.ts';

interface Answers {
  readonly version: string;
  readonly policies: WorkloadPolicies;
  readonly levels: PeerLevels;
}

export class PolicyStore {
  readonly #settings: PolicySettings;
  /** Namespace → key → object. */
  readonly #policies = new Map<string, Map<string, CompiledPolicy>>();
  readonly #peers = new Map<string, Map<string, PeerAuthentication>>();
  /** Goes up with each change of a namespace's objects: what was put together before is old. */
  readonly #versions = new Map<string, number>();
  /** By the workload's labels, as an object: a changed workload has other ones. */
  #answers = new WeakMap<Readonly<Record<string, string>>, Answers>();

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
    this.#versions.set(namespace, (this.#versions.get(namespace) ?? 0) + 1);
  }

  #answer(target: PolicyTarget): Answers {
    const { rootNamespace } = this.#settings;
    const version = `${target.namespace} ${this.#versions.get(target.namespace) ?? 0} ${this.#versions.get(rootNamespace) ?? 0}`;
    const known = this.#answers.get(target.labels);
    if (known?.version === version) return known;
    const namespaces = new Set([rootNamespace, target.namespace]);
    const applying = [...namespaces].flatMap((name) =>
      inOrder(this.#policies.get(name)).filter(({ policy }) => applies(policy, target)),
    );
    const peers = [...namespaces].flatMap((name) => [...(this.#peers.get(name)?.values() ?? [])]);
    const answers: Answers = {
      version,
      policies: combine(applying),
      levels: peerLevels(peers, target, this.#settings),
    };
    this.#answers.set(target.labels, answers);
    return answers;
  }
}

function applies({ selector, isForWaypoint }: AuthorizationPolicy, target: PolicyTarget): boolean {
  return !isForWaypoint && (selector === undefined || isSelected(selector, target));
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
