/**
 * A cluster with the mesh on it as a user has it: the image of the Dockerfile, the manifests' overlay by kubectl, the
 * demo namespace `shop` with pods on different nodes. About 25 s when the image and the cluster's programs are cached.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { z } from 'zod';
import { REPOSITORY } from '../../lab/kit/tools.ts';
import { run } from '../../support/run.ts';
import type { RunResult } from '../../support/run.ts';
import { until } from '../../support/wait.ts';
import { builtImage } from '../image/builder.ts';
import type { Image } from '../image/builder.ts';
import { ADDRESSES } from './addresses.ts';
import { KubeCluster } from './cluster.ts';
import type { ClusterOptions } from './cluster.ts';
import type { ControlPlane } from './control-plane.ts';
import { LivePod } from './live-pod.ts';
import type { KubeNode } from './node.ts';
import { pod, service } from './objects.ts';
import { Shell } from './shell.ts';

export const SYSTEM = 'culvert-system';
export const SHOP = 'shop';
export const APP_PORT = 8080;
export const HBONE_PORT = 15_008;
/** For captures of the bridge: everything but what nodes and the API server say, of which tcpdump would lose some. */
export const POD_TRAFFIC = `tcp and not host ${ADDRESSES.controlPlane}`;
/** What publishes on a pod that it takes tunnels. */
export const STATE = 'culvert.dev/state';
const DAEMONS = 'app.kubernetes.io/name=culvert,app.kubernetes.io/component=daemon';
const CULVERT = join(REPOSITORY, 'daemon/cli/culvert');
const ROLLOUT_S = 180;

export interface MeshOptions extends ClusterOptions {
  /** More of ConfigMap `culvert-config`, by environment name. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Whether namespace `shop` has the label from the start, and its pods are enrolled. Default true. */
  readonly labelled?: boolean;
  /** Instead of the image that is built now. */
  readonly image?: Image;
}

const Pods = z.object({
  items: z.array(
    z.object({
      metadata: z.object({
        name: z.string(),
        uid: z.string(),
        annotations: z.record(z.string(), z.string()).optional(),
        deletionTimestamp: z.string().optional(),
      }),
      spec: z.object({ nodeName: z.string().optional() }),
      status: z.object({
        podIP: z.string().optional(),
        containerStatuses: z
          .array(
            z.object({
              restartCount: z.number(),
              containerID: z.string().optional(),
              imageID: z.string(),
              ready: z.boolean(),
            }),
          )
          .optional(),
      }),
    }),
  ),
});

/** A pod as the API has it. */
export interface ListedPod {
  readonly name: string;
  readonly uid: string;
  readonly node: string;
  readonly ip: string;
  readonly restarts: number;
  readonly containerIds: readonly string[];
  readonly imageIds: readonly string[];
  readonly isReady: boolean;
  readonly isTerminating: boolean;
  /** What `culvert.dev/state` says, '' when it is not there. */
  readonly state: string;
}

const LogRecord = z.record(z.string(), z.unknown());
export type LogRecord = z.infer<typeof LogRecord>;

const State = z.object({ uid: z.string(), state: z.string() });

export class MeshCluster implements AsyncDisposable {
  readonly cluster: KubeCluster;
  readonly image: Image;
  /** The overlay as applied: `kubectl apply -k`, `kubectl delete -k`. */
  readonly overlay: string;
  /** kubectl in namespace `shop`: pods `client` (node-1) and `server` (node-2, HTTP on 8080), Service `web` (80). */
  readonly shop: Shell;

