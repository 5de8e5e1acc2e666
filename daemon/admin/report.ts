/** What the daemon knows of itself: the admin API's answers, the metrics, readiness, the access records. */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Config } from '../config.ts';
import type { MeshState } from '../mesh/state.ts';
import type { ClusterSource, SourceProblem } from '../mesh/model.ts';
import type {
  ConnectionRecord,
  EnrolmentToMain,
  KernelRefusals,
  OpenConnection,
  PodStatus,
  WorkerGauges,
} from '../mesh/wiring.ts';
import { Refusals, writeAccess, writeKernelRefusals } from '../observe/access.ts';
import type { Log } from '../observe/log.ts';
import { Metrics } from '../observe/metrics.ts';
import { eventOfConnection, eventOfStatus } from '../observe/pod-events.ts';
import type { PodEvent } from '../observe/pod-events.ts';
import type { AdminBackend, CertificateStatus, NodeStatus, UninstallState } from './backend.ts';
import { Heartbeats } from './heartbeats.ts';
import { policyLines } from './policies.ts';
import { problemsOf } from './problems.ts';
import type { AdminOptions } from './server.ts';
import { nodeSummary } from './summary.ts';
import type { SummaryParts } from './summary.ts';
import { WorkloadIndex } from './workload-index.ts';

export interface ReportOptions {
  readonly config: Config;
  readonly version: string;
  readonly log: Log;
  readonly state: MeshState;
  readonly source: Pick<ClusterSource, 'problems' | 'stalenessMs'>;
  readonly certificates: { list(): readonly CertificateLine[] };
  /** What people should find under `kubectl describe pod`; where there is an API to tell it. */
  readonly onPodEvent?: (event: PodEvent) => void;
}

/** A certificate as identity/ lists it. */
interface CertificateLine {
  readonly id: string;
  readonly state: 'waiting' | 'issuing' | 'ready' | 'renewing' | 'expired';
  readonly serial: string | undefined;
  readonly notBeforeMs: number | undefined;
  readonly notAfterMs: number | undefined;
  readonly lastError: string | undefined;
  readonly nextAttemptMs: number | undefined;
}

const BEAT_MS = 1_000;
const LAG_RESOLUTION_MS = 20;

export class NodeReport {
  readonly #options: ReportOptions;
  readonly #metrics: Metrics;
  readonly #refusals = new Refusals();
  readonly #heartbeats = new Heartbeats(() => performance.now());
  readonly #startedMs = Date.now();
  readonly #open = new Map<number, number>();
  readonly #loopDelay = monitorEventLoopDelay({ resolution: LAG_RESOLUTION_MS });
  #pods: readonly PodStatus[] = [];
  #enrolmentStarted = false;
  #synced = false;
  #uninstall: UninstallState = 'no';
  #lastProblems = '';
  /** Pod and reason of what was told as an Event, while it lasts. */
  #toldEvents: ReadonlySet<string> = new Set();

