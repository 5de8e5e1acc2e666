/**
 * The addon of per-connection and per-namespace calls (built as the head of binding.gyp says), typed.
 *
 * Every call is synchronous, works on the calling thread only, and returns `-errno` when the kernel refuses: the
 * caller chooses (`errorName`), or lets `must` throw. An argument of a wrong type is a TypeError. After each call
 * the thread is in its own network namespace again; if the kernel refuses the way back, the process aborts.
 */
import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';
import type { ErrorCode } from '../../daemon/errors.ts';
import { MeshError } from '../../daemon/errors.ts';
import type { Ip, Port } from '../../daemon/mesh/ids.ts';
import { ipFromBytes, ipToBytes, parsePort } from '../../daemon/mesh/ids.ts';
import type { NetnsAddress, TcpSocket } from './records.ts';
import { ADDRESS_BYTES, decodeAddress, decodeSocket, encodeSocket, SOCKET_BYTES } from './records.ts';

/** Flags of `Hot.listen`, to be added up. */
export const LISTEN = {
  /** A family 6 listener takes no IPv4. */
  v6only: 1,
  /** Bound to 127.0.0.1 or ::1 instead of every address. */
  loopback: 2,
} as const;

/** The calls that cross as they are: numbers in, numbers out. Descriptors are ≥ 0, errors are -errno. */
interface DirectCalls {
  /** Does nothing: the cost of the crossing, for the benchmark. */
  noop(): number;
  /**
   * What the app dialled, of an accepted socket of an outbound listener, from the kernel's record (SK_STORAGE map
   * `original_destination`). Writes the address (16 bytes), then 4 or 6, then the record's flags to `out` (≥ 20 bytes).
   * @returns its port, 0 when the kernel has no record, or -errno.
   */
  originalDestination(fd: number, out: Uint8Array): number;
  /**
   * A TCP socket made inside the namespace: not connected, not blocking, no Nagle; without a client, keepalive that
   * finds a dead peer in 20 s. `clientIp16` (16 bytes, IPv4 mapped) and `clientPort`: whom the app shall see as its peer, by way of the map
   * `client_address`; null and 0 for nobody. @returns fd or -errno.
   */
  dial(netnsFd: number, family: 4 | 6, clientIp16: Uint8Array | null, clientPort: number): number;
  /**
   * Closes sockets that were made ahead for `dial`, in namespaces that nobody dialled in since the last call (1: in
   * all). The first call promises more of them, several a second: without, no socket is made ahead. A socket made
   * ahead keeps its namespace alive: call it with 1 when a pod goes. @returns how many are left.
   */
  sweepSockets(all: 0 | 1): number;
  /**
   * A listener inside the namespace, on every address; family 6 takes IPv4 too. Without SO_REUSEADDR: -EADDRINUSE is
   * the caller's sign to try the next port. Accepted sockets inherit no Nagle and keepalive. `flags`: sum of LISTEN.
   * The backlog is lost when node listens on the fd again without saying it: `server.listen({ fd }, backlog)`.
   */
  listen(netnsFd: number, family: 4 | 6, port: number, backlog: number, flags: number): number;
  /** Opens `/proc/PID/ns/net` or a bind mount of it. -EINVAL when the file is no network namespace. */
  openNetns(path: string): number;
  /** The namespace's number as BPF programs see it. */
  netnsCookie(netnsFd: number): bigint | number;
  /** The socket's number as BPF programs and reads of a SOCKHASH see it. */
  socketCookie(fd: number): bigint | number;
  /** A second descriptor of the same open file, not inherited by child processes. */
  dupFd(fd: number): number;
  /** 0 or -errno; descriptors below 3 are a TypeError. Never for one that a node object owns. */
  closeFd(fd: number): number;
  /**
   * Mounts a BPF file system on `target` as the mount namespace (`/proc/PID/ns/mnt`) sees it, unless there is one.
   * 0 or -errno; -EPERM without CAP_SYS_ADMIN and CAP_SYS_CHROOT.
   */
  mountBpf(mountNamespace: string, target: string): number;
}

export interface Hot extends DirectCalls {
  /** Says which maps this thread's `originalDestination` and `dial` use; the caller keeps the descriptors open. */
  init(maps: { readonly originalDestinationFd: number; readonly clientAddressFd: number }): void;
  /** Whether both descriptors are of one namespace, or -errno. */
  sameNetns(a: number, b: number): boolean | number;
  /** The ephemeral ports of the namespace (`net.ipv4.ip_local_port_range`), both ends included, or -errno. */
  localPortRange(netnsFd: number): { readonly low: number; readonly high: number } | number;
  /** All addresses of the namespace (4,096 at most: -E2BIG), or -errno; -EINTR: they changed meanwhile, ask again. */
  addresses(netnsFd: number): readonly NetnsAddress[] | number;
  /**
   * The namespace's TCP sockets, listeners too, but not those in TIME_WAIT; at most `maxEntries` (1 to 1,048,576),
   * IPv4 ones first. `truncated`: there are more. Or -errno.
   */
  tcpSockets(
    netnsFd: number,
    maxEntries: number,
  ): { readonly sockets: readonly TcpSocket[]; readonly truncated: boolean } | number;
  /** Ends that very socket, both sides with a reset. 0, -ENOENT when it is gone, -EOPNOTSUPP: not in this kernel. */
  destroySocket(netnsFd: number, socket: TcpSocket): number;
}

