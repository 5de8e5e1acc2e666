/**
 * An enrolled pod's app dials somewhere: what happens when its connection comes in, top to bottom.
 * The kernel says what was dialled; mesh/route.ts decides; this file carries it out.
 */
import type { Socket } from 'node:net';
import type { Ip, PodUid, Port } from '../mesh/ids.ts';
import { HBONE_PORT, hostPort, isIpv6 } from '../mesh/ids.ts';
import type { PublishedState } from '../mesh/model.ts';
import { route } from '../mesh/route.ts';
import type { PassthroughVerdict, SelfVerdict, TunnelTarget, TunnelVerdict } from '../mesh/verdict.ts';
import type { LocalPod } from '../mesh/wiring.ts';
import type { Connection } from './connections.ts';
import { dial, socketInPod } from './dial.ts';
import { abortOnClose } from './gone.ts';
import { forwardingHeaders } from './headers.ts';
import { NO_PLACE } from './holding.ts';
import type { Attempt } from './holding.ts';
import { carry } from './plaintext.ts';
import { descriptorOf, isDecidable, refuse, remoteEnd } from './plane.ts';
import type { DataPlane } from './plane.ts';
import { relay } from './relay.ts';
import type { Gone, LocalIdentity, Refusal, TunnelStream } from './seams.ts';

interface Destination {
  readonly ip: Ip;
  readonly port: Port;
}

/** A decision that can be carried out now, with what it needs. */
type Plan =
  | { readonly kind: 'clear'; readonly pod: LocalPod; readonly verdict: PassthroughVerdict | SelfVerdict }
  | {
      readonly kind: 'tunnel';
      readonly pod: LocalPod;
      readonly verdict: TunnelVerdict;
      readonly identity: LocalIdentity;
    }
  | { readonly kind: 'no'; readonly refusal: Omit<Refusal, 'ok'> };

/** One connection of an app, on its way to where it wants to go. */
interface Errand {
  readonly uid: PodUid;
  readonly destination: Destination;
  readonly socket: Socket;
  readonly connection: Connection;
}

/** Pods that could not be reached, and what they had published when it was tried. */
interface Setback {
  readonly sinceMs: number;
  readonly published: ReadonlyMap<PodUid, PublishedState['state'] | undefined>;
  readonly refusal: Omit<Refusal, 'ok'>;
}

/** One accepted socket of a pod's outbound listener. Takes the socket over. */
export function handleOutbound(plane: DataPlane, uid: PodUid, socket: Socket): void {
  socket.on('error', ignore); // heard of through 'close'
  const client = remoteEnd(socket);
  const record = client === undefined ? undefined : plane.sockets.originalDestination(descriptorOf(socket));
  if (client === undefined) {
    socket.destroy(); // reset before we accepted it
    return;
  }
  const { connection, overLimit } = plane.connections.open(
    uid,
    'outbound',
    sourceOf(plane, uid, client, record),
  );
  describeSource(plane, connection, uid);
  if (record === undefined)
    return refuse(socket, connection, { reason: 'NO_KERNEL_RECORD', detail: undefined });
  connection.facts.dstAddr = hostPort(record.ip, record.port);
  if (overLimit) return refuse(socket, connection, { reason: 'CONNECTION_LIMIT', detail: undefined });

  find(plane, { uid, destination: record, socket, connection }, undefined);
}

/** Decides, now or as soon as it can be decided; after a `setback` only once things have changed. */
function find(plane: DataPlane, errand: Errand, setback: Setback | undefined): void {
  const { uid, destination, socket, connection } = errand;
  const gone = abortOnClose(socket);
  let lastWord = setback?.refusal ?? { reason: 'POD_NOT_READY', detail: undefined };
  plane.holding.until<Plan>(
    uid,
    () => {
      const attempt = decide(plane, uid, destination);
      if (attempt.held) lastWord = attempt.lastWord;
      else if (setback !== undefined && leadsBack(plane, attempt.value, setback)) return { held: true };
      return attempt;
    },
    (plan) => {
      gone.release();
      carryOut(plane, errand, plan, setback);
    },
    (isFull) => {
      gone.release();
      if (gone.signal.aborted) lastWord = { reason: 'CLIENT_RESET', detail: undefined };
      refuse(socket, connection, isFull ? NO_PLACE : lastWord);
    },
    gone.signal,
    setback === undefined ? undefined : setback.sinceMs + plane.config.holdTimeout - performance.now(),
  );
}

/** Whether the plan would only ask pods again that said nothing, and have published nothing else since. */
function leadsBack(plane: DataPlane, plan: Plan, { published }: Setback): boolean {
  if (plan.kind !== 'tunnel') return false;
  return [plan.verdict, ...plan.verdict.alternates].every(({ workload: { uid } }) => {
    const state = plane.state.published(uid)?.state;
    return state !== 'enrolled' && published.has(uid) && published.get(uid) === state;
  });
}

