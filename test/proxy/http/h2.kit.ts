/** An app and a client of HTTP/2. */
import { once } from 'node:events';
import { connect, constants, createServer } from 'node:http2';
import type {
  ClientHttp2Session,
  ClientHttp2Stream,
  Http2Server,
  IncomingHttpHeaders,
  OutgoingHttpHeaders,
  ServerHttp2Session,
  ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';
import { listening } from './kit.ts';
import type { Front } from './kit.ts';

const { NGHTTP2_NO_ERROR } = constants;

export interface App extends AsyncDisposable {
  readonly port: number;
  readonly server: Http2Server;
  /** `method path authority` of each request. */
  readonly asked: string[];
  readonly session: Promise<ServerHttp2Session>;
  readonly sockets: Set<Socket>;
}

export type Handler = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;

/** An app of HTTP/2. By default it says how many bytes came, and repeats the trailer. */
export async function h2App(handle: Handler = count): Promise<App> {
  const server = createServer({ settings: { enableConnectProtocol: true } });
  const asked: string[] = [];
  const { promise, resolve } = Promise.withResolvers<ServerHttp2Session>();
  const sessions = new Set<ServerHttp2Session>();
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => sockets.add(socket));
  server.on('session', (session) => {
    session.on('error', () => undefined);
    sessions.add(session);
    resolve(session);
  });
  server.on('stream', (stream: ServerHttp2Stream, headers) => {
    stream.on('error', () => undefined);
    asked.push([':method', ':path', ':authority'].map((name) => String(headers[name])).join(' '));
    handle(stream, headers);
  });
  return {
    port: await listening(server),
    server,
    asked,
    session: promise,
    sockets,
    [Symbol.asyncDispose]: async () => {
      for (const session of sessions) session.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

export function count(stream: ServerHttp2Stream): void {
  let bytes = 0;
  let sum: unknown = '-';
  stream.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
  });
  stream.on('trailers', (trailers: IncomingHttpHeaders) => {
    sum = trailers['x-sum'];
  });
  stream.on('end', () => {
    stream.respond({ ':status': 200 }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', 'x-sum': String(sum) }));
    stream.end(String(bytes));
  });
}

export interface Client extends Disposable {
  readonly session: ClientHttp2Session;
}

export function client(front: Front): Client {
  const session = connect('http://app:80', { port: front.port, host: '127.0.0.1' } as never);
  session.on('error', () => undefined);
  return { session, [Symbol.dispose]: () => session.destroy() };
}

export interface Answer {
  readonly headers: IncomingHttpHeaders;
  readonly trailers: IncomingHttpHeaders;
  readonly interim: number[];
  readonly text: string;
  /** END_STREAM came. */
  readonly isWhole: boolean;
  readonly code: number;
}

export async function answerTo(stream: ClientHttp2Stream): Promise<Answer> {
  let headers: IncomingHttpHeaders = {};
  let trailers: IncomingHttpHeaders = {};
  const interim: number[] = [];
  let text = '';
  let isWhole = false;
  stream.on('headers', (received) => interim.push(received[':status'] ?? 0));
  stream.on('response', (received) => {
    headers = received;
  });
  stream.on('trailers', (received) => {
    trailers = received;
  });
  stream.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1');
  });
  stream.on('end', () => {
    isWhole = true;
  });
  stream.on('error', () => undefined);
  await new Promise<void>((resolve) => stream.once('close', () => resolve()));
  // node's 'end' comes behind a broken connection too.
  isWhole &&= !stream.aborted && stream.rstCode === NGHTTP2_NO_ERROR;
  return { headers, trailers, interim, text, isWhole, code: stream.rstCode };
}

export function tell(
  session: ClientHttp2Session,
  headers: OutgoingHttpHeaders,
  body?: Buffer,
): Promise<Answer> {
  const stream = session.request(headers, {
    endStream: body === undefined,
    waitForTrailers: body !== undefined,
  });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': 'three' }));
  if (body !== undefined) stream.end(body);
  return answerTo(stream);
}
