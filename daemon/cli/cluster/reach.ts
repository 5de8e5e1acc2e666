/** Whom a command asks: the cluster's API where a kubeconfig is there, or one daemon. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { KNOBS } from '../../config.ts';
import type { KubeApi } from '../../kube/seams.ts';
import { MeshError } from '../../errors.ts';
import { DEFAULT_ADMIN } from '../client.ts';
import type { Io } from '../io.ts';

/** Flags of every command that can ask either. */
export interface Reach {
  readonly admin?: string;
  readonly kubeconfig?: string;
  readonly systemNamespace: string;
}

/** Adds `--admin`, `--kubeconfig` and `--system-namespace`. */
export function withReach(command: Command): Command {
  return withCluster(
    command.option(
      '--admin <host:port>',
      `ask one daemon's admin API (${DEFAULT_ADMIN} where there is no kubeconfig)`,
    ),
  );
}

/** Adds `--kubeconfig` and `--system-namespace`. */
export function withCluster(command: Command): Command {
  return command
    .option('--kubeconfig <path>', 'ask the cluster; default: $KUBECONFIG, then ~/.kube/config')
    .option('--system-namespace <name>', 'the namespace of our own pods', KNOBS.podNamespace.fallback);
}

/** The cluster's API, or undefined when a daemon is to be asked. @throws MeshError CONFIG_INVALID, KubeError */
export async function reachCluster(io: Io, reach: Reach): Promise<KubeApi | undefined> {
  if (reach.admin !== undefined && reach.kubeconfig !== undefined)
    throw new MeshError('CONFIG_INVALID', '--admin and --kubeconfig: give one of them');
  const path = reach.admin === undefined ? kubeconfigOf(io, reach) : undefined;
  return path === undefined ? undefined : io.entryPoints.connectCluster(path);
}

/** As reachCluster, for commands that make no sense without a cluster. */
export async function mustReachCluster(io: Io, reach: Omit<Reach, 'admin'>): Promise<KubeApi> {
  const api = await reachCluster(io, reach);
  if (api !== undefined) return api;
  throw new MeshError(
    'CONFIG_INVALID',
    'no kubeconfig: give --kubeconfig PATH, set KUBECONFIG, or have ~/.kube/config',
  );
}

/** The daemon that a command asks when it doesn't ask the cluster. */
export function adminOf(reach: Reach): string {
  return reach.admin ?? DEFAULT_ADMIN;
}

function kubeconfigOf({ env }: Io, { kubeconfig }: Reach): string | undefined {
  if (kubeconfig !== undefined) return kubeconfig;
  const named = env['KUBECONFIG'];
  if (named !== undefined && named !== '') return named;
  const home = env['HOME'];
  const usual = home === undefined ? undefined : join(home, '.kube/config');
  return usual !== undefined && existsSync(usual) ? usual : undefined;
}