  /** Resolves when both daemons and the CA are Ready and the demo pods run. @throws Error with what is not as wanted. */
  static async start(options: MeshOptions = {}): Promise<MeshCluster> {
    const image = options.image ?? (await builtImage());
    const cluster = await KubeCluster.start({
      ...options,
      images: [...(options.images ?? []), image.archive],
    });
    const mesh = new MeshCluster(cluster, image, overlayOf(cluster, options.settings ?? {}));
    try {
      await Promise.all([mesh.install(), mesh.#openShop(options.labelled !== false)]);
      if (options.labelled !== false) await mesh.waitState('enrolled', ['client', 'server']);
      return mesh;
    } catch (error) {
      const seen = await mesh.describe();
      await mesh[Symbol.asyncDispose]();
      throw new Error(`${error instanceof Error ? error.message : String(error)}\n${seen}`, { cause: error });
    }
  }

  private constructor(cluster: KubeCluster, image: Image, overlay: string) {
    this.cluster = cluster;
    this.image = image;
    this.overlay = overlay;
    this.shop = new Shell(cluster.controlPlane, SHOP);
  }

  get controlPlane(): ControlPlane {
    return this.cluster.controlPlane;
  }

  /** Applies the overlay and waits until all of it is Ready. */
  async install(): Promise<void> {
    await this.kubectl('apply', '-k', this.overlay);
    await this.waitInstalled();
  }

  /** Resolves when the roll-outs of the daemons and of the CA have ended. @throws Error with what kubectl says. */
  async waitInstalled(): Promise<void> {
    const what = ['deployment/culvert-ca', 'daemonset/culvert'];
    const words = ['rollout', 'status', '-n', SYSTEM, `--timeout=${ROLLOUT_S}s`];
    const options = { timeoutMs: (ROLLOUT_S + 30) * 1_000 };
    await Promise.all(what.map((one) => this.controlPlane.kubectl([...words, one], options)));
  }

  /** kubectl as the administrator. @throws Error with its words. */
  kubectl(...words: readonly string[]): Promise<string> {
    return this.controlPlane.kubectl(words, { timeoutMs: 120_000 });
  }

  /** The real command line over the cluster. Never throws for how it ended. */
  culvert(words: readonly string[], kubeconfig = this.controlPlane.kubeconfig): Promise<RunResult> {
    return run([CULVERT, ...words, '--kubeconfig', kubeconfig], { timeoutMs: 300_000 });
  }

  /** Labels a namespace, or takes the label away; waits until `pods` have come to the state that follows. */
  async label(isMeshed: boolean, pods: readonly string[], namespace = SHOP): Promise<void> {
    const label = isMeshed ? 'culvert.dev/mesh=enabled' : 'culvert.dev/mesh-';
    await this.kubectl('label', '--overwrite', 'namespace', namespace, label);
    await this.waitState(isMeshed ? 'enrolled' : '', pods, namespace);
  }

  /** Waits until the published state of each of these pods is `state` ('' for none). */
  async waitState(state: string, names: readonly string[], namespace = SHOP): Promise<void> {
    let pods: ListedPod[] = [];
    const isThere = (name: string): boolean => pods.some((one) => one.name === name && one.state === state);
    const check = async (): Promise<boolean> => {
      pods = await this.pods(namespace);
      return names.every(isThere);
    };
    await until(`${names.join(', ')} to be ${state || 'left alone'}`, check, {
      timeoutMs: 90_000,
      everyMs: 200,
      detail: () => JSON.stringify(pods, undefined, 1),
    });
  }

  /** Pods of a namespace. */
  async pods(namespace = SHOP, selector = ''): Promise<ListedPod[]> {
    const query = selector === '' ? '' : `?labelSelector=${encodeURIComponent(selector)}`;
    const path = `/api/v1/namespaces/${namespace}/pods${query}`;
    const { items } = Pods.parse(await this.controlPlane.api.must('GET', path));
    return items.map(listed);
  }

  /** Our own, of every node. */
  daemons(): Promise<ListedPod[]> {
    return this.pods(SYSTEM, DAEMONS);
  }

  /** The one on that node that is not on its way out. @throws Error when there is none. */
  async daemonOn(node: KubeNode): Promise<ListedPod> {
    const found = (await this.daemons()).find((one) => one.node === node.name && !one.isTerminating);
    if (found === undefined) throw new Error(`there is no daemon on ${node.name}`);
    return found;
  }

  /** A running pod, to run programs in without the API server's help. @throws Error when it is not running. */
  async inPod(name: string, namespace = SHOP): Promise<LivePod> {
    const pods = await this.pods(namespace);
    const found = pods.find((one) => one.name === name);
    const node = this.cluster.nodes.find((one) => one.name === found?.node);
    if (found === undefined || node === undefined) throw new Error(`pod ${namespace}/${name} has no node`);
    return new LivePod(node, found);
  }

  /** What every daemon has logged so far, oldest first of each. */
  async logs(): Promise<LogRecord[]> {
    const daemons = await this.daemons();
    const texts = await Promise.all(
      daemons.map(({ name }) => this.kubectl('logs', '-n', SYSTEM, name).catch(() => '')),
    );
    return texts.flatMap((text) =>
      text.split('\n').flatMap((line) => (line.startsWith('{') ? [LogRecord.parse(JSON.parse(line))] : [])),
    );
  }

  /** The access record for which `isWanted` holds, once it is there. */
  async accessRecord(what: string, isWanted: (record: LogRecord) => boolean): Promise<LogRecord> {
    let last: LogRecord[] = [];
    return until(
      `the access record of ${what}`,
      async () => {
        last = (await this.logs()).filter((record) => record['conn_id'] !== undefined);
        return last.findLast(isWanted);
      },
      {
        everyMs: 300,
        detail: () =>
          last
            .slice(-5)
            .map((record) => JSON.stringify(record))
            .join('\n'),
      },
    );
  }

  /** What is pinned on a node, by its path under /sys/fs/bpf. */
  async pins(node: KubeNode): Promise<string[]> {
    const found = await node.exec(['find', '/sys/fs/bpf', '-mindepth', '1']);
    return found.split('\n').filter(Boolean);
  }

  /** For a person who has to find out why. Never throws. */
  async describe(): Promise<string> {
    const pages = [
      ['get', 'pods', '-A', '-o', 'wide'],
      ['get', 'events', '-A', '--field-selector=type=Warning'],
      ['logs', '-n', SYSTEM, '-l', 'app.kubernetes.io/name=culvert', '--tail=15', '--prefix'],
      ['logs', '-n', SYSTEM, '-l', 'app.kubernetes.io/name=culvert', '--tail=15', '--prefix', '--previous'],
    ];
    const texts = await Promise.all(pages.map((words) => this.controlPlane.tryKubectl(words)));
    return texts
      .map(({ stdout, stderr }, at) => `$ kubectl ${pages[at]?.join(' ') ?? ''}\n${stdout}${stderr}`)
      .join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cluster[Symbol.asyncDispose]();
  }

  async #openShop(isLabelled: boolean): Promise<void> {
    const labels = isLabelled ? { 'culvert.dev/mesh': 'enabled' } : {};
    const account = (name: string): object => ({
      apiVersion: 'v1',
      kind: 'ServiceAccount',
      metadata: { name, namespace: SHOP },
    });
    const serve = ['/labapp', 'serve', 'http', '::', String(APP_PORT), '--name', 'web'];
    const place = { namespace: SHOP };
    await this.controlPlane.apply(
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: SHOP, labels } },
      account('client'),
      account('server'),
      pod({ ...place, name: 'client', node: 'node-1', serviceAccount: 'client' }),
      pod({ ...place, name: 'server', node: 'node-2', serviceAccount: 'server', command: serve }),
      service({ ...place, name: 'web', pods: 'server', port: 80, targetPort: APP_PORT }),
    );
    await this.shop.waitReady('client', 'server');
  }
}

