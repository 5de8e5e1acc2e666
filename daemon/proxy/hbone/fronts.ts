/**
 * TLS handshakes of the accepting side, with the one construction of node:tls that is known to verify a client
 * (HBONE.md, trap 1): a tls.Server that never listens, one for each certificate, fed with raw sockets.
 */
import { createServer } from 'node:tls';
import type { Server, TLSSocket } from 'node:tls';
import type { Socket } from 'node:net';
import type { PodUid, SpiffeId } from '../../mesh/ids.ts';
import type { HboneConfig } from './session.ts';
import type { Identities, LocalIdentity, Refusal } from '../seams.ts';

/** A finished handshake: the peer's chain and identity are verified, ALPN is h2. */
export interface Proven {
  readonly ok: true;
  readonly socket: TLSSocket;
  readonly peer: SpiffeId;
}

interface Handshake {
  /** The counts that it is part of. */
  readonly places: readonly string[];
  readonly done: (outcome: Proven | Refusal) => void;
}

/** Service accounts on one node that have a tls.Server ready; beyond, the one used longest ago is made again. */
const MAX_FRONTS = 1_024;
/** One source address may have one part in so many of a worker's handshakes, whatever pods it dials. */
const SOURCE_SHARE = 2;

export class TlsFronts {
  readonly #config: HboneConfig;
  readonly #identities: Pick<Identities, 'verifyPeer'>;
  /** In order of use, oldest first. */
  readonly #fronts = new Map<SpiffeId, { readonly identity: LocalIdentity; readonly server: Server }>();
  readonly #pending = new Map<Socket, Handshake>();
  /** By pod, by source address, by both: no source may keep the others from a pod, nor a pod the others. */
  readonly #counts = new Map<string, number>();

  constructor(config: HboneConfig, identities: Pick<Identities, 'verifyPeer'>) {
    this.#config = config;
    this.#identities = identities;
  }

  /** Handshakes that have not ended. */
  get inFlight(): number {
    return this.#pending.size;
  }

