/** ONE table of every metric: name, type, help, labels, stability, buckets. `/metrics` and its golden test are made from it. */

/** `stable`: name, labels and meaning change only with a major version. */
export type Stability = 'stable' | 'unstable';

export interface MetricInfo {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly labels: readonly string[];
  readonly stability: Stability;
  readonly buckets?: readonly number[];
}

/** ztunnel's labels, in the order of its own table, so that Istio's dashboards and alerts find them. */
export const TRAFFIC_LABELS = [
  'reporter',
  'source_workload',
  'source_canonical_service',
  'source_canonical_revision',
  'source_workload_namespace',
  'source_principal',
  'source_app',
  'source_version',
  'source_cluster',
  'destination_service',
  'destination_service_namespace',
  'destination_service_name',
  'destination_workload',
  'destination_canonical_service',
  'destination_canonical_revision',
  'destination_workload_namespace',
  'destination_principal',
  'destination_app',
  'destination_version',
  'destination_cluster',
  'request_protocol',
  'response_flags',
  'connection_security_policy',
] as const;

type CounterInfo = MetricInfo & { readonly type: 'counter' };
type GaugeInfo = MetricInfo & { readonly type: 'gauge' };

const traffic = (help: string): CounterInfo => ({
  type: 'counter',
  help,
  labels: TRAFFIC_LABELS,
  stability: 'stable',
});
const counter = (help: string, ...labels: readonly string[]): CounterInfo => ({
  type: 'counter',
  help,
  labels,
  stability: 'stable',
});
const gauge = (help: string, ...labels: readonly string[]): GaugeInfo => ({
  type: 'gauge',
  help,
  labels,
  stability: 'stable',
});
const unstable = <T extends MetricInfo>(info: T): T => ({ ...info, stability: 'unstable' });

/** Every metric. */
export const METRICS = {
  istio_tcp_connections_opened_total: traffic(
    'Connections opened, refused ones included. A connection that ends within a reporting interval is counted when it ends.',
  ),
  istio_tcp_connections_closed_total: traffic('Connections closed, refused ones included'),
  istio_tcp_sent_bytes_total: traffic(
    'Bytes from source to destination of closed connections, at both reporters (Istio swaps sent and received at the source reporter)',
  ),
  istio_tcp_received_bytes_total: traffic(
    'Bytes from destination to source of closed connections, at both reporters (Istio swaps sent and received at the source reporter)',
  ),

  culvert_build_info: gauge('1, with the version as a label', 'version', 'node_version'),
  culvert_ready: gauge('1 when /readyz says ready'),
  culvert_pods: gauge("Pods of this node by state of enrolment; ours are all but 'none'", 'state'),
  culvert_pods_started_unguarded_total: counter(
    'Pods whose first moments were not guarded; the connections that they had made were cut',
  ),
  culvert_older_connections: gauge(
    'Connections of enrolled pods that are older than enrolment and not protected',
  ),
  culvert_certificate_expiry_timestamp_seconds: gauge(
    'When the certificate in use ends, seconds since the epoch',
    'identity',
  ),
  culvert_certificates: gauge('Identities of this node by state of their certificate', 'state'),
  culvert_refusals_total: counter(
    'Connections refused, or failed before they could be carried, by reason',
    'reason',
    'direction',
  ),
  culvert_policy_decisions_total: counter(
    'Decisions of AuthorizationPolicies on connections and requests: policy is namespace/name, or - where ALLOW policies applied and none matched; dry_run_* are what a dry-run policy would have made of them',
    'policy',
    'verdict',
  ),
  culvert_connection_duration_seconds: {
    type: 'histogram',
    help: 'From accept to close of the connections that were carried',
    labels: ['direction', 'security'],
    stability: 'unstable',
    buckets: [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 600, 3600],
  },
  culvert_connections_open: gauge('Connections open now', 'worker'),
  culvert_connections_held: gauge('Connections held now, waiting for state', 'worker'),
  culvert_handshakes_in_flight: gauge('TLS handshakes in flight now', 'worker'),
  culvert_tunnels: gauge('HBONE tunnels open now; outbound: we are the client', 'worker', 'direction'),
  culvert_listeners: gauge('Listening sockets of a worker in all pods', 'worker'),
  culvert_worker_restarts_total: counter('Workers that died and were replaced'),
  culvert_event_loop_lag_p99_seconds: unstable(
    gauge('99th percentile of how late the event loop of a thread turns', 'thread'),
  ),
  culvert_kernel_events_total: unstable(
    counter('Events that the kernel programs have counted, by counter', 'counter'),
  ),
  culvert_source_problems: gauge('Objects or files of the cluster state that could not be used'),
  culvert_watch_staleness_seconds: gauge(
    'Time since the source of the cluster state was last known to be current',
    'source',
  ),
  culvert_watch_problems_total: counter(
    'What went wrong in a watch of the API and was survived: an answer that did not come, a version that has expired, nonsense',
    'source',
  ),
  culvert_csr_decisions_total: counter(
    'Certificate requests that culvert-ca issued, approved, denied or failed, by reason',
    'outcome',
    'reason',
  ),
  culvert_csr_waiting: gauge('Certificate requests that culvert-ca has not decided or signed yet'),
  culvert_ca_leader: gauge('1 while this replica of culvert-ca leads'),
  culvert_ca_expiry_timestamp_seconds: gauge(
    'When the CA that signs ends, seconds since the epoch; 0 while none can sign',
  ),
  culvert_metric_series: unstable(gauge('Label sets held now, by metric', 'metric')),
  culvert_metric_series_evicted_total: counter(
    'Label sets dropped because a metric had as many as metricSeries allows, the longest unused first',
    'metric',
  ),
  culvert_resident_memory_bytes: gauge('Resident memory of the daemon'),
  culvert_cpu_seconds_total: counter('CPU time of the daemon, user and system'),
} as const satisfies Record<string, MetricInfo>;

export type MetricName = keyof typeof METRICS;
type NamesOf<T extends MetricInfo['type']> = {
  [N in MetricName]: (typeof METRICS)[N]['type'] extends T ? N : never;
}[MetricName];
export type CounterName = NamesOf<'counter'>;
export type GaugeName = NamesOf<'gauge'>;
export const METRIC_NAMES = Object.keys(METRICS) as readonly MetricName[];