/** The app's socket got a loopback address when it was redirected; the world knows it by the pod's own. */
function sourceOf(
  plane: DataPlane,
  uid: PodUid,
  client: Destination,
  destination: Destination | undefined,
): string {
  const wantsV6 = destination !== undefined && isIpv6(destination.ip);
  const own = plane.pods.get(uid)?.ips.find((ip) => isIpv6(ip) === wantsV6);
  return hostPort(own ?? client.ip, client.port);
}

type Deciding =
  | (Attempt<Plan> & { held: false })
  | { readonly held: true; readonly lastWord: Omit<Refusal, 'ok'> };

function decide(plane: DataPlane, uid: PodUid, destination: Destination): Deciding {
  const pod = plane.pods.get(uid);
  if (pod === undefined) return now({ kind: 'no', refusal: { reason: 'POD_GONE', detail: undefined } });
  if (!isDecidable(plane, pod))
    return { held: true, lastWord: { reason: 'POD_NOT_READY', detail: `state ${pod.state}` } };
  const verdict = route(plane.state, pod, destination.ip, destination.port, Math.random);
  switch (verdict.kind) {
    case 'hold':
      return { held: true, lastWord: { reason: verdict.reason, detail: verdict.rule } };
    case 'refuse':
      return now({ kind: 'no', refusal: { reason: verdict.reason, detail: verdict.rule } });
    case 'tunnel': {
      const identity = plane.identities.get(pod.id);
      if (identity.ok) return now({ kind: 'tunnel', pod, verdict, identity: identity.identity });
      return identity.reason === 'CERTIFICATE_NOT_READY'
        ? { held: true, lastWord: identity }
        : now({ kind: 'no', refusal: identity });
    }
    case 'passthrough':
    case 'self':
      return now({ kind: 'clear', pod, verdict });
  }
}

function now(value: Plan): Attempt<Plan> & { held: false } {
  return { held: false, value };
}

function carryOut(plane: DataPlane, errand: Errand, plan: Plan, setback: Setback | undefined): void {
  switch (plan.kind) {
    case 'no':
      return refuse(errand.socket, errand.connection, plan.refusal);
    case 'tunnel':
      void openTunnel(plane, errand, plan, setback);
      return;
    case 'clear':
      return dialClear(plane, plan, errand.socket, errand.connection);
  }
}

/** In the clear: out of the mesh, to a pod that takes no tunnels, or back into the pod itself. */
function dialClear(
  plane: DataPlane,
  { pod, verdict }: Extract<Plan, { kind: 'clear' }>,
  socket: Socket,
  connection: Connection,
): void {
  if (!connection.takeSecond())
    return refuse(socket, connection, { reason: 'CONNECTION_LIMIT', detail: undefined });
  const targets = [verdict, ...(verdict.kind === 'passthrough' ? verdict.alternates : [])];
  let ended: Omit<Refusal, 'ok'> | undefined;
  let upstream: Socket | undefined;
  const end = (refusal: Omit<Refusal, 'ok'>): void => {
    ended ??= refusal;
    upstream?.destroy();
    refuse(socket, connection, ended);
  };
  const tryNext = (): void => {
    const target = targets.shift();
    if (target === undefined) return;
    describeClear(connection, verdict, 'workload' in target ? target.workload : undefined);
    upstream = dial(plane, pod, { ip: target.address, port: target.port }, (result) => {
      if (ended !== undefined) return;
      socket.removeListener('close', onGone);
      if (result.ok) return carry(plane, connection, socket, result.socket, verdict.reason);
      if (targets.length === 0) return end(result);
      socket.once('close', onGone);
      tryNext();
    });
  };
  const onGone = (): void => end({ reason: 'CLIENT_RESET', detail: undefined });
  connection.cut = (reason, detail) => end({ reason, detail });
  socket.once('close', onGone);
  tryNext();
}

/**
 * Tries the chosen endpoint, then others while no byte has been sent (DESIGN.md section 9). When none of them said
 * anything, and one was not surely enrolled, it is decided anew: what we knew of it may have been late.
 */
async function openTunnel(
  plane: DataPlane,
  errand: Errand,
  plan: Extract<Plan, { kind: 'tunnel' }>,
  before: Setback | undefined,
): Promise<void> {
  const { socket, connection } = errand;
  const gone = abortOnClose(socket);
  let cutFor: Omit<Refusal, 'ok'> | undefined;
  connection.cut = (reason, detail) => {
    cutFor = { reason, detail };
    gone.abort();
    refuse(socket, connection, cutFor);
  };
  const { signal } = gone;
  const published = new Map(before?.published);
  let last: Refusal = { ok: false, reason: 'NO_ENDPOINTS', detail: undefined };
  for (const candidate of [plan.verdict, ...plan.verdict.alternates]) {
    describeTunnel(connection, plan.verdict, candidate);
    published.set(candidate.workload.uid, plane.state.published(candidate.workload.uid)?.state);
    const opened = await tunnelTo(plane, plan, candidate, connection, signal);
    if (opened.ok) {
      gone.release();
      if (signal.aborted || socket.destroyed) {
        opened.stream.destroy();
        connection.close('CLIENT_RESET');
        return;
      }
      carryTunnel(plane, connection, socket, opened);
      return;
    }
    last = opened;
    if (isAnswer(opened)) {
      connection.facts.dstIdentity = candidate.identity;
      connection.facts.security = 'mutual_tls';
    }
    if (signal.aborted || !isSilence(opened)) break;
  }
  gone.release();
  if (cutFor !== undefined) return;
  if (signal.aborted) {
    refuse(socket, connection, { reason: 'CLIENT_RESET', detail: undefined });
    return;
  }
  const setback = { sinceMs: before?.sinceMs ?? performance.now(), published, refusal: last };
  if (isSilence(last) && mayHaveChanged(plane, setback)) find(plane, errand, setback);
  else refuse(socket, connection, last);
}

