/**
 * Istio's four TCP metrics. Tallied here with one map look-up a connection; prom-client, which costs microseconds
 * for each of two dozen labels, sees a tally only when somebody scrapes.
 */
import { reasonInfo } from '../errors.ts';
import type { ConnectionRecord, OpenConnection } from '../mesh/wiring.ts';
import { TRAFFIC_LABELS } from './metrics-table.ts';
import { LruMap, seriesKey } from './series.ts';

/** What the cluster's objects say of a workload; used as labels only, never to decide. */
export interface WorkloadLabels {
  /** The controller's name (a Deployment's), so that series do not multiply with pods. */
  readonly workload: string;
  readonly app: string | undefined;
  readonly version: string | undefined;
  readonly canonicalService: string | undefined;
  readonly canonicalRevision: string | undefined;
}

/** Looks a pod up by namespace and name; undefined when it is not known (any more). */
export type Describe = (namespace: string, pod: string) => WorkloadLabels | undefined;

export type Labels = Readonly<Record<string, string>>;

/** Increments of one series since the last scrape. */
interface Tally {
  readonly labels: Labels;
  opened: number;
  closed: number;
  sent: number;
  received: number;
  /** prom-client holds it: it must be removed there too. */
  flushed: boolean;
}

export interface TrafficSink {
  add(labels: Labels, by: Readonly<Pick<Tally, 'opened' | 'closed' | 'sent' | 'received'>>): void;
  remove(labels: Labels): void;
}

const UNKNOWN = 'unknown';

/** Tallies of connections by ztunnel's labels, at most `limit` label sets. */
export class Traffic {
  readonly #tallies: LruMap<Tally>;
  readonly #describe: Describe;
  readonly #sink: TrafficSink;
  #evicted = 0;

  constructor(limit: number, describe: Describe, sink: TrafficSink) {
    this.#describe = describe;
    this.#sink = sink;
    this.#tallies = new LruMap<Tally>(limit, (tally) => {
      if (tally.flushed) sink.remove(tally.labels);
      this.#evicted += 1;
    });
  }

  get size(): number {
    return this.#tallies.size;
  }

  opened(connection: OpenConnection): void {
    this.#tally(connection, '-').opened += 1;
  }

  closed(record: ConnectionRecord): void {
    const tally = this.#tally(record, reasonInfo(record.reason).flag);
    if (record.reportedOpen !== true) tally.opened += 1;
    tally.closed += 1;
    tally.sent += record.bytesSent;
    tally.received += record.bytesReceived;
  }

  /** Hands what has changed since the last time to the sink. @returns how many label sets were dropped meanwhile. */
  flush(): number {
    for (const tally of this.#tallies.values()) {
      if (tally.opened === 0 && tally.closed === 0) continue;
      this.#sink.add(tally.labels, tally);
      Object.assign(tally, { opened: 0, closed: 0, sent: 0, received: 0, flushed: true });
    }
    const evicted = this.#evicted;
    this.#evicted = 0;
    return evicted;
  }

  #tally(connection: OpenConnection, flag: string): Tally {
    const values = trafficValues(connection, flag, this.#describe);
    return this.#tallies.touch(seriesKey(values), () => ({
      labels: Object.fromEntries(TRAFFIC_LABELS.map((label, i) => [label, values[i] ?? UNKNOWN])),
      opened: 0,
      closed: 0,
      sent: 0,
      received: 0,
      flushed: false,
    }));
  }
}

/** The values of TRAFFIC_LABELS, in their order. Principals come from the record: a handshake or the enrolment. */
function trafficValues(connection: OpenConnection, flag: string, describe: Describe): readonly string[] {
  const service = splitService(connection.dstService);
  return [
    connection.direction === 'outbound' ? 'source' : 'destination',
    ...endValues(connection.srcNamespace, connection.srcWorkload, connection.srcIdentity, describe),
    ...service,
    ...endValues(connection.dstNamespace, connection.dstWorkload, connection.dstIdentity, describe),
    'tcp',
    flag,
    connection.security === 'mutual_tls' ? 'mutual_tls' : UNKNOWN,
  ];
}

/** workload, canonical service and revision, namespace, principal, app, version, cluster. */
function endValues(
  namespace: string | undefined,
  pod: string | undefined,
  principal: string | undefined,
  describe: Describe,
): readonly string[] {
  const known = namespace === undefined || pod === undefined ? undefined : describe(namespace, pod);
  return [
    known?.workload ?? pod ?? UNKNOWN,
    known?.canonicalService ?? UNKNOWN,
    known?.canonicalRevision ?? UNKNOWN,
    namespace ?? UNKNOWN,
    principal ?? UNKNOWN,
    known?.app ?? UNKNOWN,
    known?.version ?? UNKNOWN,
    namespace === undefined ? UNKNOWN : 'Kubernetes',
  ];
}

/** `web.shop` → host name as ztunnel writes it, namespace, name. */
function splitService(service: string | undefined): readonly string[] {
  const dot = service?.indexOf('.') ?? -1;
  if (service === undefined || dot < 0) return [UNKNOWN, UNKNOWN, UNKNOWN];
  const namespace = service.slice(dot + 1);
  return [`${service}.svc.cluster.local`, namespace, service.slice(0, dot)];
}
