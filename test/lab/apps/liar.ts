/**
 * A peer that lies: HBONE with any certificate, any CONNECT, any session; and an impostor's server on port 15008.
 * Takes one command a line (test/lab/liar.ts writes them), answers with one line. It checks nothing itself.
 */
import { connect as connectHttp2, createServer as createHttp2 } from 'node:http2';
import type { ServerHttp2Stream } from 'node:http2';
import { createInterface } from 'node:readline';
import { connect as connectTls, createServer as createTls } from 'node:tls';
import type { TLSSocket } from 'node:tls';
import { z } from 'zod';

const Certificate = { key: z.string().optional(), cert: z.string().optional() };
const Command = z.discriminatedUnion('do', [
  z.object({
    do: z.literal('tunnel'),
    id: z.number(),
    host: z.string(),
    ...Certificate,
    authority: z.string(),
    headers: z.record(z.string(), z.string()),
    /** Hex. */
    payload: z.string(),
    /** Present the session of the last tunnel that got one. */
    resume: z.boolean(),
    /** After the handshake it says nothing. */
    silent: z.boolean(),
  }),
  z.object({ do: z.literal('serve'), id: z.number(), ...Certificate }),
  z.object({ do: z.literal('served'), id: z.number() }),
]);
type Tunnel = Extract<z.infer<typeof Command>, { do: 'tunnel' }>;
type Serve = Extract<z.infer<typeof Command>, { do: 'serve' }>;

const HBONE_PORT = 15_008;
/** A peer that neither answers nor hangs up is reported as such. */
const PATIENCE_MS = 15_000;

let session: Buffer | undefined;
const served = { connections: 0, handshakes: 0, connects: 0, bytes: 0 };

/** One tunnel with one CONNECT, to its end. */
function tunnel(command: Tunnel): void {
  const outcome = { id: command.id, secured: false, reused: false, sessions: 0, status: 0, error: '' };
  const socket = connectTls({
    host: command.host,
    port: HBONE_PORT,
    key: command.key,
    cert: command.cert,
    rejectUnauthorized: false,
    servername: '',
    ALPNProtocols: ['h2'],
    minVersion: 'TLSv1.3',
    session: command.resume ? session : undefined,
  });
  const patience = setTimeout(() => {
    outcome.error ||= 'STILL_OPEN';
    socket.destroy();
  }, PATIENCE_MS);
  const failed = (error: NodeJS.ErrnoException): void => {
    outcome.error ||= error.code ?? error.message;
    // An alert after the handshake is an error without a close.
    socket.destroy();
  };
  socket.on('error', failed);
  socket.on('session', (ticket) => {
    session = ticket;
    outcome.sessions += 1;
  });
  socket.on('secureConnect', () => {
    outcome.secured = true;
    outcome.reused = socket.isSessionReused();
    if (command.silent) socket.resume();
    else ask(socket, command, outcome, failed);
  });
  socket.on('close', () => {
    clearTimeout(patience);
    tell(outcome);
  });
}

function ask(
  socket: TLSSocket,
  command: Tunnel,
  outcome: { status: number },
  failed: (error: NodeJS.ErrnoException) => void,
): void {
  const client = connectHttp2('https://liar', { createConnection: () => socket });
  client.on('error', failed);
  const stream = client.request(
    { ':method': 'CONNECT', ':authority': command.authority, ...command.headers },
    { endStream: false },
  );
  stream.on('error', failed);
  stream.on('response', (headers) => {
    outcome.status = headers[':status'] ?? 0;
    // To a refusal too: a liar sends all the same.
    stream.end(Buffer.from(command.payload, 'hex'));
  });
  stream.resume();
  stream.on('close', () => client.close());
}

/** Answers 200 to every CONNECT and counts what it is given. */
function serve(command: Serve): void {
  const h2 = createHttp2();
  h2.on('sessionError', () => undefined);
  h2.on('stream', (stream: ServerHttp2Stream) => {
    served.connects += 1;
    stream.on('error', () => undefined);
    stream.respond({ ':status': 200 });
    stream.on('data', (chunk: Buffer) => (served.bytes += chunk.length));
    stream.on('end', () => stream.end());
  });
  const tls = createTls({
    key: command.key,
    cert: command.cert,
    requestCert: true,
    rejectUnauthorized: false,
    minVersion: 'TLSv1.3',
    ALPNProtocols: ['h2'],
  });
  tls.on('connection', () => (served.connections += 1));
  tls.on('tlsClientError', () => undefined);
  tls.on('secureConnection', (socket) => {
    served.handshakes += 1;
    socket.on('error', () => undefined);
    h2.emit('connection', socket);
  });
  tls.listen(HBONE_PORT, '::', () => tell({ id: command.id }));
}

function tell(answer: object): void {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const command = Command.parse(JSON.parse(line));
  if (command.do === 'tunnel') tunnel(command);
  else if (command.do === 'serve') serve(command);
  else tell({ id: command.id, ...served });
});
tell({ id: 0 });
