/**
 * What test/bench/watch.bench.ts measures: the source of the cluster's state and the state, as the daemon's main thread
 * has them, in a process of their own. Arguments: a kubeconfig; `json` instead of protobuf. Says JSON on stdout: when it is synced, and what it has
 * used whenever it reads a line.
 */
import { createInterface } from 'node:readline';
import { KubernetesSource } from '../../daemon/cluster/kubernetes.ts';
import { connectKube } from '../../daemon/kube/client.ts';
import { parseTrustDomain } from '../../daemon/mesh/ids.ts';
import { MeshState } from '../../daemon/mesh/state.ts';

const trustDomain = parseTrustDomain('cluster.local');
if (trustDomain === undefined) throw new Error('cluster.local is no trust domain');
const state = new MeshState({
  trustDomain,
  defaultMode: 'permissive',
  rootNamespace: 'istio-system',
  trustDomainAliases: [],
  pathNormalization: 'BASE',
  meshCidrs: [],
  nodeName: 'bench',
});
const api = connectKube(process.argv[2] ?? '', process.env, { userAgent: 'culvert/bench' });
const source = new KubernetesSource({
  api,
  ...(process.argv[3] === 'json' ? { json: true } : {}),
  onProblem: (_, reason) => process.stderr.write(`${reason}\n`),
});
const startedMs = performance.now();
let changes = 0;
source.start((deltas) => {
  state.apply(deltas);
  for (const { kind } of deltas) if (kind === 'workload') changes++;
});
await source.synced;
tell();
for await (const line of createInterface({ input: process.stdin })) if (line === '') tell();
process.exit(0);

function tell(): void {
  const { user, system } = process.cpuUsage();
  const used = {
    syncMs: performance.now() - startedMs,
    cpuMs: (user + system) / 1_000,
    rssMb: process.memoryUsage.rss() / 1e6,
    peakMb: (process.resourceUsage().maxRSS * 1_024) / 1e6,
    workloads: [...state.workloads()].length,
    services: [...state.services()].length,
    changes,
  };
  process.stdout.write(`${JSON.stringify(used)}\n`);
}
