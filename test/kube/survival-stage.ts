/** Two nodes with the mesh, pods on both that keep asking each other, and what tests of survival ask of our own parts. */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { z } from 'zod';
import { makeCsr, makeKeyPair, toPem } from '../../daemon/identity/csr.ts';
import { KubeClient } from '../../daemon/kube/client.ts';
import { openAccess } from '../../daemon/kube/config.ts';
import type { SpiffeId } from '../../daemon/mesh/ids.ts';
import type { Counts, Loop } from '../lab/kit/apps.ts';
import { must } from '../support/run.ts';
import { tempDir } from '../support/tmp.ts';
import { until } from '../support/wait.ts';
import { APPS_IMAGE } from './kit/images.ts';
import { APP_PORT, MeshCluster, SHOP, SYSTEM } from './kit/mesh.ts';
import type { ListedPod } from './kit/mesh.ts';
import { pod } from './kit/objects.ts';
import { at, list, text } from './manifests.ts';
import { REQUESTS } from './signer-world.ts';

/** How long a daemon that goes lets connections live. */
export const DRAIN_MS = 25_000;
export const HEALTH_PORT = 15_021;
const METRICS_PORT = 15_020;
/** A tunnel that nobody uses for so long is closed: whoever asks less often begins with a handshake each time. */
const TUNNEL_IDLE = '100ms';
const OFTEN_MS = 20;
const SELDOM_MS = 400;

const SETTINGS = {
  CULVERT_DEFAULT_MODE: 'strict',
  CULVERT_DRAIN_SECONDS: `${DRAIN_MS}ms`,
  CULVERT_TUNNEL_IDLE: TUNNEL_IDLE,
  CULVERT_JOIN_WAIT: '500ms',
  CULVERT_LEAVE_WAIT: '500ms',
  CULVERT_LEAVE_GRACE: '500ms',
};

/** Every list that our own accounts ask for. */
const AUDIT = {
  apiVersion: 'audit.k8s.io/v1',
  kind: 'Policy',
  omitStages: ['RequestReceived'],
  rules: [
    {
      level: 'Metadata',
      verbs: ['list'],
      users: [`system:serviceaccount:${SYSTEM}:culvert`, `system:serviceaccount:${SYSTEM}:culvert-ca`],
    },
    { level: 'None' },
  ],
};

const AuditLine = z.object({
  requestURI: z.string(),
  stageTimestamp: z.string(),
  user: z.object({ extra: z.record(z.string(), z.array(z.string())).optional() }),
});

/** A list that one of our pods asked for. */
export interface Listing {
  readonly pod: string;
  /** Without what differs from page to page. */
  readonly what: string;
  readonly atMs: number;
}

const Status = z.looseObject({
  step: z.string(),
  problem: z.string().optional(),
  request: z.string().optional(),
});
export type CaStatus = z.infer<typeof Status>;

const NodeSaid = z.looseObject({
  bundle: z.string().nullish(),
  issuers: z.record(z.string(), z.number()).nullish(),
});

export class Stage implements AsyncDisposable {
  readonly mesh: MeshCluster;
  readonly #audit: string;
  readonly #parts: AsyncDisposableStack;

  /** The cluster, the mesh in STRICT mode, and pods `caller`, `back`, `fresh-1` and `fresh-2` beside the shop's. */
  static async start(): Promise<Stage> {
    await using parts = new AsyncDisposableStack();
    const dir = parts.use(await tempDir('audit'));
    const [policy, audit] = [`${dir.path}/policy.json`, `${dir.path}/audit.log`];
    writeFileSync(policy, JSON.stringify(AUDIT));
    const mesh = parts.use(
      await MeshCluster.start({
        settings: SETTINGS,
        apiServerFlags: [`--audit-policy-file=${policy}`, `--audit-log-path=${audit}`],
      }),
    );
    await mesh.controlPlane.apply(
      ...['caller', 'back', 'fresh'].map(account),
      backend(),
      pod({ name: 'caller', namespace: SHOP, node: 'node-2', serviceAccount: 'caller' }),
      pod({ name: 'fresh-1', namespace: SHOP, node: 'node-1', serviceAccount: 'fresh' }),
      pod({ name: 'fresh-2', namespace: SHOP, node: 'node-2', serviceAccount: 'fresh' }),
    );
    const more = ['caller', 'back', 'fresh-1', 'fresh-2'];
    await mesh.shop.waitReady(...more);
    await mesh.waitState('enrolled', more);
    return new Stage(mesh, audit, parts.move());
  }