/** Whether one of the pods that said nothing may not be enrolled, and there is time left to learn more. */
function mayHaveChanged(plane: DataPlane, { sinceMs, published }: Setback): boolean {
  if (performance.now() - sinceMs >= plane.config.holdTimeout) return false;
  return [...published].some(([uid, state]) => state !== 'enrolled' || !plane.state.isEnrolled(uid));
}

function tunnelTo(
  plane: DataPlane,
  plan: Extract<Plan, { kind: 'tunnel' }>,
  candidate: TunnelTarget,
  connection: Connection,
  signal: Gone,
): Promise<TunnelStream | Refusal> {
  const { pod, identity } = plan;
  return plane.tunnels.open({
    key: { podUid: pod.uid, sourceId: pod.id, destinationId: candidate.identity, address: candidate.address },
    identity,
    dial: () => socketOfTunnel(plane, pod, candidate.address),
    authority: hostPort(candidate.address, candidate.port),
    headers: forwardingHeaders(connection.facts.srcAddr, pod, plan.verdict.service),
    signal,
  });
}

/** A tunnel's own descriptor, on the pod's account until its socket closes. */
function socketOfTunnel(plane: DataPlane, pod: LocalPod, ip: Ip): ReturnType<typeof socketInPod> {
  const made: ReturnType<typeof socketInPod> = plane.descriptors.take(pod.uid)
    ? socketInPod(plane, pod, { ip, port: HBONE_PORT })
    : { ok: false, reason: 'TUNNEL_LIMIT', detail: 'no descriptor is left for it' };
  if (made.ok) made.socket.once('close', () => plane.descriptors.give(pod.uid));
  else plane.descriptors.give(pod.uid);
  return made;
}

/** The far proxy has answered, so that its identity was proven. */
function isAnswer({ reason }: Refusal): boolean {
  return (
    reason === 'TUNNEL_REFUSED' || reason === 'TUNNEL_BAD_REQUEST' || reason === 'TUNNEL_UPSTREAM_FAILED'
  );
}

/**
 * An endpoint that says nothing is worth another, also behind a tunnel that stood while it died: nothing of the app's
 * bytes leaves before a 200. An answer (a refusal, an app that is not there) is an answer.
 */
const SILENT: ReadonlySet<Refusal['reason']> = new Set([
  'TUNNEL_CONNECT_FAILED',
  'TLS_HANDSHAKE_FAILED',
  'TLS_HANDSHAKE_TIMEOUT',
  'CONNECT_TIMEOUT',
  'TUNNEL_RESET',
] as const);

function isSilence(refusal: Refusal): boolean {
  return SILENT.has(refusal.reason);
}

function carryTunnel(plane: DataPlane, connection: Connection, socket: Socket, opened: TunnelStream): void {
  connection.facts.dstIdentity = opened.peer;
  connection.facts.security = 'mutual_tls';
  const carried = relay(socket, opened.stream, { halfClosedTimeoutMs: plane.config.halfClosedTimeout });
  connection.counters = carried;
  connection.cut = (reason, detail) => carried.cut(reason, detail);
  void carried.done.then((end) => connection.close(end.reason, end.detail));
}

function describeSource(plane: DataPlane, connection: Connection, uid: PodUid): void {
  const pod = plane.pods.get(uid);
  if (pod === undefined) return;
  connection.facts.srcWorkload = pod.name;
  connection.facts.srcNamespace = pod.namespace;
  connection.facts.srcIdentity = pod.id;
}

function describeClear(
  connection: Connection,
  verdict: PassthroughVerdict | SelfVerdict,
  workload: TunnelTarget['workload'] | undefined,
): void {
  if (verdict.service !== undefined)
    connection.facts.dstService = `${verdict.service.name}.${verdict.service.namespace}`;
  connection.facts.dstWorkload = workload?.name;
  connection.facts.dstNamespace = workload?.namespace;
}

function describeTunnel(connection: Connection, verdict: TunnelVerdict, candidate: TunnelTarget): void {
  if (verdict.service !== undefined)
    connection.facts.dstService = `${verdict.service.name}.${verdict.service.namespace}`;
  connection.facts.dstWorkload = candidate.workload.name;
  connection.facts.dstNamespace = candidate.workload.namespace;
  connection.facts.dstHboneAddr = hostPort(candidate.address, HBONE_PORT);
}

function ignore(): void {}
