/** The mesh that `culvert why` asks: of files, or as a running daemon knows it. */
import { z } from 'zod';
import type { Config } from '../../config.ts';
import type { Delta, MeshSettings } from '../../mesh/model.ts';
import { MeshState } from '../../mesh/state.ts';
import { ask } from '../client.ts';
import type { Io, ManifestObject } from '../io.ts';
import { readFiles } from './input.ts';
import { lint } from './lint.ts';

export interface MeshSource {
  readonly state: MeshState;
  /** What makes the answer doubtful. */
  readonly doubts: readonly string[];
}

/** @throws MeshError CONFIG_INVALID when a file is not there. */
export async function fromFiles(
  io: Pick<Io, 'stdin' | 'entryPoints'>,
  files: readonly string[],
  config: Config,
): Promise<MeshSource> {
  const manifests = await readFiles(io, files);
  const deltaOf = await io.entryPoints.readObject();
  const state = new MeshState(config);
  state.apply([
    ...manifests.objects.flatMap((object, i) => deltaOf(asLive(object.value, i)) ?? []),
    ...manifests.published,
  ]);
  const errors = lint(manifests, config).findings.filter(({ severity }) => severity === 'error');
  const doubts = errors.length === 0 ? [] : [`${errors.length} errors in the files: see culvert lint`];
  return { state, doubts };
}

/** @throws MeshError ADMIN_UNREACHABLE */
export async function fromDaemon(admin: string): Promise<MeshSource> {
  const { config, state: deltas } = await ask(admin, '/config', configSchema);
  const state = new MeshState(config);
  state.apply(deltas);
  return { state, doubts: [] };
}

const settingsSchema = z.looseObject({
  trustDomain: z.string(),
  defaultMode: z.enum(['permissive', 'strict']),
  rootNamespace: z.string(),
  trustDomainAliases: z.array(z.string()),
  pathNormalization: z.string(),
  meshCidrs: z.array(z.string()),
  nodeName: z.string(),
});
const deltaSchema = z.looseObject({ kind: z.string(), key: z.string(), value: z.unknown().optional() });

/** The daemon's own types, as far as a version that differs would show. */
const configSchema = z.looseObject({
  config: z.custom<MeshSettings>((value) => settingsSchema.safeParse(value).success),
  state: z.array(z.custom<Delta>((value) => deltaSchema.safeParse(value).success)),
});

const tableSchema = z.looseObject({});
const podSchema = z.looseObject({
  kind: z.literal('Pod'),
  metadata: z.looseObject({ uid: z.unknown().optional() }),
});
const template = z.looseObject({ metadata: tableSchema.nullish(), spec: z.unknown() });
const makerSchema = z.looseObject({
  kind: z.enum(['Deployment', 'StatefulSet', 'DaemonSet', 'ReplicaSet', 'Job']),
  metadata: z.looseObject({ name: z.string(), namespace: z.string().nullish() }),
  spec: z.looseObject({ template }),
});

/** A manifest has no UID yet, and a Deployment no pod: both are asked about as the pod that will be. */
function asLive(value: ManifestObject['value'], index: number): unknown {
  const uid = `manifest-${index}`;
  const pod = podSchema.safeParse(value);
  if (pod.success)
    return pod.data.metadata.uid === undefined
      ? { ...pod.data, metadata: { ...pod.data.metadata, uid } }
      : value;
  const maker = makerSchema.safeParse(value);
  if (!maker.success) return value;
  const { metadata, spec } = maker.data;
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { ...spec.template.metadata, name: metadata.name, namespace: metadata.namespace, uid },
    spec: spec.template.spec,
  };
}
