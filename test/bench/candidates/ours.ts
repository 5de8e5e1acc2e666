/** Two real daemons, one a node; the namespace is labelled, its pods are captured. */
import type { LabDaemon } from '../../lab/kit/daemon.ts';
import { directTargets, makeSite, waitThrough } from './candidate.ts';
import type { Candidate, StartOptions } from './candidate.ts';

export interface Ours extends Candidate {
  readonly daemons: readonly LabDaemon[];
}

export async function startOurs(options: StartOptions): Promise<Ours> {
  const site = await makeSite(options, 'ours');
  const flags = ['--workers', '1', '--join-wait', '0ms', ...options.daemonFlags];
  const daemons = await options.lab.startDaemons({ flags, inspect: options.inspect });
  await options.lab.cluster.label(site.namespace, 'enabled');
  const [near, far] = daemons;
  if (near === undefined || far === undefined) throw new Error('the lab has two nodes, and a daemon on each');
  for (const pod of site.clients) await near.waitState(pod, 'enrolled');
  for (const pod of site.servers) await far.waitState(pod, 'enrolled');
  const ours: Ours = {
    name: 'ours',
    config: `culvert daemon ${flags.join(' ')}: one data thread; TLS 1.3, AES-128-GCM, P-256; access log as flagged, else on`,
    clients: site.clients,
    ...directTargets(site),
    near: [near.process.pid],
    far: [far.process.pid],
    daemons,
  };
  await waitThrough(ours);
  return ours;
}
