/** Which pods can't be enrolled, and why (DESIGN.md section 9, from 'pod with another mesh's sidecar'). */
import { HBONE_PORT } from './ids.ts';
import type { NamespaceInfo, Workload } from './model.ts';

export type NotEnrollableCode =
  | 'HOST_NETWORK'
  | 'WINDOWS'
  | 'OTHER_MESH'
  | 'FOREIGN_RUNTIME'
  | 'SECONDARY_NETWORKS'
  | 'FINISHED';

export interface NotEnrollable {
  readonly code: NotEnrollableCode;
  /** A sentence for people. */
  readonly text: string;
}

/** Something that a user should know of an enrolled pod. */
export interface EnrolmentNote {
  readonly code: 'APP_USES_15008';
  readonly text: string;
}

const AMBIENT_LABEL = 'istio.io/dataplane-mode';

/**
 * Why this pod can't be enrolled whatever its label says, or undefined when it can. `namespace` is looked at for
 * Istio's ambient label, which a pod inherits.
 */
export function whyNotEnrollable(workload: Workload, namespace?: NamespaceInfo): NotEnrollable | undefined {
  if (workload.phase === 'Succeeded' || workload.phase === 'Failed')
    return { code: 'FINISHED', text: `the pod has ended (${workload.phase})` };
  if (workload.os === 'windows') return { code: 'WINDOWS', text: 'the pod runs on Windows' };
  if (workload.hostNetwork)
    return {
      code: 'HOST_NETWORK',
      text: "the pod uses its node's network, so its connections can't be told apart",
    };
  if (workload.foreignRuntime !== undefined)
    return {
      code: 'FOREIGN_RUNTIME',
      text: `runtime class ${workload.foreignRuntime} has a network stack of its own, which eBPF does not see`,
    };
  const mesh = workload.otherMesh ?? inheritedMesh(workload, namespace);
  if (mesh !== undefined) return { code: 'OTHER_MESH', text: `another mesh owns the pod: ${mesh}` };
  if (workload.secondaryNetworks !== undefined)
    return {
      code: 'SECONDARY_NETWORKS',
      text: `the pod has further networks (${workload.secondaryNetworks}) whose addresses the mesh does not know`,
    };
  return undefined;
}

/** What a user should know although the pod can be enrolled. */
export function enrolmentNotes(workload: Workload): readonly EnrolmentNote[] {
  if (!workload.containerPorts.some((port) => port === HBONE_PORT)) return [];
  return [
    {
      code: 'APP_USES_15008',
      text: 'the app declares port 15008: while the pod is enrolled, inbound 15008 carries tunnels and does not reach the app',
    },
  ];
}

function inheritedMesh(workload: Workload, namespace: NamespaceInfo | undefined): string | undefined {
  const inherits = workload.labels[AMBIENT_LABEL] === undefined;
  return inherits && namespace?.labels[AMBIENT_LABEL] === 'ambient'
    ? `namespace label ${AMBIENT_LABEL}=ambient`
    : undefined;
}