/** What the proxy asks of this addon (the shape of daemon/proxy/seams.ts). */
export interface PodSockets {
  dial(netnsFd: number, family: 4 | 6, client: { ip: Ip; port: Port } | undefined): number;
  originalDestination(fd: number): { ip: Ip; port: Port } | undefined;
}

/** The module as C exports it. */
interface Addon extends DirectCalls {
  init(originalDestinationFd: number, clientAddressFd: number): number;
  sameNetns(a: number, b: number): number;
  localPortRange(netnsFd: number, out: Uint8Array): number;
  addresses(netnsFd: number): Uint8Array | number;
  tcpSockets(netnsFd: number, maxEntries: number): Uint8Array | number;
  destroySocket(netnsFd: number, record: Uint8Array): number;
}

const CALLS: readonly (keyof Addon)[] = [
  'noop',
  'init',
  'originalDestination',
  'dial',
  'sweepSockets',
  'listen',
  'openNetns',
  'sameNetns',
  'netnsCookie',
  'localPortRange',
  'socketCookie',
  'dupFd',
  'closeFd',
  'addresses',
  'tcpSockets',
  'destroySocket',
  'mountBpf',
];

/**
 * The addon for the calling thread, whose network namespace becomes its home: call it once per thread, before any
 * other code could have changed the thread's namespace. @throws MeshError PREFLIGHT_FAILED when it is not built.
 */
export function loadHot(): Hot {
  const addon = loadAddon();
  return {
    ...addon,
    init: (maps) => void addon.init(maps.originalDestinationFd, maps.clientAddressFd),
    sameNetns: (a, b) => asBoolean(addon.sameNetns(a, b)),
    localPortRange: (netnsFd) => localPortRange(addon, netnsFd),
    addresses: (netnsFd) => decodeAll(addon.addresses(netnsFd), ADDRESS_BYTES, decodeAddress),
    tcpSockets: (netnsFd, maxEntries) => tcpSockets(addon, netnsFd, maxEntries),
    destroySocket: (netnsFd, socket) => addon.destroySocket(netnsFd, encodeSocket(socket)),
  };
}

function loadAddon(): Addon {
  const path = './build/Release/hot.node';
  let addon: unknown;
  try {
    addon = createRequire(import.meta.url)(path);
  } catch (cause) {
    const message =
      'the addon native/hot could not be loaded; build it as the head of native/hot/binding.gyp says';
    throw new MeshError('PREFLIGHT_FAILED', message, { cause });
  }
  if (!isAddon(addon))
    throw new MeshError('PREFLIGHT_FAILED', 'the addon native/hot is of another version; build it again');
  return addon;
}

function isAddon(value: unknown): value is Addon {
  if (typeof value !== 'object' || value === null) return false;
  const names = new Map(Object.entries(value));
  return CALLS.every((name) => typeof names.get(name) === 'function');
}

function asBoolean(result: number): boolean | number {
  return result < 0 ? result : result === 1;
}

function localPortRange(addon: Addon, netnsFd: number): { low: number; high: number } | number {
  const out = new Uint8Array(4);
  const result = addon.localPortRange(netnsFd, out);
  if (result < 0) return result;
  const [low = 0, high = 0] = new Uint16Array(out.buffer);
  return { low, high };
}

function tcpSockets(
  addon: Addon,
  netnsFd: number,
  maxEntries: number,
): { sockets: readonly TcpSocket[]; truncated: boolean } | number {
  // One more than asked for says that there are more.
  const sockets = decodeAll(addon.tcpSockets(netnsFd, maxEntries), SOCKET_BYTES, decodeSocket);
  if (typeof sockets === 'number') return sockets;
  return { sockets: sockets.slice(0, maxEntries), truncated: sockets.length > maxEntries };
}

function decodeAll<T>(
  packed: Uint8Array | number,
  size: number,
  decode: (record: Uint8Array) => T,
): T[] | number {
  if (typeof packed === 'number') return packed;
  const records: T[] = [];
  for (let at = 0; at + size <= packed.length; at += size)
    records.push(decode(packed.subarray(at, at + size)));
  return records;
}

/** The calls of one connection in the proxy's words. One per thread: it reuses its buffers. */
export function podSockets(hot: Hot): PodSockets {
  const record = new Uint8Array(20);
  const clientIp = new Uint8Array(16);
  return {
    dial(netnsFd, family, client) {
      if (client === undefined) return hot.dial(netnsFd, family, null, 0);
      ipToBytes(client.ip, clientIp);
      return hot.dial(netnsFd, family, clientIp, client.port);
    },
    originalDestination(fd) {
      const port = parsePort(hot.originalDestination(fd, record));
      return port === undefined ? undefined : { ip: ipFromBytes(record), port };
    },
  };
}

/** The name of a failed result: -98 → `EADDRINUSE`. */
export function errorName(result: number): string {
  try {
    return getSystemErrorName(result);
  } catch {
    return `errno ${-result}`;
  }
}

/**
 * The result, when it is none of the failures. `what` completes the sentence 'could not …'.
 * @throws MeshError `code` that names the kernel's error.
 */
export function must(result: number, what: string, code?: ErrorCode): number;
export function must<T extends object | bigint | boolean>(
  result: T | number,
  what: string,
  code?: ErrorCode,
): T;
export function must(result: unknown, what: string, code: ErrorCode = 'SYSTEM_CALL_FAILED'): unknown {
  if (typeof result !== 'number' || result >= 0) return result;
  throw new MeshError(code, `could not ${what}: ${errorName(result)}`);
}
