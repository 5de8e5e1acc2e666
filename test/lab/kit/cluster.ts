/**
 * The cluster as a folder of YAML, one object a file, written by rename. With `views: 'perNode'` each node has a
 * folder of its own (they share `status/`), so that a change can reach the nodes at different times.
 */
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parse, stringify } from 'yaml';
import { z } from 'zod';
import { until } from '../../support/wait.ts';
import { KubeProxyRules } from './kube-proxy.ts';
import type { PodRef } from './kube-proxy.ts';
import { MESH_LABEL, namespaceObject, serviceAccountObject, serviceObject, sliceObject } from './objects.ts';
import type { EndpointSpec, KubeObject, Labels, PortSpec } from './objects.ts';

const Status = z.object({ pods: z.array(z.object({ uid: z.string(), state: z.string() })).nullish() });

export interface ApplyOptions {
  /** By node name: how much later that node sees it. Only with `views: 'perNode'`. */
  readonly lagMs?: Readonly<Record<string, number>>;
}

export interface ServiceSpec {
  readonly namespace: string;
  readonly name: string;
  readonly ports: readonly PortSpec[];
  readonly pods?: readonly PodRef[];
  /** Instead of pods: endpoints as they stand. */
  readonly endpoints?: readonly EndpointSpec[];
  /** Default both of a dual-stack cluster; [] is headless. */
  readonly clusterIps?: readonly string[];
  readonly selector?: Labels;
  /** Merged over the Service's spec. */
  readonly spec?: Readonly<Record<string, unknown>>;
}

export interface LabService {
  readonly name: string;
  readonly namespace: string;
  /** IPv4 ClusterIP; '' when headless. */
  readonly ip: string;
  readonly ip6: string;
  setEndpoints(endpoints: readonly EndpointSpec[], options?: ApplyOptions): Promise<void>;
  setPods(pods: readonly PodRef[], options?: ApplyOptions): Promise<void>;
  delete(options?: ApplyOptions): Promise<void>;
}

export class LabCluster {
  readonly #objects = new Map<string, KubeObject>();
  readonly #folders = new Map<string, string>();
  readonly #base: string;
  readonly #ipv6: boolean;
  readonly #rules = new KubeProxyRules();
  #services = 0;
  #onServices: ((rules: string) => Promise<void>) | undefined;

  /** `base` must exist. `nodes`: for a folder each; empty: one folder for all. */
  constructor(base: string, nodes: readonly string[], ipv6: boolean) {
    this.#base = base;
    this.#ipv6 = ipv6;
    mkdirSync(join(base, 'status'));
    if (nodes.length === 0) mkdirSync(join(base, 'cluster'));
    if (nodes.length === 0) this.#folders.set('', join(base, 'cluster'));
    for (const node of nodes) this.#folders.set(node, join(base, `cluster-${node}`));
    for (const node of nodes) mkdirSync(join(base, `cluster-${node}`));
    for (const folder of this.#folders.values()) symlinkSync('../status', join(folder, 'status'));
  }

  /** `--cluster-dir` of a node's daemon. */
  folder(node: string): string {
    return this.#folders.get(node) ?? this.#folders.get('') ?? '';
  }

  /** Where daemons publish their pods' states. */
  get statusFolder(): string {
    return join(this.#base, 'status');
  }

  /** What all daemons have published, as text, file by file. */
  published(): Readonly<Record<string, string>> {
    const files = readdirSync(this.statusFolder).filter((name) => name.endsWith('.yaml'));
    return Object.fromEntries(
      files.map((name) => [name, readFileSync(join(this.statusFolder, name), 'utf8')]),
    );
  }

  /** The state that a pod's own daemon has published, by UID; undefined: none. */
  publishedState(uid: string): string | undefined {
    const pods = Object.values(this.published()).flatMap((text) => Status.parse(parse(text)).pods ?? []);
    return pods.find((pod) => pod.uid === uid)?.state;
  }

  /** Waits until each pod's published state is `state` (undefined: withdrawn). */
  async waitPublished(
    pods: readonly { readonly uid: string }[],
    state: 'joining' | 'enrolled' | 'leaving' | 'unenrollable' | undefined,
    timeoutMs = 30_000,
  ): Promise<void> {
    const all = (): boolean => pods.every((pod) => this.publishedState(pod.uid) === state);
    const detail = (): string => Object.values(this.published()).join('\n');
    await until(`published state ${state ?? 'none'}`, all, { timeoutMs, detail });
  }

  /** Calls back with a node's nft rules whenever Services change. */
  onServices(apply: (rules: string) => Promise<void>): void {
    this.#onServices = apply;
  }

  /** Creates or replaces an object. Resolves when every node's folder has it. */
  async apply(object: KubeObject, options: ApplyOptions = {}): Promise<void> {
    this.#objects.set(keyOf(object), object);
    await this.#eachFolder(options, (folder) => this.writeFile(folder, fileOf(object), stringify(object)));
  }

  /** Deletes an object. */
  async remove(object: KubeObject, options: ApplyOptions = {}): Promise<void> {
    this.#objects.delete(keyOf(object));
    await this.#eachFolder(options, (folder) => rmSync(join(folder, fileOf(object)), { force: true }));
  }

  /** The object as last applied. @throws Error when there is none. */
  get(kind: string, namespace: string, name: string): KubeObject {
    const found = this.#objects.get(`${kind}/${namespace}/${name}`);
    if (found === undefined) throw new Error(`the lab's cluster has no ${kind} ${namespace}/${name}`);
    return found;
  }

  has(kind: string, namespace: string, name: string): boolean {
    return this.#objects.has(`${kind}/${namespace}/${name}`);
  }

  /** Writes `text` into one folder by rename: for objects that no test could build, and for broken ones. */
  writeFile(folder: string, name: string, text: string): void {
    const temporary = join(this.#base, `.${name}.new`);
    writeFileSync(temporary, text);
    renameSync(temporary, join(folder, name));
  }

  /** Creates a namespace (or replaces its labels). */
  async namespace(name: string, labels: Labels = {}, options: ApplyOptions = {}): Promise<void> {
    await this.apply(namespaceObject(name, labels), options);
  }

  /** Puts `culvert.dev/mesh` on a namespace, or takes it off. */
  async label(
    namespace: string,
    value: 'enabled' | 'disabled' | undefined,
    options: ApplyOptions = {},
  ): Promise<void> {
    await this.relabel(this.get('Namespace', '', namespace), { [MESH_LABEL]: value }, options);
  }

  /** Sets or (undefined) removes labels of an object. */
  async relabel(
    object: KubeObject,
    changes: Readonly<Record<string, string | undefined>>,
    options: ApplyOptions = {},
  ): Promise<void> {
    const now = { ...object.metadata.labels, ...changes };
    const labels = Object.fromEntries(
      Object.entries(now).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])),
    );
    await this.apply({ ...object, metadata: { ...object.metadata, labels } }, options);
  }

