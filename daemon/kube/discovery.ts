/** Whether the API serves a kind that comes with a CustomResourceDefinition, and in which version. */
import { z } from 'zod';
import { KubeError } from './seams.ts';
import type { KubeApi } from './seams.ts';

/** A kind that a cluster may not have. */
export interface CustomKind {
  readonly group: string;
  /** Those that can be read, the preferred one first. */
  readonly versions: readonly string[];
  /** `authorizationpolicies`. */
  readonly resource: string;
}

const word = z.string().max(253);
const groupSchema = z.object({
  name: word,
  versions: z.array(z.object({ version: word })).max(100),
});
const groupsSchema = z.object({ kind: z.literal('APIGroupList'), groups: z.array(z.object({ name: word })) });
const resourcesSchema = z.object({
  kind: z.literal('APIResourceList'),
  resources: z.array(z.object({ name: z.string().max(512) })),
});

/** The path of the collection in one of its versions. */
export function collectionPath({ group, resource }: CustomKind, version: string): string {
  return `/apis/${group}/${version}/${resource}`;
}

/**
 * The version that is served; undefined: none. That is believed only when the list of all groups says so, for a 404
 * may come from whatever stands before the server; not asked again where it `isKnownAbsent`.
 * @throws KubeError when it can't be told
 */
export async function servedVersion(
  api: KubeApi,
  kind: CustomKind,
  isKnownAbsent: boolean,
  signal: AbortSignal,
): Promise<string | undefined> {
  const path = `/apis/${kind.group}`;
  const group = await api.request({ method: 'GET', path, signal }).catch((error: unknown) => {
    if (error instanceof KubeError && error.status === 404) return undefined;
    throw error;
  });
  if (group === undefined) {
    if (!isKnownAbsent) await confirmAbsence(api, kind.group, signal);
    return undefined;
  }
  const served = checked(groupSchema, group, path).versions.map(({ version }) => version);
  for (const version of kind.versions.filter((one) => served.includes(one))) {
    const answer = await api.request({ method: 'GET', path: `${path}/${version}`, signal });
    const { resources } = checked(resourcesSchema, answer, `${path}/${version}`);
    if (resources.some(({ name }) => name === kind.resource)) return version;
  }
  return undefined;
}

async function confirmAbsence(api: KubeApi, group: string, signal: AbortSignal): Promise<void> {
  const answer = await api.request({ method: 'GET', path: '/apis', signal });
  const { groups } = checked(groupsSchema, answer, '/apis');
  if (groups.some(({ name }) => name === group))
    throw new KubeError(0, 'BadAnswer', `/apis has the group ${group}, and /apis/${group} was not found`);
}

function checked<T>(schema: z.ZodType<T>, answer: unknown, path: string): T {
  const read = schema.safeParse(answer);
  if (read.success) return read.data;
  throw new KubeError(0, 'BadAnswer', `GET ${path}: the answer is no discovery document`);
}
