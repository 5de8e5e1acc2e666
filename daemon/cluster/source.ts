/** Which source of the cluster's state a daemon has. */
import type { Config } from '../config.ts';
import type { KubeApi } from '../kube/seams.ts';
import type { ClusterSource } from '../mesh/model.ts';
import { FileSource } from './files.ts';
import { KubernetesSource } from './kubernetes.ts';

/** The API where there is one, else the folder `clusterDir`. `onProblem`: what a watch has survived, by its part. */
export function openSource(
  config: Pick<Config, 'clusterDir'>,
  api: KubeApi | undefined,
  onProblem: (part: string, reason: string) => void,
): ClusterSource {
  return api === undefined ? new FileSource(config.clusterDir) : new KubernetesSource({ api, onProblem });
}
