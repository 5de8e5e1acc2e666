/**
 * The cluster as one thread knows it: what the deltas said, indexed for the questions that decisions ask. Every
 * thread holds its own copy and feeds it the same deltas. Apart from `wasEnrolled`, and from a namespace whose object
 * went before its pods did, the answers depend only on the present objects, never on the order in which they came.
 */
import type { Ip, PodUid, Port } from './ids.ts';
import { Index, put } from './keyed.ts';
import type {
  Delta,
  EndpointSlice,
  MeshSettings,
  NamespaceInfo,
  NodeInfo,
  PublishedState,
  Service,
  Workload,
} from './model.ts';
import type { AuthorizationPolicy, PeerAuthentication } from './policy/model.ts';
import { PolicyStore } from './policy/store.ts';
import { RangeSet } from './ranges.ts';

/**
 * What is known of a pod's mesh label, its own before its namespace's. `unread`: its own says nothing, and its
 * namespace's object has never been seen. That is not the same as a namespace without the label: a label counts as
 * taken off only when the object was read and does not have it.
 */
export type Labelling = 'enabled' | 'absent' | 'unread';

export class MeshState {
  readonly settings: MeshSettings;
  /** The policies of the mesh; asked with a Workload, which has all that a policy's target has. */
  readonly policies: PolicyStore;
  readonly #namespaces = new Map<string, NamespaceInfo>();
  /** Whose object is gone, while pods of it are there: Kubernetes deletes these first. They keep what it said last. */
  readonly #goneNamespaces = new Set<string>();
  readonly #nodes = new Map<string, NodeInfo>();
  readonly #workloads = new Map<PodUid, Workload>();
  readonly #services = new Map<string, Service>();
  readonly #slices = new Map<string, EndpointSlice>();
  readonly #published = new Map<PodUid, PublishedState>();
  readonly #authorizationPolicies = new Map<string, AuthorizationPolicy>();
  readonly #peerAuthentications = new Map<string, PeerAuthentication>();

  readonly #uidsByIp = new Index<Ip, PodUid>();
  readonly #uidsByNamespace = new Index<string, PodUid>();
  /** Addresses of nodes and of hostNetwork pods → who has them. */
  readonly #hostAddresses = new Index<Ip, string>();
  readonly #servicesByClusterIp = new Index<Ip, string>();
  readonly #servicesByExternalIp = new Index<Ip, string>();
  readonly #servicesByNodePort = new Index<Port, string>();
  readonly #slicesByService = new Index<string, string>();
  /** `slicesOf`, until one of a Service's slices changes. */
  readonly #slicesInOrder = new Map<string, readonly EndpointSlice[]>();
  readonly #ranges = new RangeSet();
  readonly #onceEnrolled = new Set<PodUid>();
  /** Those of them whose daemon said that they leave, and then nothing more. */
  readonly #withdrawn = new Set<PodUid>();

  constructor(settings: MeshSettings) {
    this.settings = settings;
    this.policies = new PolicyStore(settings);
    for (const cidr of settings.meshCidrs) this.#ranges.add(cidr);
  }

  /** Takes changes in, in order. */
  apply(deltas: readonly Delta[]): void {
    for (const delta of deltas) this.#applyOne(delta);
  }

