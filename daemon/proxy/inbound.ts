/**
 * mTLS arrives at a pod: what happens when a connection comes in on port 15008, top to bottom.
 * Handshake and HTTP/2 are hbone/'s; the decision is mesh/admit.ts's.
 */
import type { Socket } from 'node:net';
import type { Ip, PodUid, Port } from '../mesh/ids.ts';
import { HBONE_PORT, hostPort } from '../mesh/ids.ts';
import type { Reason } from '../errors.ts';
import type { LocalPod } from '../mesh/wiring.ts';
import type { Connection } from './connections.ts';
import { dial } from './dial.ts';
import { abortOnClose } from './gone.ts';
import { NO_PLACE } from './holding.ts';
import type { Attempt } from './holding.ts';
import { JudgedConnection } from './judged.ts';
import type { Judged } from './judged.ts';
import { isDecidable, localEnd, refuse, remoteEnd } from './plane.ts';
import type { DataPlane } from './plane.ts';
import type { IncomingConnect, LocalIdentity, Refusal } from './seams.ts';

/** One accepted socket of a pod's mTLS listener. Takes the socket over. */
export function handleInbound(plane: DataPlane, uid: PodUid, socket: Socket): void {
  socket.on('error', ignore); // the parts below hear of it through 'close'
  const local = localEnd(socket);
  const remote = remoteEnd(socket);
  if (local === undefined || remote === undefined) {
    socket.destroy(); // reset before we accepted it: there is nobody to refuse and nothing to record
    return;
  }
  if (local.port !== HBONE_PORT) {
    recordRefusal(plane, uid, socket, 'OWN_LISTENER', `dialled ${hostPort(local.ip, local.port)} directly`);
    return;
  }
  socket.once('close', () => plane.descriptors.give(uid));
  if (!plane.descriptors.take(uid)) {
    recordRefusal(plane, uid, socket, 'CONNECTION_LIMIT', 'no descriptor is left for a tunnel');
    return;
  }
  const gone = abortOnClose(socket);
  plane.holding.until<{ pod: LocalPod; identity: LocalIdentity } | Refusal>(
    uid,
    () => readyToServe(plane, uid),
    (ready) => {
      gone.release();
      if ('ok' in ready) recordRefusal(plane, uid, socket, ready.reason, ready.detail);
      else serve(plane, ready.pod, ready.identity, socket);
    },
    (isFull) =>
      isFull
        ? recordRefusal(plane, uid, socket, NO_PLACE.reason, NO_PLACE.detail)
        : recordRefusal(plane, uid, socket, 'POD_NOT_READY', whyNotReady(plane, uid)),
    gone.signal,
  );
}

function readyToServe(
  plane: DataPlane,
  uid: PodUid,
): Attempt<{ pod: LocalPod; identity: LocalIdentity } | Refusal> {
  const pod = plane.pods.get(uid);
  if (pod === undefined) return { held: false, value: { ok: false, reason: 'POD_GONE', detail: undefined } };
  if (!isDecidable(plane, pod)) return { held: true };
  const identity = plane.identities.get(pod.id);
  if (identity.ok) return { held: false, value: { pod, identity: identity.identity } };
  return identity.reason === 'CERTIFICATE_NOT_READY' ? { held: true } : { held: false, value: identity };
}

function serve(plane: DataPlane, pod: LocalPod, identity: LocalIdentity, socket: Socket): void {
  const remote = remoteEnd(socket);
  if (remote === undefined) {
    socket.destroy();
    return;
  }
  plane.tunnelServer.serve(socket, {
    podUid: pod.uid,
    identity,
    onConnect: (connect) => handleConnect(plane, pod.uid, remote, connect),
    onRefused: (refusal) => {
      const { connection } = plane.connections.open(pod.uid, 'inbound', hostPort(remote.ip, remote.port));
      describe(connection, pod);
      connection.facts.dstAddr = endText(pod.ips[0], HBONE_PORT);
      connection.close(refusal.reason, refusal.detail);
    },
  });
}

