/** Services and EndpointSlices as the mesh sees them. Only their TCP ports: other protocols are not ours. */
import type { z } from 'zod';
import { isIpv6, parsePodUid, parsePort } from '../mesh/ids.ts';
import type { Ip, Port } from '../mesh/ids.ts';
import type { Endpoint, EndpointSlice, Service, ServicePort } from '../mesh/model.ts';
import { ipAt } from './fields.ts';
import type { Note } from './fields.ts';
import type { serviceSchema, sliceSchema } from './schemas.ts';

type ServiceObject = z.infer<typeof serviceSchema>;
type SliceObject = z.infer<typeof sliceSchema>;

/** Kubernetes' default of sessionAffinityConfig.clientIP.timeoutSeconds: three hours. */
const AFFINITY_SECONDS = 10_800;

const DISTRIBUTIONS: ReadonlyMap<string, NonNullable<Service['trafficDistribution']>> = new Map([
  ['PreferSameZone', 'PreferSameZone'],
  ['PreferClose', 'PreferSameZone'],
  ['PreferSameNode', 'PreferSameNode'],
]);

export function toService({ metadata, spec, status }: ServiceObject, note: Note): Service {
  const affinitySeconds = spec.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? AFFINITY_SECONDS;
  return {
    name: metadata.name,
    namespace: metadata.namespace ?? 'default',
    type: spec.type ?? 'ClusterIP',
    clusterIps: clusterIps(spec, note),
    externalIps: externalIps(spec, status, note),
    ports: servicePorts(spec),
    hasSelector: Object.keys(spec.selector ?? {}).length > 0,
    sessionAffinity: spec.sessionAffinity ?? 'None',
    affinityTimeoutMs: affinitySeconds * 1_000,
    internalTrafficPolicy: spec.internalTrafficPolicy ?? 'Cluster',
    trafficDistribution: DISTRIBUTIONS.get(spec.trafficDistribution ?? ''),
    publishNotReadyAddresses: spec.publishNotReadyAddresses ?? false,
  };
}

/** 'None' is a headless Service, '' one that has none yet; an ExternalName's is to be ignored. */
function clusterIps(spec: ServiceObject['spec'], note: Note): readonly Ip[] {
  if (spec.type === 'ExternalName') return [];
  const texts = spec.clusterIPs?.length ? spec.clusterIPs : [spec.clusterIP ?? ''];
  const ips = texts.flatMap((text, i) =>
    text === 'None' || text === '' ? [] : ipAt(text, ['spec', 'clusterIPs', i], note),
  );
  return [...new Set(ips)];
}

function externalIps(
  spec: ServiceObject['spec'],
  status: ServiceObject['status'],
  note: Note,
): readonly Ip[] {
  const fixed = (spec.externalIPs ?? []).flatMap((text, i) => ipAt(text, ['spec', 'externalIPs', i], note));
  const balanced = (status?.loadBalancer?.ingress ?? []).flatMap(({ ip }, i) =>
    ip ? ipAt(ip, ['status', 'loadBalancer', 'ingress', i, 'ip'], note) : [],
  );
  return [...new Set([...fixed, ...balanced])];
}

function servicePorts(spec: ServiceObject['spec']): readonly ServicePort[] {
  return (spec.ports ?? []).flatMap((item) => {
    const port = isTcp(item.protocol) ? parsePort(item.port) : undefined;
    return port === undefined
      ? []
      : [{ name: item.name ?? '', port, nodePort: parsePort(item.nodePort ?? 0) }];
  });
}

/** The slice, or undefined when it belongs to no Service or holds names instead of addresses. */
export function toSlice(
  { metadata, addressType, endpoints, ports }: SliceObject,
  note: Note,
): EndpointSlice | undefined {
  const serviceName = metadata.labels?.['kubernetes.io/service-name'];
  if (serviceName === undefined || serviceName === '' || addressType === 'FQDN') return undefined;
  const targets = (ports ?? []).flatMap((item): [string, Port][] => {
    const port = isTcp(item.protocol) ? parsePort(item.port ?? 0) : undefined;
    return port === undefined ? [] : [[item.name ?? '', port]];
  });
  return {
    name: metadata.name,
    namespace: metadata.namespace ?? 'default',
    serviceName,
    family: addressType,
    ports: Object.fromEntries(targets),
    endpoints: (endpoints ?? []).flatMap((item, i) => toEndpoint(item, i, addressType, note)),
  };
}

type EndpointObject = NonNullable<SliceObject['endpoints']>[number];

/** The first address counts, as for kube-proxy. Absent conditions: ready, serving as ready, not terminating. */
function toEndpoint(
  item: EndpointObject,
  index: number,
  family: EndpointSlice['family'],
  note: Note,
): readonly Endpoint[] {
  const path = ['endpoints', index, 'addresses', 0];
  const [ip] = ipAt(item.addresses[0] ?? '', path, note);
  if (ip === undefined) return [];
  if (isIpv6(ip) !== (family === 'IPv6')) {
    note(path, `${ip} is not ${family}: left out`);
    return [];
  }
  const ready = item.conditions?.ready ?? true;
  return [
    {
      ip,
      podUid: item.targetRef?.kind === 'Pod' ? parsePodUid(item.targetRef.uid ?? '') : undefined,
      node: item.nodeName ?? undefined,
      zone: item.zone ?? undefined,
      ready,
      serving: item.conditions?.serving ?? ready,
      terminating: item.conditions?.terminating ?? false,
    },
  ];
}

function isTcp(protocol: string | null | undefined): boolean {
  return (protocol ?? 'TCP') === 'TCP';
}
