/** `culvert ca serve`, which is `culvert-ca`: joins the cluster CA's parts, of which one replica at a time acts. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { Heartbeats } from './admin/heartbeats.ts';
import { startPublic } from './admin/server.ts';
import { servePolicyStatus } from './cluster/policy-status.ts';
import type { Config } from './config.ts';
import { systemClock } from './identity/clock.ts';
import { serveTerm } from './identity/signer/term.ts';
import { connectKube } from './kube/client.ts';
import { Lease } from './kube/lease.ts';
import { createLog } from './observe/log.ts';
import { Metrics } from './observe/metrics.ts';
import { VERSION } from './version.ts';

/** The service account of the daemons: manifests/base/daemon-rbac.yaml. */
const DAEMON_ACCOUNT = 'culvert';
const LEASE = 'culvert-ca';
const BEAT_MS = 1_000;

/** Runs the CA until SIGTERM or SIGINT. @throws MeshError when it can't start. */
export async function startCa(config: Config): Promise<void> {
  const log = createLog({ level: config.logLevel, thread: 'ca' });
  const metrics = new Metrics({
    seriesLimit: config.metricSeries,
    // The CA carries no connection.
    describe: () => undefined,
    now: () => systemClock.nowMs(),
    version: VERSION,
  });
  await using parts = new AsyncDisposableStack();
  const api = parts.use(connectKube(config.kubeconfig, process.env, { userAgent: `culvert-ca/${VERSION}` }));
  const instance = config.podName === '' ? hostname() : config.podName;
  const lease = new Lease({
    api,
    namespace: config.podNamespace,
    name: LEASE,
    holder: `${instance}_${randomBytes(4).toString('hex')}`,
    clock: systemClock,
    onProblem: (reason) => log.warn({ reason }, 'the lease could not be read or written'),
  });
  parts.use(
    await startPublic({
      ports: { metrics: config.metricsPort, health: config.healthPort },
      log,
      metrics,
      dead: beating(parts),
      notReady: () => (lease.hasAnswer ? [] : ['the API server has not answered yet']),
    }),
  );
  parts.use(lease);
  metrics.set('culvert_ca_leader', {}, 0);
  lease.start((term) => {
    const options = { config, account: DAEMON_ACCOUNT, api, log, metrics, instance, clock: systemClock };
    const onProblem = (reason: string): void =>
      log.warn({ reason }, 'the conditions of the policies may be out of date');
    const { rootNamespace } = config;
    const status = { api, rootNamespace, instance, nowMs: () => systemClock.nowMs(), onProblem };
    Promise.all([serveTerm(term, options), servePolicyStatus(term, status)]).catch((error: unknown) => {
      // A defect: ended, so that the other replica takes over and the kubelet starts us anew.
      log.fatal({ err: error }, 'the CA failed');
      process.exit(1);
    });
  });
  const signal = await untilSignal();
  log.info({ signal, isLeading: lease.isLeading }, 'stopping: the lease is given back');
}

/** Beats for as long as the event loop turns. @returns why the process should be killed. */
function beating(parts: AsyncDisposableStack): () => readonly string[] {
  const heartbeats = new Heartbeats(() => systemClock.monotonicMs());
  heartbeats.beat('ca');
  const timer = setInterval(() => heartbeats.beat('ca'), BEAT_MS);
  parts.defer(() => clearInterval(timer));
  return () => heartbeats.late();
}

function untilSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
  });
}
