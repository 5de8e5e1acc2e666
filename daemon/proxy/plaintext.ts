/** Plaintext arrives at a pod: from outside the mesh, or from a peer that does not tunnel yet. No identity. */
import type { Socket } from 'node:net';
import { admit } from '../mesh/admit.ts';
import type { AdmitVerdict } from '../mesh/admit.ts';
import type { Ip, PodUid, Port } from '../mesh/ids.ts';
import { hostPort } from '../mesh/ids.ts';
import type { LocalPod } from '../mesh/wiring.ts';
import type { Connection } from './connections.ts';
import { dial } from './dial.ts';
import { abortOnClose } from './gone.ts';
import { NO_PLACE } from './holding.ts';
import type { Attempt } from './holding.ts';
import { describe, describeSource, recordRefusal } from './inbound.ts';
import { isDecidable, localEnd, refuse, remoteEnd } from './plane.ts';
import type { DataPlane } from './plane.ts';
import { relay } from './relay.ts';
import type { Refusal } from './seams.ts';

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
  const gone = abortOnClose(socket);
  let lastWord: Omit<Refusal, 'ok'> = { reason: 'POD_NOT_READY', detail: undefined };
  plane.holding.until<Decision | undefined>(
    uid,
    () => {
      const attempt = decide(plane, uid, target);
      if (attempt.held) lastWord = attempt.lastWord;
      return attempt;
    },
    (decision) => {
      gone.release();
      if (decision === undefined) recordRefusal(plane, uid, socket, 'POD_GONE');
      else carryOut(plane, decision, socket, { client, target });
    },
    (isFull) => {
      const { reason, detail } = isFull ? NO_PLACE : lastWord;
      recordRefusal(plane, uid, socket, reason, detail);
    },
    gone.signal,
  );
}

interface Decision {
  readonly pod: LocalPod;
  readonly verdict: AdmitVerdict;
}

/** undefined as a value: the pod is gone. */
type Deciding =
  | (Attempt<Decision | undefined> & { held: false })
  | { readonly held: true; readonly lastWord: Omit<Refusal, 'ok'> };

function decide(plane: DataPlane, uid: PodUid, target: Address): Deciding {
  const pod = plane.pods.get(uid);
  if (pod === undefined) return { held: false, value: undefined };
  if (!isDecidable(plane, pod))
    return { held: true, lastWord: { reason: 'POD_NOT_READY', detail: `state ${pod.state}` } };
  const verdict = admit(plane.state, {
    pod,
    podState: pod.state,
    ownPorts: pod.ownPorts,
    targetIp: target.ip,
    targetPort: target.port,
    peer: undefined,
    viaHbone: false,
  });
  if (verdict.kind === 'hold')
    return { held: true, lastWord: { reason: verdict.reason, detail: verdict.rule } };
  return { held: false, value: { pod, verdict } };
}

function carryOut(
  plane: DataPlane,
  { pod, verdict }: Decision,
  socket: Socket,
  { client, target }: { readonly client: Address; readonly target: Address },
): void {
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
