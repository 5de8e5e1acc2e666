/** The cluster's objects as commands read them: only the fields they show, checked, in pages. */
import { z } from 'zod';
import { KubeError } from '../../kube/seams.ts';
import type { KubeApi } from '../../kube/seams.ts';

const PAGE = '500';
/** Pages of one list; beyond it the answer would not be for a person. */
const MAX_PAGES = 1_000;

const table = z.record(z.string(), z.string()).nullish();
const metadata = z.looseObject({
  name: z.string(),
  namespace: z.string().optional(),
  uid: z.string().optional(),
  labels: table,
  annotations: table,
  deletionTimestamp: z.string().nullish(),
});
const condition = z.looseObject({
  type: z.string(),
  status: z.string(),
  reason: z.string().nullish(),
  message: z.string().nullish(),
  lastTransitionTime: z.string().nullish(),
});
const conditions = z.array(condition).nullish();

export const namespaceSchema = z.looseObject({ metadata });
export const podSchema = z.looseObject({
  metadata,
  spec: z.looseObject({
    nodeName: z.string().nullish(),
    hostNetwork: z.boolean().nullish(),
    serviceAccountName: z.string().nullish(),
  }),
  status: z
    .looseObject({
      phase: z.string().nullish(),
      podIPs: z.array(z.looseObject({ ip: z.string().optional() })).nullish(),
      conditions,
    })
    .nullish(),
});
export const nodeSchema = z.looseObject({
  metadata,
  spec: z.looseObject({ podCIDR: z.string().nullish(), podCIDRs: z.array(z.string()).nullish() }).nullish(),
  status: z
    .looseObject({
      conditions,
      nodeInfo: z
        .looseObject({
          kernelVersion: z.string().optional(),
          operatingSystem: z.string().optional(),
          architecture: z.string().optional(),
        })
        .nullish(),
    })
    .nullish(),
});

export type NamespaceObject = z.infer<typeof namespaceSchema>;
export type PodObject = z.infer<typeof podSchema>;
export type NodeObject = z.infer<typeof nodeSchema>;

const listSchema = z.looseObject({
  metadata: z.looseObject({ continue: z.string().nullish() }).nullish(),
  items: z.array(z.unknown()).nullish(),
});

/**
 * Every object of a collection, page by page; what `schema` does not know is left out.
 * @throws KubeError as the API answered; `Expired` starts over once by itself.
 */
export async function listAll<T>(
  api: KubeApi,
  path: string,
  schema: z.ZodType<T>,
  query: Readonly<Record<string, string>> = {},
): Promise<T[]> {
  try {
    return await readPages(api, path, schema, query);
  } catch (error) {
    if (error instanceof KubeError && error.status === 410) return readPages(api, path, schema, query);
    throw error;
  }
}

async function readPages<T>(
  api: KubeApi,
  path: string,
  schema: z.ZodType<T>,
  query: Readonly<Record<string, string>>,
): Promise<T[]> {
  const found: T[] = [];
  let next: string | undefined;
  for (let page = 0; page < MAX_PAGES; page++) {
    const more = next === undefined ? {} : { continue: next };
    const list = listSchema.parse(
      await api.request({ method: 'GET', path, query: { limit: PAGE, ...query, ...more } }),
    );
    for (const item of list.items ?? []) {
      const parsed = schema.safeParse(item);
      if (parsed.success) found.push(parsed.data);
    }
    next = list.metadata?.continue ?? undefined;
    if (next === undefined || next === '') return found;
  }
  throw new Error(`${path} has more than ${MAX_PAGES} pages`);
}

/** The object, or undefined when there is none. @throws KubeError for every other answer. */
export async function getOptional<T>(
  api: KubeApi,
  path: string,
  schema: z.ZodType<T>,
): Promise<T | undefined> {
  try {
    return schema.parse(await api.request({ method: 'GET', path }));
  } catch (error) {
    if (error instanceof KubeError && error.status === 404) return undefined;
    throw error;
  }
}

/** Deletes it; none is as well. @returns whether there was one. */
export async function deleteOptional(api: KubeApi, path: string): Promise<boolean> {
  try {
    await api.request({ method: 'DELETE', path, query: { propagationPolicy: 'Background' } });
    return true;
  } catch (error) {
    if (error instanceof KubeError && error.status === 404) return false;
    throw error;
  }
}

/** `metadata.labels`, never undefined. */
export function labelsOf(object: { readonly metadata: NamespaceObject['metadata'] }): Record<string, string> {
  return object.metadata.labels ?? {};
}

/** `metadata.annotations`, never undefined. */
export function annotationsOf(object: {
  readonly metadata: NamespaceObject['metadata'];
}): Record<string, string> {
  return object.metadata.annotations ?? {};
}

/** Whether the condition of this type is True. */
export function isTrue(list: z.infer<typeof conditions>, type: string): boolean {
  return (list ?? []).some((one) => one.type === type && one.status === 'True');
}
