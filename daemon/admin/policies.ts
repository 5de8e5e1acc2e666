/** The policies that a daemon has, as `GET /config` shows them: what each is, and whom of this node's pods it is for. */
import type { PodUid } from '../mesh/ids.ts';
import type { AuthorizationPolicy } from '../mesh/policy/model.ts';
import { isSelected } from '../mesh/policy/peer.ts';
import type { MeshState } from '../mesh/state.ts';

export interface PolicyLine {
  readonly kind: 'AuthorizationPolicy' | 'PeerAuthentication';
  readonly namespace: string;
  readonly name: string;
  /** ALLOW, DENY, AUDIT or CUSTOM; of a PeerAuthentication its mode. */
  readonly does: string;
  readonly dryRun: boolean;
  /** Rules that could be read; of a PeerAuthentication its ports. */
  readonly rules: number;
  /** Enrolled pods of this node that it applies to. */
  readonly localPods: number;
}

/** All of them, in order of kind and name. `pods` are this node's. */
export function policyLines(
  state: MeshState,
  pods: readonly { readonly uid: PodUid }[],
): readonly PolicyLine[] {
  const workloads = pods.flatMap(({ uid }) => state.workload(uid) ?? []);
  const { rootNamespace } = state.settings;
  const count = ({ namespace, selector }: Pick<AuthorizationPolicy, 'namespace' | 'selector'>): number =>
    workloads.filter(
      (workload) =>
        (namespace === rootNamespace || namespace === workload.namespace) &&
        (selector === undefined || isSelected(selector, workload)),
    ).length;
  const authorization = [...state.authorizationPolicies()].map((policy) => ({
    kind: 'AuthorizationPolicy' as const,
    namespace: policy.namespace,
    name: policy.name,
    does: policy.action,
    dryRun: policy.dryRun,
    rules: policy.rules.length,
    localPods: policy.isForWaypoint ? 0 : count(policy),
  }));
  const peer = [...state.peerAuthentications()].map((one) => ({
    kind: 'PeerAuthentication' as const,
    namespace: one.namespace,
    name: one.name,
    does: one.mode,
    dryRun: false,
    rules: Object.keys(one.ports).length,
    localPods: one.namespace === rootNamespace && one.selector !== undefined ? 0 : count(one),
  }));
  return [...authorization, ...peer].sort((a, b) => (key(a) < key(b) ? -1 : 1));
}

function key({ kind, namespace, name }: PolicyLine): string {
  return `${kind} ${namespace}/${name}`;
}