/** One CONNECT of a proven peer: admit, dial the app, answer, carry. */
function handleConnect(
  plane: DataPlane,
  uid: PodUid,
  tunnelPeer: NonNullable<ReturnType<typeof remoteEnd>>,
  connect: IncomingConnect,
): void {
  // The tunnel's socket lives in the client's own netns, so its address is the client's; only the port is hearsay.
  const forwarded = connect.forwardedFor;
  const client = forwarded !== undefined && forwarded.ip === tunnelPeer.ip ? forwarded : tunnelPeer;
  const { connection, overLimit } = plane.connections.open(uid, 'inbound', hostPort(client.ip, client.port));
  connection.facts.srcIdentity = connect.peer;
  connection.facts.security = 'mutual_tls';
  connection.facts.dstAddr = hostPort(connect.target.ip, connect.target.port);
  describeSource(plane, connection, tunnelPeer.ip);
  const pod = plane.pods.get(uid);
  if (pod !== undefined) describe(connection, pod);
  connection.facts.dstHboneAddr = endText(pod?.ips[0], HBONE_PORT);
  const answer = (status: number, reason: Reason, detail?: string): void => {
    connect.refuse(status);
    connection.close(reason, detail);
  };
  if (overLimit) return answer(503, 'CONNECTION_LIMIT');
  const { target, peer } = connect;
  const judged = new JudgedConnection(plane, connection, { uid, target, peer, sourceIp: tunnelPeer.ip });
  let lastWord: Judged = { pod: undefined, verdict: undefined };
  plane.holding.until<Judged>(
    uid,
    () => {
      lastWord = judged.judge();
      return lastWord.verdict?.kind === 'hold' ? { held: true } : { held: false, value: lastWord };
    },
    ({ pod: reached, verdict }) => {
      if (reached === undefined) return answer(503, 'POD_GONE');
      judged.decided(verdict);
      if (verdict.kind !== 'allow') return answer(statusFor(verdict.reason), verdict.reason, verdict.rule);
      deliver(plane, { pod: reached, judged, client }, connect, connection);
    },
    (isFull) => {
      if (isFull) return answer(503, NO_PLACE.reason, NO_PLACE.detail);
      if (connect.signal.aborted) return answer(503, 'CLIENT_RESET');
      if (lastWord.verdict !== undefined) answer(503, lastWord.verdict.reason, lastWord.verdict.rule);
    },
    connect.signal,
  );
}

interface Delivery {
  readonly pod: LocalPod;
  readonly judged: JudgedConnection;
  /** Whom the app shall see as its peer. */
  readonly client: { readonly ip: Ip; readonly port: Port };
}

function deliver(
  plane: DataPlane,
  { pod, judged, client }: Delivery,
  connect: IncomingConnect,
  connection: Connection,
): void {
  const dialling: { upstream?: Socket | undefined; settled: boolean } = { settled: false };
  const onGone = (): void => {
    dialling.upstream?.destroy();
  };
  const refuseConnect = (reason: Reason, detail?: string): void => {
    dialling.upstream?.destroy();
    connect.refuse(reason === 'POLICY_DENIED' ? statusFor(reason) : 503);
    connection.close(reason, detail);
  };
  dialling.upstream = dial(plane, pod, { ...connect.target, client }, (result) => {
    if (dialling.settled) return;
    dialling.settled = true;
    connect.signal.removeEventListener('abort', onGone);
    if (!result.ok) return refuseConnect(result.reason, result.detail);
    const refusal = judged.carry(result.socket, () => connect.accept());
    if (refusal !== undefined) refuseConnect(refusal.reason, refusal.rule);
  });
  if (dialling.settled) return; // no socket could be made
  connect.signal.addEventListener('abort', onGone);
  connection.cut = (reason, detail) => {
    if (dialling.settled) return;
    dialling.settled = true;
    refuseConnect(reason, detail);
  };
}

/** HBONE.md 3.8: what the far client is told. */
function statusFor(reason: Reason): number {
  if (reason === 'CONNECT_TARGET_MISMATCH') return 400;
  return reason === 'OWN_LISTENER' ? 503 : 401;
}

function whyNotReady(plane: DataPlane, uid: PodUid): string {
  const pod = plane.pods.get(uid);
  if (pod === undefined) return 'the pod is not known any more';
  const identity = plane.identities.get(pod.id);
  return identity.ok
    ? `state ${pod.state}`
    : `${identity.reason}${identity.detail === undefined ? '' : `: ${identity.detail}`}`;
}

/** One record for a socket that is refused before it is anybody's connection. */
export function recordRefusal(
  plane: DataPlane,
  uid: PodUid,
  socket: Socket,
  reason: Reason,
  detail?: string,
): void {
  const remote = remoteEnd(socket);
  const local = localEnd(socket);
  const { connection } = plane.connections.open(uid, 'inbound', endText(remote?.ip, remote?.port));
  const pod = plane.pods.get(uid);
  if (pod !== undefined) describe(connection, pod);
  connection.facts.dstAddr = endText(local?.ip, local?.port);
  refuse(socket, connection, { reason, detail });
}

/** The destination of an inbound connection is the pod itself. */
export function describe(connection: Connection, pod: LocalPod): void {
  connection.facts.dstWorkload = pod.name;
  connection.facts.dstNamespace = pod.namespace;
  connection.facts.dstIdentity = pod.id;
}

/** Names the client's workload for the record, by address: for people, never to decide. */
export function describeSource(plane: DataPlane, connection: Connection, ip: LocalPod['ips'][number]): void {
  const workload = plane.state.workloadByIp(ip);
  connection.facts.srcWorkload = workload?.name;
  connection.facts.srcNamespace = workload?.namespace;
}

/** `ip:port`; '' for an end that is not known. */
function endText(ip: Ip | undefined, port: number | undefined): string {
  return ip === undefined || port === undefined ? '' : hostPort(ip, port);
}

function ignore(): void {}
