/** One tunnel that we opened: TCP, TLS with the expected peer proven, HTTP/2; and the CONNECTs on it. */
import { connect as connectHttp2, constants } from 'node:http2';
import type { ClientHttp2Session, ClientHttp2Stream, Settings } from 'node:http2';
import type { Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { TLSSocket } from 'node:tls';
import type { Reason } from '../../errors.ts';
import { HBONE_PORT } from '../../mesh/ids.ts';
import type { PodUid } from '../../mesh/ids.ts';
import { reasonOfStatus } from './connect.ts';
import { guard, sessionOptions, settingsOf, superviseSession } from './session.ts';
import type { HboneConfig } from './session.ts';
import type { Identities, Refusal, TunnelRequest, TunnelStream } from '../seams.ts';

export interface DialContext {
  readonly config: HboneConfig;
  readonly identities: Pick<Identities, 'verifyPeer'>;
  /** 15008; tests have others. */
  readonly port?: number;
}

/**
 * A failed CONNECT, and where it may be asked again: nothing of the app's bytes is sent before a 200. `anywhere`: the
 * far side has not acted on it; `fresh`: its tunnel was cut, and others to that place may be dead as well.
 */
export interface StreamRefusal extends Refusal {
  readonly again: 'no' | 'anywhere' | 'fresh';
}

/** TCP and TLS to the request's destination. Every failure is a Refusal; the socket is closed then. */
export async function dialTunnel(
  request: TunnelRequest,
  context: DialContext,
): Promise<{ readonly ok: true; readonly socket: TLSSocket } | Refusal> {
  const dialled = request.dial();
  if (!dialled.ok) return dialled;
  const connected = await connectTcp(dialled.socket, request, context);
  return connected === undefined ? handshake(dialled.socket, request, context) : connected;
}

function connectTcp(
  socket: Socket,
  request: TunnelRequest,
  context: DialContext,
): Promise<Refusal | undefined> {
  // A tunnel has no half-closed state of its own: its streams have.
  socket.allowHalfOpen = false;
  return new Promise((resolve) => {
    const fail = (detail: string): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(refusal('TUNNEL_CONNECT_FAILED', detail));
    };
    const timer = setTimeout(() => fail('timeout'), context.config.connectTimeout);
    socket.on('error', (error) => fail(codeOf(error)));
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.setNoDelay(true);
      resolve(undefined);
    });
    socket.connect({ host: request.key.address, port: context.port ?? HBONE_PORT });
  });
}

function handshake(
  raw: Socket,
  request: TunnelRequest,
  context: DialContext,
): Promise<{ readonly ok: true; readonly socket: TLSSocket } | Refusal> {
  return new Promise((resolve) => {
    let verdict: Refusal | undefined;
    const socket = connectTls({
      socket: raw,
      secureContext: request.identity.context,
      servername: '',
      ALPNProtocols: ['h2'],
      rejectUnauthorized: true,
      checkServerIdentity: (_name, certificate) => {
        verdict = judgePeer(certificate.raw, request, context);
        return verdict === undefined ? undefined : new Error(verdict.reason);
      },
    });
    leaveChainAlone(socket);
    const fail = (failure: Refusal): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(verdict ?? failure);
    };
    const timer = setTimeout(() => fail(refusal('TLS_HANDSHAKE_TIMEOUT')), context.config.handshakeTimeout);
    socket.on('error', (error) =>
      fail(refusal(isChainError(error) ? 'PEER_CERTIFICATE_INVALID' : 'TLS_HANDSHAKE_FAILED', codeOf(error))),
    );
    socket.once('close', () => fail(refusal('TLS_HANDSHAKE_FAILED', 'closed by the peer')));
    socket.once('secureConnect', () => {
      const odd = oddity(socket);
      clearTimeout(timer);
      if (odd === undefined) resolve({ ok: true, socket });
      else fail(odd);
    });
  });
}

/**
 * Node asks for its legacy form of the peer's whole chain before it calls checkServerIdentity, and ends the process at a
 * certificate on a curve without a NIST name (node 26.10: a null pointer): any peer could send one beside its own.
 */
function leaveChainAlone(socket: TLSSocket): void {
  const leafOnly = (): { readonly raw: Uint8Array } => ({
    raw: socket.getPeerX509Certificate()?.raw ?? new Uint8Array(),
  });
  Reflect.set(socket, 'getPeerCertificate', leafOnly);
}

function judgePeer(leafDer: Uint8Array, request: TunnelRequest, context: DialContext): Refusal | undefined {
  const peer = context.identities.verifyPeer(leafDer);
  if (!peer.ok) return peer;
  if (peer.id === request.key.destinationId) return undefined;
  return refusal('PEER_IDENTITY_MISMATCH', `wanted ${request.key.destinationId}, got ${peer.id}`);
}

/** What node:tls lets pass and we do not. */
function oddity(socket: TLSSocket): Refusal | undefined {
  if (!socket.authorized || socket.isSessionReused())
    return refusal('PEER_CERTIFICATE_INVALID', 'not authorized');
  if (socket.getProtocol() !== 'TLSv1.3') return refusal('TLS_HANDSHAKE_FAILED', 'not TLS 1.3');
  return socket.alpnProtocol === 'h2' ? undefined : refusal('NOT_HBONE', 'ALPN is not h2');
}

/** OpenSSL's verification codes, as node names them. */
function isChainError(error: Error): boolean {
  return /^(CERT|UNABLE|SELF_SIGNED|DEPTH_ZERO|INVALID_CA|INVALID_PURPOSE|HOSTNAME|PATH_LENGTH|CRL|ERROR_IN_CERT)/.test(
    codeOf(error),
  );
}

