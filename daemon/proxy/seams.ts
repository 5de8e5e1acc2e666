/**
 * The small interfaces at which `worker.ts` joins the data plane to the rest of the house, and at which the parts
 * of the data plane meet. No code.
 */
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { SecureContext } from 'node:tls';
import type { Ip, PodUid, Port, SpiffeId } from '../mesh/ids.ts';
import type { Reason } from '../errors.ts';

/** A failure that the caller chooses about: a reason, and more about this one case. */
export interface Refusal {
  readonly ok: false;
  readonly reason: Reason;
  readonly detail: string | undefined;
}

/** One of our own identities, ready to be proven. The same `context` object is reused until it rotates. */
export interface LocalIdentity {
  readonly id: SpiffeId;
  readonly context: SecureContext;
  readonly notAfterMs: number;
  /** Rises with each rotation: tunnels and servers made with an older one are replaced, not cut. */
  readonly generation: number;
}

/** Whom one identity's peers must chain to; the same object until its roots change. */
export interface Trust {
  /** Whether a peer's chain (DER, leaf first), verified when its tunnel was made, still leads to one of the roots. */
  holds(chain: readonly Uint8Array[]): boolean;
}

export type PeerVerdict = { readonly ok: true; readonly id: SpiffeId } | Refusal;

/** identity/, as the proxy sees it. */
export interface Identities {
  /** The identity now, expired or not ready told apart. Cheap: called once per connection. */
  get(id: SpiffeId): { readonly ok: true; readonly identity: LocalIdentity } | Refusal;
  /**
   * Judges a verified chain's leaf (DER) as an SVID of our trust domain, by wall clock. The chain itself has been
   * verified by TLS against the context's roots.
   */
  verifyPeer(leafDer: Uint8Array): PeerVerdict;
  /** undefined: there is no such identity any more. */
  trust(id: SpiffeId): Trust | undefined;
  /** Calls back when a certificate arrives, rotates or fails. Returns the unsubscribe. */
  onChange(listener: (id: SpiffeId) => void): () => void;
}

/** native/hot as the proxy sees it. Each is one native call. */
export interface PodSockets {
  /** A TCP socket made inside the netns, not connected. `client`: whom the app shall see as its peer. @returns fd or -errno. */
  dial(netnsFd: number, family: 4 | 6, client: { ip: Ip; port: Port } | undefined): number;
  /** What the app dialled, of an accepted socket of an outbound listener; undefined when the kernel has no record. */
  originalDestination(fd: number): { ip: Ip; port: Port } | undefined;
}

/** Says that whoever waits has gone. An AbortSignal is one, and costs ten times as much as this needs to. */
export interface Gone {
  readonly aborted: boolean;
  addEventListener(type: 'abort', listener: () => void): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}

/** What makes two streams share a tunnel (HBONE.md 3.10 plus the pod's UID). */
export interface TunnelKey {
  readonly podUid: PodUid;
  readonly sourceId: SpiffeId;
  /** Who may answer. */
  readonly destinationId: SpiffeId;
  /** The destination pod's address; the port is 15008. */
  readonly address: Ip;
}

export interface TunnelRequest {
  readonly key: TunnelKey;
  readonly identity: LocalIdentity;
  /** An unconnected socket inside the source pod's netns; called when a new tunnel is needed. */
  readonly dial: () => { readonly ok: true; readonly socket: Socket } | Refusal;
  /** `ip:port` asked of the far proxy. */
  readonly authority: string;
  /** forwarded, baggage, traceparent. */
  readonly headers: Readonly<Record<string, string>>;
  readonly signal: Gone;
}

/** An open stream: bytes of one connection inside a tunnel. Each direction ends on its own. */
export interface TunnelStream {
  readonly ok: true;
  readonly stream: Duplex;
  /** Proven by the tunnel's handshake. */
  readonly peer: SpiffeId;
}

/** The client side of HBONE: one pool a worker. */
export interface Tunnels {
  /** Resolves once the far side answered 200. Asks once more when the tunnel was cut, or refused to take it, before. */
  open(request: TunnelRequest): Promise<TunnelStream | Refusal>;
  /** Closes the tunnels of one pod: idle ones at once, others when their streams end, or now when `cut`. */
  closePod(uid: PodUid, cut: boolean): void;
  /** Closes the idle tunnel, of this pod or of any, that was used longest ago. @returns whether there was one. */
  closeIdle(uid: PodUid | undefined): boolean;
  readonly size: number;
  drain(): void;
}

/** A CONNECT that arrived at one of our pods, peer proven, well-formed, not yet answered. */
export interface IncomingConnect {
  readonly peer: SpiffeId;
  readonly target: { readonly ip: Ip; readonly port: Port };
  /** The peer's word on who its client is (`forwarded: for=`): shown to the app as its peer, never used to decide. */
  readonly forwardedFor: { readonly ip: Ip; readonly port: Port } | undefined;
  readonly headers: Readonly<Record<string, string>>;
  /** Answers 200 and gives the bytes. */
  accept(headers?: Readonly<Record<string, string>>): Duplex;
  /** Answers with a status (400, 401, 503) and no body. */
  refuse(status: number): void;
  /** Aborted when the peer goes away before an answer. */
  readonly signal: Gone;
}

/** The server side of HBONE for one accepted socket of a pod's mTLS listener. */
export interface TunnelServer {
  /** Takes the raw socket over: handshake, ALPN, HTTP/2, limits. */
  serve(raw: Socket, accept: TunnelAccept): void;
  closePod(uid: PodUid, cut: boolean): void;
  /** As `Tunnels.closeIdle`. */
  closeIdle(uid: PodUid | undefined): boolean;
  /** The roots of this identity may have changed: tunnels whose peer they do not prove any more are cut. */
  judgeAgain(id: SpiffeId): void;
  readonly size: number;
  /** TLS handshakes in flight. */
  readonly handshakes: number;
  drain(): void;
}

export interface TunnelAccept {
  readonly podUid: PodUid;
  readonly identity: LocalIdentity;
  readonly onConnect: (connect: IncomingConnect) => void;
  /** The tunnel failed before any CONNECT: one record. */
  readonly onRefused: (refusal: Refusal) => void;
}

export interface RelayResult {
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly reason: Reason;
  readonly detail: string | undefined;
}

/**
 * Two ends, counters, a close reason; nothing that looks at the bytes. `a` is the side that asked (bytesSent counts
 * a → b). Half-close is carried each way; a reset of one side resets the other.
 */
export interface Relay {
  readonly done: Promise<RelayResult>;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** Ends both sides now. */
  cut(reason: Reason, detail?: string): void;
}
