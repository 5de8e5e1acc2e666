/** A TCP connection made inside a pod's network namespace: to the pod's app, or out of the mesh. */
import { Socket } from 'node:net';
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
  const socket = new Socket({ fd, allowHalfOpen: true, readable: true, writable: true });
  return { ok: true, socket };
}

/** EMFILE and ENFILE are our own shortage; all else (ENODEV, EINVAL…) means that the namespace is going away. */
function socketFailure(errno: number): { reason: Reason; detail: string } {
  const EMFILE = 24;
  const ENFILE = 23;
  const reason = errno === EMFILE || errno === ENFILE ? 'FD_LIMIT' : 'POD_GONE';
  return { reason, detail: `socket in the pod's network namespace: errno ${errno}` };
}

/** Calls back once with the connected socket or the reason why there is none; within `connectTimeout`. */
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
  const where = hostPort(target.ip, target.port);
  const finish = (result: { readonly ok: true; readonly socket: Socket } | Refusal): void => {
    socket.setTimeout(0);
    socket.removeListener('error', onError);
    socket.removeListener('connect', onConnect);
    socket.removeListener('timeout', onTimeout);
    socket.removeListener('close', onClose);
    if (!result.ok) {
      socket.on('error', ignore);
      socket.destroy();
    }
    done(result);
  };
  const onConnect = (): void => finish({ ok: true, socket });
  const onError = (error: Error): void => finish(connectFailure(error, where));
  const onTimeout = (): void => finish({ ok: false, reason: 'UPSTREAM_CONNECT_TIMEOUT', detail: where });
  // The dial was given up from outside (the client went away, the pod left).
  const onClose = (): void => finish({ ok: false, reason: 'CLIENT_RESET', detail: where });
  socket.once('connect', onConnect);
  socket.once('error', onError);
  socket.once('timeout', onTimeout);
  socket.once('close', onClose);
  socket.setTimeout(plane.config.connectTimeout);
  socket.connect({ host: target.ip, port: target.port });
  return socket;
}

function connectFailure(error: Error, where: string): Refusal {
  const code: unknown = Reflect.get(error, 'code');
  const reason = code === 'ETIMEDOUT' ? 'UPSTREAM_CONNECT_TIMEOUT' : 'UPSTREAM_CONNECT_FAILED';
  return { ok: false, reason, detail: `${where}: ${typeof code === 'string' ? code : error.message}` };
}

/** The failure has been reported once; what the dying socket adds is noise. */
function ignore(): void {}
