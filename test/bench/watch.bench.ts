/**
 * How dear it is to hold a big cluster: time to the first complete state, memory above an empty cluster's, CPU of pod
 * changes, against a real API server. `node test/bench/watch.bench.ts [PODS] [SERVICES]`, as root; minutes.
 */
import { spawn } from 'node:child_process';
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { ControlPlane } from '../kube/kit/control-plane.ts';
import { fakeNodes, namespace } from '../kube/kit/fakes.ts';

const PODS = Number(process.argv[2] ?? 10_000);
const SERVICES = Number(process.argv[3] ?? 2_000);
const CHANGES = Math.min(1_000, PODS);
const NODES = 100;
const ENDPOINTS = 5;
/** Requests at once. */
const LANES = 24;
/** What is resident after so long is what stays. */
const REST_MS = 10_000;
const ROUNDS = 3;
const WIRES = ['protobuf', 'json'] as const;
type Wire = (typeof WIRES)[number];
/** Of issue 7. */
const TARGETS = { syncS: 5, restMb: 120 };

const usedSchema = z.object({
  syncMs: z.number(),
  cpuMs: z.number(),
  rssMb: z.number(),
  peakMb: z.number(),
  workloads: z.number(),
  services: z.number(),
  changes: z.number(),
});
type Used = z.infer<typeof usedSchema>;

/** The process that is measured. */
class Subject implements Disposable {
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;

  constructor(kubeconfig: string, wire: Wire) {
    const script = join(import.meta.dirname, 'watch-subject.ts');
    // As daemon/cli/culvert starts the daemon.
    this.#process = spawn(process.execPath, ['--max-semi-space-size=4', script, kubeconfig, wire], {
      env: { ...process.env, MALLOC_ARENA_MAX: '2' },
    });
    this.#process.stderr.pipe(process.stderr);
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  async next(): Promise<Used> {
    const line = await this.#lines.next();
    if (line.done === true) throw new Error('the subject ended');
    return usedSchema.parse(JSON.parse(line.value));
  }

  used(): Promise<Used> {
    this.#process.stdin.write('\n');
    return this.next();
  }

  [Symbol.dispose](): void {
    this.#process.kill();
  }
}

const flipped = new Map<number, number>();
await using plane = await ControlPlane.start();
const empty = new Map<Wire, Row>();
for (const wire of WIRES) empty.set(wire, await measure(plane, wire, 0));
process.stderr.write(`making ${PODS} pods and ${SERVICES} services\n`);
await fill(plane);
const full: (readonly [Wire, Row])[] = [];
// One after the other, so that a machine that gets busier is busier for both.
for (let round = 0; round < ROUNDS; round++)
  for (const wire of WIRES) {
    process.stderr.write(`round ${round + 1} of ${ROUNDS}, ${wire}\n`);
    full.push([wire, await measure(plane, wire, CHANGES)]);
  }
console.table([
  ...[...empty].map(([wire, row]) => ({ what: 'empty', wire, ...row })),
  ...full.map(([wire, row]) => ({ what: 'full', wire, ...row })),
]);
for (const wire of WIRES) tell(wire);

/** Medians of the rounds, against what is to be reached. */
function tell(wire: Wire): void {
  const of = (column: keyof Row): number =>
    median(full.filter(([one]) => one === wire).map(([, row]) => row[column]));
  const above = of('restMb') - (empty.get(wire)?.restMb ?? 0);
  process.stdout.write(
    `${wire}: first sync ${of('syncS')} s (to reach: ${TARGETS.syncS}), ${of('syncCpuS')} s of CPU; resting ${above.toFixed(0)} MB above an empty cluster's (to reach: ${TARGETS.restMb}), peak ${of('peakMb')} MB in all; ${of('cpuSPer1000')} s of CPU for 1,000 pod changes\n`,
  );
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

interface Row {
  readonly syncS: number;
  readonly syncCpuS: number;
  readonly peakMb: number;
  readonly restMb: number;
  /** After the changes. */
  readonly laterMb: number;
  readonly cpuSPer1000: number;
  readonly workloads: number;
  readonly services: number;
}

async function measure(on: ControlPlane, wire: Wire, changes: number): Promise<Row> {
  using subject = new Subject(on.kubeconfig, wire);
  const first = await subject.next();
  await sleep(REST_MS);
  const rest = await subject.used();
  await lanes(changes, (at) => change(on, at));
  let after = await subject.used();
  while (after.changes - rest.changes < changes) {
    await sleep(100);
    after = await subject.used();
  }
  await sleep(REST_MS);
  const end = await subject.used();
  return {
    syncS: round(first.syncMs / 1_000),
    syncCpuS: round(first.cpuMs / 1_000),
    peakMb: Math.round(rest.peakMb),
    restMb: Math.round(rest.rssMb),
    laterMb: Math.round(end.rssMb),
    cpuSPer1000: changes === 0 ? 0 : round((end.cpuMs - rest.cpuMs) / changes),
    workloads: rest.workloads,
    services: rest.services,
  };
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

/** `count` times `job`, LANES at once. */
async function lanes(count: number, job: (at: number) => Promise<unknown>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < count) await job(next++);
  };
  await Promise.all(Array.from({ length: LANES }, lane));
}