  async serviceAccount(namespace: string, name: string): Promise<void> {
    if (!this.has('ServiceAccount', namespace, name)) await this.apply(serviceAccountObject(namespace, name));
  }

  /** Creates a Service with its EndpointSlices, and has the nodes' stand-in for kube-proxy translate it. */
  async service(spec: ServiceSpec, options: ApplyOptions = {}): Promise<LabService> {
    const clusterIps = spec.clusterIps ?? this.#nextClusterIps();
    const object = serviceObject({ selector: undefined, spec: {}, ...spec, clusterIps });
    await this.apply(object, options);
    const setEndpoints = async (
      endpoints: readonly EndpointSpec[],
      how: ApplyOptions = {},
    ): Promise<void> => {
      for (const family of ['IPv4', 'IPv6'] as const)
        await this.apply(this.#slice(spec, family, endpoints), how);
      this.#rules.set(keyOf(object), { clusterIps, ports: spec.ports, endpoints });
      await this.#onServices?.(this.#rules.render());
    };
    await setEndpoints(spec.endpoints ?? (spec.pods ?? []).flatMap(endpointsOf), options);
    return {
      name: spec.name,
      namespace: spec.namespace,
      ip: clusterIps.find((address) => !address.includes(':')) ?? '',
      ip6: clusterIps.find((address) => address.includes(':')) ?? '',
      setEndpoints,
      setPods: (pods, how) => setEndpoints(pods.flatMap(endpointsOf), how),
      delete: (how) => this.#deleteService(object, spec, how),
    };
  }

  async #deleteService(object: KubeObject, spec: ServiceSpec, how: ApplyOptions = {}): Promise<void> {
    await this.remove(object, how);
    for (const family of ['IPv4', 'IPv6'] as const) await this.remove(this.#slice(spec, family, []), how);
    this.#rules.set(keyOf(object), undefined);
    await this.#onServices?.(this.#rules.render());
  }

  #slice(spec: ServiceSpec, family: 'IPv4' | 'IPv6', endpoints: readonly EndpointSpec[]): KubeObject {
    const ours = endpoints.filter((endpoint) => endpoint.ip.includes(':') === (family === 'IPv6'));
    return sliceObject({
      service: spec.name,
      namespace: spec.namespace,
      family,
      ports: spec.ports,
      endpoints: ours,
    });
  }

  #nextClusterIps(): readonly string[] {
    this.#services += 1;
    const host = this.#services + 10;
    return this.#ipv6 ? [`10.96.0.${host}`, `fd00:96::${host}`] : [`10.96.0.${host}`];
  }

  async #eachFolder(options: ApplyOptions, act: (folder: string) => void): Promise<void> {
    const each = [...this.#folders].map(async ([node, folder]) => {
      const lag = options.lagMs?.[node] ?? 0;
      if (lag > 0) await sleep(lag);
      act(folder);
    });
    await Promise.all(each);
  }
}

function keyOf(object: KubeObject): string {
  return `${object.kind}/${object.metadata.namespace ?? ''}/${object.metadata.name}`;
}

function fileOf(object: KubeObject): string {
  const parts = [object.kind.toLowerCase(), object.metadata.namespace, object.metadata.name];
  return `${parts.filter((part) => part !== undefined).join('.')}.yaml`;
}

function endpointsOf(pod: PodRef): EndpointSpec[] {
  const { name, namespace, uid } = pod;
  return pod.ips.map((ip) => ({ ip, node: pod.nodeName, pod: { name, namespace, uid } }));
}
