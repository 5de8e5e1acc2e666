/**
 * Every way a connection can end, with what it means to a person: ONE table maps code → response flag →
 * log level → sentence. Flags are ztunnel's, so that dashboards that read `response_flags` keep working.
 */

export type ResponseFlag =
  | '-'
  | 'DENY'
  | 'CONNECT'
  | 'TLS_FAILURE'
  | 'H2_HANDSHAKE_FAILURE'
  | 'NETWORK_POLICY'
  | 'IDENTITY_ERROR'
  | 'LIMIT'
  | 'TIMEOUT';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

interface ReasonInfo {
  readonly flag: ResponseFlag;
  readonly level: LogLevel;
  /** What happened and what a person can do about it. */
  readonly text: string;
}

/** Code → meaning. Codes are stable: they are in access records, metrics and people's alerts. */
export const REASONS = {
  OK: { flag: '-', level: 'info', text: 'the connection was carried to its end' },
  PASSTHROUGH_OUTSIDE_MESH: {
    flag: '-',
    level: 'info',
    text: 'the destination is outside the mesh: passed in the clear as dialled',
  },
  PASSTHROUGH_NOT_ENROLLED: {
    flag: '-',
    level: 'info',
    text: 'the destination pod is not enrolled and takes plaintext: passed in the clear',
  },
  PASSTHROUGH_UNMANAGED_SERVICE: {
    flag: '-',
    level: 'info',
    text: 'the Service has no pod endpoints of this cluster: passed in the clear as dialled',
  },
  PASSTHROUGH_KUBE_PROXY: {
    flag: '-',
    level: 'info',
    text: 'an external, load balancer or node address of a Service: left to kube-proxy, in the clear',
  },
  SELF: {
    flag: '-',
    level: 'info',
    text: 'the pod reached itself through a Service: delivered inside the pod',
  },
  PLAINTEXT_ACCEPTED: {
    flag: '-',
    level: 'info',
    text: 'plaintext was accepted: the workload is PERMISSIVE',
  },
  PLAINTEXT_JOINING: {
    flag: '-',
    level: 'info',
    text: 'plaintext was accepted: the pod is still joining, its peers are being told',
  },

  NO_KERNEL_RECORD: {
    flag: 'DENY',
    level: 'warn',
    text: 'the connection reached our listener without a kernel record: it was not redirected by us',
  },
  OWN_LISTENER: { flag: 'DENY', level: 'warn', text: 'the target is one of our own listeners' },
  UNKNOWN_DESTINATION: {
    flag: 'CONNECT',
    level: 'warn',
    text: 'the address is in the mesh ranges but no known pod has it; check that the pod exists and that meshCidrs is right',
  },
  NO_ENDPOINTS: { flag: 'CONNECT', level: 'info', text: 'the Service has no ready endpoint' },
  NO_SERVICE_PORT: { flag: 'CONNECT', level: 'info', text: 'the Service has no such TCP port' },
  DESTINATION_STRICT_NOT_ENROLLED: {
    flag: 'DENY',
    level: 'warn',
    text: 'the destination demands mTLS but has not published that it takes tunnels; see culvert status on its node',
  },
  DESTINATION_WAS_ENROLLED: {
    flag: 'DENY',
    level: 'warn',
    text: 'the destination was enrolled and its label stands: never dialled in the clear again',
  },
  PLAINTEXT_DENIED: {
    flag: 'DENY',
    level: 'warn',
    text: "the workload is STRICT and the client came without mTLS; label the client's namespace or make an exception for the port",
  },
  POLICY_DENIED: { flag: 'DENY', level: 'info', text: 'denied by policy' },
  NESTED_NETNS: {
    flag: 'DENY',
    level: 'warn',
    text: 'a network namespace nested in an enrolled pod may not connect; label the pod culvert.dev/nested-netns=allow to let it',
  },
  POD_PENDING: {
    flag: 'DENY',
    level: 'info',
    text: 'the pod is being enrolled: connections wait until its listeners are open',
  },
  POD_NOT_READY: {
    flag: 'TIMEOUT',
    level: 'warn',
    text: "the pod's certificate or policies did not come within holdTimeout",
  },
  POD_GONE: { flag: 'CONNECT', level: 'info', text: 'the pod went away' },
  POD_ENTRY_LIMIT: {
    flag: 'LIMIT',
    level: 'warn',
    text: 'the pod has more connections being redirected than maxPendingPerPod',
  },
  NO_WORKER: {
    flag: 'CONNECT',
    level: 'warn',
    text: 'no data-plane worker lives to carry it: the daemon is starting, stopping or dead',
  },
  NO_LISTENER: {
    flag: 'CONNECT',
    level: 'warn',
    text: "the pod's listener is not open: the daemon is starting, stopping or dead",
  },
  NO_SOCKET_STORAGE: {
    flag: 'LIMIT',
    level: 'warn',
    text: 'the kernel had no memory to keep where the connection was going',
  },
  UNKNOWN_LOCAL_ADDRESS: {
    flag: 'DENY',
    level: 'warn',
    text: 'it came to an address of an enrolled pod that enrolment has not seen yet',
  },

  CERTIFICATE_NOT_READY: {
    flag: 'IDENTITY_ERROR',
    level: 'warn',
    text: "no certificate for this workload's identity yet; see culvert status",
  },
  CERTIFICATE_EXPIRED: {
    flag: 'IDENTITY_ERROR',
    level: 'error',
    text: 'our certificate for this identity has expired and could not be renewed',
  },
  PEER_CERTIFICATE_INVALID: {
    flag: 'TLS_FAILURE',
    level: 'warn',
    text: "the peer's certificate does not chain to the mesh roots or is not a valid SVID",
  },
  PEER_IDENTITY_MISMATCH: {
    flag: 'IDENTITY_ERROR',
    level: 'warn',
    text: 'the peer proved another identity than the destination should have',
  },
  PEER_TRUST_DOMAIN: { flag: 'IDENTITY_ERROR', level: 'warn', text: 'the peer is of another trust domain' },
  TLS_HANDSHAKE_FAILED: { flag: 'TLS_FAILURE', level: 'warn', text: 'the TLS handshake failed' },
  TLS_HANDSHAKE_TIMEOUT: {
    flag: 'TIMEOUT',
    level: 'warn',
    text: 'the peer did not finish the TLS handshake in time',
  },
  NOT_HBONE: {
    flag: 'H2_HANDSHAKE_FAILURE',
    level: 'warn',
    text: 'the peer did not speak HTTP/2 (ALPN h2) on port 15008',
  },
  TUNNEL_CONNECT_FAILED: {
    flag: 'CONNECT',
    level: 'warn',
    text: 'port 15008 of the destination could not be reached; maybe a NetworkPolicy does not allow it',
  },
  TUNNEL_RESET: {
    flag: 'CONNECT',
    level: 'warn',
    text: 'the tunnel was cut before an answer: the peer may have refused our identity',
  },
  TUNNEL_LOST: { flag: 'CONNECT', level: 'warn', text: 'the tunnel broke while the connection was open' },
  TUNNEL_REFUSED: {
    flag: 'DENY',
    level: 'info',
    text: "the destination's proxy refused: not authorised (401 or 403)",
  },
  TUNNEL_BAD_REQUEST: {
    flag: 'CONNECT',
    level: 'warn',
    text: "the destination's proxy found our CONNECT wrong (400)",
  },
  TUNNEL_UPSTREAM_FAILED: {
    flag: 'CONNECT',
    level: 'info',
    text: "the destination's proxy could not reach the app (503)",
  },
  CONNECT_TIMEOUT: { flag: 'TIMEOUT', level: 'warn', text: 'no answer to CONNECT in time' },
  CONNECT_MALFORMED: { flag: 'CONNECT', level: 'warn', text: "the peer's request is no well-formed CONNECT" },
  CONNECT_TARGET_MISMATCH: {
    flag: 'DENY',
    level: 'warn',
    text: 'CONNECT named another address than the one that was dialled',
  },
  UPSTREAM_CONNECT_FAILED: {
    flag: 'CONNECT',
    level: 'info',
    text: 'nothing accepts connections on that port of the pod',
  },
  UPSTREAM_CONNECT_TIMEOUT: {
    flag: 'TIMEOUT',
    level: 'info',
    text: 'the destination did not accept the connection in time',
  },

  CLIENT_RESET: { flag: 'CONNECT', level: 'info', text: 'the client reset the connection' },
  UPSTREAM_RESET: { flag: 'CONNECT', level: 'info', text: 'the destination reset the connection' },
  HALF_CLOSED_TIMEOUT: {
    flag: 'TIMEOUT',
    level: 'info',
    text: 'one direction was closed and the other stayed silent for longer than halfClosedTimeout',
  },
  POLICY_CHANGED: {
    flag: 'DENY',
    level: 'info',
    text: 'cut: a change of policy or label no longer allows it',
  },
  CONNECTION_LIMIT: { flag: 'LIMIT', level: 'warn', text: 'the pod or the node is at its connection limit' },
  HANDSHAKE_LIMIT: { flag: 'LIMIT', level: 'warn', text: 'too many TLS handshakes in flight' },
  TUNNEL_LIMIT: { flag: 'LIMIT', level: 'warn', text: 'too many tunnels' },
  FD_LIMIT: {
    flag: 'LIMIT',
    level: 'error',
    text: 'the daemon is out of file descriptors; raise the open-file limit',
  },
  DRAINED: { flag: 'CONNECT', level: 'info', text: 'cut at the end of the drain time' },
  WORKER_LOST: { flag: 'CONNECT', level: 'error', text: 'the data-plane worker that carried it died' },
  HTTP_AMBIGUOUS: {
    flag: 'DENY',
    level: 'info',
    text: 'the client sent a request that is malformed or can be read in two ways; refused, and the connection ended',
  },
  HTTP_ANSWER_AMBIGUOUS: {
    flag: 'CONNECT',
    level: 'warn',
    text: "the app's answer is malformed or can be read in two ways; the client was told 502, and the connection ended",
  },
  INTERNAL: { flag: 'CONNECT', level: 'error', text: 'a defect of ours; the log has the stack' },
} as const satisfies Record<string, ReasonInfo>;

export type Reason = keyof typeof REASONS;

/** What a reason means. */
export function reasonInfo(reason: Reason): ReasonInfo {
  return REASONS[reason];
}

/** Codes of errors that stop a command or the daemon; each message says what was tried, on what, and the likely fix. */
export type ErrorCode =
  | 'CONFIG_INVALID'
  | 'PREFLIGHT_FAILED'
  | 'BPF_LOAD_FAILED'
  | 'BPF_ATTACH_FAILED'
  | 'BPF_MAP_FAILED'
  | 'BPF_OBJECT_CORRUPT'
  | 'PIN_FAILED'
  | 'NODE_OWNED'
  | 'CA_FAILED'
  | 'CA_FOLDER_INVALID'
  | 'CLUSTER_DIR_INVALID'
  | 'CLUSTER_WRITE_FAILED'
  | 'NETNS_FAILED'
  | 'CGROUP_NOT_FOUND'
  | 'ADMIN_UNREACHABLE'
  | 'SYSTEM_CALL_FAILED';

/** An exception that nobody near can handle; `code` is for programs, `message` for people. */
export class MeshError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'MeshError';
    this.code = code;
  }
}
