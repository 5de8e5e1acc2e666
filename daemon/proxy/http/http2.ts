/**
 * HTTP/2 with prior knowledge, gRPC too: one session with the client, one with the app, every stream judged. Windows
 * bound what a stream may hold; nghttp2 and node bound floods of SETTINGS, PING, CONTINUATION and resets.
 */
import { connect, constants, performServerHandshake } from 'node:http2';
import type {
  ClientHttp2Session,
  IncomingHttpHeaders,
  ServerHttp2Session,
  ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Conversation, Ends } from './ends.ts';
import { H2Exchange } from './h2-exchange.ts';
import { parseH2Request } from './h2-request.ts';
import type { H2Request } from './h2-request.ts';
import type { HttpLimits } from './limits.ts';
import { refusalBody } from './refusal.ts';

const { NGHTTP2_REFUSED_STREAM, NGHTTP2_NO_ERROR } = constants;
const MEBIBYTE = 1 << 20;
/** gRPC's PERMISSION_DENIED. */
const GRPC_DENIED = { 'grpc-status': '7', 'grpc-message': 'access denied' } as const;

export class Http2 implements Conversation {
  readonly ownsEnds = true;
  readonly #ends: Ends;
  readonly #near: ServerHttp2Session;
  readonly #far: ClientHttp2Session;
  readonly #exchanges = new Set<H2Exchange>();
  #isOver = false;
  /** The app takes no more streams. */
  #isLeaving = false;
  #linger: NodeJS.Timeout | undefined;
  /** How the client broke the protocol, or its bounds. */
  #violation: string | undefined;

