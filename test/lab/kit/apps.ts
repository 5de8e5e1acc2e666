/** The lab's applications (test/lab/apps) as typed handles. */
import { z } from 'zod';
import type { LabProcess } from './process.ts';

/**
 * What a server does with a connection. `sink`: counts. `echo`: gives back. `hello`: speaks first, then echoes.
 * `http`: answers `name=… peer=… local=…` and the request's body. `source`: sends `bytes` and ends. `reply`: waits for
 * the client's end, then sends `bytes`. `stall`: never reads, until `resume`.
 */
export type ServerKind = 'sink' | 'echo' | 'hello' | 'http' | 'source' | 'reply' | 'stall';

export interface ServeOptions {
  /** Default `::`, which takes IPv4 too. */
  readonly address?: string;
  /** Shown in answers; default the pod's name. */
  readonly name?: string;
  /** Of pattern: `source` and `reply`. */
  readonly bytes?: number;
  /** `reply`: from the client's end to the answer. */
  readonly delayMs?: number;
  /** No line for each connection: for very many. */
  readonly quiet?: boolean;
}

export interface SendOptions {
  /** Sent first, in one write. */
  readonly first?: Uint8Array;
  /** Then so many bytes of pattern. */
  readonly bytes?: number;
  /** Ends its own direction after sending; else it waits for the other side's end. Default true. */
  readonly halfClose?: boolean;
  /** Reads nothing until `resume` (startSend only). */
  readonly stall?: boolean;
  /** How many of the first bytes received are kept; default 65,536. */
  readonly head?: number;
  /** Source address. */
  readonly bind?: string;
  /** For the whole connection; default 30 s. */
  readonly timeoutMs?: number;
}

export interface LoopOptions {
  readonly everyMs: number;
  /** Default an HTTP request. */
  readonly first?: Uint8Array;
  /** Per request; default 30 s. */
  readonly timeoutMs?: number;
}

const Closed = z.object({
  event: z.literal('closed'),
  /** The client as the server's app sees it, `ip:port`. */
  peer: z.string(),
  local: z.string(),
  received: z.number(),
  sent: z.number(),
  receivedDigest: z.string(),
  sentDigest: z.string(),
  /** '' for a clean end, else an errno name. */
  error: z.string(),
});
export type ClosedConnection = z.infer<typeof Closed>;

const ServerStats = z.object({
  event: z.literal('stats'),
  accepted: z.number(),
  open: z.number(),
  /** Payload bytes of all connections. */
  received: z.number(),
  sent: z.number(),
});
export type ServerStats = z.infer<typeof ServerStats>;

export const Result = z.object({
  event: z.literal('result'),
  connected: z.boolean(),
  /** errno name that ended it, '' for a clean end; ETIMEDOUT also for `timeoutMs`. */
  error: z.string(),
  end: z.enum(['eof', 'error', 'refused', 'timeout']),
  local: z.string(),
  /** getpeername() of the client. */
  peer: z.string(),
  sent: z.number(),
  received: z.number(),
  sentDigest: z.string(),
  receivedDigest: z.string(),
  connectUs: z.number(),
  totalUs: z.number(),
  /** The first bytes received. */
  head: z.string().transform((hex) => Buffer.from(hex, 'hex')),
});
export type SendResult = z.infer<typeof Result>;

const Counts = z.object({
  event: z.enum(['stats', 'opened', 'stopped']),
  started: z.number(),
  ok: z.number(),
  failed: z.number(),
  /** Held connections that ended. */
  lost: z.number(),
  inFlight: z.number(),
  slowestMs: z.number(),
  /** By errno name; NO_ANSWER: a clean end without a byte. */
  errors: z.record(z.string(), z.number()),
});
export type Counts = z.infer<typeof Counts>;

const Pinged = z.object({ event: z.literal('pinged'), ok: z.number(), open: z.number() });

const Progress = z.object({ event: z.literal('stats'), sent: z.number(), received: z.number() });

/** The value that `schema` sees in a line, or undefined. */
function read<T>(schema: z.ZodType<T>, line: string): T | undefined {
  if (!line.startsWith('{')) return undefined;
  const parsed = schema.safeParse(JSON.parse(line));
  return parsed.success ? parsed.data : undefined;
}

class App implements AsyncDisposable {
  readonly process: LabProcess;
  constructor(process: LabProcess) {
    this.process = process;
  }

