/** `culvert check` of a cluster: what the mesh needs of it, before (`--pre`) and after it is applied. */
import { X509Certificate } from 'node:crypto';
import { z } from 'zod';
import type { KubeApi } from '../../kube/seams.ts';
import { parseIp } from '../../mesh/ids.ts';
import { isInside } from '../../mesh/ranges.ts';
import type { Finding } from '../io.ts';
import { span } from '../table.ts';
import { blockedTunnels, networkPolicySchema } from './network-policies.ts';
import { getOptional, labelsOf, listAll } from './objects.ts';
import type { NodeObject, PodObject } from './objects.ts';
import { accessFindings } from './rights.ts';
import { readCluster } from './read.ts';
import { MESH_LABEL, clusterStatus, isLabelled } from './view.ts';
import type { ClusterObjects } from './view.ts';

export interface ClusterCheckOptions {
  readonly systemNamespace: string;
  /** Before anything of ours is applied. */
  readonly pre?: true;
}

/** Pod-bound tokens name their node from here on (SEMANTICS.md 4.3), and ValidatingAdmissionPolicy is v1. */
const MIN_MINOR = 30;
const MIN_KERNEL = [5, 15] as const;
const WARN_MS = 60 * 86_400_000;
const DEMANDED_APIS = [
  'discovery.k8s.io/v1',
  'certificates.k8s.io/v1',
  'coordination.k8s.io/v1',
  'admissionregistration.k8s.io/v1',
  'events.k8s.io/v1',
] as const;
const POLICY_CRD =
  '/apis/apiextensions.k8s.io/v1/customresourcedefinitions/authorizationpolicies.security.istio.io';

/** Every finding. @throws KubeError when the cluster can't be read at all. */
export async function checkCluster(
  api: KubeApi,
  options: ClusterCheckOptions,
  nowMs: number,
): Promise<readonly Finding[]> {
  const objects = await readCluster(api, options.systemNamespace);
  const settings = await configOf(api, options.systemNamespace);
  const findings = [
    await version(api),
    ...(await apis(api)),
    await policyCrds(api),
    ...nodes(objects.nodes),
    addresses(objects, settings['CULVERT_MESH_CIDRS'] ?? ''),
    ...(await networkPolicies(api, objects)),
    ...(await accessFindings(api, { ...options, certSource: settings['CULVERT_CERT_SOURCE'] ?? '' })),
  ];
  if (options.pre === true) return findings;
  return [...findings, ...daemons(objects), await bundle(api, options.systemNamespace, nowMs)];
}

async function version(api: KubeApi): Promise<Finding> {
  const answer = z
    .looseObject({ major: z.string(), minor: z.string(), gitVersion: z.string() })
    .parse(await api.request({ method: 'GET', path: '/version' }));
  const isEnough = Number(answer.major) > 1 || Number.parseInt(answer.minor, 10) >= MIN_MINOR;
  return {
    id: 'KUBERNETES_VERSION',
    ok: isEnough,
    what: 'Kubernetes version',
    detail: answer.gitVersion,
    fix: isEnough ? '' : `1.${MIN_MINOR} or newer is needed: older tokens don't name their node`,
  };
}

async function apis(api: KubeApi): Promise<Finding[]> {
  return Promise.all(
    DEMANDED_APIS.map(async (group) => {
      const isThere = (await getOptional(api, `/apis/${group}`, z.unknown())) !== undefined;
      const fix = isThere ? '' : `the API server doesn't serve ${group}; enable it`;
      return { id: 'API_MISSING', ok: isThere, what: `API ${group}`, detail: '', fix };
    }),
  );
}

/** Whose the policy CRDs are: Istio's stay Istio's. */
async function policyCrds(api: KubeApi): Promise<Finding> {
  const crd = await getOptional(
    api,
    POLICY_CRD,
    z.looseObject({ metadata: z.looseObject({ labels: z.record(z.string(), z.string()).nullish() }) }),
  );
  const common = { id: 'POLICY_CRDS', ok: true, what: 'policy CRDs (security.istio.io)' } as const;
  if (crd === undefined)
    return { ...common, detail: 'absent: apply manifests/policy-crds to write policies', fix: '' };
  const isOurs = crd.metadata.labels?.['app.kubernetes.io/name'] === 'culvert';
  return {
    ...common,
    detail: isOurs ? 'ours, from manifests/policy-crds' : "there already (Istio's): left alone",
    fix: '',
  };
}

function nodes(all: readonly NodeObject[]): Finding[] {
  return all.map((node) => {
    const { kernelVersion, operatingSystem, why } = capturing(node);
    return {
      id: 'NODE_CAPTURE',
      ok: why === undefined ? true : 'warn',
      what: `node ${node.metadata.name}`,
      detail: [operatingSystem, kernelVersion, why]
        .filter((part) => part !== undefined && part !== '')
        .join(', '),
      fix: why === undefined ? '' : OUTSIDE,
    };
  });
}

/** A daemon that never starts never says which roots it trusts. */
const OUTSIDE =
  'its pods stay outside the mesh; keep the DaemonSet off it (nodeAffinity), or a rotation of the root waits for it';

function capturing(node: NodeObject): {
  readonly kernelVersion: string;
  readonly operatingSystem: string;
  /** Why it can't have a daemon. */
  readonly why: string | undefined;
} {
  const { kernelVersion = '', operatingSystem = 'linux' } = node.status?.nodeInfo ?? {};
  return { kernelVersion, operatingSystem, why: whyNoCapture(operatingSystem, kernelVersion) };
}

