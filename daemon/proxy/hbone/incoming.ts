/** One CONNECT that waits for our answer. */
import type { ServerHttp2Stream, ServerStreamResponseOptions } from 'node:http2';
import type { Duplex } from 'node:stream';
import type { SpiffeId } from '../../mesh/ids.ts';
import type { Address, ParsedConnect } from './connect.ts';
import { Departure } from '../gone.ts';
import type { Gone, IncomingConnect } from '../seams.ts';

const ACCEPTED = { ':status': 200 } as const;
/** An option of node's that its types forget. */
type ResponseOptions = ServerStreamResponseOptions & { readonly sendDate: false };
const OPEN: ResponseOptions = { sendDate: false };
const ENDED: ResponseOptions = { sendDate: false, endStream: true };

export class IncomingStream implements IncomingConnect {
  readonly peer: SpiffeId;
  readonly target: Address;
  readonly forwardedFor: Address | undefined;
  readonly headers: Readonly<Record<string, string>>;
  readonly #stream: ServerHttp2Stream;
  #gone: Departure | undefined;

  constructor(peer: SpiffeId, stream: ServerHttp2Stream, connect: ParsedConnect) {
    this.peer = peer;
    this.target = connect.target;
    this.forwardedFor = connect.forwardedFor;
    this.headers = connect.headers;
    this.#stream = stream;
  }

  /** Made on first use: most connections are answered before anybody asks. */
  get signal(): Gone {
    if (this.#gone === undefined) {
      const gone = new Departure();
      this.#gone = gone;
      if (this.#stream.destroyed) gone.abort();
      else this.#stream.on('close', () => gone.abort());
    }
    return this.#gone;
  }

  accept(headers?: Readonly<Record<string, string>>): Duplex {
    if (!this.#stream.destroyed && !this.#stream.closed)
      this.#stream.respond(headers === undefined ? ACCEPTED : { ...headers, ...ACCEPTED }, OPEN);
    return this.#stream;
  }

  refuse(status: number): void {
    answer(this.#stream, status);
  }
}

/** Answers with a status and no body, and tells the peer to send no more. */
export function answer(stream: ServerHttp2Stream, status: number): void {
  if (stream.destroyed || stream.closed || stream.headersSent) return;
  stream.respond({ ':status': status }, ENDED);
  // Closing at once can lose the status; node closes an unread stream by itself once the answer is out.
}