async function fill(on: ControlPlane): Promise<void> {
  await fakeNodes(on, NODES);
  for (let at = 0; at < 10; at++) await namespace(on, `shop-${at}`);
  await lanes(PODS, async (at) => {
    const path = `/api/v1/namespaces/${place(at).namespace}/pods`;
    await on.api.must('POST', path, { body: podObject(at) });
    await change(on, at);
  });
  await lanes(SERVICES, async (at) => {
    const { namespace: home } = place(at);
    await on.api.must('POST', `/api/v1/namespaces/${home}/services`, { body: serviceObject(at) });
    const slices = `/apis/discovery.k8s.io/v1/namespaces/${home}/endpointslices`;
    await on.api.must('POST', slices, { body: sliceObject(at) });
  });
}

function place(at: number): { namespace: string; name: string; node: string; ip: string } {
  return {
    namespace: `shop-${at % 10}`,
    name: `web-${Math.floor(at / 10) % 200}-5d4f8c6b7d-${at.toString(36).padStart(5, 'x')}`,
    node: `fake-${1 + (at % NODES)}`,
    ip: `10.128.${at % NODES}.${1 + Math.floor(at / NODES)}`,
  };
}

/** The status that a kubelet writes; another Ready each time. */
async function change(on: ControlPlane, at: number): Promise<void> {
  const { namespace: home, name, ip } = place(at);
  const flips = (flipped.get(at) ?? 0) + 1;
  flipped.set(at, flips);
  const isReady = flips % 2 === 1 ? 'True' : 'False';
  const now = new Date().toISOString().replace(/\.\d+/, '');
  const condition = (type: string, status: string): object => ({ type, status, lastTransitionTime: now });
  const container = (name: string): object => ({
    name,
    ready: isReady === 'True',
    restartCount: 0,
    image: `registry.example.com/team/${name}:v1.2.3`,
    imageID: `registry.example.com/team/${name}@sha256:${'0123456789abcdef'.repeat(4)}`,
    containerID: `containerd://${'0123456789abcdef'.repeat(4)}`,
    started: true,
    state: { running: { startedAt: now } },
  });
  const status = {
    phase: 'Running',
    podIP: ip,
    podIPs: [{ ip }],
    hostIP: '192.168.0.1',
    startTime: now,
    qosClass: 'Burstable',
    conditions: [
      condition('PodReadyToStartContainers', 'True'),
      condition('Initialized', 'True'),
      condition('Ready', isReady),
      condition('ContainersReady', isReady),
      condition('PodScheduled', 'True'),
    ],
    containerStatuses: [container('web'), container('sidecar')],
  };
  await on.api.must('PATCH', `/api/v1/namespaces/${home}/pods/${name}/status`, {
    body: { status },
    contentType: 'application/strategic-merge-patch+json',
  });
}

/** As Deployments' pods are in clusters that people have: probes, environment, resources, mounts. */
function podObject(at: number): object {
  const { namespace: home, name, node } = place(at);
  const app = `web-${Math.floor(at / 10) % 200}`;
  const probe = (path: string): object => ({
    httpGet: { path, port: 8_080, scheme: 'HTTP' },
    initialDelaySeconds: 5,
    periodSeconds: 10,
  });
  const container = (its: string, port: number): object => ({
    name: its,
    image: `registry.example.com/team/${its}:v1.2.3`,
    ports: [{ name: 'http', containerPort: port, protocol: 'TCP' }],
    env: Array.from({ length: 12 }, (_, i) => ({ name: `SETTING_${i}`, value: `the value of setting ${i}` })),
    resources: { requests: { cpu: '100m', memory: '128Mi' }, limits: { memory: '256Mi' } },
    livenessProbe: probe('/healthz'),
    readinessProbe: probe('/readyz'),
    volumeMounts: [{ name: 'config', mountPath: '/etc/app' }],
  });
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name,
      namespace: home,
      generateName: `${app}-5d4f8c6b7d-`,
      labels: {
        app,
        'app.kubernetes.io/name': app,
        'pod-template-hash': '5d4f8c6b7d',
        team: 'shop',
        tier: 'web',
      },
      annotations: {
        'prometheus.io/scrape': 'true',
        'kubectl.kubernetes.io/restartedAt': '2026-01-01T00:00:00Z',
      },
    },
    spec: {
      nodeName: node,
      serviceAccountName: 'default',
      containers: [container('web', 8_080), container('sidecar', 9_090)],
      volumes: [{ name: 'config', configMap: { name: `${app}-config` } }],
      terminationGracePeriodSeconds: 30,
    },
  };
}

function serviceObject(at: number): object {
  const { namespace: home } = place(at);
  const ports = [{ name: 'http', port: 80, targetPort: 'http', protocol: 'TCP' }];
  const metadata = { name: `web-${at}`, namespace: home, labels: { app: `web-${at}` } };
  return { apiVersion: 'v1', kind: 'Service', metadata, spec: { selector: { app: `web-${at}` }, ports } };
}

function sliceObject(at: number): object {
  const { namespace: home } = place(at);
  const labels = { 'kubernetes.io/service-name': `web-${at}` };
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: { name: `web-${at}-x7k2p`, namespace: home, labels },
    addressType: 'IPv4',
    ports: [{ name: 'http', port: 8_080, protocol: 'TCP' }],
    endpoints: Array.from({ length: ENDPOINTS }, (_, i) => {
      const pod = place((at * ENDPOINTS + i) % Math.max(1, PODS));
      const conditions = { ready: true, serving: true, terminating: false };
      const targetRef = { kind: 'Pod', namespace: pod.namespace, name: pod.name };
      return { addresses: [pod.ip], conditions, nodeName: pod.node, zone: 'zone-a', targetRef };
    }),
  };
}
