/** What is measured: ONE table, from which the report is printed. */

/** Values by key of FIGURES (and those only in the JSON). */
export type Figures = Record<string, number>;

export interface Figure {
  readonly key: string;
  readonly title: string;
  readonly digits: number;
}

export interface Group {
  readonly name: string;
  readonly title: string;
  readonly figures: readonly Figure[];
}

const figure = (key: string, title: string, digits: number): Figure => ({ key, title, digits });

export const GROUPS: readonly Group[] = [
  {
    name: 'bulk',
    title: 'Bulk: bytes one way, compared by the receiver',
    figures: [
      figure('gb1', 'GB/s, 1 stream', 2),
      figure('cpuGb1', 'CPU s/GB', 3),
      figure('cpuGb1Near', 'client side', 3),
      figure('cpuGb1Far', 'server side', 3),
      figure('gb8', 'GB/s, 8 streams', 2),
      figure('cpuGb8', 'CPU s/GB', 3),
      figure('cpuGb8Near', 'client side', 3),
      figure('cpuGb8Far', 'server side', 3),
    ],
  },
  {
    name: 'requests',
    title: 'Requests: 1 KiB there and back on open connections',
    figures: [
      figure('p50x1', '1 conn: p50 µs', 0),
      figure('p99x1', 'p99 µs', 0),
      figure('cpuReq1', 'CPU µs/req', 1),
      figure('rps64', '64 conns: req/s', 0),
      figure('p50x64', 'p50 µs', 0),
      figure('p99x64', 'p99 µs', 0),
      figure('cpuReq64', 'CPU µs/req', 1),
    ],
  },
  {
    name: 'connections',
    title: 'New connections: connect, 1 KiB there and back, close; 16 at once',
    figures: [
      figure('conns', 'conn/s', 0),
      figure('cpuConn', 'CPU µs each', 0),
      figure('connP50', 'p50 µs', 0),
      figure('connP99', 'p99 µs', 0),
    ],
  },
  {
    name: 'memory',
    title: 'Memory: resident; KB per connection by the slope from 1,000 held ones',
    figures: [
      figure('idleNear', 'idle MB, client side', 1),
      figure('idleFar', 'server side', 1),
      figure('held', 'held', 0),
      figure('kbNear', 'KB/conn, client side', 1),
      figure('kbFar', 'server side', 1),
    ],
  },
  {
    name: 'matrix',
    title: 'Cold matrix: one new connection a second from every client pod to every server pod',
    figures: [
      figure('pairs', 'pod pairs', 0),
      figure('pacedPerS', 'conn/s', 0),
      figure('pacedFailed', 'failed', 0),
      figure('pacedP99', 'p99 µs', 0),
      figure('pacedHandshakes', 'TLS handshakes/s', 1),
      figure('pacedCpu', 'CPU µs each', 0),
      figure('pacedMbBefore', 'MB before', 0),
      figure('pacedMb', 'MB after', 0),
    ],
  },
];

/** Figures of ours alone. */
export const SINGLES: readonly (Figure & { readonly group: string })[] = [
  { group: 'memory', ...figure('bareMb', 'bare Node, two empty workers, our packages imported: MB', 1) },
  { group: 'memory', ...figure('bareJsMb', 'the same without the type stripper: MB', 1) },
  { group: 'enrol', ...figure('enrolPods', 'pods labelled at once on one node', 0) },
  { group: 'enrol', ...figure('enrolFirstMs', 'label to the first enrolled: ms', 0) },
  { group: 'enrol', ...figure('enrolAllMs', 'label to all enrolled: ms', 0) },
  { group: 'enrol', ...figure('enrolPerPodMs', 'a pod: ms', 1) },
  { group: 'hot', ...figure('hotConnectionNs', 'native/hot, all calls of one connection: ns', 0) },
];
