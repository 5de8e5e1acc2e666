/**
 * The accepting side of HBONE: raw socket → TLS 1.3 with a proven peer → HTTP/2 → one IncomingConnect per stream.
 * Everything before a well-formed CONNECT is judged here; whether it is allowed is not.
 */
import { performServerHandshake } from 'node:http2';
import type { IncomingHttpHeaders, ServerHttp2Session, ServerHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { PodUid, SpiffeId } from '../../mesh/ids.ts';
import { parseConnect } from './connect.ts';
import { answer, IncomingStream } from './incoming.ts';
import { TlsFronts } from './fronts.ts';
import { guard, sessionOptions, settingsOf, superviseSession, TunnelLostError } from './session.ts';
import type { HboneConfig } from './session.ts';
import { TunnelTable } from './table.ts';
import type { Identities, Refusal, Trust, TunnelAccept, TunnelServer } from '../seams.ts';

/**
 * Streams that one tunnel's client may reset before the tunnel is cut (HBONE.md, trap 2: node's own 1,000 and 33 a
 * second cut honest tunnels whose apps reset connections).
 */
const RESET_BURST = 10_000;
const RESETS_PER_SECOND = 1_000;
/** As identity/chain.ts reads them. */
const MAX_CHAIN = 8;
const UNTRUSTED = "the root of the peer's certificate is trusted no longer";

/** A tunnel that somebody opened to one of our pods. */
interface ServedTunnel {
  readonly podUid: PodUid;
  readonly session: ServerHttp2Session;
  readonly socket: TLSSocket;
  /** Ours, and the roots that the peer was last proven by. */
  readonly id: SpiffeId;
  trust: Trust | undefined;
  streams: number;
  lastUsed: number;
}

/**
 * The server side of HBONE for one worker.
 * @param identities judges the peers' certificates.
 */
export function createTunnelServer(
  config: HboneConfig,
  identities: Pick<Identities, 'verifyPeer' | 'trust'>,
): TunnelServer {
  return new Server(config, identities);
}

class Server implements TunnelServer {
  readonly #config: HboneConfig;
  readonly #identities: Pick<Identities, 'trust'>;
  readonly #fronts: TlsFronts;
  readonly #tunnels: TunnelTable<ServedTunnel>;
  #draining = false;

  constructor(config: HboneConfig, identities: Pick<Identities, 'verifyPeer' | 'trust'>) {
    this.#config = config;
    this.#identities = identities;
    this.#fronts = new TlsFronts(config, identities);
    this.#tunnels = new TunnelTable(config);
  }

  get size(): number {
    return this.#tunnels.size;
  }

  get handshakes(): number {
    return this.#fronts.inFlight;
  }

  serve(raw: Socket, accept: TunnelAccept): void {
    raw.on('error', () => undefined);
    if (this.#draining) {
      refuse(raw, accept, { ok: false, reason: 'DRAINED', detail: undefined });
      return;
    }
    this.#fronts.handshake(raw, accept, (proven) => {
      if (!proven.ok) refuse(raw, accept, proven);
      else if (this.#draining) refuse(raw, accept, { ok: false, reason: 'DRAINED', detail: undefined });
      else if (!this.#tunnels.makeRoom(accept.podUid))
        refuse(raw, accept, { ok: false, reason: 'TUNNEL_LIMIT', detail: undefined });
      else this.#open(proven.socket, proven.peer, accept);
    });
  }

  closePod(uid: PodUid, cut: boolean): void {
    for (const tunnel of this.#tunnels.ofPod(uid)) {
      if (cut) tunnel.session.destroy(new TunnelLostError('the pod has left'));
      else tunnel.session.close();
    }
  }

  judgeAgain(id: SpiffeId): void {
    const trust = this.#identities.trust(id);
    for (const tunnel of [...this.#tunnels]) {
      if (trust === undefined || tunnel.id !== id || tunnel.trust === trust) continue;
      tunnel.trust = trust;
      if (!trust.holds(chainOf(tunnel.socket))) tunnel.session.destroy(new TunnelLostError(UNTRUSTED));
    }
  }

  closeIdle(uid: PodUid | undefined): boolean {
    return this.#tunnels.closeIdle(uid);
  }

  drain(): void {
    this.#draining = true;
    for (const tunnel of this.#tunnels) tunnel.session.close();
  }

  #open(socket: TLSSocket, peer: SpiffeId, accept: TunnelAccept): void {
    const config = this.#config;
    const session = performServerHandshake(socket, {
      ...sessionOptions(config, config.maxStreamsServed),
      settings: { ...settingsOf(config), maxConcurrentStreams: config.maxStreamsServed },
      streamResetBurst: RESET_BURST,
      streamResetRate: RESETS_PER_SECOND,
    });
    const { id } = accept.identity;
    const tunnel: ServedTunnel = {
      ...{ podUid: accept.podUid, session, socket, id, trust: this.#identities.trust(id) },
      ...{ streams: 0, lastUsed: performance.now() },
    };
    this.#tunnels.add(tunnel);
    let served = false;
    superviseSession(session, socket, config, () => {
      clearTimeout(firstRequest);
      this.#tunnels.remove(tunnel);
      if (!served) accept.onRefused({ ok: false, reason: 'NOT_HBONE', detail: 'no CONNECT came' });
    });
    const firstRequest = setTimeout(() => session.destroy(), config.requestTimeout);
    session.on('stream', (stream, headers) => {
      guard(stream);
      clearTimeout(firstRequest);
      served = true;
      this.#request(tunnel, stream, headers, { peer, accept });
    });
  }

  #request(
    tunnel: ServedTunnel,
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    from: { peer: SpiffeId; accept: TunnelAccept },
  ): void {
    tunnel.streams++;
    stream.once('close', () => {
      tunnel.streams--;
      tunnel.lastUsed = performance.now();
    });
    const parsed = parseConnect(headers);
    if (parsed === undefined) {
      answer(stream, 400);
      from.accept.onRefused({ ok: false, reason: 'CONNECT_MALFORMED', detail: undefined });
    } else from.accept.onConnect(new IncomingStream(from.peer, stream, parsed));
  }
}

/** What the peer has sent, DER, leaf first. */
function chainOf(socket: TLSSocket): Uint8Array[] {
  const chain: Uint8Array[] = [];
  let next = socket.getPeerX509Certificate();
  for (; next !== undefined && chain.length < MAX_CHAIN; next = next.issuerCertificate) chain.push(next.raw);
  return chain;
}

function refuse(raw: Socket, accept: TunnelAccept, refusal: Refusal): void {
  raw.resetAndDestroy();
  accept.onRefused(refusal);
}
