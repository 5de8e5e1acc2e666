/** What is compared: pods of its own on two nodes of one lab, and the proxies between them. */
import type { Lab } from '../../lab/kit/lab.ts';
import type { LabPod } from '../../lab/kit/pod.ts';
import { must } from '../../support/run.ts';
import { until } from '../../support/wait.ts';
import { ECHO_PORT, SINK_PORT, serveLoad } from '../load.ts';
import type { Target } from '../load.ts';

export const CANDIDATES = ['none', 'ours', 'haproxy', 'ztunnel'] as const;
export type CandidateName = (typeof CANDIDATES)[number];

export interface Candidate {
  readonly name: CandidateName;
  /** How it is set up, for the report. */
  readonly config: string;
  readonly clients: readonly LabPod[];
  /** Where client pods dial to reach a server pod's app. */
  readonly echo: readonly Target[];
  readonly sink: readonly Target[];
  /** Processes on the clients' side and on the servers' side; no proxies: none. */
  readonly near: readonly number[];
  readonly far: readonly number[];
}

/** A candidate that can't be had, and why. */
export interface Hole {
  readonly name: CandidateName;
  readonly reason: string;
}

export interface StartOptions {
  readonly lab: Lab;
  /** The load program. */
  readonly program: string;
  /** How many client pods on node 1 and server pods on node 2. */
  readonly pods: number;
  /** Added to our daemon's command line. */
  readonly daemonFlags: readonly string[];
  /** With an inspector in our daemons. */
  readonly inspect: boolean;
}

export interface Site {
  readonly namespace: string;
  readonly clients: readonly LabPod[];
  readonly servers: readonly LabPod[];
}

/** The pods of one candidate, in a namespace of their own, with the servers listening. */
export async function makeSite(options: StartOptions, name: CandidateName): Promise<Site> {
  const namespace = `bench-${name}`;
  const clients: LabPod[] = [];
  const servers: LabPod[] = [];
  for (let index = 0; index < options.pods; index++) {
    clients.push(await options.lab.pod({ name: `client-${index}`, namespace, node: 1 }));
    servers.push(await options.lab.pod({ name: `server-${index}`, namespace, node: 2 }));
  }
  await Promise.all([...clients, ...servers].map((pod) => reuseTimeWait(pod)));
  await Promise.all(servers.map((pod) => serveLoad(options.program, pod)));
  return { namespace, clients, servers };
}

/** Where the apps themselves listen. */
export function directTargets(site: Site): Pick<Candidate, 'echo' | 'sink'> {
  return {
    echo: site.servers.map((pod) => ({ ip: pod.ip, port: ECHO_PORT })),
    sink: site.servers.map((pod) => ({ ip: pod.ip, port: SINK_PORT })),
  };
}

/** Waits until an exchange goes through from each client to the server of its number: all proxies are up then. */
export async function waitThrough(candidate: Candidate): Promise<void> {
  const first = Buffer.from('are you there?');
  for (const [index, client] of candidate.clients.entries()) {
    const to = candidate.echo[index];
    if (to === undefined) throw new Error('there are as many servers as clients');
    await until(`an answer through ${candidate.name}`, async () => {
      const sent = await client.send(to.ip, to.port, { first, timeoutMs: 10_000 });
      return sent.received === first.length;
    });
  }
}

/** Thousands of short connections a second: else a pod runs out of source ports within seconds. */
async function reuseTimeWait(pod: LabPod): Promise<void> {
  await must(['nsenter', `--net=${pod.netns}`, 'sysctl', '-qw', 'net.ipv4.tcp_tw_reuse=1']);
}
