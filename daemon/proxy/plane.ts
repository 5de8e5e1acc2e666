/** What every part of a worker's data plane works with; made once by worker.ts. */
import type { Socket } from 'node:net';
import type { Config } from '../config.ts';
import type { Ip, PodUid, Port } from '../mesh/ids.ts';
import { parseIp, parsePort } from '../mesh/ids.ts';
import type { MeshState } from '../mesh/state.ts';
import type { LocalPod } from '../mesh/wiring.ts';
import type { Connection, Connections } from './connections.ts';
import type { Decisions } from './decisions.ts';
import type { Descriptors } from './descriptors.ts';
import type { Holding } from './holding.ts';
import type { Identities, PodSockets, Refusal, Tunnels, TunnelServer } from './seams.ts';

export interface DataPlane {
  readonly config: Config;
  readonly state: MeshState;
  readonly identities: Identities;
  readonly sockets: PodSockets;
  readonly tunnels: Tunnels;
  readonly tunnelServer: TunnelServer;
  readonly connections: Connections;
  readonly descriptors: Descriptors;
  readonly decisions: Decisions;
  readonly holding: Holding;
  /** The pods whose listeners this worker has, as enrolment last told. */
  readonly pods: ReadonlyMap<PodUid, LocalPod>;
  /** False until the first complete state has arrived: nothing is decided before. */
  synced: boolean;
}

/** One end of a socket, or undefined when the peer was gone before we looked (then it has no address). */
export function remoteEnd(socket: Socket): { ip: Ip; port: Port } | undefined {
  return endOf(socket.remoteAddress, socket.remotePort);
}

/** The address that the peer dialled: the pod's own, also behind sk_lookup (CAPTURE.md, inbound). */
export function localEnd(socket: Socket): { ip: Ip; port: Port } | undefined {
  return endOf(socket.localAddress, socket.localPort);
}

function endOf(address: string | undefined, port: number | undefined): { ip: Ip; port: Port } | undefined {
  const ip = address === undefined ? undefined : parseIp(address);
  const parsedPort = port === undefined ? undefined : parsePort(port);
  return ip === undefined || parsedPort === undefined ? undefined : { ip, port: parsedPort };
}

/** The descriptor of an accepted socket. Node has no public name for it; -1 once the handle is gone. */
export function descriptorOf(socket: Socket): number {
  const handle: unknown = Reflect.get(socket, '_handle');
  if (typeof handle !== 'object' || handle === null) return -1;
  const fd: unknown = Reflect.get(handle, 'fd');
  return typeof fd === 'number' ? fd : -1;
}

/** Whether a pod's connections may be decided now: its certificate and policies are there (DESIGN.md 3a). */
export function isDecidable(plane: DataPlane, pod: LocalPod | undefined): boolean {
  if (!plane.synced || pod === undefined) return false;
  return pod.state === 'enrolled' || pod.state === 'joining' || pod.state === 'leaving';
}

/** Refuses a connection on the wire and in the record: a reset, since an orderly end could pass for an answer. */
export function refuse(socket: Socket, connection: Connection, refusal: Omit<Refusal, 'ok'>): void {
  socket.resetAndDestroy();
  connection.close(refusal.reason, refusal.detail);
}