function whyNoCapture(system: string, kernel: string): string | undefined {
  if (system !== 'linux') return 'not Linux';
  const [major = 0, minor = 0] = kernel.split('.').map((part) => Number.parseInt(part, 10));
  if (kernel === '' || Number.isNaN(major) || Number.isNaN(minor)) return undefined;
  const isOld = major < MIN_KERNEL[0] || (major === MIN_KERNEL[0] && minor < MIN_KERNEL[1]);
  return isOld ? `kernel older than ${MIN_KERNEL.join('.')}` : undefined;
}

/** DESIGN.md rule 9: unknown pods are told from the world outside by the nodes' ranges. */
function addresses({ pods, nodes: all }: ClusterObjects, meshCidrs: string): Finding {
  const ranges = all.flatMap(({ spec }) => spec?.podCIDRs ?? (spec?.podCIDR ? [spec.podCIDR] : []));
  ranges.push(...meshCidrs.split(',').filter((range) => range !== ''));
  const outside = pods.filter((pod) => pod.spec.hostNetwork !== true && !isWithin(pod, ranges));
  const names = outside.slice(0, 3).map(({ metadata }) => `${metadata.namespace ?? ''}/${metadata.name}`);
  return {
    id: 'POD_RANGES',
    ok: outside.length === 0,
    what: "pods' addresses lie in the nodes' podCIDRs or meshCidrs",
    detail: outside.length === 0 ? ranges.join(',') : `${outside.length} lie outside: ${names.join(', ')} …`,
    fix:
      outside.length === 0
        ? ''
        : "the CNI doesn't use podCIDR: set CULVERT_MESH_CIDRS in ConfigMap culvert-config to the pods' ranges",
  };
}

function isWithin(pod: PodObject, ranges: readonly string[]): boolean {
  const ips = (pod.status?.podIPs ?? []).flatMap(({ ip }) => parseIp(ip ?? '') ?? []);
  return ips.every((ip) => isInside(ip, ranges));
}

async function networkPolicies(api: KubeApi, objects: ClusterObjects): Promise<Finding[]> {
  const policies = await listAll(api, '/apis/networking.k8s.io/v1/networkpolicies', networkPolicySchema);
  const labels = new Map(objects.namespaces.map((one) => [one.metadata.name, labelsOf(one)[MESH_LABEL]]));
  const meshed = objects.pods.filter((pod) => isLabelled(pod, labels.get(pod.metadata.namespace ?? '')));
  const blocked = blockedTunnels(meshed, policies);
  const what = 'NetworkPolicies let tunnels (TCP 15008) through';
  if (blocked.length === 0)
    return [{ id: 'NETWORK_POLICY', ok: true, what, detail: `${policies.length} policies`, fix: '' }];
  return blocked.map(({ policy, way, pods, patch }) => ({
    id: 'NETWORK_POLICY',
    ok: false,
    what,
    detail: `${policy} does not, ${way} of ${pods.join(', ')}`,
    fix: `${patch}  (then give the port restriction back with an AuthorizationPolicy: to.operation.ports)`,
  }));
}

/** Of the nodes that can have one. */
function daemons(objects: ClusterObjects): Finding[] {
  const incapable = objects.nodes.filter((node) => capturing(node).why !== undefined);
  const names = new Set(incapable.map(({ metadata }) => metadata.name));
  const capable = clusterStatus(objects).nodes.filter(({ node }) => !names.has(node));
  return capable.map(({ node, ready, daemonPod, daemonReady, version: running }) => ({
    id: 'DAEMON',
    ok: daemonReady ? true : ready ? false : 'warn',
    what: `daemon of node ${node}`,
    detail: daemonPod === undefined ? 'none' : `${daemonPod}, ${running ?? 'nothing published yet'}`,
    fix: daemonReady
      ? ''
      : daemonPod === undefined
        ? 'kubectl -n culvert-system describe daemonset culvert'
        : `kubectl -n culvert-system logs ${daemonPod}`,
  }));
}

async function bundle(api: KubeApi, system: string, nowMs: number): Promise<Finding> {
  const found = await getOptional(
    api,
    `/api/v1/namespaces/${system}/configmaps/culvert-trust-bundle`,
    z.looseObject({ data: z.record(z.string(), z.string()).nullish() }),
  );
  const roots = pemsIn(found?.data?.['ca.crt'] ?? '');
  const common = { id: 'TRUST_BUNDLE', what: 'trust bundle (ConfigMap culvert-trust-bundle)' };
  if (roots.length === 0)
    return {
      ...common,
      ok: false,
      detail: 'absent or empty',
      fix: `kubectl -n ${system} logs deploy/culvert-ca`,
    };
  const endMs = Math.max(...roots.map((root) => root.validToDate.getTime()));
  const isLate = endMs - nowMs < WARN_MS;
  const detail = `${roots.length} ${roots.length === 1 ? 'root' : 'roots'}, ends in ${span(endMs - nowMs)}`;
  return { ...common, ok: isLate ? 'warn' : true, detail, fix: isLate ? 'culvert ca rotate' : '' };
}

function pemsIn(text: string): X509Certificate[] {
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return blocks.flatMap((block) => {
    try {
      return [new X509Certificate(block)];
    } catch {
      return [];
    }
  });
}

async function configOf(api: KubeApi, system: string): Promise<Readonly<Record<string, string>>> {
  const path = `/api/v1/namespaces/${system}/configmaps/culvert-config`;
  const schema = z.looseObject({ data: z.record(z.string(), z.string()).nullish() });
  return (await getOptional(api, path, schema))?.data ?? {};
}