  private constructor(mesh: MeshCluster, audit: string, parts: AsyncDisposableStack) {
    this.mesh = mesh;
    this.#audit = audit;
    this.#parts = parts;
  }

  /** Lists since `sinceMs`, by the API server's own record, in order. */
  lists(sinceMs: number): Listing[] {
    const lines = existsSync(this.#audit) ? readFileSync(this.#audit, 'utf8').split('\n') : [];
    const all = lines.filter(Boolean).map((line): Listing & { readonly isFirst: boolean } => {
      const { requestURI, stageTimestamp, user } = AuditLine.parse(JSON.parse(line));
      const url = new URL(requestURI, 'https://api');
      const isFirst = !url.searchParams.has('continue');
      for (const name of ['limit', 'continue']) url.searchParams.delete(name);
      const [podName = ''] = user.extra?.['authentication.kubernetes.io/pod-name'] ?? [];
      return { pod: podName, what: url.pathname + url.search, atMs: Date.parse(stageTimestamp), isFirst };
    });
    return all.filter(({ atMs, isFirst }) => isFirst && atMs >= sinceMs);
  }

  /** What a daemon's port answers; asked from its node, so without the API server. */
  async ask(daemon: ListedPod, port: number, path: string): Promise<{ status: number; body: string }> {
    const node = this.mesh.cluster.nodes.find(({ name }) => name === daemon.node);
    if (node === undefined) throw new Error(`${daemon.name} is on no node`);
    const url = `http://${daemon.ip}:${port}${path}`;
    const curl = ['curl', '-s', '-m', '10', '-w', '\\n%{http_code}', url];
    const said = await must(['nsenter', `--net=${node.netns}`, ...curl]).catch(() => '\n0');
    const end = said.lastIndexOf('\n');
    return { status: Number(said.slice(end + 1)), body: said.slice(0, end) };
  }

  /** The value of a daemon's series; NaN when there is none. */
  async metric(daemon: ListedPod, series: string): Promise<number> {
    const { body } = await this.ask(daemon, METRICS_PORT, '/metrics');
    const line = body.split('\n').find((one) => one.startsWith(`${series} `));
    return Number(line?.slice(series.length) ?? Number.NaN);
  }

  /** The pod whose replica of the CA leads, once one does that is not `other`. */
  async leader(other = ''): Promise<ListedPod> {
    const path = `/apis/coordination.k8s.io/v1/namespaces/${SYSTEM}/leases/culvert-ca`;
    let holder = '';
    return until(
      'a leader of culvert-ca',
      async () => {
        const { body } = await this.mesh.controlPlane.api.ask('GET', path);
        const found = at(body, 'spec', 'holderIdentity');
        holder = typeof found === 'string' ? found : '';
        if (holder === '' || holder === other) return undefined;
        const pods = await this.mesh.pods(SYSTEM);
        return pods.find(({ name }) => holder.startsWith(`${name}_`));
      },
      { timeoutMs: 90_000, everyMs: 250, detail: () => `the lease is ${holder}'s` },
    );
  }

  /** Ends the leader of the CA as a crash would; returns who it was, as the lease names it. */
  async killLeader(): Promise<string> {
    const leader = await this.leader();
    const path = `/apis/coordination.k8s.io/v1/namespaces/${SYSTEM}/leases/culvert-ca`;
    const lease = await this.mesh.controlPlane.api.must('GET', path);
    for (const pid of this.#processes(leader, 'serve')) process.kill(pid, 'SIGKILL');
    return text(lease, 'spec', 'holderIdentity');
  }

  /** Resolves when both replicas of the CA are Ready, and one leads. */
  async caReady(): Promise<void> {
    const words = ['rollout', 'status', '-n', SYSTEM, 'deployment/culvert-ca', '--timeout=120s'];
    await this.mesh.controlPlane.kubectl(words, { timeoutMs: 150_000 });
    await this.leader();
  }

  async caStatus(): Promise<CaStatus> {
    const path = `/api/v1/namespaces/${SYSTEM}/configmaps/culvert-ca-rotation`;
    const map = await this.mesh.controlPlane.api.must('GET', path);
    return Status.parse(JSON.parse(text(map, 'data', 'status')));
  }

  /** Waits until the rotation is at `step`. */
  async reaches(step: string, isMore: (status: CaStatus) => boolean = () => true): Promise<CaStatus> {
    let last: CaStatus | undefined;
    return until(
      `the rotation to be at ${step}`,
      async () => {
        last = await this.caStatus();
        return last.step === step && isMore(last) ? last : undefined;
      },
      { timeoutMs: 120_000, everyMs: 250, detail: () => JSON.stringify(last) },
    );
  }

  /** The roots that are published, PEM. */
  async bundle(): Promise<string> {
    const path = `/api/v1/namespaces/${SYSTEM}/configmaps/culvert-trust-bundle`;
    return text(await this.mesh.controlPlane.api.must('GET', path), 'data', 'ca.crt');
  }

  /** What the daemons that stay say of the roots of their certificates. */
  async issuers(): Promise<Record<string, number>[]> {
    const path = `/api/v1/namespaces/${SYSTEM}/pods`;
    const pods = list(await this.mesh.controlPlane.api.must('GET', path), 'items');
    const daemons = pods.filter(
      (one) => at(one, 'metadata', 'labels', 'app.kubernetes.io/component') === 'daemon',
    );
    return daemons.map((one) => {
      const said = at(one, 'metadata', 'annotations', 'culvert.dev/node');
      return NodeSaid.parse(JSON.parse(typeof said === 'string' ? said : '{}')).issuers ?? {};
    });
  }

  /** A client with a token of that daemon, bound to its pod as the kubelet's are. */
  async daemonClient(daemon: ListedPod): Promise<KubeClient> {
    const { controlPlane } = this.mesh;
    const path = `/api/v1/namespaces/${SYSTEM}/serviceaccounts/culvert/token`;
    const spec = { boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name: daemon.name } };
    const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec };
    const token = text(await controlPlane.api.must('POST', path, { body }), 'status', 'token');
    const file = controlPlane.tokenKubeconfig(`token-${randomBytes(4).toString('hex')}`, token);
    return new KubeClient(openAccess(file, {}), { userAgent: 'test' });
  }

