/** Whom a command asks: the cluster's API where a kubeconfig is there, or one daemon. */
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
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
  /** Of the kubeconfig; its current one when not given. */
  readonly context?: string;
  readonly systemNamespace: string;
}

/** Adds `--admin` and what withCluster does. */
export function withReach(command: Command): Command {
  return withCluster(
    command.option(
      '--admin <host:port>',
      `ask one daemon's admin API (${DEFAULT_ADMIN} where there is no kubeconfig)`,
    ),
  );
}

/** Adds `--kubeconfig`, `--context` and `--system-namespace`. */
export function withCluster(command: Command): Command {
  return command
    .option(
      '--kubeconfig <path>',
      'ask the cluster; default: $KUBECONFIG (a list of files), then ~/.kube/config',
    )
    .option('--context <name>', 'which context of the kubeconfig; default: its current one')
    .option('--system-namespace <name>', 'the namespace of our own pods', KNOBS.podNamespace.fallback);
}

/** The cluster's API, or undefined when a daemon is to be asked. @throws MeshError CONFIG_INVALID, KubeError */
export async function reachCluster(io: Io, reach: Reach): Promise<KubeApi | undefined> {
  const { admin, kubeconfig, context } = reach;
  if (admin !== undefined && kubeconfig !== undefined)
    throw new MeshError('CONFIG_INVALID', '--admin and --kubeconfig: give one of them');
  if (admin !== undefined && context !== undefined)
    throw new MeshError('CONFIG_INVALID', '--admin and --context: give one of them');
  const files = admin === undefined ? kubeconfigsOf(io, reach) : [];
  if (files.length > 0) return io.entryPoints.connectCluster({ files, context });
  // Who names a context means a cluster, not the daemon that happens to be near.
  if (context !== undefined) throw noKubeconfig();
  return undefined;
}

/** As reachCluster, for commands that make no sense without a cluster. */
export async function mustReachCluster(io: Io, reach: Omit<Reach, 'admin'>): Promise<KubeApi> {
  const api = await reachCluster(io, reach);
  if (api === undefined) throw noKubeconfig();
  return api;
}

/** The daemon that a command asks when it doesn't ask the cluster. */
export function adminOf(reach: Reach): string {
  return reach.admin ?? DEFAULT_ADMIN;
}

/** As kubectl looks for them: a flag is one file, the environment a list of them. */
function kubeconfigsOf({ env }: Io, { kubeconfig }: Reach): readonly string[] {
  if (kubeconfig !== undefined) return [kubeconfig];
  const named = (env['KUBECONFIG'] ?? '').split(delimiter).filter((path) => path !== '');
  if (named.length > 0) return named;
  const home = env['HOME'];
  const usual = home === undefined ? undefined : join(home, '.kube/config');
  return usual !== undefined && existsSync(usual) ? [usual] : [];
}

function noKubeconfig(): MeshError {
  return new MeshError(
    'CONFIG_INVALID',
    'no kubeconfig: give --kubeconfig PATH, set KUBECONFIG, or have ~/.kube/config',
  );
}
