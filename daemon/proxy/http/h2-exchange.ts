/** One request of HTTP/2 that was allowed, and its answer: two streams, joined. */
import { constants } from 'node:http2';
import type {
  ClientHttp2Stream,
  Http2Stream,
  IncomingHttpHeaders,
  IncomingHttpStatusHeader,
  ServerHttp2Stream,
  ServerStreamResponseOptions,
} from 'node:http2';
import type { HttpRequest } from '../../mesh/policy/model.ts';

const {
  NGHTTP2_FLAG_END_STREAM,
  NGHTTP2_INADEQUATE_SECURITY,
  NGHTTP2_INTERNAL_ERROR,
  NGHTTP2_NO_ERROR,
  NGHTTP2_CANCEL,
} = constants;

type Answer = IncomingHttpHeaders & IncomingHttpStatusHeader;
/** An option of node's that its types forget. */
type ResponseOptions = ServerStreamResponseOptions & { readonly sendDate: false };

export class H2Exchange {
  readonly http: HttpRequest;
  readonly #near: ServerHttp2Stream;
  readonly #far: ClientHttp2Stream;

  /** @param near the client's stream. @param far the app's; both have error listeners. */
  constructor(http: HttpRequest, near: ServerHttp2Stream, far: ClientHttp2Stream) {
    this.http = http;
    this.#near = near;
    this.#far = far;
    far.on('headers', (headers) => this.#interim(headers));
    far.on('response', (headers, flags) => this.#respond(headers, flags));
    carryTrailers(near, far);
    carryTrailers(far, near);
    near.pipe(far);
    carryReset(near, far);
    carryReset(far, near);
  }

  /**
   * Resets both streams. To gRPC the code means PERMISSION_DENIED; CANCEL would be an end to some, as if what has come
   * were whole.
   */
  cut(): void {
    this.#near.close(NGHTTP2_INADEQUATE_SECURITY);
    this.#far.close(NGHTTP2_INADEQUATE_SECURITY);
  }

  /** The whole answer has come, though perhaps not gone on yet. */
  get isAnswered(): boolean {
    const far = this.#far;
    if (far.readableEnded || far.closed) return far.rstCode === NGHTTP2_NO_ERROR;
    return far.state.remoteClose === 1;
  }

  #interim(headers: Answer): void {
    const near = this.#near;
    if (near.destroyed || near.closed || near.headersSent) return;
    this.#try(() => near.additionalHeaders(headers));
  }

  #respond(headers: Answer, flags: number): void {
    const near = this.#near;
    if (near.destroyed || near.closed) return;
    const endStream = (flags & NGHTTP2_FLAG_END_STREAM) !== 0;
    const options: ResponseOptions = { endStream, waitForTrailers: !endStream, sendDate: false };
    this.#try(() => near.respond(headers, options));
    if (!endStream && near.headersSent) this.#far.pipe(near);
  }

  /** node refuses to send what no answer may have, by throwing. */
  #try(send: () => void): void {
    try {
      send();
    } catch {
      this.#near.close(NGHTTP2_INTERNAL_ERROR);
      this.#far.close(NGHTTP2_INTERNAL_ERROR);
    }
  }
}

/**
 * Trailers of `from` follow its last byte to `to`. They carry END_STREAM, also when there are none: so a stream that
 * broke off is never ended as if it were whole, although node ends each stream that it closes.
 */
function carryTrailers(from: Http2Stream, to: Http2Stream): void {
  let trailers: IncomingHttpHeaders = {};
  let isWhole = false;
  from.on('trailers', (received) => {
    trailers = received;
  });
  from.on('end', () => {
    isWhole = from.rstCode === NGHTTP2_NO_ERROR;
  });
  to.on('wantTrailers', () => {
    if (isWhole && !to.destroyed) to.sendTrailers(trailers);
  });
}

/** A reset goes on with its code. A stream that closed in order while the other has not ended wants no more of it. */
function carryReset(from: Http2Stream, to: Http2Stream): void {
  from.on('close', () => {
    if (to.destroyed || to.closed) return;
    if (from.rstCode !== NGHTTP2_NO_ERROR) to.close(from.rstCode);
    else if (!from.readableEnded) to.close(NGHTTP2_CANCEL);
  });
}
