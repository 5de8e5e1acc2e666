/** What enrolment has of the cluster: its own small watch of this node's pods, and the way to publish their states. */
import type { Config } from '../config.ts';
import type { KubeClient } from '../kube/client.ts';
import type { ClusterSource, PodSaying } from '../mesh/model.ts';
import { FileSource } from './files.ts';
import { KubernetesSource } from './kubernetes.ts';
import { PodStateWriter } from './pod-states.ts';
import { PublishedStateWriter } from './published.ts';
import { StartupTaint } from './startup-taint.ts';

/** Both resolve when what is wanted has been written, and reject when some of it could not be: `retry` then. */
export interface StatePublisher {
  /** Makes `sayings` all that this node publishes. */
  publish(sayings: readonly PodSaying[]): Promise<void>;
  retry(): Promise<void>;
}

export interface NodeSource extends AsyncDisposable {
  readonly source: ClusterSource;
  readonly publisher: StatePublisher;
  /** The node is guarded: from now on pods may come to it. `onOpened`: something had kept them away until now. */
  guarded(onOpened: () => void): void;
}

/** Over the API where there is one, which ends with it; else over the folder `clusterDir`. */
export function openNodeSource(
  { clusterDir, nodeName, startupTaint }: Pick<Config, 'clusterDir' | 'nodeName' | 'startupTaint'>,
  api: KubeClient | undefined,
  onProblem: (part: string, reason: string) => void,
): NodeSource {
  if (api === undefined) {
    const kinds = ['namespace', 'workload', 'node'] as const;
    const source = new FileSource(clusterDir, { filter: { kinds, node: nodeName } });
    const publisher = new PublishedStateWriter(clusterDir, nodeName);
    const guarded = (): void => undefined;
    return { source, publisher, guarded, [Symbol.asyncDispose]: () => source[Symbol.asyncDispose]() };
  }
  // Its lists are short, and a pod may be starting: it does not wait for other nodes.
  const tuning = { relistSpreadMs: 500, lastRetryMs: 5_000 };
  const source = new KubernetesSource({ api, node: nodeName, onProblem, tuning });
  const publisher = new PodStateWriter({ api, pods: () => source.pods() });
  let taint: StartupTaint | undefined;
  return {
    source,
    publisher,
    guarded(onRemoved) {
      if (startupTaint !== 'remove') return;
      const onTaintProblem = (why: string): void => onProblem('startup taint', why);
      taint = new StartupTaint({ api, node: nodeName, onRemoved, onProblem: onTaintProblem });
      taint.start();
    },
    async [Symbol.asyncDispose]() {
      await taint?.[Symbol.asyncDispose]();
      publisher[Symbol.dispose]();
      await source[Symbol.asyncDispose]();
      api[Symbol.dispose]();
    },
  };
}
