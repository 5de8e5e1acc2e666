/**
 * The fields of Kubernetes objects that schemas.ts reads, with their numbers (kubernetes/api core/v1 and discovery/v1,
 * generated.proto; numbers never change). A field that is added there must be added here.
 */
import type { Messages } from '../kube/protobuf.ts';

const POD: Messages = {
  ContainerPort: { containerPort: ['int32', 3], protocol: ['string', 4] },
  Container: { name: ['string', 1], ports: ['ContainerPort', 6, 'list'] },
  EphemeralContainer: { ephemeralContainerCommon: ['Container', 1] },
  PodOS: { name: ['string', 1] },
  PodSpec: {
    containers: ['Container', 2, 'list'],
    nodeSelector: ['string', 7, 'map'],
    serviceAccountName: ['string', 8],
    nodeName: ['string', 10],
    hostNetwork: ['bool', 11],
    initContainers: ['Container', 20, 'list'],
    runtimeClassName: ['string', 29],
    ephemeralContainers: ['EphemeralContainer', 34, 'list'],
    os: ['PodOS', 36],
  },
  PodCondition: { type: ['string', 1], status: ['string', 2] },
  PodIP: { ip: ['string', 1] },
  PodStatus: {
    phase: ['string', 1],
    conditions: ['PodCondition', 2, 'list'],
    podIP: ['string', 6],
    podIPs: ['PodIP', 12, 'list'],
  },
  Pod: { metadata: ['ObjectMeta', 1], spec: ['PodSpec', 2], status: ['PodStatus', 3] },
};

const SERVICE: Messages = {
  ServicePort: { name: ['string', 1], protocol: ['string', 2], port: ['int32', 3], nodePort: ['int32', 5] },
  ClientIPConfig: { timeoutSeconds: ['int32', 1] },
  SessionAffinityConfig: { clientIP: ['ClientIPConfig', 1] },
  ServiceSpec: {
    ports: ['ServicePort', 1, 'list'],
    selector: ['string', 2, 'map'],
    clusterIP: ['string', 3],
    type: ['string', 4],
    externalIPs: ['string', 5, 'list'],
    sessionAffinity: ['string', 7],
    publishNotReadyAddresses: ['bool', 13],
    sessionAffinityConfig: ['SessionAffinityConfig', 14],
    clusterIPs: ['string', 18, 'list'],
    internalTrafficPolicy: ['string', 22],
    trafficDistribution: ['string', 23],
  },
  LoadBalancerIngress: { ip: ['string', 1] },
  LoadBalancerStatus: { ingress: ['LoadBalancerIngress', 1, 'list'] },
  ServiceStatus: { loadBalancer: ['LoadBalancerStatus', 1] },
  Service: { metadata: ['ObjectMeta', 1], spec: ['ServiceSpec', 2], status: ['ServiceStatus', 3] },
};

const NODE: Messages = {
  NodeSpec: { podCIDR: ['string', 1], podCIDRs: ['string', 7, 'list'] },
  NodeAddress: { type: ['string', 1], address: ['string', 2] },
  DaemonEndpoint: { Port: ['int32', 1] },
  NodeDaemonEndpoints: { kubeletEndpoint: ['DaemonEndpoint', 1] },
  NodeStatus: { addresses: ['NodeAddress', 5, 'list'], daemonEndpoints: ['NodeDaemonEndpoints', 6] },
  Node: { metadata: ['ObjectMeta', 1], spec: ['NodeSpec', 2], status: ['NodeStatus', 3] },
};

const SLICE: Messages = {
  // Absent means ready, so that a false must not be lost.
  EndpointConditions: {
    ready: ['bool', 1, 'nullable'],
    serving: ['bool', 2, 'nullable'],
    terminating: ['bool', 3, 'nullable'],
  },
  ObjectReference: { kind: ['string', 1], uid: ['string', 4] },
  Endpoint: {
    addresses: ['string', 1, 'list'],
    conditions: ['EndpointConditions', 2],
    targetRef: ['ObjectReference', 4],
    nodeName: ['string', 6],
    zone: ['string', 7],
  },
  EndpointPort: { name: ['string', 1], protocol: ['string', 2], port: ['int32', 3] },
  EndpointSlice: {
    metadata: ['ObjectMeta', 1],
    endpoints: ['Endpoint', 2, 'list'],
    ports: ['EndpointPort', 3, 'list'],
    addressType: ['string', 4],
  },
};

/** By kind. */
export const PROTOBUF_FIELDS = {
  Namespace: { Namespace: { metadata: ['ObjectMeta', 1] } },
  Node: NODE,
  Pod: POD,
  Service: SERVICE,
  EndpointSlice: SLICE,
} as const satisfies Record<string, Messages>;
