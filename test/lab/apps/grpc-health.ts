/** A gRPC server that answers health checks with SERVING: `grpc-health.ts PORT`. */
import { createServer } from 'node:http2';
import type { ServerHttp2Stream } from 'node:http2';

/** Length-prefixed HealthCheckResponse { status: SERVING }. */
const SERVING = Buffer.from([0, 0, 0, 0, 2, 8, 1]);

function answer(stream: ServerHttp2Stream): void {
  stream.on('error', () => undefined);
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
  stream.end(SERVING);
}

const server = createServer();
server.on('session', (session) => session.on('error', () => undefined));
server.on('stream', answer);
server.listen(Number(process.argv[2]), '::', () => console.log('listening'));