  /** Writes a command, and gives the first answer after it that `schema` takes. */
  protected async ask<T>(command: string, schema: z.ZodType<T>, timeoutMs = 15_000): Promise<T> {
    const from = this.process.lines.length;
    this.process.stdin.write(`${command}\n`);
    return this.process.waitForLine(`answer to ${command}`, (line) => read(schema, line), {
      from,
      timeoutMs,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.process.stop('SIGKILL');
  }
}

export class Server extends App {
  readonly port: number;

  /** A handle on `process` once it listens. */
  static async listening(process: LabProcess, port: number): Promise<Server> {
    await process.waitForLine('to listen', (line) => line.includes('"listening"') || undefined);
    return new Server(process, port);
  }

  private constructor(process: LabProcess, port: number) {
    super(process);
    this.port = port;
  }

  stats(): Promise<ServerStats> {
    return this.ask('stats', ServerStats);
  }

  /** Connections that have ended so far, in order. */
  closed(): ClosedConnection[] {
    return this.process.lines.flatMap((line) => read(Closed, line) ?? []);
  }

  /** The next connection to end (or the first, with `from` 0). */
  waitForClosed(from = 0): Promise<ClosedConnection> {
    return this.process.waitForLine('a connection to end', (line) => read(Closed, line), { from });
  }

  /** `stall`: reads from now on. */
  resume(): void {
    this.process.stdin.write('resume\n');
  }
}

/** One connection under way. */
export class Sending extends App {
  /** How it went, once it has ended. */
  result(timeoutMs = 60_000): Promise<SendResult> {
    return this.process.waitForLine('the end of the connection', (line) => read(Result, line), { timeoutMs });
  }

  progress(): Promise<{ sent: number; received: number }> {
    return this.ask('stats', Progress);
  }

  resume(): void {
    this.process.stdin.write('resume\n');
  }
}

/** Connections held open. */
export class Idle extends App {
  /** Counts once all have been tried and answered (each sends a byte: the server must answer). */
  opened(timeoutMs = 120_000): Promise<Counts> {
    return this.process.waitForLine('all to open', (line) => read(Counts, line), { timeoutMs });
  }

  stats(): Promise<Counts> {
    return this.ask('stats', Counts);
  }

  /** Sends a byte on each and waits for its echo. */
  ping(): Promise<{ ok: number; open: number }> {
    return this.ask('ping', Pinged, 60_000);
  }
}

/** A new connection per request, until stopped. */
export class Loop extends App {
  stats(): Promise<Counts> {
    return this.ask('stats', Counts);
  }

  /** Lets requests in flight end, and gives the final counts. */
  stop(timeoutMs = 60_000): Promise<Counts> {
    return this.ask('stop', Counts.extend({ event: z.literal('stopped') }), timeoutMs);
  }
}

/** Words for `labapp serve`. */
export function serveArguments(kind: ServerKind, port: number, options: ServeOptions): string[] {
  const words = ['serve', kind, options.address ?? '::', String(port)];
  if (options.name !== undefined) words.push('--name', options.name);
  if (options.bytes !== undefined) words.push('--bytes', String(options.bytes));
  if (options.delayMs !== undefined) words.push('--delay-ms', String(options.delayMs));
  if (options.quiet === true) words.push('--quiet');
  return words;
}

/** Words for `labapp send`. */
export function sendArguments(host: string, port: number, options: SendOptions): string[] {
  const words = ['send', host, String(port), '--head', String(options.head ?? 65_536)];
  if (options.first !== undefined && options.first.length > 0)
    words.push('--hex', Buffer.from(options.first).toString('hex'));
  if (options.bytes !== undefined) words.push('--bytes', String(options.bytes));
  if (options.halfClose !== false) words.push('--half-close');
  if (options.stall === true) words.push('--stall');
  if (options.bind !== undefined) words.push('--bind', options.bind);
  if (options.timeoutMs !== undefined) words.push('--timeout-ms', String(options.timeoutMs));
  return words;
}

/** An HTTP/1.1 request that ends its connection; `body` is sent as it is. */
export function httpRequest(path: string, body: Uint8Array = new Uint8Array(0)): Buffer {
  const head = `POST ${path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n`;
  return Buffer.concat([Buffer.from(head), body]);
}

export interface HttpReply {
  /** 0 when there was no answer; see `result`. */
  readonly status: number;
  readonly body: string;
  /** Who the server says asked it, `ip:port`. */
  readonly peer: string;
  /** The name of the server that answered. */
  readonly name: string;
  readonly result: SendResult;
}

/** The answer of an `http` server in what a connection received. */
export function httpReply(result: SendResult): HttpReply {
  const text = result.head.toString('latin1');
  const at = text.indexOf('\r\n\r\n');
  const body = at < 0 ? '' : text.slice(at + 4);
  const line = /^name=(\S*) peer=(\S*)/.exec(body);
  return {
    status: Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1] ?? 0),
    body,
    name: line?.[1] ?? '',
    peer: line?.[2] ?? '',
    result,
  };
}
