/** Kubernetes objects as `kubectl get -o yaml` shows them, from what a test says. */
import { randomUUID } from 'node:crypto';

export interface KubeObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string | undefined;
    readonly uid?: string | undefined;
    readonly labels?: Readonly<Record<string, string>> | undefined;
    readonly annotations?: Readonly<Record<string, string>> | undefined;
    readonly [field: string]: unknown;
  };
  readonly [field: string]: unknown;
}

export const MESH_LABEL = 'culvert.dev/mesh';

export type Labels = Readonly<Record<string, string>>;

const created = (): string => `${new Date().toISOString().slice(0, 19)}Z`;

export function namespaceObject(name: string, labels: Labels = {}): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: {
      name,
      uid: randomUUID(),
      creationTimestamp: created(),
      labels: { 'kubernetes.io/metadata.name': name, ...labels },
    },
    spec: { finalizers: ['kubernetes'] },
    status: { phase: 'Active' },
  };
}

export function serviceAccountObject(namespace: string, name: string): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: { name, namespace, uid: randomUUID(), creationTimestamp: created() },
  };
}

export interface NodeSpec {
  readonly name: string;
  readonly podCidrs: readonly string[];
  readonly addresses: readonly string[];
  readonly kubeletPort: number;
  readonly zone?: string;
}

export function nodeObject(node: NodeSpec): KubeObject {
  const zone: Labels = node.zone === undefined ? {} : { 'topology.kubernetes.io/zone': node.zone };
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: {
      name: node.name,
      uid: randomUUID(),
      creationTimestamp: created(),
      labels: { 'kubernetes.io/hostname': node.name, 'kubernetes.io/os': 'linux', ...zone },
    },
    spec: { podCIDR: node.podCidrs[0], podCIDRs: node.podCidrs },
    status: {
      addresses: [
        ...node.addresses.map((address) => ({ type: 'InternalIP', address })),
        { type: 'Hostname', address: node.name },
      ],
      conditions: [{ type: 'Ready', status: 'True', reason: 'KubeletReady' }],
      daemonEndpoints: { kubeletEndpoint: { Port: node.kubeletPort } },
    },
  };
}

export interface PodObjectSpec {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly serviceAccount: string;
  readonly node: string;
  readonly hostIp: string;
  readonly ips: readonly string[];
  readonly labels: Labels;
  readonly annotations: Labels;
  readonly ports: readonly number[];
  readonly hostNetwork: boolean;
  /** False: the kubelet has not reported yet: Pending, no address. */
  readonly running: boolean;
  readonly ready: boolean;
  /** Merged over the spec: runtimeClassName, hostPID, and the like. */
  readonly spec: Readonly<Record<string, unknown>>;
}

export function podObject(pod: PodObjectSpec): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: pod.name,
      namespace: pod.namespace,
      uid: pod.uid,
      creationTimestamp: created(),
      labels: pod.labels,
      annotations: pod.annotations,
    },
    spec: {
      nodeName: pod.node,
      serviceAccountName: pod.serviceAccount,
      serviceAccount: pod.serviceAccount,
      restartPolicy: 'Always',
      ...(pod.hostNetwork ? { hostNetwork: true } : {}),
      containers: [
        {
          name: 'app',
          image: 'lab/app:1',
          ports: pod.ports.map((containerPort) => ({ containerPort, protocol: 'TCP' })),
        },
      ],
      ...pod.spec,
    },
    status: podStatus(pod),
  };
}

function podStatus(pod: PodObjectSpec): Record<string, unknown> {
  if (!pod.running)
    return {
      phase: 'Pending',
      qosClass: 'Burstable',
      conditions: [{ type: 'PodScheduled', status: 'True' }],
    };
  const status = pod.ready ? 'True' : 'False';
  return {
    phase: 'Running',
    qosClass: 'Burstable',
    hostIP: pod.hostIp,
    hostIPs: [{ ip: pod.hostIp }],
    podIP: pod.ips[0],
    podIPs: pod.ips.map((ip) => ({ ip })),
    startTime: created(),
    conditions: [
      { type: 'PodScheduled', status: 'True' },
      { type: 'Ready', status },
    ],
    containerStatuses: [{ name: 'app', ready: pod.ready, restartCount: 0, state: { running: {} } }],
  };
}

export interface PortSpec {
  readonly name?: string;
  readonly port: number;
  readonly targetPort: number;
}

/** `metadata.name`, `spec.clusterIPs` and so on of a Service; `spec` is merged over. */
export function serviceObject(service: {
  readonly name: string;
  readonly namespace: string;
  readonly clusterIps: readonly string[];
  readonly ports: readonly PortSpec[];
  readonly selector: Labels | undefined;
  readonly spec: Readonly<Record<string, unknown>>;
}): KubeObject {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: {
      name: service.name,
      namespace: service.namespace,
      uid: randomUUID(),
      creationTimestamp: created(),
    },
    spec: {
      type: 'ClusterIP',
      clusterIP: service.clusterIps[0] ?? 'None',
      clusterIPs: service.clusterIps.length > 0 ? service.clusterIps : ['None'],
      ipFamilies: service.clusterIps.map((address) => (address.includes(':') ? 'IPv6' : 'IPv4')),
      ipFamilyPolicy: service.clusterIps.length > 1 ? 'RequireDualStack' : 'SingleStack',
      internalTrafficPolicy: 'Cluster',
      sessionAffinity: 'None',
      ...(service.selector === undefined ? {} : { selector: service.selector }),
      ports: service.ports.map((port) => ({ protocol: 'TCP', ...port })),
      ...service.spec,
    },
    status: { loadBalancer: {} },
  };
}

export interface EndpointSpec {
  readonly ip: string;
  readonly node: string | undefined;
  readonly pod: { readonly name: string; readonly namespace: string; readonly uid: string } | undefined;
  readonly ready?: boolean;
  readonly serving?: boolean;
  readonly terminating?: boolean;
  readonly zone?: string;
}

export function sliceObject(slice: {
  readonly service: string;
  readonly namespace: string;
  readonly family: 'IPv4' | 'IPv6';
  readonly ports: readonly PortSpec[];
  readonly endpoints: readonly EndpointSpec[];
}): KubeObject {
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      name: `${slice.service}-${slice.family.toLowerCase()}`,
      namespace: slice.namespace,
      uid: randomUUID(),
      creationTimestamp: created(),
      labels: { 'kubernetes.io/service-name': slice.service },
    },
    addressType: slice.family,
    ports: slice.ports.map((port) => ({ name: port.name ?? '', port: port.targetPort, protocol: 'TCP' })),
    endpoints: slice.endpoints.map(endpoint),
  };
}

function endpoint(spec: EndpointSpec): Record<string, unknown> {
  const ready = spec.ready ?? true;
  return {
    addresses: [spec.ip],
    conditions: { ready, serving: spec.serving ?? ready, terminating: spec.terminating ?? false },
    ...(spec.node === undefined ? {} : { nodeName: spec.node }),
    ...(spec.zone === undefined ? {} : { zone: spec.zone }),
    ...(spec.pod === undefined ? {} : { targetRef: { kind: 'Pod', ...spec.pod } }),
  };
}
