/** Very many pods on nodes that have no kubelet, coming and going, and what a whole daemon makes of them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { must } from '../support/run.ts';
import { fakeNodes, namespace } from './kit/fakes.ts';
import type { ListedPod, MeshCluster } from './kit/mesh.ts';

const CROWD = 'crowd';
const PODS = `/api/v1/namespaces/${CROWD}/pods`;
const NODES = 20;
/** Requests under way. */
const AT_ONCE = 48;
const ADMIN_PORT = 15_000;

const ListedPods = z.object({
  items: z.array(
    z.object({
      metadata: z.object({ uid: z.string(), name: z.string(), namespace: z.string() }),
      spec: z.object({ nodeName: z.string().optional() }),
      status: z.object({ podIPs: z.array(z.object({ ip: z.string() })).optional() }),
    }),
  ),
});

const State = z.object({
  state: z.array(z.object({ kind: z.string(), key: z.string(), value: z.unknown() })),
});
const Workload = z.object({
  uid: z.string(),
  name: z.string(),
  namespace: z.string(),
  node: z.string(),
  ips: z.array(z.string()),
});

export class Crowd {
  readonly #mesh: MeshCluster;
  readonly #nodes: readonly string[];

  /** Makes the nodes, and a labelled namespace for their pods. */
  static async open(mesh: MeshCluster): Promise<Crowd> {
    const nodes = await fakeNodes(mesh.controlPlane, NODES);
    await namespace(mesh.controlPlane, CROWD, { 'culvert.dev/mesh': 'enabled' });
    return new Crowd(mesh, nodes);
  }

  private constructor(mesh: MeshCluster, nodes: readonly string[]) {
    this.#mesh = mesh;
    this.#nodes = nodes;
  }

  /**
   * Creates `count` pods, `perSecond` of them, and as fast deletes three of four of those that came `behind` before;
   * slower where the API server does not follow. @returns how long that took, ms.
   */
  async comeAndGo(count: number, perSecond: number, behind: number): Promise<number> {
    const startedMs = performance.now();
    const created: Promise<void>[] = [];
    const deleted: Promise<void>[] = [];
    const open = new Set<Promise<unknown>>();
    const tracked = (job: Promise<void>): Promise<void> => {
      const done = job.catch(() => undefined).finally(() => open.delete(done));
      open.add(done);
      return job;
    };
    for (let at = 0; at < count + behind; at++) {
      const lateMs = performance.now() - startedMs - (at * 1_000) / perSecond;
      if (lateMs < 0) await sleep(-lateMs);
      if (open.size >= AT_ONCE) await Promise.race(open);
      if (at < count) created.push(tracked(this.#create(at)));
      const old = at - behind;
      if (old >= 0 && old % 4 !== 0) deleted.push(tracked(this.#delete(old, created[old])));
    }
    await Promise.all([...created, ...deleted]);
    return performance.now() - startedMs;
  }

  /** Deletes those that are left. */
  async end(): Promise<void> {
    await this.#mesh.controlPlane.api.must('DELETE', `${PODS}?gracePeriodSeconds=0`);
  }

  /** Every pod of the cluster, one line each, as the API has it. */
  async asApi(): Promise<string[]> {
    const { items } = ListedPods.parse(await this.#mesh.controlPlane.api.must('GET', '/api/v1/pods'));
    return items
      .map(({ metadata, spec, status }) => {
        const ips = (status.podIPs ?? []).map(({ ip }) => ip);
        return [metadata.uid, metadata.namespace, metadata.name, spec.nodeName ?? '', ...ips].join(' ');
      })
      .sort();
  }

  /** The same as a daemon has it. */
  async asDaemon(daemon: ListedPod): Promise<string[]> {
    const node = this.#mesh.cluster.nodes.find(({ name }) => name === daemon.node);
    const [pid = 0] = node?.podInitPids(daemon.uid) ?? [];
    const curl = ['curl', '-sf', '-m', '20', `http://127.0.0.1:${ADMIN_PORT}/config`];
    const { state } = State.parse(JSON.parse(await must(['nsenter', `--net=/proc/${pid}/ns/net`, ...curl])));
    return state
      .filter(({ kind }) => kind === 'workload')
      .map(({ value }) => Workload.parse(value))
      .map(({ uid, namespace: its, name, node: on, ips }) => [uid, its, name, on, ...ips].join(' '))
      .sort();
  }

  async #create(at: number): Promise<void> {
    const { api } = this.#mesh.controlPlane;
    const body = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: `pod-${at}`, labels: { app: `app-${at % 50}` } },
      spec: {
        nodeName: this.#nodes[at % this.#nodes.length],
        // A node without a kubelet is called gone after a while.
        tolerations: [{ operator: 'Exists' }],
        terminationGracePeriodSeconds: 0,
        containers: [{ name: 'main', image: 'none' }],
      },
    };
    await api.must('POST', PODS, { body });
    const ip = `10.128.${at % this.#nodes.length}.${2 + (Math.floor(at / this.#nodes.length) % 250)}`;
    const status = { phase: 'Running', podIP: ip, podIPs: [{ ip }] };
    const contentType = 'application/merge-patch+json';
    await api.must('PATCH', `${PODS}/pod-${at}/status`, { body: { status }, contentType });
  }

  async #delete(at: number, created: Promise<unknown> | undefined): Promise<void> {
    await created;
    await this.#mesh.controlPlane.api.must('DELETE', `${PODS}/pod-${at}?gracePeriodSeconds=0`);
  }
}