  constructor(options: ReportOptions) {
    this.#options = options;
    const { config, state } = options;
    const workloads = new WorkloadIndex(
      () => state.workloads(),
      () => performance.now(),
    );
    this.#metrics = new Metrics({
      seriesLimit: config.metricSeries,
      describe: (namespace, pod) => workloads.describe(namespace, pod),
      now: () => Date.now(),
      version: options.version,
    });
    this.#loopDelay.enable();
    setInterval(() => this.#beat(), BEAT_MS).unref();
  }

  get isSynced(): boolean {
    return this.#synced;
  }

  /** Connections that the workers last said to have. */
  get openConnections(): number {
    return [...this.#open.values()].reduce((sum, count) => sum + count, 0);
  }

  /** The first complete state is there. */
  synced(): void {
    this.#synced = true;
  }

  closed(records: readonly ConnectionRecord[]): void {
    for (const record of records) {
      this.#metrics.closed(record);
      this.#refusals.record(record);
      this.#tellEvent(eventOfConnection(record));
    }
    if (this.#options.config.accessLog === 'on') writeAccess(this.#options.log, records);
  }

  opened(connections: readonly OpenConnection[]): void {
    for (const connection of connections) this.#metrics.opened(connection);
  }

  gauges(index: number, gauges: WorkerGauges): void {
    this.#heartbeats.beat(`worker-${index}`);
    this.#open.set(index, gauges.connections);
    this.#metrics.worker(index, gauges);
  }

  workerLost(index: number): void {
    this.#heartbeats.forget(`worker-${index}`);
    this.#open.delete(index);
    this.#metrics.workerLost(index);
  }

  /** Something in a watch of the API went wrong and was survived; what lasts is one of the source's problems. */
  watchProblem(source: string, why: string): void {
    this.#metrics.add('culvert_watch_problems_total', { source });
    this.#options.log.info({ source, why }, 'a watch of the API was interrupted');
  }

  /** What this node says of itself on its daemon's pod. The rest says where certificates come from. */
  summary(certSource: string, bundle: string | undefined, issuers: SummaryParts['issuers']): string {
    return nodeSummary({
      version: this.#options.version,
      bundle,
      issuers,
      pods: this.#pods,
      certificates: this.#options.certificates.list().map((line) => ({
        ...certificateStatus(line),
        source: certSource,
        nextRenewalMs: line.nextAttemptMs,
      })),
      left: this.#uninstall === 'done',
    });
  }

  certificate(event: { readonly type: string; readonly id?: string; readonly reason?: string }): void {
    const { log } = this.#options;
    if (event.type === 'failed')
      log.warn(
        { identity: event.id, why: event.reason },
        'a certificate could not be issued; it is tried again',
      );
    if (event.type === 'expired')
      log.error({ identity: event.id }, "a certificate has expired: its pods' connections are refused");
  }

  /** Takes what is of interest to people. */
  enrolment(message: EnrolmentToMain): void {
    this.#heartbeats.beat('enrolment');
    switch (message.type) {
      case 'started':
        this.#enrolmentStarted = true;
        this.#options.log.info('enrolment has started');
        return;
      case 'pods':
        this.#setPods(message.pods);
        return;
      case 'kernel-counters':
        this.#metrics.kernelCounters(message.counters);
        return;
      case 'kernel-refusals':
        for (const refused of message.refusals) this.#refusedInKernel(refused);
        return;
      case 'unguarded':
        this.#metrics.add('culvert_pods_started_unguarded_total', {});
        return;
      case 'left':
        if (message.yielded === true) return;
        this.#uninstall = 'done';
        this.#setPods([]);
        // The thread has nothing to do any more, so nothing is heard of it.
        this.#heartbeats.forget('enrolment');
        this.#options.log.info('every pod has left; no program, map or pin of ours is on this node');
        return;
      case 'want-identity':
      case 'release-identity':
      case 'stopped':
      case 'fatal':
        return;
    }
  }

  #refusedInKernel(refused: KernelRefusals): void {
    const { config, log, state } = this.#options;
    const pod = refused.uid === undefined ? undefined : state.workload(refused.uid);
    this.#metrics.refusedInKernel(refused);
    if (pod !== undefined) this.#refusals.recordKernel(refused, pod, Date.now());
    if (config.accessLog === 'on') writeKernelRefusals(log, refused, pod);
  }

  /** Begins to leave every pod, once. */
  uninstall(leaveAll: () => void): void {
    if (this.#uninstall !== 'no') return;
    this.#uninstall = 'leaving';
    leaveAll();
  }

  /** The three servers' options; `connections` asks the workers, `leaveAll` begins an uninstall. */
  adminOptions(connections: () => Promise<readonly OpenConnection[]>, leaveAll: () => void): AdminOptions {
    const { config, log } = this.#options;
    return {
      ports: { admin: config.adminPort, metrics: config.metricsPort, health: config.healthPort },
      log,
      backend: this.#backend(connections, leaveAll),
      dead: () => this.#heartbeats.late(),
      notReady: () => this.#notReady(),
      metrics: { text: () => this.#scrape(), contentType: this.#metrics.contentType },
    };
  }

  #backend(connections: () => Promise<readonly OpenConnection[]>, leaveAll: () => void): AdminBackend {
    return {
      status: () => Promise.resolve(this.#status()),
      connections,
      certificates: () => Promise.resolve(this.#options.certificates.list().map(certificateStatus)),
      config: () => Promise.resolve(this.#config()),
      uninstall: () => {
        this.uninstall(leaveAll);
        return Promise.resolve();
      },
    };
  }

  #config(): unknown {
    const { config, state } = this.#options;
    const pods = this.#pods.filter((pod) => pod.state === 'enrolled');
    return { config, state: state.snapshot(), policies: policyLines(state, pods) };
  }

  #status(): NodeStatus {
    return {
      node: this.#options.config.nodeName,
      version: this.#options.version,
      startedMs: this.#startedMs,
      notReady: this.#notReady(),
      uninstall: this.#uninstall,
      pods: this.#pods,
      refusals: this.#refusals.list(),
      problems: this.#problems(),
    };
  }

  #problems(): SourceProblem[] {
    return problemsOf(this.#options.source, this.#options.state);
  }

  #notReady(): readonly string[] {
    const why: string[] = [];
    if (!this.#synced) why.push('the cluster has not been read completely yet');
    if (!this.#enrolmentStarted) why.push('the programs are not attached yet');
    if (this.#uninstall !== 'no') why.push('this node is being uninstalled');
    return why;
  }

  /** What is known without an event is put in place when somebody asks. */
  #scrape(): Promise<string> {
    const { certificates, source } = this.#options;
    this.#metrics.set('culvert_ready', {}, this.#notReady().length === 0 ? 1 : 0);
    this.#metrics.set('culvert_source_problems', {}, this.#problems().length);
    this.#metrics.staleness(source.stalenessMs());
    this.#metrics.certificates(certificates.list().map(certificateStatus));
    // The histogram holds whole intervals; what is beyond the one asked for is lateness.
    const lagMs = Math.max(0, this.#loopDelay.percentile(99) / 1e6 - LAG_RESOLUTION_MS);
    this.#metrics.loopLag('main', lagMs);
    this.#loopDelay.reset();
    return this.#metrics.text();
  }

  #beat(): void {
    this.#heartbeats.beat('main');
    this.#tellStatusEvents();
    const problems = this.#problems();
    const text = JSON.stringify(problems);
    if (text === this.#lastProblems) return;
    this.#lastProblems = text;
    for (const problem of problems)
      this.#options.log.warn(problem, 'something in the objects of the cluster can not be used as it is');
  }

  /** What is wrong with a pod for some time, each once. */
  #tellStatusEvents(): void {
    const told = new Set<string>();
    for (const pod of this.#pods) {
      const event = eventOfStatus(pod, Date.now());
      if (event === undefined) continue;
      const key = `${pod.uid} ${event.reason} ${event.note}`;
      told.add(key);
      if (!this.#toldEvents.has(key)) this.#tellEvent(event);
    }
    this.#toldEvents = told;
  }

  #tellEvent(event: PodEvent | undefined): void {
    if (event !== undefined) this.#options.onPodEvent?.(event);
  }

  /** While the node is left, a label makes no pod ours any more: only those that are still leaving are. */
  #setPods(told: readonly PodStatus[]): void {
    const isStaying = this.#uninstall === 'no';
    const pods = told.filter(({ state }) => isStaying || (state !== 'pending' && state !== 'unenrollable'));
    this.#tellChanges(pods);
    for (const { uid } of this.#pods) if (!pods.some((pod) => pod.uid === uid)) this.#refusals.forget(uid);
    this.#pods = pods;
    this.#metrics.pods(pods);
  }

  #tellChanges(pods: readonly PodStatus[]): void {
    const before = new Map(this.#pods.map((pod) => [pod.uid, pod]));
    for (const pod of pods) {
      const old = before.get(pod.uid);
      if (old?.state === pod.state && old.reason === pod.reason) continue;
      this.#options.log.info(
        { pod: `${pod.namespace}/${pod.name}`, uid: pod.uid, state: pod.state, why: pod.reason },
        'a pod changed its state',
      );
    }
  }
}

function certificateStatus(line: CertificateLine): CertificateStatus {
  const waiting = line.state === 'waiting' || line.state === 'issuing';
  return {
    identity: line.id,
    state: waiting ? (line.lastError === undefined ? 'waiting' : 'failed') : line.state,
    serial: line.serial,
    notBeforeMs: line.notBeforeMs,
    notAfterMs: line.notAfterMs,
    error: line.lastError,
  };
}
