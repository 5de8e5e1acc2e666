/**
 * HTTP apps for pods. `http.ts serve PORT PORT2`: HTTP/1.1 and WebSocket-like upgrades on PORT, HTTP/2 and gRPC on
 * PORT2, a line for each request that came. `http.ts call HOST PORT REQUESTS`: asks over one connection of HTTP/2, one
 * request after the other (JSON, as headers), a line for each answer.
 */
import { createServer } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { connect, createServer as createHttp2Server } from 'node:http2';
import type { IncomingHttpHeaders, OutgoingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import { createInterface } from 'node:readline';
import type { Duplex } from 'node:stream';

function tell(event: Readonly<Record<string, unknown>>): void {
  console.log(JSON.stringify(event));
}

function serve(port: number, port2: number): void {
  const server = createServer((request, response) => {
    tell({ asked: `${request.method ?? ''} ${request.url ?? ''}` });
    request.resume();
    request.on('end', () => response.end('answer'));
  });
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on('error', () => undefined);
    tell({ asked: `UPGRADE ${request.url ?? ''}` });
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    socket.write(head);
    socket.pipe(socket);
  });
  const second = createHttp2Server();
  second.on('session', (session) => session.on('error', () => undefined));
  second.on('stream', (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => answer(stream, headers));
  server.listen(port, '::', () => second.listen(port2, '::', () => tell({ listening: true })));
}

function answer(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
  tell({ asked: `${headers[':method'] ?? ''} ${headers[':path'] ?? ''}` });
  stream.on('error', () => undefined);
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  stream.respond(
    { ':status': 200, 'content-type': headers['content-type'] ?? 'text/plain' },
    { waitForTrailers: true },
  );
  stream.pipe(stream);
}

async function call(host: string, port: number): Promise<void> {
  const session = connect(`http://${host}:${port}`);
  session.on('error', (error) => tell({ error: error.message }));
  for await (const line of createInterface(process.stdin)) {
    const { body, headers } = JSON.parse(line) as { body: string; headers: OutgoingHttpHeaders };
    await new Promise<void>((resolve) => {
      const stream = session.request(headers, { endStream: false });
      let text = '';
      let status: unknown;
      let grpc: unknown;
      stream.on('error', () => undefined);
      stream.on('response', (received) => {
        status = received[':status'];
        grpc = received['grpc-status'];
      });
      stream.on('trailers', (received) => {
        grpc = received['grpc-status'];
      });
      stream.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      stream.on('close', () => {
        tell({ status: status ?? null, grpc: grpc ?? null, text, code: stream.rstCode });
        resolve();
      });
      stream.end(body);
    });
  }
  session.close();
}

const [mode = '', ...words] = process.argv.slice(2);
if (mode === 'serve') serve(Number(words[0]), Number(words[1]));
else await call(words[0] ?? '', Number(words[1]));