export class ClientTunnel {
  readonly podUid: PodUid;
  readonly generation: number;
  readonly session: ClientHttp2Session;
  streams = 0;
  readonly madeAt = performance.now();
  lastUsed = this.madeAt;
  readonly #config: HboneConfig;
  readonly #idle: NodeJS.Timeout;
  readonly #request: Pick<TunnelRequest, 'key'>;
  #limit: number;
  #retired = false;
  /** A CONNECT had no answer in time: no more of them until a PING has one. */
  #doubted = false;
  /** Of the peer's GOAWAY: it will not act on later streams. */
  #lastProcessed = Infinity;
  /** The peer has sent its SETTINGS: it took our certificate (HBONE.md, trap 7). */
  #accepted = false;
  #failure: string | undefined;

  constructor(
    socket: TLSSocket,
    request: TunnelRequest,
    config: HboneConfig,
    onClose: (tunnel: ClientTunnel) => void,
  ) {
    this.podUid = request.key.podUid;
    this.generation = request.identity.generation;
    this.#request = request;
    this.#config = config;
    this.#limit = config.maxStreamsPerTunnel;
    this.session = connectHttp2('https://hbone', {
      ...sessionOptions(config, config.maxStreamsPerTunnel),
      settings: { ...settingsOf(config), enablePush: false },
      peerMaxConcurrentStreams: config.maxStreamsPerTunnel,
      createConnection: () => socket,
    });
    this.#idle = setTimeout(() => this.#closeIfIdle(), config.tunnelIdle);
    superviseSession(this.session, socket, config, () => {
      clearTimeout(this.#idle);
      onClose(this);
    });
    socket.on('error', (error) => {
      this.#failure = codeOf(error);
    });
    this.session.on('goaway', (_code: number, lastStreamId: number) => {
      this.#lastProcessed = lastStreamId;
      this.retire();
    });
    this.session.on('remoteSettings', (settings: Settings) => {
      this.#accepted = true;
      this.#limit = Math.min(config.maxStreamsPerTunnel, settings.maxConcurrentStreams ?? Infinity);
    });
  }

  /** Whether a further stream may be opened here by an identity of this generation. */
  hasRoom(generation: number): boolean {
    return (
      !this.#retired &&
      !this.#doubted &&
      this.generation >= generation &&
      this.streams < this.#limit &&
      !this.session.closed &&
      !this.session.destroyed
    );
  }

  /** Takes no more streams; closes when the last one has ended. */
  retire(): void {
    this.#retired = true;
    if (this.streams === 0) this.session.close();
  }

  /** Sends a CONNECT and waits for its answer. */
  open(request: TunnelRequest): Promise<TunnelStream | StreamRefusal> {
    const stream = this.session.request(
      { ':method': 'CONNECT', ':authority': request.authority, ...request.headers },
      { endStream: false },
    );
    guard(stream);
    this.streams++;
    return new Promise((resolve) => {
      let isSettled = false;
      const settle = (outcome: TunnelStream | StreamRefusal): void => {
        if (isSettled) return;
        isSettled = true;
        clearTimeout(timer);
        request.signal.removeEventListener('abort', aborted);
        resolve(outcome);
        // Not close(): it would send END_STREAM first, which a far app could take for an empty request.
        if (!outcome.ok && !stream.destroyed) stream.destroy(new Error(outcome.reason));
      };
      const aborted = (): void => settle({ ...refusal('CLIENT_RESET'), again: 'no' });
      const timer = setTimeout(() => {
        this.#doubt();
        settle({ ...refusal('CONNECT_TIMEOUT'), again: 'no' });
      }, this.#config.answerTimeout);
      request.signal.addEventListener('abort', aborted);
      // Each comes once; `once` would cost a listener more, and a stream of http2 counts its listeners by events.
      stream.on('close', () => {
        this.#streamClosed();
        if (!isSettled) settle(this.#unanswered(stream));
      });
      stream.on('response', (headers) => {
        const status = headers[':status'] ?? 0;
        if (status === 200) settle({ ok: true, stream, peer: this.#request.key.destinationId });
        else settle({ ...refusal(reasonOfStatus(status), `status ${status}`), again: 'no' });
      });
    });
  }

  #unanswered(stream: ClientHttp2Stream): StreamRefusal {
    const failure = refusal('TUNNEL_RESET', this.#failure ?? `code ${stream.rstCode}`);
    // It may have been our identity that was refused: asked again, it would be again.
    if (!this.#accepted) return { ...failure, detail: this.#failure, again: 'no' };
    // No HEADERS left us, or the peer says that it has not acted on them.
    const isUntouched =
      stream.id === undefined ||
      stream.id > this.#lastProcessed ||
      stream.rstCode === constants.NGHTTP2_REFUSED_STREAM;
    if (isUntouched) return { ...failure, again: 'anywhere' };
    return { ...failure, again: this.session.destroyed ? 'fresh' : 'no' };
  }

  /** The app behind may be slow, or the far side dead: a PING tells. keepAlive cuts a tunnel that never answers. */
  #doubt(): void {
    if (this.session.closed || this.session.destroyed || this.#doubted) return;
    this.#doubted = true;
    const isSent = this.session.ping((error) => {
      if (error === null) this.#doubted = false;
    });
    if (!isSent) this.retire();
  }

  #streamClosed(): void {
    this.streams--;
    if (this.streams > 0) return;
    this.lastUsed = performance.now();
    if (this.#retired) this.session.close();
    else this.#idle.refresh();
  }

  #closeIfIdle(): void {
    if (this.streams === 0) this.retire();
  }
}

function refusal(reason: Reason, detail?: string): Refusal {
  return { ok: false, reason, detail };
}

function codeOf(error: Error): string {
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message.slice(0, 120);
}
