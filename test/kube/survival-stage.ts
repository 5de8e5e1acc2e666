/** Two nodes with the mesh, pods on both that keep asking each other, and what tests of survival ask of our own parts. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { z } from 'zod';
import { must } from '../support/run.ts';
import { tempDir } from '../support/tmp.ts';
import { APPS_IMAGE } from './kit/images.ts';
import { APP_PORT, MeshCluster, SHOP, SYSTEM } from './kit/mesh.ts';
import type { ListedPod } from './kit/mesh.ts';
import { pod } from './kit/objects.ts';
import { ClusterCa } from './survival-ca.ts';

/** How long a daemon that goes lets connections live. */
export const DRAIN_MS = 25_000;
export const HEALTH_PORT = 15_021;
const METRICS_PORT = 15_020;
/** A tunnel that nobody uses for so long is closed: whoever asks less often begins with a handshake each time. */
const TUNNEL_IDLE = '100ms';

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

export class Stage implements AsyncDisposable {
  readonly mesh: MeshCluster;
  readonly ca: ClusterCa;
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
    this.ca = new ClusterCa(mesh);
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

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts[Symbol.asyncDispose]();
  }
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
