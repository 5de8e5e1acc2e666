/** Plaintext arrives at a pod: from outside the mesh, or from a peer that does not tunnel yet. No identity. */
import type { Socket } from 'node:net';
import { admit } from '../mesh/admit.ts';
import type { PodUid } from '../mesh/ids.ts';
import { hostPort } from '../mesh/ids.ts';
import type { LocalPod } from '../mesh/wiring.ts';
import type { Connection } from './connections.ts';
import { dial } from './dial.ts';
import { abortOnClose } from './gone.ts';
import { NO_PLACE } from './holding.ts';
import { describe, describeSource, recordRefusal } from './inbound.ts';
import { isDecidable, localEnd, refuse, remoteEnd } from './plane.ts';
import type { DataPlane } from './plane.ts';
import { relay } from './relay.ts';

/** One accepted socket of a pod's plaintext listener. Takes the socket over. */
export function handlePlaintext(plane: DataPlane, uid: PodUid, socket: Socket): void {
  socket.on('error', ignore); // heard of through 'close'
  if (remoteEnd(socket) === undefined || localEnd(socket) === undefined) {
    socket.destroy();
    return;
  }
  const gone = abortOnClose(socket);
  plane.holding.until<LocalPod | undefined>(
    uid,
    () => {
      const pod = plane.pods.get(uid);
      return pod === undefined || isDecidable(plane, pod) ? { held: false, value: pod } : { held: true };
    },
    (pod) => {
      gone.release();
      if (pod === undefined) recordRefusal(plane, uid, socket, 'POD_GONE');
      else decide(plane, pod, socket);
    },
    (isFull) =>
      isFull
        ? recordRefusal(plane, uid, socket, NO_PLACE.reason, NO_PLACE.detail)
        : recordRefusal(plane, uid, socket, 'POD_NOT_READY'),
    gone.signal,
  );
}

function decide(plane: DataPlane, pod: LocalPod, socket: Socket): void {
  const client = remoteEnd(socket);
  const target = localEnd(socket);
  if (client === undefined || target === undefined) {
    socket.destroy();
    return;
  }
  const { connection, overLimit } = plane.connections.open(
    pod.uid,
    'inbound',
    hostPort(client.ip, client.port),
  );
  describe(connection, pod);
  describeSource(plane, connection, client.ip);
  connection.facts.dstAddr = hostPort(target.ip, target.port);
  if (overLimit || !connection.takeSecond())
    return refuse(socket, connection, { reason: 'CONNECTION_LIMIT', detail: undefined });

  const verdict = admit(plane.state, {
    pod,
    podState: pod.state,
    ownPorts: pod.ownPorts,
    targetIp: target.ip,
    targetPort: target.port,
    peer: undefined,
    viaHbone: false,
  });
  if (verdict.kind !== 'allow')
    return refuse(socket, connection, { reason: verdict.reason, detail: verdict.rule });
  const upstream = dial(plane, pod, { ...target, client }, (result) => {
    if (!result.ok) return refuse(socket, connection, result);
    carry(plane, connection, socket, result.socket, verdict.reason);
  });
  if (upstream === undefined || !upstream.connecting) return;
  socket.once('close', () => {
    if (upstream.connecting) upstream.destroy();
  });
  connection.cut = (reason, detail) => {
    upstream.destroy();
    refuse(socket, connection, { reason, detail });
  };
}

/** Relays in the clear; `reason` is the record's when it ends well. */
export function carry(
  plane: DataPlane,
  connection: Connection,
  client: Socket,
  upstream: Socket,
  reason: Parameters<Connection['close']>[0],
): void {
  const carried = relay(client, upstream, { halfClosedTimeoutMs: plane.config.halfClosedTimeout });
  connection.counters = carried;
  connection.cut = (why, detail) => carried.cut(why, detail);
  void carried.done.then((end) => connection.close(end.reason === 'OK' ? reason : end.reason, end.detail));
}

function ignore(): void {}