  /** Words of the CA's replicas, those of containers before the present ones too. */
  async caLogs(): Promise<string> {
    const replicas = await this.mesh.pods(SYSTEM, 'app.kubernetes.io/component=ca');
    const texts = await Promise.all(
      replicas.flatMap(({ name }) =>
        [[], ['--previous']].map((more) =>
          this.mesh.controlPlane.tryKubectl(['logs', '-n', SYSTEM, name, ...more]),
        ),
      ),
    );
    return texts.map(({ stdout }) => stdout).join('\n');
  }

  #processes(of: ListedPod, word: string): number[] {
    const node = this.mesh.cluster.nodes.find(({ name }) => name === of.node);
    const pids = node?.podPids(of.uid) ?? [];
    const found = pids.filter((pid) =>
      readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').includes(word),
    );
    if (found.length === 0) throw new Error(`${of.name} has no process ${word}`);
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts[Symbol.asyncDispose]();
  }
}

/** New connections both ways between the nodes: many on tunnels that are there, and some that need a handshake each. */
export class Load implements AsyncDisposable {
  readonly #loops: ReadonlyMap<string, Loop>;

  static async start({ mesh }: Stage): Promise<Load> {
    const back = (await mesh.inPod('back')).ip;
    const web = await mesh.shop.serviceIp('web');
    const ways = [
      ['client', web, 80, OFTEN_MS],
      ['caller', back, APP_PORT, OFTEN_MS],
      ['fresh-1', web, 80, SELDOM_MS],
      ['fresh-2', back, APP_PORT, SELDOM_MS],
    ] as const;
    const loops = new Map<string, Loop>();
    for (const [from, to, port, everyMs] of ways)
      loops.set(from, await (await mesh.inPod(from)).loop(to, port, { everyMs }));
    const load = new Load(loops);
    await load.more(20);
    return load;
  }

  private constructor(loops: ReadonlyMap<string, Loop>) {
    this.#loops = loops;
  }

