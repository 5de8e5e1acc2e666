/** Plaintext arrives at a pod: from outside the mesh, or from a peer that does not tunnel yet. No identity. */
import type { Socket } from 'node:net';
import type { Ip, PodUid, Port } from '../mesh/ids.ts';
import { hostPort } from '../mesh/ids.ts';
import type { LocalPod } from '../mesh/wiring.ts';
import type { Connection } from './connections.ts';
import { dial } from './dial.ts';
import { abortOnClose } from './gone.ts';
import { NO_PLACE } from './holding.ts';
import { describe, describeSource } from './inbound.ts';
import { JudgedConnection } from './judged.ts';
import type { Judged } from './judged.ts';
import { localEnd, refuse, remoteEnd } from './plane.ts';
import type { DataPlane } from './plane.ts';
import { relay } from './relay.ts';

interface Address {
  readonly ip: Ip;
  readonly port: Port;
}

/** One accepted socket of a pod's plaintext listener. Takes the socket over. */
export function handlePlaintext(plane: DataPlane, uid: PodUid, socket: Socket): void {
  socket.on('error', ignore); // heard of through 'close'
  const client = remoteEnd(socket);
  const target = localEnd(socket);
  if (client === undefined || target === undefined) {
    socket.destroy(); // reset before we accepted it
    return;
  }
  // Known before it is judged: no change of the state slips between.
  const { connection, overLimit } = plane.connections.open(uid, 'inbound', hostPort(client.ip, client.port));
  connection.cut = (reason, detail) => refuse(socket, connection, { reason, detail });
  connection.facts.dstAddr = hostPort(target.ip, target.port);
  describeSource(plane, connection, client.ip);
  const known = plane.pods.get(uid);
  if (known !== undefined) describe(connection, known);
  if (overLimit) return connection.cut('CONNECTION_LIMIT');
  const judged = new JudgedConnection(plane, connection, {
    uid,
    target,
    sourceIp: client.ip,
    peer: undefined,
  });
  const gone = abortOnClose(socket);
  let lastWord: Judged = { pod: undefined, verdict: undefined };
  plane.holding.until<Judged>(
    uid,
    () => {
      lastWord = judged.judge();
      return lastWord.verdict?.kind === 'hold' ? { held: true } : { held: false, value: lastWord };
    },
    ({ pod, verdict }) => {
      gone.release();
      if (pod === undefined) return connection.cut('POD_GONE');
      judged.decided(verdict);
      if (verdict.kind !== 'allow') return connection.cut(verdict.reason, verdict.rule);
      deliver(plane, { pod, judged, connection }, socket, { client, target });
    },
    (isFull) => {
      if (isFull) connection.cut(NO_PLACE.reason, NO_PLACE.detail);
      else connection.cut(lastWord.verdict?.reason ?? 'POD_GONE', lastWord.verdict?.rule);
    },
    gone.signal,
  );
}

interface Delivery {
  readonly pod: LocalPod;
  readonly judged: JudgedConnection;
  readonly connection: Connection;
}

function deliver(
  plane: DataPlane,
  { pod, judged, connection }: Delivery,
  socket: Socket,
  { client, target }: { readonly client: Address; readonly target: Address },
): void {
  if (!connection.takeSecond()) return connection.cut('CONNECTION_LIMIT');
  const upstream = dial(plane, pod, { ...target, client }, (result) => {
    if (!result.ok) return refuse(socket, connection, result);
    const refusal = judged.carry(result.socket, () => socket);
    if (refusal === undefined) return;
    result.socket.destroy();
    refuse(socket, connection, { reason: refusal.reason, detail: refusal.rule });
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