  /** Takes both ends over, with what has been read of them. */
  constructor(ends: Ends, client: Duplex, upstream: Socket) {
    this.#ends = ends;
    giveBack(client, ends.fromClient.detach());
    giveBack(upstream, ends.fromUpstream.detach());
    this.#near = performServerHandshake(client, {
      ...sessionOptions(ends.limits),
      settings: { ...settings(ends.limits), maxConcurrentStreams: ends.limits.streams },
      streamResetBurst: ends.limits.resetBurst,
      streamResetRate: ends.limits.resetsPerSecond,
    });
    this.#near.on('error', (error) => {
      if ('code' in error && String(error.code).startsWith('ERR_HTTP2')) this.#violation = error.message;
    });
    this.#far = connect('http://app', {
      ...sessionOptions(ends.limits),
      settings: { ...settings(ends.limits), enablePush: false },
      createConnection: () => upstream,
    });
    this.#far.on('error', ignore);
    whenGone(client, () => this.#clientGone());
    whenGone(upstream, () => this.#appGone());
    this.#watch();
  }

  rejudge(): void {
    for (const exchange of [...this.#exchanges]) {
      const verdict = this.#ends.judge(exchange.http);
      if (verdict.allowed) continue;
      this.#ends.denied(verdict.detail);
      exchange.cut();
    }
  }

  abandon(): void {
    this.#isOver = true;
    clearTimeout(this.#linger);
    this.#near.destroy();
    this.#far.destroy();
  }

  #watch(): void {
    this.#near.on('stream', (stream, headers, _flags, raw) => {
      stream.on('error', ignore);
      this.#request(stream, headers, raw);
    });
    // What the app takes of WebSockets over HTTP/2 is what a client may ask for.
    this.#far.on('remoteSettings', ({ enableConnectProtocol }) => {
      if (enableConnectProtocol === true && !this.#near.destroyed)
        this.#near.settings({ enableConnectProtocol: true });
    });
    this.#far.on('goaway', (code: number) => {
      if (this.#near.destroyed) return;
      if (code !== NGHTTP2_NO_ERROR) this.#near.goaway(code);
      this.#leave();
    });
    this.#far.once('close', () => this.#farClosed());
    this.#near.once('close', () => this.#nearClosed());
  }

  #request(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, raw: readonly string[]): void {
    const { judge, normalization } = this.#ends;
    const names = raw.filter((_, i) => i % 2 === 0);
    const request = parseH2Request(headers, names, normalization);
    if (!request.ok) {
      answer(stream, request.status);
      return;
    }
    const verdict = judge(request.http);
    if (verdict.allowed) this.#carry(stream, request);
    else this.#deny(stream, request, verdict.detail);
  }

  #deny(stream: ServerHttp2Stream, { isGrpc }: H2Request, detail: string): void {
    this.#ends.denied(detail);
    if (!isGrpc) answer(stream, 403);
    else if (!stream.destroyed)
      stream.respond(
        { ':status': 200, 'content-type': 'application/grpc', ...GRPC_DENIED },
        { endStream: true },
      );
  }

  #carry(near: ServerHttp2Stream, { http, headers }: H2Request): void {
    if (this.#far.destroyed || this.#far.closed) {
      // It was not processed: the client may ask again elsewhere.
      near.close(NGHTTP2_REFUSED_STREAM);
      return;
    }
    const endStream = near.endAfterHeaders;
    const far = this.#far.request(headers, { endStream, waitForTrailers: !endStream });
    far.on('error', ignore);
    const exchange = new H2Exchange(http, near, far);
    this.#exchanges.add(exchange);
    near.once('close', () => {
      this.#exchanges.delete(exchange);
      if (this.#isLeaving) this.#leave();
    });
  }

  /** What it sent of its requests is not whole, and nobody waits for the answers. */
  #clientGone(): void {
    if (this.#isOver) return;
    if (this.#exchanges.size > 0) this.#ends.cut('CLIENT_RESET');
    else this.#near.destroy();
  }

  /** Answers that came whole are still delivered; others break, and the connection with them. */
  #appGone(): void {
    if (this.#isOver) return;
    if ([...this.#exchanges].some((exchange) => !exchange.isAnswered))
      this.#ends.cut('UPSTREAM_RESET', 'the app ended the connection');
    else this.#far.close();
  }

  /** The client is told to ask elsewhere; when its streams have ended it has a moment to go by itself. */
  #leave(): void {
    this.#isLeaving = true;
    if (!this.#near.destroyed) this.#near.close();
    if (this.#exchanges.size > 0 || this.#linger !== undefined) return;
    this.#linger = setTimeout(() => this.#nearClosed(), this.#ends.limits.lingerMs);
  }

  #farClosed(): void {
    if (!this.#isOver) this.#leave();
  }

  #nearClosed(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#linger);
    this.#near.destroy();
    this.#far.destroy();
    this.#ends.finish(this.#violation === undefined ? 'OK' : 'HTTP_AMBIGUOUS', this.#violation);
  }
}

function settings(limits: HttpLimits) {
  return { initialWindowSize: limits.streamWindow, maxHeaderListSize: limits.headBytes };
}

/** Bounds of node:http2 that hold for both sessions. */
function sessionOptions(limits: HttpLimits) {
  return {
    // Megabytes. The windows bound memory; node's own limit (10 MB) would refuse streams that they allow.
    maxSessionMemory: 16 + Math.ceil((limits.streams * limits.streamWindow) / MEBIBYTE),
    maxHeaderListPairs: limits.fields,
    maxOutstandingPings: 4,
    maxSettings: 32,
    maxSessionInvalidFrames: 100,
    maxSessionRejectedStreams: 100,
  };
}

/** Answers without the app. A body that still comes is not read: node resets the stream once the answer is out. */
function answer(stream: ServerHttp2Stream, status: number): void {
  if (stream.destroyed || stream.closed) return;
  const body = refusalBody(status);
  stream.respond({ ':status': status, 'content-type': 'text/plain', 'content-length': body.length });
  stream.end(body);
}

/** Calls back when a connection ends or breaks: before node's own listener, which ends its streams as if whole. */
function whenGone(end: Duplex, callback: () => void): void {
  end.prependListener('end', callback);
  end.prependListener('close', callback);
}

function giveBack(stream: Duplex, chunks: readonly Buffer[]): void {
  if (chunks.length > 0) stream.unshift(Buffer.concat(chunks));
}

function ignore(): void {}