/** The overlay of `make cluster`, with settings on top where some are wanted: a folder as a user would write one. */
function overlayOf(cluster: KubeCluster, settings: Readonly<Record<string, string>>): string {
  const dev = join(REPOSITORY, 'manifests/overlays/dev');
  if (Object.keys(settings).length === 0) return dev;
  const folder = join(cluster.controlPlane.home.dir, 'overlay');
  mkdirSync(folder, { recursive: true });
  const config = {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: 'culvert-config', namespace: SYSTEM },
  };
  const kustomization = {
    apiVersion: 'kustomize.config.k8s.io/v1beta1',
    kind: 'Kustomization',
    resources: [relative(folder, dev)],
    patches: [{ patch: JSON.stringify({ ...config, data: settings }) }],
  };
  writeFileSync(join(folder, 'kustomization.yaml'), JSON.stringify(kustomization));
  return folder;
}

function listed({ metadata, spec, status }: z.infer<typeof Pods>['items'][number]): ListedPod {
  const containers = status.containerStatuses ?? [];
  return {
    name: metadata.name,
    uid: metadata.uid,
    node: spec.nodeName ?? '',
    ip: status.podIP ?? '',
    restarts: containers.reduce((sum, one) => sum + one.restartCount, 0),
    containerIds: containers.map((one) => one.containerID ?? ''),
    imageIds: containers.map((one) => one.imageID),
    isReady: containers.length > 0 && containers.every((one) => one.ready),
    isTerminating: metadata.deletionTimestamp !== undefined,
    state: stateOf(metadata.uid, metadata.annotations?.[STATE]),
  };
}

function stateOf(uid: string, annotation: string | undefined): string {
  if (annotation === undefined) return '';
  const said = State.parse(JSON.parse(annotation));
  return said.uid === uid ? said.state : '';
}
