/** A TCP connection made inside a network namespace, for HTTP to a daemon's loopback and to its inspector. */
import { request } from 'node:http';
import type { IncomingHttpHeaders } from 'node:http';
import { Duplex } from 'node:stream';
import { LabProcess } from './process.ts';
import type { Place } from './process.ts';
import { tools } from './tools.ts';

/** Bytes to and from `host:port` as seen from `place`. Ends when either side does. */
export async function connectIn(place: Place, host: string, port: number): Promise<Duplex> {
  const { labapp } = await tools();
  const pipe = await LabProcess.start([labapp, 'pipe', host, String(port)], place, { raw: true });
  const stream = joined(pipe);
  stream.on('error', () => undefined);
  stream.on('close', () => pipe.signal('SIGKILL'));
  // What an http agent asks of a socket.
  const quiet = { setNoDelay: () => stream, setKeepAlive: () => stream, setTimeout: () => stream };
  return Object.assign(stream, quiet, { ref: () => stream, unref: () => stream });
}

function joined(pipe: LabProcess): Duplex {
  const stream = new Duplex({
    read: () => void pipe.stdout.resume(),
    write: (chunk: Buffer, _encoding, done) => void pipe.stdin.write(chunk, done),
    final: (done) => void pipe.stdin.end(done),
  });
  pipe.stdout.on('data', (chunk: Buffer) => {
    if (!stream.push(chunk)) pipe.stdout.pause();
  });
  pipe.stdout.on('end', () => stream.push(null));
  return stream;
}

export interface HttpAnswer {
  readonly status: number;
  readonly body: string;
  readonly headers: IncomingHttpHeaders;
}

/** An HTTP request from `place`. @throws Error when nothing answers. */
export async function httpIn(
  place: Place,
  target: { readonly host: string; readonly port: number; readonly path: string; readonly method?: string },
): Promise<HttpAnswer> {
  const stream = await connectIn(place, target.host, target.port);
  const { promise, resolve, reject } = Promise.withResolvers<HttpAnswer>();
  const { path, method = 'GET' } = target;
  const headers = { host: `${target.host}:${target.port}`, connection: 'close' };
  const asked = request({ createConnection: () => stream, path, method, headers, timeout: 15_000 });
  asked.on('error', reject);
  asked.on('timeout', () => asked.destroy(new Error(`no answer to ${method} ${path}`)));
  asked.on('response', (response) => {
    const chunks: Buffer[] = [];
    response.on('error', reject);
    response.on('data', (chunk: Buffer) => chunks.push(chunk));
    response.on('end', () =>
      resolve({
        status: response.statusCode ?? 0,
        body: Buffer.concat(chunks).toString(),
        headers: response.headers,
      }),
    );
  });
  asked.end();
  try {
    return await promise;
  } finally {
    stream.destroy();
  }
}
