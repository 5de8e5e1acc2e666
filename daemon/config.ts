/**
 * ONE table of every knob: name, flag, environment variable, default, unit, parser, meaning. Parsed once; all
 * errors are reported at once. LIMITS.md and `culvert daemon --help` are made from this table.
 */
import { MeshError } from './errors.ts';
import {
  cidrs,
  duration,
  integer,
  knob,
  namespaceName,
  oneOf,
  pathNormalization,
  port,
  required,
  text,
  trustDomain,
  trustDomains,
  userNames,
} from './knob.ts';
import type { Knob, Parsed } from './knob.ts';

const MINUTE = 60_000;
const DAY = 86_400_000;

/** Every knob. The order is the order of LIMITS.md. */
export const KNOBS = {
  nodeName: knob(
    required('the name of this node'),
    '',
    '',
    'node',
    'Name of the node this daemon serves, as in pod.spec.nodeName',
  ),
  clusterDir: knob(
    text,
    '',
    'path',
    'node',
    'Folder of YAML that is the cluster; without it the Kubernetes API is used',
  ),
  kubeconfig: knob(
    text,
    '',
    'path',
    'node',
    'How to reach the Kubernetes API; empty means as a pod does (service account)',
  ),
  podName: knob(text, '', '', 'node', "Name of the daemon's own pod, where it has one"),
  podNamespace: knob(text, 'culvert-system', '', 'node', "Namespace of the daemon's own pod and of the CA"),
  podUid: knob(text, '', '', 'node', "UID of the daemon's own pod, where it has one"),
  daemonSet: knob(
    text,
    'culvert',
    '',
    'node',
    'Name of the DaemonSet: at SIGTERM, it or its namespace gone means uninstall, both there upgrade',
  ),
  stateDir: knob(
    text,
    '/run/culvert',
    'path',
    'node',
    'Folder for the lock and the admin port file of this node',
  ),
  procRoot: knob(text, '/proc', 'path', 'node', "The /proc that shows the processes of the node's pods"),
  cgroupRoot: knob(
    text,
    '',
    'path',
    'capture',
    "Mount point of cgroup v2 that shows the node's kubepods; found in /proc/mounts when empty",
  ),
  kubepods: knob(text, '', 'path', 'capture', 'The kubepods cgroup below cgroupRoot; found when empty'),
  bpffs: knob(
    text,
    '/sys/fs/bpf',
    'path',
    'capture',
    'Mount point of the BPF file system that holds our pins',
  ),
  adminPort: knob(port, '15000', 'port', 'observe', 'Admin API, on loopback only'),
  metricsPort: knob(port, '15020', 'port', 'observe', 'Prometheus /metrics'),
  healthPort: knob(port, '15021', 'port', 'observe', '/healthz and /readyz'),
  metricSeries: knob(
    integer(100, 1_000_000),
    '10000',
    'series',
    'observe',
    'Label sets kept per metric; more are counted as evicted',
  ),
  logLevel: knob(
    oneOf('trace', 'debug', 'info', 'warn', 'error'),
    'info',
    '',
    'observe',
    'Least level that is logged',
  ),
  accessLog: knob(oneOf('on', 'off'), 'on', '', 'observe', 'One access record per connection in the log'),

  defaultMode: knob(
    oneOf('permissive', 'strict'),
    'permissive',
    '',
    'enrolment',
    'What workloads accept where no PeerAuthentication says otherwise',
  ),
  rootNamespace: knob(
    namespaceName,
    'istio-system',
    '',
    'enrolment',
    'Namespace whose policies hold for the whole mesh',
  ),
  pathNormalization: knob(
    pathNormalization,
    'base',
    '',
    'enrolment',
    'How the path of an HTTP request is written before policies judge it and before it goes on to the app',
  ),
  meshCidrs: knob(cidrs, '', 'ranges', 'enrolment', "Ranges of pod addresses besides the nodes' podCIDRs"),
  holdTimeout: knob(
    duration(100, 10 * MINUTE),
    '10s',
    'time',
    'enrolment',
    'How long a connection is held for a certificate, policies or a destination to become known',
  ),
  joinWait: knob(
    duration(0, 5 * MINUTE),
    '5s',
    'time',
    'enrolment',
    'How long a joining pod still takes plaintext after its state is published',
  ),
  leaveWait: knob(
    duration(0, 5 * MINUTE),
    '5s',
    'time',
    'enrolment',
    'How long a leaving pod stays redirected after its published state is withdrawn',
  ),
  leaveGrace: knob(
    duration(0, 10 * MINUTE),
    '30s',
    'time',
    'enrolment',
    "How long a left pod's tunnels may live on before they are cut",
  ),
  rescanInterval: knob(
    duration(100, MINUTE),
    '1s',
    'time',
    'enrolment',
    'How often actual is compared with desired',
  ),
  unknownPodHold: knob(
    duration(0, MINUTE),
    '10s',
    'time',
    'enrolment',
    'A new pod whose object has not been read yet may not connect, nor be connected to, for this long at most',
  ),

  workers: knob(integer(0, 16), '0', 'threads', 'proxy', 'Data-plane threads; 0 means min(4, cores)'),
  listenerPortMin: knob(port, '61001', 'port', 'proxy', 'First port our listeners may take in a pod'),
  listenerPortMax: knob(port, '65535', 'port', 'proxy', 'Last port our listeners may take in a pod'),
  connectTimeout: knob(
    duration(100, 5 * MINUTE),
    '10s',
    'time',
    'proxy',
    'TCP connect, to an app or to port 15008',
  ),
  handshakeTimeout: knob(duration(100, 5 * MINUTE), '10s', 'time', 'proxy', 'TLS handshake, either side'),
  requestTimeout: knob(
    duration(100, 5 * MINUTE),
    '5s',
    'time',
    'proxy',
    'From the end of a handshake to the first CONNECT',
  ),
  answerTimeout: knob(duration(100, 5 * MINUTE), '15s', 'time', 'proxy', 'From CONNECT to its answer'),
  halfClosedTimeout: knob(
    duration(1_000, DAY),
    '5m',
    'time',
    'proxy',
    'Silence allowed on a connection of which one direction is closed',
  ),
  sniffTimeout: knob(
    duration(100, 5 * MINUTE),
    '5s',
    'time',
    'proxy',
    'Where a policy looks at requests: silence for this long, before anything was said, counts as bytes that are not HTTP',
  ),
  tunnelIdle: knob(duration(100, DAY), '5m', 'time', 'proxy', 'A tunnel with no stream is closed after this'),
  pingInterval: knob(duration(100, 10 * MINUTE), '10s', 'time', 'proxy', 'HTTP/2 PING on tunnels'),
  pingTimeout: knob(
    duration(100, 10 * MINUTE),
    '20s',
    'time',
    'proxy',
    'A tunnel that does not answer a PING for this long is dead',
  ),
  drainSeconds: knob(
    duration(0, DAY),
    '300s',
    'time',
    'proxy',
    'How long connections may live on after SIGTERM, once another daemon has the node',
  ),

  maxConnectionsPerPod: knob(
    integer(1, 1_000_000),
    '20000',
    'connections',
    'limits',
    'Connections of one pod, both directions, in equal shares for the workers; one in the clear counts as two, and no pod may have more than nine tenths of maxConnections',
  ),
  maxConnections: knob(
    integer(0, 10_000_000),
    '0',
    'connections',
    'limits',
    'Connections of the node, in equal shares for the workers; one in the clear counts as two, and a tunnel as one; idle tunnels make room; 0 means: from the open-file limit',
  ),
  maxPendingPerPod: knob(
    integer(16, 65_536),
    '16384',
    'entries',
    'limits',
    'Redirected connections of one pod that our listeners have not taken yet',
  ),
  maxHandshakes: knob(
    integer(1, 100_000),
    '256',
    'handshakes',
    'limits',
    'TLS handshakes in flight per worker',
  ),
  maxHandshakesPerPod: knob(
    integer(1, 100_000),
    '64',
    'handshakes',
    'limits',
    'TLS handshakes in flight per pod and worker',
  ),
  maxHandshakesPerSource: knob(
    integer(1, 100_000),
    '16',
    'handshakes',
    'limits',
    'TLS handshakes in flight per source address, pod and worker; one address may have half of maxHandshakes in all',
  ),
  maxHeld: knob(
    integer(1, 1_000_000),
    '4096',
    'connections',
    'limits',
    'Connections held per worker, waiting for state; one pod may have a quarter of them',
  ),
  maxStreamsPerTunnel: knob(
    integer(1, 10_000),
    '100',
    'streams',
    'limits',
    'Streams of one tunnel as a client; a further one opens another tunnel',
  ),
  maxStreamsServed: knob(
    integer(1, 10_000),
    '200',
    'streams',
    'limits',
    'MAX_CONCURRENT_STREAMS as a server',
  ),
  maxTunnelsPerPod: knob(
    integer(1, 100_000),
    '1024',
    'tunnels',
    'limits',
    'Tunnels of one pod per worker, each direction',
  ),
  maxTunnels: knob(integer(1, 1_000_000), '16384', 'tunnels', 'limits', 'Tunnels of one worker'),
  maxHeaderBytes: knob(integer(1_024, 1_048_576), '16384', 'bytes', 'limits', 'Header list of a CONNECT'),
  streamWindow: knob(
    integer(65_535, 67_108_864),
    '4194304',
    'bytes',
    'limits',
    'HTTP/2 window of one stream: the most one stream can make us buffer',
  ),
  tunnelWindow: knob(
    integer(65_535, 268_435_456),
    '16777216',
    'bytes',
    'limits',
    'HTTP/2 window of one tunnel',
  ),

  trustDomain: knob(trustDomain, 'cluster.local', '', 'identity', 'Trust domain of every identity'),
  trustDomainAliases: knob(
    trustDomains,
    '',
    'trust domains',
    'identity',
    'Further names of the trust domain in policies: with any, cluster.local, the own and these mean all of them',
  ),
  startupTaint: knob(
    oneOf('', 'remove'),
    '',
    '',
    'node',
    "With remove, taint culvert.dev/not-ready is taken off the daemon's own node once that is guarded (manifests/startup-taint)",
  ),
  certSource: knob(
    oneOf('', 'local', 'kubernetes-csr', 'cert-manager'),
    '',
    '',
    'identity',
    'Where certificates come from; empty means local with clusterDir, else kubernetes-csr',
  ),
  certIssuer: knob(
    text,
    '',
    'Kind/name',
    'identity',
    'Source cert-manager: Issuer/name (in our own namespace) or ClusterIssuer/name',
  ),
  certIssuerBundle: knob(
    text,
    '',
    'Kind/namespace/name/key',
    'identity',
    "Source cert-manager: where the issuer's trust bundle is, such as Secret/cert-manager/root-ca/ca.crt",
  ),
  certCaUsers: knob(
    userNames,
    '',
    'user names',
    'identity',
    'Source cert-manager: who may have CA certificates of that issuer, with which they can be anyone in the mesh',
  ),
  caDir: knob(
    text,
    '/var/lib/culvert/ca',
    'path',
    'identity',
    "Folder of the local CA's root (source `local`); made on first use",
  ),
  certLifetime: knob(
    duration(1_000, 90 * DAY),
    '24h',
    'time',
    'identity',
    'Lifetime asked for; renewed at half of it',
  ),
} as const satisfies Record<string, Knob<unknown>>;

