/** What the cluster is, as far as the mesh uses it. Plain data: crosses threads by structured clone. */
import type { Ip, PodUid, Port, TrustDomain } from './ids.ts';
import type { AuthorizationPolicy, PeerAuthentication } from './policy/model.ts';
import type { PathNormalization } from './policy/path.ts';

/** A pod's life with us (DESIGN.md 3a). `none`: not ours. `unenrollable`: ours by label, but can't be. */
export type PodState = 'none' | 'pending' | 'opening' | 'joining' | 'enrolled' | 'leaving' | 'unenrollable';

/** What a port of a workload accepts from clients (`mode.ts`). */
export type MtlsMode = 'permissive' | 'strict';

/** Label values of `culvert.dev/mesh`. */
export type MeshLabel = 'enabled' | 'disabled';

export interface Workload {
  readonly uid: PodUid;
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  /** '' while unscheduled. */
  readonly node: string;
  readonly ips: readonly Ip[];
  readonly labels: Readonly<Record<string, string>>;
  readonly hostNetwork: boolean;
  readonly phase: 'Pending' | 'Running' | 'Succeeded' | 'Failed' | 'Unknown';
  /** The pod's own `culvert.dev/mesh` label; wins over its namespace's. */
  readonly meshLabel: MeshLabel | undefined;
  /** Another mesh owns this pod (Istio sidecar or ambient, Linkerd): the sign that says so. */
  readonly otherMesh: string | undefined;
  /** RuntimeClass with a network stack of its own (gVisor, Kata), or undefined. */
  readonly foreignRuntime: string | undefined;
  /** Multus networks besides the cluster's (annotation `k8s.v1.cni.cncf.io/networks`), or undefined. */
  readonly secondaryNetworks?: string | undefined;
  readonly os: 'linux' | 'windows';
  /** Declared containerPorts: our listeners never take one of these. */
  readonly containerPorts: readonly Port[];
  /** Annotation `culvert.dev/exclude-outbound-cidrs`, canonical `ip/len`. */
  readonly excludeOutboundCidrs: readonly string[];
  /** `culvert.dev/cut-existing=true`. */
  readonly cutExisting: boolean;
  /** `culvert.dev/nested-netns=allow`: DESIGN.md rule 11's opt-out. */
  readonly allowNestedNetns: boolean;
  /** deletionTimestamp is set. */
  readonly terminating: boolean;
  /** The pod's Ready condition. */
  readonly ready: boolean;
  /** Creation time, ms since the epoch. */
  readonly createdMs: number;
  /** Name of the owning controller's kind and name, for records: `Deployment/web`, or undefined. */
  readonly owner: string | undefined;
}

export interface NamespaceInfo {
  readonly name: string;
  readonly meshLabel: MeshLabel | undefined;
  readonly labels: Readonly<Record<string, string>>;
}

export interface NodeInfo {
  readonly name: string;
  /** Canonical `ip/len`. */
  readonly podCidrs: readonly string[];
  readonly addresses: readonly Ip[];
  readonly zone: string | undefined;
  /** status.daemonEndpoints.kubeletEndpoint.Port, or undefined. */
  readonly kubeletPort: Port | undefined;
}

export interface ServicePort {
  readonly name: string;
  readonly port: Port;
  /** Only TCP ports are kept. `nodePort` for records only. */
  readonly nodePort: Port | undefined;
}

export interface Service {
  readonly name: string;
  readonly namespace: string;
  readonly type: 'ClusterIP' | 'NodePort' | 'LoadBalancer' | 'ExternalName';
  /** Empty for headless. */
  readonly clusterIps: readonly Ip[];
  /** externalIPs and load balancer ingress addresses: left to kube-proxy (DESIGN.md 9). */
  readonly externalIps: readonly Ip[];
  readonly ports: readonly ServicePort[];
  readonly hasSelector: boolean;
  readonly sessionAffinity: 'None' | 'ClientIP';
  readonly affinityTimeoutMs: number;
  readonly internalTrafficPolicy: 'Cluster' | 'Local';
  readonly trafficDistribution: 'PreferSameZone' | 'PreferSameNode' | undefined;
  readonly publishNotReadyAddresses: boolean;
}

