/** What the end-to-end tests put on their cluster besides a client and a server, and what its kubelets say of probes. */
import { APPS_IMAGE } from './kit/images.ts';
import { APP_PORT, SHOP } from './kit/mesh.ts';
import type { ListedPod, MeshCluster } from './kit/mesh.ts';

const GRPC_PORT = 9000;
const SERVE = ['/labapp', 'serve', 'http', '::', String(APP_PORT), '--quiet', '--name', 'web'];
/** The answer SERVING of grpc.health.v1.Health/Check, to whatever is asked. */
const GRPC_HEALTH = `
  require('node:http2').createServer().on('stream', (stream) => {
    stream.on('error', () => {});
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(Buffer.from([0, 0, 0, 0, 2, 8, 1]));
  }).listen(${GRPC_PORT}, '0.0.0.0')`;

/** Each kind of probe that a kubelet has. */
const PROBES = {
  'probed-http': { httpGet: { port: APP_PORT, path: '/' } },
  'probed-tcp': { tcpSocket: { port: APP_PORT } },
  'probed-grpc': { grpc: { port: GRPC_PORT } },
  'probed-exec': { exec: { command: ['/bin/wget', '-qO-', `http://127.0.0.1:${APP_PORT}/`] } },
} as const;
export const PROBED = Object.keys(PROBES);

/** Pods on both nodes whose kubelet would start them again within 6 s of failing probes. */
export function probedPods(culvertImage: string): object[] {
  return Object.entries(PROBES).map(([name, probe], at) => {
    const timing = { periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 3 };
    const isGrpc = name === 'probed-grpc';
    return {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name, namespace: SHOP, labels: { app: name } },
      spec: {
        nodeSelector: { 'kubernetes.io/hostname': `node-${1 + (at % 2)}` },
        terminationGracePeriodSeconds: 0,
        containers: [
          {
            name: 'app',
            image: isGrpc ? culvertImage : APPS_IMAGE,
            imagePullPolicy: 'Never',
            command: isGrpc ? ['node', '-e', GRPC_HEALTH] : SERVE,
            // node takes seconds to listen when the machine has much to do.
            startupProbe: { ...probe, ...timing, failureThreshold: 60 },
            readinessProbe: { ...probe, ...timing },
            livenessProbe: { ...probe, ...timing },
          },
        ],
      },
    };
  });
}

export interface ProbeCount {
  readonly successful: number;
  readonly failed: number;
}

/** How often kubelets have probed a pod's liveness, and how it went: their own counters, by pod name. */
export async function livenessProbes(mesh: MeshCluster): Promise<ReadonlyMap<string, ProbeCount>> {
  const counts = new Map<string, ProbeCount>();
  for (const node of mesh.cluster.nodes) {
    const path = `/api/v1/nodes/${node.name}/proxy/metrics/probes`;
    const page = String(await mesh.controlPlane.api.must('GET', path));
    for (const [, labels = '', value] of page.matchAll(/^prober_probe_total\{(.*)\} (\S+)$/gm)) {
      const label = (name: string): string => new RegExp(`(?:^|,)${name}="([^"]*)"`).exec(labels)?.[1] ?? '';
      if (label('probe_type') !== 'Liveness') continue;
      const before = counts.get(label('pod')) ?? { successful: 0, failed: 0 };
      const kind = label('result') === 'successful' ? 'successful' : 'failed';
      counts.set(label('pod'), { ...before, [kind]: before[kind] + Number(value) });
    }
  }
  return counts;
}

/** Two pods that serve on for 8 s after they were told to go, as apps with a grace period do; Service `rolled`. */
export function rolledDeployment(): object[] {
  const labels = { app: 'rolled' };
  return [
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: 'rolled', namespace: SHOP },
      spec: {
        replicas: 2,
        selector: { matchLabels: labels },
        strategy: { rollingUpdate: { maxSurge: 2, maxUnavailable: 0 } },
        template: {
          metadata: { labels },
          spec: {
            terminationGracePeriodSeconds: 8,
            containers: [
              {
                name: 'app',
                image: APPS_IMAGE,
                imagePullPolicy: 'Never',
                command: SERVE,
                readinessProbe: { httpGet: { port: APP_PORT, path: '/' }, periodSeconds: 1 },
              },
            ],
          },
        },
      },
    },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'rolled', namespace: SHOP },
      spec: { selector: labels, ports: [{ port: 80, targetPort: APP_PORT }] },
    },
  ];
}

/** A Job whose one action is a request. It must not be tried twice. */
export function askingJob(name: string, host: string): object {
  const spec = { serviceAccountName: 'client', restartPolicy: 'Never', containers: [asking('app', host)] };
  return {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: { name, namespace: SHOP },
    spec: { backoffLimit: 0, template: { spec } },
  };
}

/** A pod whose init container asks before its app starts. */
export function initPod(name: string, host: string): object {
  const app = { name: 'app', image: APPS_IMAGE, imagePullPolicy: 'Never', command: ['/labapp', 'pause'] };
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: SHOP, labels: { app: name } },
    spec: {
      nodeSelector: { 'kubernetes.io/hostname': 'node-1' },
      serviceAccountName: 'client',
      terminationGracePeriodSeconds: 0,
      initContainers: [asking('first', host)],
      containers: [app],
    },
  };
}

/** A container that asks a server of ours once; it fails without its answer. */
function asking(name: string, host: string): object {
  const script = `echo -e 'GET / HTTP/1.0\\r\\n\\r' | nc -w 30 ${host} 80 | grep name=web`;
  return { name, image: APPS_IMAGE, imagePullPolicy: 'Never', command: ['/bin/sh', '-c', script] };
}

/** What would differ had anything of these pods been started again. */
export function livesOf(pods: readonly ListedPod[], names: readonly string[]): object {
  const wanted = pods.filter(({ name }) => names.includes(name));
  return wanted.map(({ name, uid, restarts, containerIds }) => ({ name, uid, restarts, containerIds }));
}
