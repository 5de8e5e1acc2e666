/** What files say of workloads and Services, read as far as `culvert lint` needs it: manifests, not only live objects. */
import { z } from 'zod';
import type { ManifestObject } from '../io.ts';

/** A pod, or what makes pods. */
export interface LintWorkload {
  /** `Deployment shop/web`. */
  readonly title: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Declared TCP container ports. */
  readonly ports: readonly { readonly name: string | undefined; readonly port: number }[];
}

export interface LintService {
  readonly namespace: string;
  readonly name: string;
  readonly selector: Readonly<Record<string, string>>;
  readonly ports: readonly LintServicePort[];
}

export interface LintServicePort {
  readonly name: string;
  readonly port: number;
  readonly targetPort: number | string;
  readonly appProtocol: string | undefined;
}

export interface World {
  readonly namespaces: ReadonlySet<string>;
  readonly workloads: readonly LintWorkload[];
  readonly services: readonly LintService[];
}

const labels = z.record(z.string(), z.string()).nullish();
const metadata = z.looseObject({ name: z.string(), namespace: z.string().nullish(), labels });
const containerPort = z.looseObject({
  name: z.string().nullish(),
  containerPort: z.number(),
  protocol: z.string().nullish(),
});
const containers = z.array(z.looseObject({ ports: z.array(containerPort).nullish() })).nullish();
const podSpec = z.looseObject({ containers, initContainers: containers });
const template = z.looseObject({
  metadata: z.looseObject({ labels }).nullish(),
  spec: podSpec,
});

const podSchema = z.looseObject({ kind: z.literal('Pod'), metadata, spec: podSpec });
const makerSchema = z.looseObject({
  kind: z.enum(['Deployment', 'StatefulSet', 'DaemonSet', 'ReplicaSet', 'ReplicationController', 'Job']),
  metadata,
  spec: z.looseObject({ template }),
});
const cronSchema = z.looseObject({
  kind: z.literal('CronJob'),
  metadata,
  spec: z.looseObject({ jobTemplate: z.looseObject({ spec: z.looseObject({ template }) }) }),
});
const serviceSchema = z.looseObject({
  kind: z.literal('Service'),
  apiVersion: z.literal('v1'),
  metadata,
  spec: z.looseObject({
    selector: labels,
    ports: z
      .array(
        z.looseObject({
          name: z.string().nullish(),
          port: z.number(),
          protocol: z.string().nullish(),
          targetPort: z.union([z.number(), z.string()]).nullish(),
          appProtocol: z.string().nullish(),
        }),
      )
      .nullish(),
  }),
});
const namespaceSchema = z.looseObject({ kind: z.literal('Namespace'), metadata });

/** The world that `objects` are; what can't be read is left out. */
export function worldOf(objects: readonly ManifestObject[]): World {
  const namespaces = new Set<string>();
  const workloads: LintWorkload[] = [];
  const services: LintService[] = [];
  for (const { value } of objects) {
    const namespace = namespaceSchema.safeParse(value);
    if (namespace.success) namespaces.add(namespace.data.metadata.name);
    const workload = workloadOf(value);
    if (workload !== undefined) workloads.push(workload);
    const service = serviceSchema.safeParse(value);
    if (service.success) services.push(toService(service.data));
  }
  return { namespaces, workloads, services };
}

function workloadOf(value: unknown): LintWorkload | undefined {
  const pod = podSchema.safeParse(value);
  if (pod.success)
    return toWorkload('Pod', pod.data.metadata, { metadata: pod.data.metadata, spec: pod.data.spec });
  const maker = makerSchema.safeParse(value);
  if (maker.success) return toWorkload(maker.data.kind, maker.data.metadata, maker.data.spec.template);
  const cron = cronSchema.safeParse(value);
  if (!cron.success) return undefined;
  return toWorkload('CronJob', cron.data.metadata, cron.data.spec.jobTemplate.spec.template);
}

function toWorkload(
  kind: string,
  { name, namespace }: z.infer<typeof metadata>,
  pod: z.infer<typeof template>,
): LintWorkload {
  const all = [...(pod.spec.containers ?? []), ...(pod.spec.initContainers ?? [])];
  const ports = all
    .flatMap((container) => container.ports ?? [])
    .filter(({ protocol }) => (protocol ?? 'TCP') === 'TCP')
    .map(({ name: portName, containerPort: port }) => ({ name: portName ?? undefined, port }));
  const place = namespace ?? 'default';
  return {
    title: `${kind} ${place}/${name}`,
    namespace: place,
    labels: pod.metadata?.labels ?? {},
    ports,
  };
}

function toService({ metadata: { name, namespace }, spec }: z.infer<typeof serviceSchema>): LintService {
  return {
    namespace: namespace ?? 'default',
    name,
    selector: spec.selector ?? {},
    ports: (spec.ports ?? [])
      .filter(({ protocol }) => (protocol ?? 'TCP') === 'TCP')
      .map((one) => ({
        name: one.name ?? '',
        port: one.port,
        targetPort: one.targetPort ?? one.port,
        appProtocol: one.appProtocol ?? undefined,
      })),
  };
}

/** Whether every pair of `selector` is among `labels`. */
export function hasLabels(
  selector: Readonly<Record<string, string>>,
  given: Readonly<Record<string, string>>,
): boolean {
  return Object.entries(selector).every(([key, value]) => given[key] === value);
}