  /**
   * Deltas that bring an empty state to this one, `wasEnrolled` included (a pod once enrolled is told as enrolled
   * first, then as what it is now): for a thread that starts late.
   */
  snapshot(): Delta[] {
    const deltas: Delta[] = [];
    for (const [key, value] of this.#namespaces) deltas.push({ kind: 'namespace', key, value });
    for (const [key, value] of this.#nodes) deltas.push({ kind: 'node', key, value });
    for (const [key, value] of this.#authorizationPolicies) deltas.push({ kind: 'policy', key, value });
    for (const [key, value] of this.#peerAuthentications)
      deltas.push({ kind: 'peer-authentication', key, value });
    for (const [key, value] of this.#workloads) deltas.push({ kind: 'workload', key, value });
    for (const key of this.#goneNamespaces) deltas.push({ kind: 'namespace', key, value: undefined });
    for (const [key, value] of this.#services) deltas.push({ kind: 'service', key, value });
    for (const [key, value] of this.#slices) deltas.push({ kind: 'slice', key, value });
    for (const key of this.#onceEnrolled) {
      deltas.push({ kind: 'published', key, value: { uid: key, state: 'enrolled', sinceMs: 0 } });
      if (this.#withdrawn.has(key))
        deltas.push({ kind: 'published', key, value: { uid: key, state: 'leaving', sinceMs: 0 } });
      if (!this.#published.has(key)) deltas.push({ kind: 'published', key, value: undefined });
    }
    for (const [key, value] of this.#published) deltas.push({ kind: 'published', key, value });
    return deltas;
  }

  namespace(name: string): NamespaceInfo | undefined {
    return this.#namespaces.get(name);
  }

  node(name: string): NodeInfo | undefined {
    return this.#nodes.get(name);
  }

  get nodeCount(): number {
    return this.#nodes.size;
  }

  workload(uid: PodUid): Workload | undefined {
    return this.#workloads.get(uid);
  }

  workloads(): Iterable<Workload> {
    return this.#workloads.values();
  }

  /**
   * The pod that has this address now. Addresses are reused: finished and hostNetwork pods have none of their own,
   * a pod that is not being deleted goes before one that is, the newest goes first.
   */
  workloadByIp(ip: Ip): Workload | undefined {
    let owner: Workload | undefined;
    for (const uid of this.#uidsByIp.get(ip)) {
      const workload = this.#workloads.get(uid);
      if (workload !== undefined && ownsItsIps(workload) && goesBefore(workload, owner)) owner = workload;
    }
    return owner;
  }

  /** Whether a node, or a pod in a node's network, has this address. */
  isHostAddress(ip: Ip): boolean {
    return this.#hostAddresses.has(ip);
  }

  /** Whether the address is of the mesh's pod ranges: `meshCidrs` and all nodes' podCIDRs. */
  isInMeshRanges(ip: Ip): boolean {
    return this.#ranges.has(ip);
  }

  service(namespace: string, name: string): Service | undefined {
    return this.#services.get(`${namespace}/${name}`);
  }

  services(): Iterable<Service> {
    return this.#services.values();
  }

  serviceByClusterIp(ip: Ip): Service | undefined {
    return this.#firstService(this.#servicesByClusterIp.get(ip));
  }

  /** The Service of which this is an external IP or a load balancer's address. */
  serviceByExternalIp(ip: Ip): Service | undefined {
    return this.#firstService(this.#servicesByExternalIp.get(ip));
  }

  serviceByNodePort(port: Port): Service | undefined {
    return this.#firstService(this.#servicesByNodePort.get(port));
  }

  /** All slices of a Service, both families, in a fixed order: the same list until one of them changes. */
  slicesOf(service: Service): readonly EndpointSlice[] {
    const name = `${service.namespace}/${service.name}`;
    const known = this.#slicesInOrder.get(name);
    if (known !== undefined) return known;
    const keys = [...this.#slicesByService.get(name)].sort();
    const slices = keys.flatMap((key) => this.#slices.get(key) ?? []);
    // Only lists of Services that have slices are kept: as many as there are slices at most.
    if (slices.length > 0) this.#slicesInOrder.set(name, slices);
    return slices;
  }

  /** What the pod's own daemon said of it last. */
  published(uid: PodUid): PublishedState | undefined {
    return this.#published.get(uid);
  }

  labelling(workload: Workload): Labelling {
    const namespace = this.#namespaces.get(workload.namespace);
    if (workload.meshLabel === undefined && namespace === undefined) return 'unread';
    return (workload.meshLabel ?? namespace?.meshLabel) === 'enabled' ? 'enabled' : 'absent';
  }

  /** Whether the pod is known to belong to the mesh by label. */
  isLabelled(workload: Workload): boolean {
    return this.labelling(workload) === 'enabled';
  }

  /** Namespaces that pods look to for their label and whose objects are not there, in order of their names. */
  missingNamespaces(): string[] {
    const asks = (uid: PodUid): boolean => {
      const workload = this.#workloads.get(uid);
      return workload !== undefined && workload.meshLabel === undefined;
    };
    return [...this.#uidsByNamespace.keys()]
      .filter((name) => !this.#namespaces.has(name) || this.#goneNamespaces.has(name))
      .filter((name) => [...this.#uidsByNamespace.get(name)].some(asks))
      .sort();
  }

  authorizationPolicies(): Iterable<AuthorizationPolicy> {
    return this.#authorizationPolicies.values();
  }

  peerAuthentications(): Iterable<PeerAuthentication> {
    return this.#peerAuthentications.values();
  }

  /** Whether the pod's daemon says that it takes tunnels and makes the whole promise. */
  isEnrolled(uid: PodUid): boolean {
    return this.#published.get(uid)?.state === 'enrolled';
  }

  /** Whether this thread has once seen the pod enrolled and its label has stood ever since. */
  wasEnrolled(uid: PodUid): boolean {
    return this.#onceEnrolled.has(uid);
  }

  /** Whether the pod's daemon has let it go (its node was uninstalled, say) though its label stands. */
  wasWithdrawn(uid: PodUid): boolean {
    return this.#withdrawn.has(uid);
  }

  #applyOne(delta: Delta): void {
    switch (delta.kind) {
      case 'namespace':
        this.#setNamespace(delta.key, delta.value);
        break;
      case 'node':
        this.#setNode(delta.key, delta.value);
        break;
      case 'workload':
        this.#setWorkload(delta.key, delta.value);
        break;
      case 'service':
        this.#setService(delta.key, delta.value);
        break;
      case 'slice':
        this.#setSlice(delta.key, delta.value);
        break;
      case 'published':
        this.#setPublished(delta.key, delta.value);
        break;
      case 'policy':
        put(this.#authorizationPolicies, delta.key, delta.value);
        this.policies.setPolicy(...splitKey(delta.key), delta.value);
        break;
      case 'peer-authentication':
        put(this.#peerAuthentications, delta.key, delta.value);
        this.policies.setPeerAuthentication(...splitKey(delta.key), delta.value);
        break;
    }
  }

  #setNamespace(name: string, value: NamespaceInfo | undefined): void {
    const before = this.#namespaces.get(name);
    if (value === undefined && before !== undefined && this.#uidsByNamespace.has(name)) {
      this.#goneNamespaces.add(name);
      return;
    }
    this.#goneNamespaces.delete(name);
    put(this.#namespaces, name, value);
    if (before !== undefined && before.meshLabel === value?.meshLabel) return;
    for (const uid of this.#uidsByNamespace.get(name)) this.#remember(uid);
  }

  #setNode(name: string, value: NodeInfo | undefined): void {
    const old = put(this.#nodes, name, value);
    const who = `node/${name}`;
    for (const cidr of old?.podCidrs ?? []) this.#ranges.delete(cidr);
    for (const ip of old?.addresses ?? []) this.#hostAddresses.delete(ip, who);
    for (const cidr of value?.podCidrs ?? []) this.#ranges.add(cidr);
    for (const ip of value?.addresses ?? []) this.#hostAddresses.add(ip, who);
  }

  #setWorkload(uid: PodUid, value: Workload | undefined): void {
    const old = put(this.#workloads, uid, value);
    if (old !== undefined) {
      this.#uidsByNamespace.delete(old.namespace, uid);
      for (const ip of old.ips) this.#uidsByIp.delete(ip, uid);
      for (const ip of hostIps(old)) this.#hostAddresses.delete(ip, `pod/${uid}`);
    }
    if (value !== undefined) {
      this.#uidsByNamespace.add(value.namespace, uid);
      for (const ip of value.ips) this.#uidsByIp.add(ip, uid);
      for (const ip of hostIps(value)) this.#hostAddresses.add(ip, `pod/${uid}`);
    }
    this.#remember(uid);
    if (
      old !== undefined &&
      this.#goneNamespaces.has(old.namespace) &&
      !this.#uidsByNamespace.has(old.namespace)
    )
      this.#setNamespace(old.namespace, undefined);
  }

  #setService(key: string, value: Service | undefined): void {
    const old = put(this.#services, key, value);
    for (const ip of old?.clusterIps ?? []) this.#servicesByClusterIp.delete(ip, key);
    for (const ip of old?.externalIps ?? []) this.#servicesByExternalIp.delete(ip, key);
    for (const { nodePort } of old?.ports ?? [])
      if (nodePort !== undefined) this.#servicesByNodePort.delete(nodePort, key);
    for (const ip of value?.clusterIps ?? []) this.#servicesByClusterIp.add(ip, key);
    for (const ip of value?.externalIps ?? []) this.#servicesByExternalIp.add(ip, key);
    for (const { nodePort } of value?.ports ?? [])
      if (nodePort !== undefined) this.#servicesByNodePort.add(nodePort, key);
  }

  #setSlice(key: string, value: EndpointSlice | undefined): void {
    const old = put(this.#slices, key, value);
    const before = old && `${old.namespace}/${old.serviceName}`;
    const now = value && `${value.namespace}/${value.serviceName}`;
    if (before !== undefined) {
      this.#slicesByService.delete(before, key);
      this.#slicesInOrder.delete(before);
    }
    if (now !== undefined) {
      this.#slicesByService.add(now, key);
      this.#slicesInOrder.delete(now);
    }
  }

  /** A value that speaks of another UID is none: templates can carry the annotation (DESIGN.md 3a). */
  #setPublished(uid: PodUid, value: PublishedState | undefined): void {
    const now = value?.uid === uid ? value : undefined;
    const before = put(this.#published, uid, now);
    if (now !== undefined) this.#withdrawn.delete(uid);
    else if (before?.state === 'leaving' && this.#onceEnrolled.has(uid)) this.#withdrawn.add(uid);
    this.#remember(uid);
  }

  #remember(uid: PodUid): void {
    const workload = this.#workloads.get(uid);
    if (workload === undefined || this.labelling(workload) === 'absent') this.#onceEnrolled.delete(uid);
    else if (this.isEnrolled(uid)) this.#onceEnrolled.add(uid);
    if (!this.#onceEnrolled.has(uid)) this.#withdrawn.delete(uid);
  }

  /** Two Services with one address exist only while one replaces the other, or by mistake: the first by name. */
  #firstService(keys: ReadonlySet<string>): Service | undefined {
    let first: string | undefined;
    for (const key of keys) if (first === undefined || key < first) first = key;
    return first === undefined ? undefined : this.#services.get(first);
  }
}

/** `ns/name` → namespace and name. */
function splitKey(key: string): [namespace: string, name: string] {
  const slash = key.indexOf('/');
  return [key.slice(0, slash), key.slice(slash + 1)];
}

function ownsItsIps(workload: Workload): boolean {
  return !workload.hostNetwork && workload.phase !== 'Succeeded' && workload.phase !== 'Failed';
}

function hostIps(workload: Workload): readonly Ip[] {
  return workload.hostNetwork ? workload.ips : [];
}

function goesBefore(a: Workload, b: Workload | undefined): boolean {
  if (b === undefined) return true;
  if (a.terminating !== b.terminating) return b.terminating;
  return a.createdMs === b.createdMs ? a.uid > b.uid : a.createdMs > b.createdMs;
}
