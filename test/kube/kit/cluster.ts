/** A whole Kubernetes: a control plane with all controllers, and real nodes. About 12 s when all is cached. */
import { join } from 'node:path';
import { z } from 'zod';
import { Capture } from '../../lab/kit/capture.ts';
import type { CapturePoint } from '../../lab/kit/capture.ts';
import { until } from '../../support/wait.ts';
import { ADDRESSES } from './addresses.ts';
import { ControlPlane } from './control-plane.ts';
import type { ControlPlaneOptions } from './control-plane.ts';
import { testImages } from './images.ts';
import { KubeNode } from './node.ts';
import { rootfs } from './rootfs.ts';

export interface ClusterOptions extends Omit<ControlPlaneOptions, 'controllers'> {
  /** Default 2. */
  readonly nodes?: number;
  /** Archives of images to load before the kubelets start, beside the test's own. */
  readonly images?: readonly string[];
}

const Conditions = z.object({
  status: z.object({ conditions: z.array(z.object({ type: z.string(), status: z.string() })).optional() }),
});

export class KubeCluster implements AsyncDisposable {
  readonly controlPlane: ControlPlane;
  readonly nodes: readonly KubeNode[];

  /** Resolves when every node is Ready. @throws Error with the last lines of what did not start. */
  static async start(options: ClusterOptions = {}): Promise<KubeCluster> {
    const lower = await rootfs();
    const images = [await testImages(lower), ...(options.images ?? [])];
    const controlPlane = await ControlPlane.start(options);
    try {
      const controllers = controlPlane.startControllers();
      const count = options.nodes ?? 2;
      const start = (_: unknown, at: number): Promise<KubeNode> =>
        KubeNode.start(controlPlane, { index: at + 1, count, rootfs: lower, images });
      const [nodes] = await Promise.all([Promise.all(Array.from({ length: count }, start)), controllers]);
      const cluster = new KubeCluster(controlPlane, nodes);
      await controlPlane.api.must('POST', '/api/v1/namespaces/kube-system/services', { body: KUBE_DNS });
      await Promise.all(nodes.map((node) => cluster.waitReady(node)));
      return cluster;
    } catch (error) {
      await controlPlane[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(controlPlane: ControlPlane, nodes: readonly KubeNode[]) {
    this.controlPlane = controlPlane;
    this.nodes = nodes;
  }

  /** The `index`th node, from 1. */
  node(index: number): KubeNode {
    const node = this.nodes[index - 1];
    if (node === undefined) throw new Error(`the cluster has no node ${index}`);
    return node;
  }

  /** Resolves when the API says that the node is Ready, or (false) that it is not. */
  async waitReady(node: KubeNode, isWanted = true): Promise<void> {
    const { api } = this.controlPlane;
    const isReady = async (): Promise<boolean> => {
      const { body } = await api.ask('GET', `/api/v1/nodes/${node.name}`);
      const conditions = Conditions.safeParse(body).data?.status.conditions ?? [];
      return conditions.some(({ type, status }) => type === 'Ready' && status === 'True');
    };
    await until(
      `${node.name} to be ${isWanted ? '' : 'not '}Ready`,
      async () => (await isReady()) === isWanted,
      {
        timeoutMs: 90_000,
        everyMs: 100,
        detail: () => node.tail('kubelet'),
      },
    );
  }

  /** Imports an archive's images on every node. */
  async loadImage(archive: string): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.loadImage(archive)));
  }

  /** The bridge that joins the nodes. */
  get bridge(): CapturePoint {
    return { name: 'bridge', netns: this.controlPlane.netns, device: 'br0' };
  }

  /** Listens at `points`; default the bridge and every node's uplink. `filter`: tcpdump's language. */
  capture(points?: readonly CapturePoint[], filter = ''): Promise<Capture> {
    const { home } = this.controlPlane;
    const all = points ?? [this.bridge, ...this.nodes.map((node) => node.capturePoint)];
    return Capture.start(all, join(home.dir, 'captures'), home.cgroupOf('tools'), filter);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.controlPlane[Symbol.asyncDispose]();
  }
}

/** There is no DNS in the cluster. With a Service that has no pods a lookup is refused at once, instead of lost. */
const KUBE_DNS = {
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name: 'kube-dns' },
  spec: {
    clusterIP: ADDRESSES.dnsService,
    selector: { 'k8s-app': 'kube-dns' },
    ports: [
      { name: 'dns', port: 53, protocol: 'UDP' },
      { name: 'dns-tcp', port: 53, protocol: 'TCP' },
    ],
  },
};
