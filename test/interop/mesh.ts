/** The mesh as a ztunnel without istiod reads it: LOCAL_XDS_PATH's YAML, from the same pods as the cluster folder. */
import { stringify } from 'yaml';

/** A LabPod is one. */
export interface MeshPod {
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly nodeName: string;
  readonly ips: readonly string[];
}

export interface MeshService {
  readonly name: string;
  readonly namespace: string;
  readonly vips: readonly string[];
  readonly port: number;
  readonly targetPort: number;
  readonly pods: readonly MeshPod[];
}

/** Who may reach the pods of a namespace, and on which ports: nobody else may. */
export interface MeshPolicy {
  readonly name: string;
  readonly namespace: string;
  readonly from: { readonly namespace: string; readonly serviceAccount: string };
  readonly ports: readonly number[];
}

export interface Mesh {
  readonly pods: readonly MeshPod[];
  readonly services: readonly MeshService[];
  readonly policies: readonly MeshPolicy[];
}

/** The text of mesh.yaml. Every pod is said to take tunnels. */
export function meshYaml(mesh: Mesh): string {
  return stringify({
    workloads: mesh.pods.map((pod) => workload(pod, mesh.services)),
    services: mesh.services.map(service),
    policies: mesh.policies.map(policy),
  });
}

function workload(pod: MeshPod, services: readonly MeshService[]): object {
  const own = services.filter(({ pods }) => pods.includes(pod));
  return {
    uid: `lab//v1/Pod/${pod.namespace}/${pod.name}`,
    name: pod.name,
    namespace: pod.namespace,
    serviceAccount: pod.serviceAccount,
    trustDomain: 'cluster.local',
    workloadIps: pod.ips,
    protocol: 'HBONE',
    node: pod.nodeName,
    network: '',
    services: Object.fromEntries(own.map((each) => [`${each.namespace}/${hostname(each)}`, portsOf(each)])),
  };
}

function service(each: MeshService): object {
  return {
    name: each.name,
    namespace: each.namespace,
    hostname: hostname(each),
    // `network/address`; the network has no name.
    vips: each.vips.map((vip) => `/${vip}`),
    ports: portsOf(each),
  };
}

function policy(each: MeshPolicy): object {
  return {
    name: each.name,
    namespace: each.namespace,
    scope: 'Namespace',
    action: 'Allow',
    dryRun: false,
    // One rule of two clauses, both of which must match.
    rules: [[[{ serviceAccounts: [each.from] }], [{ destinationPorts: each.ports }]]],
  };
}

function hostname(each: MeshService): string {
  return `${each.name}.${each.namespace}.svc.cluster.local`;
}

/** A Map, since an object's keys would come out as quoted text, which ztunnel takes for no port. */
function portsOf(each: MeshService): ReadonlyMap<number, number> {
  return new Map([[each.port, each.targetPort]]);
}
