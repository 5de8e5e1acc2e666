/**
 * Very many random bytes over one connection, with SHA-256 of both directions at both ends. As a program:
 * `bulk.ts serve PORT BYTES [late]` or `bulk.ts send HOST PORT BYTES [late]`; each prints one line of JSON for a
 * connection. `late`: sends nothing before the other side has ended its direction.
 */
import { createHash, randomBytes } from 'node:crypto';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { z } from 'zod';
import type { LabPod } from '../lab/kit/pod.ts';
import type { LabProcess } from '../lab/kit/process.ts';

const Carried = z.object({
  /** Its own `ip:port`. */
  local: z.string(),
  sent: z.number(),
  received: z.number(),
  sentSha256: z.string(),
  receivedSha256: z.string(),
  /** '' for a clean end. */
  error: z.string(),
});
export type Carried = z.infer<typeof Carried>;

const BLOCK = 1 << 20;
const IDLE_MS = 30_000;

export interface BulkOptions {
  readonly bytes: number;
  readonly late?: boolean;
}

/** Starts the server in `pod`. */
export async function serveBulk(pod: LabPod, port: number, options: BulkOptions): Promise<LabProcess> {
  const server = await pod.spawn(words('serve', [String(port)], options));
  await server.waitForLine('to listen', (line) => line === 'listening' || undefined);
  return server;
}

/** One connection of `client` to a bulk server: what each end says of it. @throws Error when the client's broke. */
export async function carryBulk(
  client: LabPod,
  to: { readonly host: string; readonly port: number; readonly server: LabProcess },
  options: BulkOptions,
): Promise<{ readonly client: Carried; readonly server: Carried }> {
  const from = to.server.lines.length;
  const sending = await client.spawn(words('send', [to.host, String(to.port)], options));
  const waits = { timeoutMs: 120_000 };
  const atClient = await sending.waitForLine('the client’s end', carriedIn, waits);
  if (atClient.error !== '') throw new Error(`the client: ${atClient.error}`);
  return {
    client: atClient,
    server: await to.server.waitForLine('the server’s end', carriedIn, { timeoutMs: 15_000, from }),
  };
}

function words(role: string, where: readonly string[], { bytes, late }: BulkOptions): string[] {
  return [
    process.execPath,
    import.meta.filename,
    role,
    ...where,
    String(bytes),
    ...(late === true ? ['late'] : []),
  ];
}

function carriedIn(line: string): Carried | undefined {
  return line.startsWith('{') ? Carried.parse(JSON.parse(line)) : undefined;
}

async function carry(socket: Socket, bytes: number, late: boolean): Promise<Carried> {
  let error = '';
  let local = '';
  socket.on('error', (cause) => (error = cause.message));
  socket.setTimeout(IDLE_MS, () => socket.destroy(new Error('idle')));
  const sentHash = createHash('sha256');
  const receivedHash = createHash('sha256');
  let received = 0;
  const named = (): string => (local = `${socket.localAddress ?? ''}:${socket.localPort ?? ''}`);
  if (socket.connecting) socket.once('connect', named);
  else named();
  socket.on('data', (chunk: Buffer) => {
    received += chunk.length;
    receivedHash.update(chunk);
  });
  if (late) await either(socket, 'end');
  let sent = 0;
  const block = randomBytes(BLOCK);
  while (sent < bytes && !socket.destroyed) {
    // Never twice the same block, and cheap.
    block.writeUInt32LE(sent >>> 0, sent % (BLOCK - 4));
    const part = Buffer.from(block.subarray(0, Math.min(BLOCK, bytes - sent)));
    sentHash.update(part);
    sent += part.length;
    if (!socket.write(part)) await either(socket, 'drain');
  }
  socket.end();
  if (!socket.closed) await either(socket, 'close');
  return {
    local,
    sent,
    received,
    sentSha256: sentHash.digest('hex'),
    receivedSha256: receivedHash.digest('hex'),
    error,
  };
}

/** Until `event`, or until the socket is gone. Errors are the listener's business. */
function either(socket: Socket, event: 'end' | 'drain' | 'close'): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.once(event, () => resolve());
  socket.once('close', () => resolve());
  return promise;
}

function main([role = '', ...rest]: readonly string[]): void {
  const late = rest.at(-1) === 'late';
  const numbers = late ? rest.slice(0, -1) : rest;
  const bytes = Number(numbers.at(-1));
  const say = (socket: Socket): void => {
    void carry(socket, bytes, late).then((carried) => console.log(JSON.stringify(carried)));
  };
  if (role === 'serve') {
    const server = createServer({ allowHalfOpen: true }, say);
    server.listen(Number(numbers[0]), '::', () => console.log('listening'));
  } else say(connect({ host: numbers[0], port: Number(numbers[1]), allowHalfOpen: true }));
}

if (import.meta.main) main(process.argv.slice(2));
