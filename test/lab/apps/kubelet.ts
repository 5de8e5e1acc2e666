/**
 * A kubelet as far as the mesh sees one: it listens on its port in the node's namespace and probes pods from its
 * cgroup. One JSON line on stdin asks for a probe, one on stdout answers.
 */
import { createServer, request } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { z } from 'zod';

const Ask = z.object({
  id: z.number(),
  kind: z.enum(['http', 'tcp', 'grpc']),
  host: z.string(),
  port: z.number(),
  timeoutMs: z.number(),
});
type Ask = z.infer<typeof Ask>;

const EMPTY_GRPC_MESSAGE = Buffer.alloc(5);
/** Length-prefixed HealthCheckResponse { status: SERVING }. */
const SERVING = Buffer.from([0, 0, 0, 0, 2, 8, 1]);

/** Resolves when the probe succeeds. @throws Error that says why not. */
function probe(ask: Ask): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => reject(new Error('timeout')), ask.timeoutMs);
  const ended = promise.finally(() => clearTimeout(timer));
  const done = (): void => resolve(undefined);
  if (ask.kind === 'tcp') probeTcp(ask, done, reject);
  else if (ask.kind === 'http') probeHttp(ask, done, reject);
  else probeGrpc(ask, done, reject);
  return ended;
}

function probeTcp(ask: Ask, done: () => void, fail: (error: Error) => void): void {
  const socket = connect({ host: ask.host, port: ask.port });
  socket.on('error', fail);
  socket.on('connect', () => {
    done();
    socket.destroy();
  });
}

function probeHttp(ask: Ask, done: () => void, fail: (error: Error) => void): void {
  const { host, port } = ask;
  const headers = { 'user-agent': 'kube-probe/1.34', connection: 'close' };
  const asked = request({ host, port, path: '/healthz', headers, agent: false });
  asked.on('error', fail);
  asked.on('response', (response) => {
    response.resume();
    if (response.statusCode === 200) done();
    else fail(new Error(`status ${response.statusCode ?? 0}`));
  });
  asked.end();
}

function probeGrpc(ask: Ask, done: () => void, fail: (error: Error) => void): void {
  const host = ask.host.includes(':') ? `[${ask.host}]` : ask.host;
  const session = connectHttp2(`http://${host}:${ask.port}`);
  session.on('error', fail);
  const stream = session.request({
    ':method': 'POST',
    ':path': '/grpc.health.v1.Health/Check',
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  const chunks: Buffer[] = [];
  stream.on('error', fail);
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  stream.on('close', () => {
    if (Buffer.concat(chunks).equals(SERVING)) done();
    else fail(new Error('not SERVING'));
    session.destroy();
  });
  stream.end(EMPTY_GRPC_MESSAGE);
}

async function answer(line: string): Promise<void> {
  const ask = Ask.parse(JSON.parse(line));
  const failure = await probe(ask).then(
    () => '',
    (error: unknown) => (error instanceof Error ? error.message : 'failed'),
  );
  console.log(JSON.stringify({ id: ask.id, ok: failure === '', detail: failure }));
}

const server = createServer((_request, response) => response.end('ok\n'));
server.listen(Number(process.argv[2]), '::', () => console.log('listening'));
createInterface({ input: process.stdin }).on('line', (line) => void answer(line));
