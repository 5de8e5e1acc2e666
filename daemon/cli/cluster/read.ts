/** Reads what the cluster-wide commands show. */
import type { KubeApi } from '../../kube/seams.ts';
import { MeshError } from '../../errors.ts';
import { getOptional, listAll, namespaceSchema, nodeSchema, podSchema } from './objects.ts';
import type { PodObject } from './objects.ts';
import { DAEMON_SELECTOR } from './view.ts';
import type { ClusterObjects } from './view.ts';

/**
 * The objects of the whole cluster, or with pods of one namespace only.
 * @throws MeshError CONFIG_INVALID when there is no such namespace; KubeError as the API answered.
 */
export async function readCluster(api: KubeApi, system: string, namespace?: string): Promise<ClusterObjects> {
  const [namespaces, nodes, pods, daemons] = await Promise.all([
    namespace === undefined ? listAll(api, '/api/v1/namespaces', namespaceSchema) : one(api, namespace),
    listAll(api, '/api/v1/nodes', nodeSchema),
    listAll(api, podsPath(namespace), podSchema),
    listDaemons(api, system),
  ]);
  return { namespaces, nodes, pods, daemons };
}

/** The daemons' own pods. @throws KubeError */
export function listDaemons(api: KubeApi, system: string): Promise<PodObject[]> {
  return listAll(api, podsPath(system), podSchema, { labelSelector: DAEMON_SELECTOR });
}

/** `/api/v1/pods`, or a namespace's. */
export function podsPath(namespace?: string): string {
  return namespace === undefined
    ? '/api/v1/pods'
    : `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods`;
}

async function one(api: KubeApi, name: string): Promise<ClusterObjects['namespaces']> {
  const found = await getOptional(api, `/api/v1/namespaces/${encodeURIComponent(name)}`, namespaceSchema);
  if (found === undefined)
    throw new MeshError('CONFIG_INVALID', `--namespace: there is no namespace ${name}`);
  return [found];
}
