/** The registry behind `/metrics`: lives on the main thread, which gets the workers' records and gauges. */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import { reasonInfo } from '../errors.ts';
import type {
  ConnectionRecord,
  KernelRefusals,
  OpenConnection,
  PodStatus,
  WorkerGauges,
} from '../mesh/wiring.ts';
import type { PodState } from '../mesh/model.ts';
import { isRefusal } from './access.ts';
import { METRICS, METRIC_NAMES, TRAFFIC_LABELS } from './metrics-table.ts';
import type { CounterName, GaugeName, MetricInfo, MetricName } from './metrics-table.ts';
import { LruMap, seriesKey } from './series.ts';
import { Traffic } from './traffic.ts';
import type { Describe, Labels } from './traffic.ts';

export interface MetricsOptions {
  /** Label sets kept per metric: config `metricSeries`. */
  readonly seriesLimit: number;
  readonly describe: Describe;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly version: string;
  /** The text is made again when it is older than this; 0 in tests. */
  readonly cacheMs?: number;
  /** CPU and memory of this process; replaced in tests. */
  readonly usage?: () => { readonly cpuSeconds: number; readonly residentBytes: number };
}

type Instrument = Counter | Gauge | Histogram;

const TEXT_CACHE_MS = 5_000;
const POD_STATES: readonly PodState[] = [
  'pending',
  'opening',
  'joining',
  'enrolled',
  'leaving',
  'unenrollable',
];
const MS_PER_SECOND = 1_000;

const NO_GAUGES: WorkerGauges = {
  connections: 0,
  held: 0,
  tunnelsOut: 0,
  tunnelsIn: 0,
  handshakes: 0,
  listeners: 0,
  loopLagP99Ms: 0,
};