export interface Endpoint {
  readonly ip: Ip;
  readonly podUid: PodUid | undefined;
  readonly node: string | undefined;
  readonly zone: string | undefined;
  readonly ready: boolean;
  readonly serving: boolean;
  readonly terminating: boolean;
}

/** One EndpointSlice; ports may differ from slice to slice for one named port. */
export interface EndpointSlice {
  readonly name: string;
  readonly namespace: string;
  readonly serviceName: string;
  readonly family: 'IPv4' | 'IPv6';
  /** Service port name → target port. */
  readonly ports: Readonly<Record<string, Port>>;
  readonly endpoints: readonly Endpoint[];
}

/** What a pod's own daemon says of it (annotation `culvert.dev/state`, or `status/<node>.yaml` in the folder). */
export interface PublishedState {
  readonly uid: PodUid;
  readonly state: Extract<PodState, 'joining' | 'enrolled' | 'leaving' | 'unenrollable'>;
  /** When its state was published first, ms since the epoch; for people only. */
  readonly sinceMs: number;
}

/** What a daemon says of one of its pods. Of states that promise nothing (pending, opening) nobody decides by it. */
export interface PodSaying {
  readonly uid: PodUid;
  readonly state: PodState;
  readonly sinceMs: number;
  /** `CODE: sentence` when it isn't simply enrolled, for people only: printable, at most 256 characters. */
  readonly reason?: string;
}

/** One change of the cluster. `key`s: namespaces and nodes by name, pods by UID, all others `ns/name`. */
export type Delta =
  | { readonly kind: 'namespace'; readonly key: string; readonly value: NamespaceInfo | undefined }
  | { readonly kind: 'node'; readonly key: string; readonly value: NodeInfo | undefined }
  | { readonly kind: 'workload'; readonly key: PodUid; readonly value: Workload | undefined }
  | { readonly kind: 'service'; readonly key: string; readonly value: Service | undefined }
  | { readonly kind: 'slice'; readonly key: string; readonly value: EndpointSlice | undefined }
  | { readonly kind: 'policy'; readonly key: string; readonly value: AuthorizationPolicy | undefined }
  | {
      readonly kind: 'peer-authentication';
      readonly key: string;
      readonly value: PeerAuthentication | undefined;
    }
  | { readonly kind: 'published'; readonly key: PodUid; readonly value: PublishedState | undefined };

/** Mesh-wide settings that decisions read; from config, the same in every thread. */
export interface MeshSettings {
  readonly trustDomain: TrustDomain;
  /** Where no PeerAuthentication says otherwise. */
  readonly defaultMode: MtlsMode;
  /** Whose policies hold for the whole mesh. */
  readonly rootNamespace: string;
  /** Further names of the trust domain in policies (SEMANTICS.md 1.11). */
  readonly trustDomainAliases: readonly TrustDomain[];
  readonly pathNormalization: PathNormalization;
  /** Extra ranges that belong to the mesh; the nodes' podCIDRs are added. Canonical `ip/len`. */
  readonly meshCidrs: readonly string[];
  readonly nodeName: string;
}

/** Something in the cluster's objects that could not be used as it is: the last good state stays, of a policy what closes. */
export interface SourceProblem {
  /** File, or object `Kind ns/name`. */
  readonly where: string;
  readonly line: number | undefined;
  readonly reason: string;
}

/** Where the state comes from: a folder of YAML, or a Kubernetes API. */
export interface ClusterSource extends AsyncDisposable {
  /** Starts once. `onDeltas` gets every change in order; the first batch is complete when `synced` resolves. */
  start(onDeltas: (deltas: readonly Delta[]) => void): void;
  readonly synced: Promise<void>;
  /** Present problems; empty when all is well. */
  problems(): readonly SourceProblem[];
  /** ms since each part of the state was last known to be current, by the part's name. */
  stalenessMs(): ReadonlyMap<string, number>;
}
