/** Starts the daemon's parts, wires them together, and stops them: the only file that makes everything. */
import { availableParallelism } from 'node:os';
import { NodeReport } from './admin/report.ts';
import { startAdmin } from './admin/server.ts';
import { startEnrolment } from './capture/client.ts';
import { openFileLimit } from './capture/open-files.ts';
import { Presence } from './cluster/presence.ts';
import { openSource } from './cluster/source.ts';
import type { Config } from './config.ts';
import { resolveCounts } from './config.ts';
import { MeshError } from './errors.ts';
import { messagesOf, wantIdentity } from './identity/messages.ts';
import { openCertificates } from './identity/open.ts';
import { connectKube } from './kube/client.ts';
import { MeshState } from './mesh/state.ts';
import type { EnrolmentToMain } from './mesh/wiring.ts';
import { createLog } from './observe/log.ts';
import { Workers } from './proxy/workers.ts';
import { VERSION } from './version.ts';

/** Runs the daemon until SIGTERM or SIGINT; resolves when it has drained. @throws MeshError when it can't start. */
export async function startDaemon(given: Config): Promise<void> {
  const config = resolveCounts(given, availableParallelism(), openFileLimit());
  const log = createLog({ level: config.logLevel, thread: 'main' });
  const signal = untilSignal();
  await using parts = new AsyncDisposableStack();
  const api =
    config.clusterDir === ''
      ? parts.use(connectKube(config.kubeconfig, process.env, { userAgent: `culvert/${VERSION}` }))
      : undefined;
  const onProblem = (part: string, why: string): void => report.watchProblem(part, why);
  const state = new MeshState(config);
  const source = parts.use(openSource(config, api, onProblem));
  const issued = parts.use(await openCertificates({ config, api, nodes: () => state.nodeCount, onProblem }));
  const { certificates } = issued;
  const presence = parts.use(
    new Presence({
      ...{ api, config, onProblem },
      summary: () => report.summary(issued.sourceName, certificates.bundle?.hash, certificates.issuers()),
      onRenew: (what) => certificates.renew(what),
    }),
  );
  const onPodEvent: Presence['note'] = (event) => presence.note(event);
  const report = new NodeReport({ config, version: VERSION, log, state, source, certificates, onPodEvent });
  const enrolment = startEnrolment(config, config, (message) => fromEnrolment(message));
  parts.defer(() => enrolment.terminate());
  const [stopped, left] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const fatal = Promise.withResolvers<never>();
  fatal.promise.catch(() => undefined); // whoever races it hears of it

  const workers = new Workers({
    ...{ count: config.workers, config, settings: config, log },
    events: {
      onStarted: (send) => {
        send({ type: 'deltas', deltas: state.snapshot() });
        for (const certificate of certificates.usable()) send({ type: 'certificate', certificate });
        if (report.isSynced) send({ type: 'synced' });
      },
      onChannel: (index, port) => enrolment.post({ type: 'worker', index, port }, [port]),
      onClosed: (records) => report.closed(records),
      onOpened: (connections) => report.opened(connections),
      onGauges: (index, gauges) => report.gauges(index, gauges),
      onLost: (index) => report.workerLost(index),
    },
  });
  parts.defer(() => workers.terminate());
  certificates.onEvent((event) => {
    report.certificate(event);
    const { toWorkers, toEnrolment } = messagesOf(event);
    if (toWorkers !== undefined) workers.broadcast(toWorkers);
    if (toEnrolment !== undefined) enrolment.post(toEnrolment);
  });
  const fromEnrolment = (message: EnrolmentToMain): void => {
    report.enrolment(message);
    if (message.type === 'want-identity') {
      const known = wantIdentity(certificates, message);
      if (known !== undefined) enrolment.post(known);
    } else if (message.type === 'release-identity') certificates.release(message.id);
    else if (message.type === 'stopped') stopped.resolve();
    else if (message.type === 'left') left.resolve();
    else if (message.type === 'fatal')
      fatal.reject(new MeshError('PREFLIGHT_FAILED', `${message.code}: ${message.message}`));
  };

  source.start((deltas) => {
    state.apply(deltas);
    workers.broadcast({ type: 'deltas', deltas });
    enrolment.tell(deltas);
  });
  presence.start();
  void source.synced.then(() => {
    report.synced();
    workers.broadcast({ type: 'synced' });
  }, fatal.reject);
  const leaveAll = (): void => enrolment.post({ type: 'leave-all' });
  parts.use(await startAdmin(report.adminOptions(() => workers.connections(), leaveAll)));

  const name = await Promise.race([signal, fatal.promise]);
  const isUninstalled = await presence.isUninstalled(log);
  if (isUninstalled) {
    report.uninstall(leaveAll);
    await Promise.race([left.promise, fatal.promise]);
    await presence.tell();
  }
  const connections = report.openConnections;
  log.info({ signal: name, connections }, 'stopping: new connections are refused, open ones may end');
  enrolment.post({ type: 'stop' });
  await Promise.race([stopped.promise, fatal.promise]);
  const cut = await workers.drain(Date.now() + config.drainSeconds);
  const pins = isUninstalled
    ? 'nothing of ours is pinned'
    : 'what was pinned stays, so enrolled pods stay closed';
  log.info({ cut }, `stopped; ${pins}`);
}

function untilSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
  });
}