/** All metrics of one daemon. Nothing here waits. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #instruments = new Map<MetricName, Instrument>();
  readonly #series = new Map<MetricName, LruMap<Labels>>();
  readonly #traffic: Traffic;
  readonly #options: MetricsOptions;
  readonly #kernel = new Map<string, number>();
  #cpuSeconds = 0;
  #cached: { readonly atMs: number; readonly text: Promise<string> } | undefined;

  constructor(options: MetricsOptions) {
    this.#options = options;
    for (const name of METRIC_NAMES) {
      this.#instruments.set(name, instrument(name, METRICS[name], this.#registry));
      const remove = (labels: Labels): void => this.#evicted(name, labels);
      this.#series.set(name, new LruMap<Labels>(options.seriesLimit, remove));
    }
    this.#traffic = new Traffic(options.seriesLimit, options.describe, {
      add: (labels, by) => {
        this.#counter('istio_tcp_connections_opened_total').inc(labels, by.opened);
        this.#counter('istio_tcp_connections_closed_total').inc(labels, by.closed);
        this.#counter('istio_tcp_sent_bytes_total').inc(labels, by.sent);
        this.#counter('istio_tcp_received_bytes_total').inc(labels, by.received);
      },
      remove: (labels) => {
        for (const name of TRAFFIC_NAMES) this.#instruments.get(name)?.remove(labels);
      },
    });
    this.set('culvert_build_info', { version: options.version, node_version: process.version }, 1);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** A connection that is reported before it closes (wiring.ts `opened`). */
  opened(connection: OpenConnection): void {
    this.#traffic.opened(connection);
  }

  /** A closed connection; counts it as opened too unless `opened` had it. */
  closed(record: ConnectionRecord): void {
    this.#traffic.closed(record);
    if (isRefusal(record.reason))
      this.add('culvert_refusals_total', { reason: record.reason, direction: record.direction });
    else if (reasonInfo(record.reason).flag === '-')
      this.#observe(record.durationMs / MS_PER_SECOND, {
        direction: record.direction,
        security: record.security,
      });
  }

  /** Connections that the kernel refused before a worker saw them. */
  refusedInKernel({ reason, direction, count }: KernelRefusals): void {
    this.add('culvert_refusals_total', { reason, direction }, count);
  }

  /** Resting numbers of one worker. */
  worker(index: number, gauges: WorkerGauges): void {
    const worker = String(index);
    this.set('culvert_connections_open', { worker }, gauges.connections);
    this.set('culvert_connections_held', { worker }, gauges.held);
    this.set('culvert_handshakes_in_flight', { worker }, gauges.handshakes);
    this.set('culvert_tunnels', { worker, direction: 'outbound' }, gauges.tunnelsOut);
    this.set('culvert_tunnels', { worker, direction: 'inbound' }, gauges.tunnelsIn);
    this.set('culvert_listeners', { worker }, gauges.listeners);
    this.loopLag(`worker-${worker}`, gauges.loopLagP99Ms);
    for (const { policy, verdict, count } of gauges.decisions ?? [])
      this.add('culvert_policy_decisions_total', { policy, verdict }, count);
  }

  /** A worker died: it counts as restarted, and nothing of it is open any more. */
  workerLost(index: number): void {
    this.add('culvert_worker_restarts_total', {});
    this.worker(index, NO_GAUGES);
  }

  /** How late a thread's event loop turns, in ms. */
  loopLag(thread: string, p99Ms: number): void {
    this.set('culvert_event_loop_lag_p99_seconds', { thread }, p99Ms / MS_PER_SECOND);
  }

  /** This node's pods, all of them. States without a pod are shown as 0, so that alerts have a series. */
  pods(pods: readonly PodStatus[]): void {
    for (const state of POD_STATES)
      this.set('culvert_pods', { state }, pods.filter((pod) => pod.state === state).length);
    this.set(
      'culvert_older_connections',
      {},
      pods.reduce((sum, pod) => sum + pod.olderConnections, 0),
    );
  }

  /** All certificates of this node; identities that are not named any more lose their series. */
  certificates(
    certificates: readonly {
      readonly identity: string;
      readonly notAfterMs: number | undefined;
      readonly state: string;
    }[],
  ): void {
    this.#clear('culvert_certificate_expiry_timestamp_seconds');
    this.#clear('culvert_certificates');
    for (const { identity, notAfterMs, state } of certificates) {
      const count = certificates.filter((one) => one.state === state).length;
      this.set('culvert_certificates', { state }, count);
      if (notAfterMs === undefined) continue;
      this.set('culvert_certificate_expiry_timestamp_seconds', { identity }, notAfterMs / 1_000);
    }
  }

  /** The kernel programs' counters as they stand; a smaller one than before means that it began anew. */
  kernelCounters(counters: Readonly<Record<string, number>>): void {
    for (const [counter, value] of Object.entries(counters)) {
      const before = this.#kernel.get(counter) ?? 0;
      this.add('culvert_kernel_events_total', { counter }, value >= before ? value - before : value);
      this.#kernel.set(counter, value);
    }
  }

  /** ms since each part of the cluster state was known to be current. */
  staleness(parts: ReadonlyMap<string, number>): void {
    for (const [source, ms] of parts)
      this.set('culvert_watch_staleness_seconds', { source }, ms / MS_PER_SECOND);
  }

  /** Adds to a counter. */
  add(name: CounterName, labels: Labels, by = 1): void {
    this.#touch(name, labels);
    this.#counter(name).inc(labels, by);
  }

  /** Sets a gauge. */
  set(name: GaugeName, labels: Labels, value: number): void {
    const gauge = this.#instruments.get(name);
    if (!(gauge instanceof Gauge)) throw new TypeError(`${name} is no gauge`);
    this.#touch(name, labels);
    gauge.set(labels, value);
  }

  /** Label sets that a metric holds now. */
  seriesOf(name: MetricName): number {
    return METRICS[name].labels === TRAFFIC_LABELS ? this.#traffic.size : (this.#series.get(name)?.size ?? 0);
  }

  /** The exposition text, at most `cacheMs` old: a scraper can not make the main thread busy. */
  text(): Promise<string> {
    const atMs = this.#options.now();
    const cacheMs = this.#options.cacheMs ?? TEXT_CACHE_MS;
    // A wall clock can step back: a text from the future is not fresh.
    if (this.#cached !== undefined && atMs >= this.#cached.atMs && atMs - this.#cached.atMs < cacheMs)
      return this.#cached.text;
    this.#refresh();
    this.#cached = { atMs, text: this.#registry.metrics() };
    return this.#cached.text;
  }

  #refresh(): void {
    const evicted = this.#traffic.flush();
    if (evicted > 0)
      for (const name of TRAFFIC_NAMES)
        this.add('culvert_metric_series_evicted_total', { metric: name }, evicted);
    for (const name of METRIC_NAMES) this.set('culvert_metric_series', { metric: name }, this.seriesOf(name));
    const { cpuSeconds, residentBytes } = (this.#options.usage ?? processUsage)();
    this.set('culvert_resident_memory_bytes', {}, residentBytes);
    this.add('culvert_cpu_seconds_total', {}, Math.max(0, cpuSeconds - this.#cpuSeconds));
    this.#cpuSeconds = cpuSeconds;
  }

  #touch(name: MetricName, labels: Labels): void {
    const values = METRICS[name].labels.map((label) => labels[label] ?? '');
    this.#series.get(name)?.touch(seriesKey(values), () => labels);
  }

  #evicted(name: MetricName, labels: Labels): void {
    this.#instruments.get(name)?.remove(labels);
    this.add('culvert_metric_series_evicted_total', { metric: name });
  }

  #clear(name: MetricName): void {
    const series = this.#series.get(name);
    for (const [key, labels] of [...(series?.entries() ?? [])]) {
      series?.delete(key);
      this.#instruments.get(name)?.remove(labels);
    }
  }

  #observe(seconds: number, labels: Labels): void {
    const histogram = this.#instruments.get('culvert_connection_duration_seconds');
    this.#touch('culvert_connection_duration_seconds', labels);
    if (histogram instanceof Histogram) histogram.observe(labels, seconds);
  }

  #counter(name: CounterName): Counter {
    const counter = this.#instruments.get(name);
    if (!(counter instanceof Counter)) throw new TypeError(`${name} is no counter`);
    return counter;
  }
}

const TRAFFIC_NAMES = METRIC_NAMES.filter((name) => METRICS[name].labels === TRAFFIC_LABELS);

function instrument(name: string, info: MetricInfo, registry: Registry): Instrument {
  const common = { name, help: info.help, labelNames: [...info.labels], registers: [registry] };
  switch (info.type) {
    case 'counter':
      return new Counter(common);
    case 'gauge':
      return new Gauge(common);
    case 'histogram':
      return new Histogram({ ...common, buckets: [...(info.buckets ?? [])] });
  }
}

function processUsage(): { cpuSeconds: number; residentBytes: number } {
  const { user, system } = process.cpuUsage();
  return { cpuSeconds: (user + system) / 1e6, residentBytes: process.memoryUsage.rss() };
}
