/** A Pod as the mesh sees it. */
import type { z } from 'zod';
import { parsePodUid, parsePort } from '../mesh/ids.ts';
import type { Ip, Port } from '../mesh/ids.ts';
import type { Workload } from '../mesh/model.ts';
import { cidrAt, ipAt, meshLabel } from './fields.ts';
import type { Note } from './fields.ts';
import type { podSchema } from './schemas.ts';
import { Shared } from './shared.ts';

type Pod = z.infer<typeof podSchema>;
type Table = Readonly<Record<string, string>>;

/** Runtime classes are free names; these are the ones that gVisor's and Kata's own guides use, and their variants. */
const FOREIGN_RUNTIME = /gvisor|runsc|kata/i;
const MESH_CONTAINERS: ReadonlySet<string> = new Set(['istio-proxy', 'linkerd-proxy']);
const EXCLUDE = 'culvert.dev/exclude-outbound-cidrs';
/** Ranges taken from one annotation. */
const MAX_EXCLUDED = 256;

const texts = new Shared((text: string) => text);
const tables = new Shared((table: Table) => JSON.stringify(table));
const portLists = new Shared((ports: readonly Port[]) => ports.join());
const rangeLists = new Shared((ranges: readonly string[]) => ranges.join());

/** The workload that `pod` is; undefined when its UID is none (the schema has said so). */
export function podToWorkload(pod: Pod, note: Note): Workload | undefined {
  const { metadata, spec, status } = pod;
  const uid = parsePodUid(metadata.uid);
  if (uid === undefined) return undefined;
  const labels = metadata.labels ?? {};
  const annotations = metadata.annotations ?? {};
  const runtime = spec.runtimeClassName ?? '';
  return {
    uid,
    name: metadata.name,
    namespace: texts.of(metadata.namespace ?? 'default'),
    serviceAccount: texts.of(spec.serviceAccountName || 'default'),
    node: texts.of(spec.nodeName ?? ''),
    ips: addresses(pod, note),
    labels: tables.of(labels),
    hostNetwork: spec.hostNetwork ?? false,
    phase: status?.phase ?? 'Pending',
    meshLabel: meshLabel(labels, note),
    otherMesh: otherMesh(pod, labels, annotations),
    foreignRuntime: FOREIGN_RUNTIME.test(runtime) ? runtime : undefined,
    secondaryNetworks: annotations['k8s.v1.cni.cncf.io/networks']?.trim().slice(0, 253) || undefined,
    os: spec.os?.name ?? (spec.nodeSelector?.['kubernetes.io/os'] === 'windows' ? 'windows' : 'linux'),
    containerPorts: portLists.of(containerPorts(pod)),
    excludeOutboundCidrs: rangeLists.of(excluded(annotations, note)),
    cutExisting: flag(annotations, labels, 'culvert.dev/cut-existing', 'true', note),
    allowNestedNetns: flag(annotations, labels, 'culvert.dev/nested-netns', 'allow', note),
    terminating: typeof metadata.deletionTimestamp === 'string',
    ready: (status?.conditions ?? []).some(({ type, status: is }) => type === 'Ready' && is === 'True'),
    createdMs: createdMs(metadata.creationTimestamp ?? '', note),
    owner: shared(ownerOf(pod, labels)),
  };
}

function shared(text: string | undefined): string | undefined {
  return text === undefined ? undefined : texts.of(text);
}

function addresses({ status }: Pod, note: Note): readonly Ip[] {
  const ips = new Set<Ip>();
  if (status?.podIP) for (const ip of ipAt(status.podIP, ['status', 'podIP'], note)) ips.add(ip);
  for (const [i, { ip: text }] of (status?.podIPs ?? []).entries())
    for (const ip of ipAt(text, ['status', 'podIPs', i, 'ip'], note)) ips.add(ip);
  return [...ips];
}

/** The sign that another mesh has this pod; the namespace's ambient label is looked at by `whyNotEnrollable`. */
function otherMesh({ spec }: Pod, labels: Table, annotations: Table): string | undefined {
  if (labels['istio.io/dataplane-mode'] === 'ambient') return 'label istio.io/dataplane-mode=ambient';
  if (annotations['ambient.istio.io/redirection'] === 'enabled')
    return 'annotation ambient.istio.io/redirection=enabled';
  if (annotations['sidecar.istio.io/status'] !== undefined) return 'annotation sidecar.istio.io/status';
  // Native sidecars are init containers.
  const containers = [...(spec.containers ?? []), ...(spec.initContainers ?? [])];
  const sidecar = containers.find(({ name }) => MESH_CONTAINERS.has(name));
  return sidecar && `container ${sidecar.name}`;
}

function containerPorts({ spec }: Pod): readonly Port[] {
  const ports = new Set<Port>();
  const all = [spec.containers, spec.initContainers, spec.ephemeralContainers];
  for (const container of all.flatMap((list) => list ?? []))
    for (const { containerPort, protocol } of container.ports ?? []) {
      const port = (protocol ?? 'TCP') === 'TCP' ? parsePort(containerPort) : undefined;
      if (port !== undefined) ports.add(port);
    }
  return [...ports];
}

function excluded(annotations: Table, note: Note): readonly string[] {
  const path = ['metadata', 'annotations', EXCLUDE];
  const items = (annotations[EXCLUDE] ?? '').split(',', MAX_EXCLUDED + 1).map((item) => item.trim());
  if (items.length > MAX_EXCLUDED) note(path, `only the first ${MAX_EXCLUDED} ranges are used`);
  const texts = items.slice(0, MAX_EXCLUDED).filter((item) => item !== '');
  return [...new Set(texts.flatMap((text) => cidrAt(text, path, note)))];
}

/** A switch that is on only by the exact word; written as an annotation or, as users also do, as a label. */
function flag(annotations: Table, labels: Table, key: string, on: string, note: Note): boolean {
  const where = annotations[key] === undefined ? 'labels' : 'annotations';
  const value = annotations[key] ?? labels[key];
  if (value !== undefined && value !== on && value !== 'false')
    note(['metadata', where, key], `"${value.slice(0, 64)}" is not "${on}": no effect`);
  return value === on;
}

function createdMs(text: string, note: Note): number {
  const ms = text === '' ? 0 : Date.parse(text);
  if (!Number.isNaN(ms)) return ms;
  note(['metadata', 'creationTimestamp'], `"${text}" is no time`);
  return 0;
}

/** `Deployment/web` rather than its ReplicaSet `web-5d4f8c`: the name a person knows. */
function ownerOf({ metadata }: Pod, labels: Table): string | undefined {
  const owner = metadata.ownerReferences?.find(({ controller }) => controller === true);
  if (owner === undefined) return undefined;
  const hash = `-${labels['pod-template-hash'] ?? ''}`;
  return owner.kind === 'ReplicaSet' && hash !== '-' && owner.name.endsWith(hash)
    ? `Deployment/${owner.name.slice(0, -hash.length)}`
    : `${owner.kind}/${owner.name}`;
}
