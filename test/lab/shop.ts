/** What many lab tests begin with: a client on node 1, a server on node 2, a daemon on each, and the label. */
import { Lab } from './kit/lab.ts';
import type { LabOptions } from './kit/lab.ts';
import type { LabService } from './kit/cluster.ts';
import type { LabDaemon, DaemonOptions } from './kit/daemon.ts';
import type { LabPod } from './kit/pod.ts';

/** Waits as short as tests want them; hold-timeout must be at least twice join-wait. */
export const QUICK = ['--join-wait', '500ms', '--leave-wait', '500ms', '--leave-grace', '500ms'] as const;

/** Full figures of the issue, or short forms (`make soak` sets the variable). */
export const IS_LONG = process.env['CULVERT_LONG'] === '1';

export interface Shop {
  readonly lab: Lab;
  readonly client: LabPod;
  readonly server: LabPod;
  /** Port 80 → 8080, 81 → 8081 and so on up to 89 → 8089 of `server`. */
  readonly web: LabService;
  /** Of node 1, the client's. */
  readonly daemon1: LabDaemon;
  /** Of node 2, the server's. */
  readonly daemon2: LabDaemon;
}

/** Makes them all; `labelled` (default true): waits until both pods are enrolled. The caller disposes of `lab`. */
export async function openShop(
  options: {
    lab?: LabOptions;
    daemon?: DaemonOptions;
    /** Environment of each node's daemon; with it node 2's starts first, and makes the CA. */
    env?: readonly [NodeJS.ProcessEnv, NodeJS.ProcessEnv];
    labelled?: boolean;
  } = {},
): Promise<Shop> {
  const lab = await Lab.create(options.lab);
  try {
    const client = await lab.pod({ name: 'client', node: 1 });
    const server = await lab.pod({ name: 'web', node: 2 });
    const ports = Array.from({ length: 10 }, (_, index) => ({
      name: `p${index}`,
      port: 80 + index,
      targetPort: 8080 + index,
    }));
    const web = await lab.cluster.service({ namespace: 'shop', name: 'web', ports, pods: [server] });
    const flags = [...QUICK, ...(options.daemon?.flags ?? [])];
    const start = (node: 1 | 2): Promise<LabDaemon> =>
      lab.startDaemon(node, { ...options.daemon, flags, env: options.env?.[node - 1] ?? {} });
    const second = start(2);
    if (options.env !== undefined) await second;
    const [daemon1, daemon2] = await Promise.all([start(1), second]);
    const shop = { lab, client, server, web, daemon1, daemon2 };
    if (options.labelled !== false) await enrol(shop);
    return shop;
  } catch (error) {
    await lab[Symbol.asyncDispose]();
    throw error;
  }
}

/** Labels the namespace and waits until both pods are enrolled. */
export async function enrol({ lab, client, server, daemon1, daemon2 }: Shop): Promise<void> {
  await lab.cluster.label('shop', 'enabled');
  await Promise.all([daemon1.waitState(client, 'enrolled'), daemon2.waitState(server, 'enrolled')]);
  await Promise.all([daemon1, daemon2].map((daemon) => daemon.waitHeard(client, server)));
}