  /** Resolves when `count` more connections have had their answers. */
  async more(count: number): Promise<void> {
    const before = (await this.#counts()).ok;
    await until(`${count} more answers`, async () => (await this.#counts()).ok >= before + count, {
      timeoutMs: 180_000,
      everyMs: 250,
    });
  }

  /** Connections begun so far. */
  async started(): Promise<number> {
    return (await this.#counts()).started;
  }

  /** Failures so far. */
  async failed(): Promise<number> {
    return (await this.#counts()).failed;
  }

  /** Ends it; what it has seen. `handshakes`: those that could not use a tunnel that was there. */
  async stop(): Promise<Tally> {
    const counts = new Map<string, Counts>();
    for (const [name, loop] of this.#loops) counts.set(name, await loop.stop());
    const fresh = [...counts].filter(([name]) => name.startsWith('fresh'));
    const failures = [...this.#loops].flatMap(([name, { process }]) =>
      process.lines.filter((line) => line.includes('"event":"failed"')).map((line) => `${name} ${line}`),
    );
    return { ...sum(counts.values()), handshakes: sum(fresh.map(([, one]) => one)).ok, failures };
  }

  async #counts(): Promise<Sum> {
    return sum(await Promise.all([...this.#loops.values()].map((loop) => loop.stats())));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const loop of this.#loops.values()) await loop[Symbol.asyncDispose]();
  }
}

interface Sum {
  readonly started: number;
  readonly ok: number;
  readonly failed: number;
  readonly slowestMs: number;
}

export interface Tally extends Sum {
  readonly handshakes: number;
  /** What each that failed had to say. */
  readonly failures: readonly string[];
}

function sum(counts: Iterable<Counts>): Sum {
  const total = { started: 0, ok: 0, failed: 0, slowestMs: 0 };
  for (const { started, ok, failed, slowestMs } of counts) {
    total.started += started;
    total.ok += ok;
    total.failed += failed;
    total.slowestMs = Math.max(total.slowestMs, slowestMs);
  }
  return total;
}

/** In words, for `context.diagnostic`. */
export function shown({ started, failed, handshakes, slowestMs }: Tally): string {
  return `${started} new connections (${handshakes} with a handshake), ${failed} failed, the slowest took ${Math.round(slowestMs)} ms`;
}

/** Asks a daemon's /readyz all the time; what it said that was not 200. */
export async function unreadyWhile(
  stage: Stage,
  daemons: readonly ListedPod[],
  work: () => Promise<void>,
): Promise<{ asked: number; not200: string[] }> {
  const done = new AbortController();
  const seen = { asked: 0, not200: [] as string[] };
  const watching = (async () => {
    while (!done.signal.aborted)
      for (const daemon of daemons) {
        const { status, body } = await stage.ask(daemon, HEALTH_PORT, '/readyz');
        seen.asked += 1;
        if (status !== 200) seen.not200.push(`${daemon.node}: ${status} ${body}`);
      }
  })();
  try {
    await work();
  } finally {
    done.abort();
    await watching;
  }
  return seen;
}

/** Posts a request for `id` with a key of its own; gives its name. */
export async function postRequest(client: KubeClient, id: SpiffeId): Promise<string> {
  const name = `survival-${randomBytes(6).toString('hex')}`;
  const csr = toPem('CERTIFICATE REQUEST', makeCsr(id, await makeKeyPair()));
  const body = {
    apiVersion: 'certificates.k8s.io/v1',
    kind: 'CertificateSigningRequest',
    metadata: { name },
    spec: {
      request: Buffer.from(csr).toString('base64'),
      signerName: 'culvert.dev/workload',
      usages: ['digital signature', 'client auth', 'server auth'],
      expirationSeconds: 3_600,
    },
  };
  await client.request({ method: 'POST', path: REQUESTS, body });
  return name;
}

function account(name: string): object {
  return { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace: SHOP } };
}

/** A server whose kubelet asks it every second. */
function backend(): object {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'back', namespace: SHOP, labels: { app: 'back' } },
    spec: {
      nodeSelector: { 'kubernetes.io/hostname': 'node-1' },
      serviceAccountName: 'back',
      terminationGracePeriodSeconds: 0,
      containers: [
        {
          name: 'app',
          image: APPS_IMAGE,
          imagePullPolicy: 'Never',
          command: ['/labapp', 'serve', 'http', '::', String(APP_PORT), '--name', 'back', '--quiet'],
          readinessProbe: { httpGet: { port: APP_PORT, path: '/' }, periodSeconds: 1 },
          livenessProbe: { httpGet: { port: APP_PORT, path: '/' }, periodSeconds: 1 },
        },
      ],
    },
  };
}
