/** What daemons say of their nodes, for a rotation's gates: the annotation `culvert.dev/node` of their pods, and Nodes. */
import { z } from 'zod';
import type { KubeApi, WatchOptions, Watched } from '../../kube/seams.ts';
import type { NodeReport } from './rotation.ts';

export const DAEMON_SELECTOR = 'app.kubernetes.io/name=culvert,app.kubernetes.io/component=daemon';
const NODE_ANNOTATION = 'culvert.dev/node';

interface DaemonPod {
  readonly name: string;
  readonly node: string;
  readonly bundle: string | undefined;
  readonly issuers: Readonly<Record<string, number>> | undefined;
}

interface NodeReadiness {
  /** Wall clock of the API, ms; undefined while it is Ready. */
  readonly notReadySinceMs: number | undefined;
}

const word = z.string().max(253);
const podSchema = z.object({
  metadata: z.object({
    name: word,
    annotations: z.record(z.string(), z.string()).nullish(),
    deletionTimestamp: z.string().nullish(),
  }),
  spec: z.object({ nodeName: word.nullish() }).nullish(),
  status: z.object({ phase: word.nullish() }).nullish(),
});
const saidSchema = z.object({
  bundle: z.string().max(128).nullish(),
  issuers: z.record(z.string().max(128), z.number()).nullish(),
});
const nodeSchema = z.object({
  status: z
    .object({
      conditions: z
        .array(z.object({ type: word, status: word, lastTransitionTime: z.string().nullish() }))
        .nullish(),
    })
    .nullish(),
});

export interface ReportsOptions {
  readonly api: KubeApi;
  readonly watch: <T>(options: WatchOptions<T>) => Watched<T>;
  readonly namespace: string;
  readonly onProblem: (reason: string) => void;
}

export class Reports implements AsyncDisposable {
  readonly #pods: Watched<DaemonPod>;
  readonly #nodes: Watched<NodeReadiness>;

  constructor({ api, watch, namespace, onProblem }: ReportsOptions) {
    this.#pods = watch({
      api,
      path: `/api/v1/namespaces/${namespace}/pods`,
      labelSelector: DAEMON_SELECTOR,
      decode: readDaemonPod,
      onProblem,
    });
    this.#nodes = watch({ api, path: '/api/v1/nodes', decode: readNode, onProblem });
  }

  /** Starts to watch; `onChange` after each change. */
  start(onChange: () => void): void {
    this.#pods.start(onChange);
    this.#nodes.start(onChange);
  }

  /** Resolves when all daemons and nodes are known. */
  get synced(): Promise<unknown> {
    return Promise.all([this.#pods.synced, this.#nodes.synced]);
  }

  /** One for each daemon's pod that is on a node and not on its way out: a draining one takes up nothing new. */
  all(nowMs: number): readonly NodeReport[] {
    return [...this.#pods.items.values()].map(({ name, node, bundle, issuers }) => {
      const known = this.#nodes.items.get(node);
      // A node that is gone takes its pods with it, in a while.
      const notReadySinceMs = known === undefined ? 0 : known.notReadySinceMs;
      return { node, pod: name, bundle, issuers, notReadySinceMs: least(notReadySinceMs, nowMs) };
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#pods[Symbol.asyncDispose](), this.#nodes[Symbol.asyncDispose]()]);
  }
}

/** The API's clock may be ahead of ours. */
function least(sinceMs: number | undefined, nowMs: number): number | undefined {
  return sinceMs === undefined ? undefined : Math.min(sinceMs, nowMs);
}

function readDaemonPod(object: unknown): DaemonPod | undefined {
  const { metadata, spec, status } = podSchema.parse(object);
  const node = spec?.nodeName ?? '';
  const isOver = status?.phase === 'Succeeded' || status?.phase === 'Failed';
  if (node === '' || isOver || metadata.deletionTimestamp) return undefined;
  const said = readSaid(metadata.annotations?.[NODE_ANNOTATION]);
  return { name: metadata.name, node, bundle: said.bundle ?? undefined, issuers: said.issuers ?? undefined };
}

/** What can not be read was not said: the node is waited for. */
function readSaid(text: string | undefined): z.infer<typeof saidSchema> {
  try {
    return saidSchema.parse(JSON.parse(text ?? '{}'));
  } catch {
    return {};
  }
}

function readNode(object: unknown): NodeReadiness {
  const { status } = nodeSchema.parse(object);
  const ready = status?.conditions?.find(({ type }) => type === 'Ready');
  if (ready?.status === 'True') return { notReadySinceMs: undefined };
  const sinceMs = Date.parse(ready?.lastTransitionTime ?? '');
  // A node that never said anything is new.
  return { notReadySinceMs: Number.isNaN(sinceMs) ? undefined : sinceMs };
}