  /** Takes `raw` through a handshake and calls `done` once. `raw` must have an error listener. */
  handshake(
    raw: Socket,
    pod: { readonly podUid: PodUid; readonly identity: LocalIdentity },
    done: (outcome: Proven | Refusal) => void,
  ): void {
    const places = this.#takePlaces(pod.podUid, raw.remoteAddress ?? '');
    if (places === undefined) {
      done(refusal('HANDSHAKE_LIMIT'));
      return;
    }
    // A peer that hangs up during the handshake is gone; half-open, its place would be held until the timeout.
    raw.allowHalfOpen = false;
    this.#pending.set(raw, { places, done });
    // Whatever node reports, or does not: a closed socket has no handshake in flight. Node's report, which comes after
    // this event, knows more.
    raw.once('close', () => {
      setImmediate(() => this.#finish(raw, refusal('TLS_HANDSHAKE_FAILED', 'closed by the peer')));
    });
    this.#frontOf(pod.identity).emit('connection', raw);
  }

  /** One more handshake of `source` with the pod, or undefined when that is too many. */
  #takePlaces(pod: PodUid, source: string): readonly string[] | undefined {
    const { maxHandshakes, maxHandshakesPerPod, maxHandshakesPerSource } = this.#config;
    if (this.#pending.size >= maxHandshakes) return undefined;
    const limits: readonly (readonly [string, number])[] = [
      [pod, maxHandshakesPerPod],
      [source, Math.ceil(maxHandshakes / SOURCE_SHARE)],
      [`${pod} ${source}`, maxHandshakesPerSource],
    ];
    if (limits.some(([place, most]) => (this.#counts.get(place) ?? 0) >= most)) return undefined;
    for (const [place] of limits) this.#counts.set(place, (this.#counts.get(place) ?? 0) + 1);
    return limits.map(([place]) => place);
  }

  #givePlaces(places: readonly string[]): void {
    for (const place of places) {
      const left = (this.#counts.get(place) ?? 1) - 1;
      if (left === 0) this.#counts.delete(place);
      else this.#counts.set(place, left);
    }
  }

  #frontOf(identity: LocalIdentity): Server {
    const known = this.#fronts.get(identity.id);
    if (known !== undefined) this.#fronts.delete(identity.id);
    const front =
      known?.identity.context === identity.context ? known : { identity, server: this.#create(identity) };
    this.#fronts.set(identity.id, front);
    const [oldest] = this.#fronts.keys();
    if (this.#fronts.size > MAX_FRONTS && oldest !== undefined) this.#fronts.delete(oldest);
    return front.server;
  }

  #create(identity: LocalIdentity): Server {
    const server = createServer({
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: this.#config.handshakeTimeout,
      ALPNProtocols: ['h2'],
    });
    // tls.Server takes PEM only, and would parse the key and chain once more for each worker. The field is node's
    // own; without it the server has no certificate and every handshake fails (test: 'proves its own identity').
    Reflect.set(server, '_sharedCreds', identity.context);
    server.on('secureConnection', (socket: TLSSocket) => {
      socket.on('error', () => undefined);
      this.#secured(socket);
    });
    server.on('tlsClientError', (error: Error, socket: TLSSocket) => {
      this.#finish(parentOf(socket), failed(error, socket));
    });
    return server;
  }

  #secured(socket: TLSSocket): void {
    const raw = parentOf(socket);
    const outcome = this.#judge(socket);
    if (!outcome.ok || raw === undefined || !this.#pending.has(raw)) socket.destroy();
    this.#finish(raw, outcome);
  }

  #judge(socket: TLSSocket): Proven | Refusal {
    if (!socket.authorized) return refusal('PEER_CERTIFICATE_INVALID', 'not authorized');
    // A resumed session proves nothing about who resumes it.
    if (socket.isSessionReused()) return refusal('PEER_CERTIFICATE_INVALID', 'resumed session');
    if (socket.getProtocol() !== 'TLSv1.3') return refusal('TLS_HANDSHAKE_FAILED', 'not TLS 1.3');
    const leaf = socket.getPeerX509Certificate();
    if (leaf === undefined) return refusal('PEER_CERTIFICATE_INVALID', 'no certificate');
    const verdict = this.#identities.verifyPeer(leaf.raw);
    if (!verdict.ok) return verdict;
    if (socket.alpnProtocol !== 'h2') return refusal('NOT_HBONE', 'ALPN is not h2');
    return { ok: true, socket, peer: verdict.id };
  }

  #finish(raw: Socket | undefined, outcome: Proven | Refusal): void {
    const handshake = raw === undefined ? undefined : this.#pending.get(raw);
    if (raw === undefined || handshake === undefined) return;
    this.#pending.delete(raw);
    this.#givePlaces(handshake.places);
    handshake.done(outcome);
  }
}

/** The raw socket under a TLSSocket: node's own field, and the only link between the two. */
function parentOf(socket: TLSSocket): Socket | undefined {
  const parent: unknown = Reflect.get(socket, '_parent');
  return isSocket(parent) ? parent : undefined;
}

function isSocket(value: unknown): value is Socket {
  return typeof value === 'object' && value !== null && 'resetAndDestroy' in value;
}

function failed(error: Error, socket: TLSSocket): Refusal {
  const code = 'code' in error && typeof error.code === 'string' ? error.code : error.message.slice(0, 120);
  if (code === 'ERR_TLS_HANDSHAKE_TIMEOUT') return refusal('TLS_HANDSHAKE_TIMEOUT');
  if (code.includes('APPLICATION_PROTOCOL')) return refusal('NOT_HBONE', code);
  // Typed as an Error, and a code: node sets the string.
  const unauthorized: unknown = socket.authorizationError;
  if (typeof unauthorized === 'string') return refusal('PEER_CERTIFICATE_INVALID', unauthorized);
  if (code.includes('PEER_DID_NOT_RETURN_A_CERTIFICATE')) return refusal('PEER_CERTIFICATE_INVALID', code);
  return refusal('TLS_HANDSHAKE_FAILED', code);
}

function refusal(reason: Refusal['reason'], detail?: string): Refusal {
  return { ok: false, reason, detail };
}
