/** A TCP connection made inside a pod's network namespace: to the pod's app, or out of the mesh. */
import { Socket } from 'node:net';
import type { SocketConstructorOpts } from 'node:net';
import type { Ip, Port } from '../mesh/ids.ts';
import { hostPort, isIpv6 } from '../mesh/ids.ts';
import type { Reason } from '../errors.ts';
import type { LocalPod } from '../mesh/wiring.ts';
import type { DataPlane } from './plane.ts';
import type { Refusal } from './seams.ts';

export interface DialTarget {
  readonly ip: Ip;
  readonly port: Port;
  /** Whom the app shall see as its peer (CAPTURE.md: 'the app sees the real client address'). */
  readonly client?: { readonly ip: Ip; readonly port: Port };
}

/** An unconnected socket inside the pod's netns, ready for `connect`. */
export function socketInPod(
  plane: DataPlane,
  pod: LocalPod,
  target: DialTarget,
): { readonly ok: true; readonly socket: Socket } | Refusal {
  const fd = plane.sockets.dial(pod.netnsFd, isIpv6(target.ip) ? 6 : 4, target.client);
  if (fd < 0) return { ok: false, ...socketFailure(-fd) };
  return { ok: true, socket: socketOf(fd) };
}

/**
 * What node makes of a descriptor, without asking the kernel four times each what kind of descriptor it is: the first
 * one shows the class of its handle, and the others get theirs from it.
 */
function socketOf(fd: number): Socket {
  const handle = TcpHandle === undefined ? undefined : new TcpHandle(CLIENT_SOCKET);
  if (handle?.open(fd) === 0) return new Socket({ ...UNCONNECTED, handle });
  const socket = new Socket({ ...UNCONNECTED, fd });
  TcpHandle ??= handleClassOf(socket);
  return socket;
}

/** Reading starts when it is connected. */
const UNCONNECTED = { allowHalfOpen: true, manualStart: true } as const;
/** node's TCPConstants.SOCKET. */
const CLIENT_SOCKET = 0;

/** Of handles node's types know one only, which is another. */
type Handle = NonNullable<SocketConstructorOpts['handle']> & { open(fd: number): number };
type HandleClass = new (kind: number) => Handle;
let TcpHandle: HandleClass | undefined;

/** node has no public name for it; undefined when it is not what it was, and descriptors go the slow way. */
function handleClassOf(socket: Socket): HandleClass | undefined {
  const handle: unknown = Reflect.get(socket, '_handle');
  const made: unknown = typeof handle === 'object' && handle !== null ? handle.constructor : undefined;
  return isTcpClass(made) ? made : undefined;
}

function isTcpClass(value: unknown): value is HandleClass {
  return typeof value === 'function' && value.name === 'TCP' && 'open' in Object(value.prototype);
}

/** EMFILE and ENFILE are our own shortage; all else (ENODEV, EINVAL…) means that the namespace is going away. */
function socketFailure(errno: number): { reason: Reason; detail: string } {
  const EMFILE = 24;
  const ENFILE = 23;
  const reason = errno === EMFILE || errno === ENFILE ? 'FD_LIMIT' : 'POD_GONE';
  return { reason, detail: `socket in the pod's network namespace: errno ${errno}` };
}

/**
 * Calls back once with the connected socket or the reason why there is none; within `connectTimeout`. The socket has
 * an error listener and keeps it.
 */
export function dial(
  plane: DataPlane,
  pod: LocalPod,
  target: DialTarget,
  done: (result: { readonly ok: true; readonly socket: Socket } | Refusal) => void,
): Socket | undefined {
  const made = socketInPod(plane, pod, target);
  if (!made.ok) {
    done(made);
    return undefined;
  }
  const { socket } = made;
  let isSettled = false;
  const finish = (result: { readonly ok: true; readonly socket: Socket } | Refusal): void => {
    if (isSettled) return;
    isSettled = true;
    clearTimeout(timer);
    if (!result.ok) socket.destroy();
    done(result);
  };
  const where = (): string => hostPort(target.ip, target.port);
  const timer = setTimeout(
    () => finish({ ok: false, reason: 'UPSTREAM_CONNECT_TIMEOUT', detail: where() }),
    plane.config.connectTimeout,
  );
  socket.on('connect', () => finish({ ok: true, socket }));
  socket.on('error', (error) => {
    // Later ones are the relay's to hear of.
    if (!isSettled) finish(connectFailure(error, where()));
  });
  // The dial was given up from outside (the client went away, the pod left).
  socket.on('close', () => {
    if (!isSettled) finish({ ok: false, reason: 'CLIENT_RESET', detail: where() });
  });
  socket.connect({ host: target.ip, port: target.port });
  return socket;
}

function connectFailure(error: Error, where: string): Refusal {
  const code: unknown = Reflect.get(error, 'code');
  const reason = code === 'ETIMEDOUT' ? 'UPSTREAM_CONNECT_TIMEOUT' : 'UPSTREAM_CONNECT_FAILED';
  return { ok: false, reason, detail: `${where}: ${typeof code === 'string' ? code : error.message}` };
}
