/** Starts the daemon's parts, wires them together, and stops them: the only file that makes everything. */
import { availableParallelism } from 'node:os';
import { readFileSync } from 'node:fs';
import { NodeReport } from './admin/report.ts';
import { startAdmin } from './admin/server.ts';
import { startEnrolment } from './capture/client.ts';
import { FileSource } from './cluster/files.ts';
import type { Config } from './config.ts';
import { resolveCounts } from './config.ts';
import { MeshError } from './errors.ts';
import { Certificates } from './identity/certificates.ts';
import { systemClock } from './identity/clock.ts';
import { LocalCa } from './identity/sources/local.ts';
import type { MeshSettings } from './mesh/model.ts';
import { MeshState } from './mesh/state.ts';
import type { EnrolmentToMain } from './mesh/wiring.ts';
import { createLog } from './observe/log.ts';
import { Workers } from './proxy/workers.ts';
import { VERSION } from './version.ts';

/** Runs the daemon until SIGTERM or SIGINT; resolves when it has drained. @throws MeshError when it can't start. */
export async function startDaemon(given: Config): Promise<void> {
  const config = resolveCounts(given, availableParallelism(), openFileLimit());
  const log = createLog({ level: config.logLevel, thread: 'main' });
  if (config.clusterDir === '')
    throw new MeshError(
      'CONFIG_INVALID',
      '--cluster-dir: no folder given, and the Kubernetes API is not a source yet',
    );
  const settings: MeshSettings = config;
  const state = new MeshState(settings);
  await using parts = new AsyncDisposableStack();
  const source = parts.use(new FileSource(config.clusterDir));
  const ca = await LocalCa.open({
    folder: config.caDir,
    trustDomain: config.trustDomain,
    clock: systemClock,
  });
  const certificates = parts.use(
    new Certificates({
      source: ca,
      trustDomain: config.trustDomain,
      lifetimeMs: config.certLifetime,
      clock: systemClock,
    }),
  );
  const report = new NodeReport({ config, version: VERSION, log, state, source, certificates });
  const enrolment = startEnrolment(config, settings, (message) => fromEnrolment(message));
  parts.defer(async () => {
    await enrolment.terminate();
  });
  const stopped = Promise.withResolvers<void>();
  const fatal = Promise.withResolvers<never>();
  fatal.promise.catch(() => undefined); // whoever races it hears of it

  const workers = new Workers({
    count: config.workers,
    config,
    settings,
    log,
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
    switch (event.type) {
      case 'certificate':
        workers.broadcast({ type: 'certificate', certificate: event.certificate });
        enrolment.post({
          type: 'identity-ready',
          id: event.certificate.id,
          notAfterMs: event.certificate.notAfterMs,
        });
        return;
      case 'failed':
        workers.broadcast({ type: 'certificate-failed', id: event.id, reason: event.reason });
        enrolment.post({ type: 'identity-failed', id: event.id, reason: event.reason });
        return;
      case 'released':
        workers.broadcast({ type: 'certificate-released', id: event.id });
        return;
      case 'expired':
        return;
    }
  });

  const fromEnrolment = (message: EnrolmentToMain): void => {
    switch (message.type) {
      case 'want-identity': {
        certificates.want(message.id, message.urgent);
        const known = certificates.get(message.id);
        if (known !== undefined)
          enrolment.post({ type: 'identity-ready', id: known.id, notAfterMs: known.notAfterMs });
        return;
      }
      case 'release-identity':
        return certificates.release(message.id);
      case 'fatal':
        return fatal.reject(new MeshError('PREFLIGHT_FAILED', `${message.code}: ${message.message}`));
      case 'stopped':
        return stopped.resolve();
      case 'started':
      case 'pods':
      case 'kernel-counters':
      case 'unguarded':
      case 'kernel-refusals':
      case 'left':
        return report.enrolment(message);
    }
  };

  source.start((deltas) => {
    state.apply(deltas);
    workers.broadcast({ type: 'deltas', deltas });
  });
  await Promise.race([source.synced, fatal.promise]);
  report.synced();
  workers.broadcast({ type: 'synced' });
  const listConnections = (): ReturnType<Workers['connections']> => workers.connections();
  const leaveAll = (): void => enrolment.post({ type: 'leave-all' });
  parts.use(await startAdmin(report.adminOptions(listConnections, leaveAll)));
  const signal = await Promise.race([untilSignal(), fatal.promise]);

  log.info(
    { signal, connections: report.openConnections },
    'stopping: new connections are refused, open ones may end',
  );
  enrolment.post({ type: 'stop' });
  await Promise.race([stopped.promise, fatal.promise]);
  const cut = await workers.drain(Date.now() + config.drainSeconds);
  log.info({ cut }, 'stopped; what was pinned stays, so enrolled pods stay closed');
}

function untilSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
  });
}

/** The soft limit of open files of this process. */
function openFileLimit(): number {
  const line = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'));
  return line === null ? 1_024 : Number(line[1]);
}