export type KnobName = keyof typeof KNOBS;
type ValueOf<K> = K extends Knob<infer T> ? T : never;
/** Durations are milliseconds. */
export type Config = { readonly [N in KnobName]: ValueOf<(typeof KNOBS)[N]> };

/** `holdTimeout` → `--hold-timeout`. */
export function flagOf(name: KnobName): string {
  return `--${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;
}

/** `holdTimeout` → `CULVERT_HOLD_TIMEOUT`. */
export function envOf(name: KnobName): string {
  return `CULVERT_${name.replace(/[A-Z]/g, (c) => `_${c}`).toUpperCase()}`;
}

export const KNOB_NAMES = Object.keys(KNOBS) as readonly KnobName[];

/**
 * The configuration from flags (by knob name) over environment over defaults.
 * @throws MeshError CONFIG_INVALID whose message has one line for each knob that is wrong.
 */
export function parseConfig(
  flags: Readonly<Partial<Record<KnobName, string>>>,
  env: Readonly<Record<string, string | undefined>>,
): Config {
  const errors: string[] = [];
  const values: Partial<Record<KnobName, unknown>> = {};
  for (const name of KNOB_NAMES) {
    const { given, from } = sourceOf(name, flags, env);
    const parsed: Parsed<unknown> = KNOBS[name].parse(given);
    if (parsed.ok) values[name] = parsed.value;
    else errors.push(`${from}: "${given}" is not ${parsed.expected}`);
  }
  const config = values as Config;
  if (errors.length === 0) errors.push(...contradictions(config));
  if (errors.length > 0) throw new MeshError('CONFIG_INVALID', errors.join('\n'));
  return config;
}

function sourceOf(
  name: KnobName,
  flags: Readonly<Partial<Record<KnobName, string>>>,
  env: Readonly<Record<string, string | undefined>>,
): { given: string; from: string } {
  const flag = flags[name];
  if (flag !== undefined) return { given: flag, from: flagOf(name) };
  const variable = env[envOf(name)];
  if (variable !== undefined) return { given: variable, from: envOf(name) };
  return { given: KNOBS[name].fallback, from: flagOf(name) };
}

/** Knobs that are each right and wrong together. */
function contradictions(config: Config): string[] {
  const found: string[] = [];
  if (config.holdTimeout < 2 * config.joinWait)
    found.push(
      `${flagOf('holdTimeout')}: ${config.holdTimeout} ms is less than twice ${flagOf('joinWait')} (${config.joinWait} ms): connections would be refused while a peer is still joining`,
    );
  if (config.listenerPortMin >= config.listenerPortMax)
    found.push(`${flagOf('listenerPortMin')}: must be below ${flagOf('listenerPortMax')}`);
  if (config.pingTimeout < config.pingInterval)
    found.push(`${flagOf('pingTimeout')}: must not be below ${flagOf('pingInterval')}`);
  return found;
}

/** Descriptors that are not connections': listeners, maps, libraries, the control plane. */
const RESERVED_FILES = 1_024;

/** The most of the node's connections that one pod may hold: others must find room. */
const POD_SHARE = 0.9;

/** The configuration with the zeroes that mean 'from this machine' filled in. */
export function resolveCounts(config: Config, cores: number, openFiles: number): Config {
  const maxConnections =
    config.maxConnections === 0 ? Math.max(256, openFiles - RESERVED_FILES) : config.maxConnections;
  return {
    ...config,
    workers: config.workers === 0 ? Math.min(4, cores) : config.workers,
    maxConnections,
    maxConnectionsPerPod: Math.min(config.maxConnectionsPerPod, Math.ceil(POD_SHARE * maxConnections)),
  };
}
