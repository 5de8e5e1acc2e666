/** A client of Node's own inspector: evaluates expressions in a running daemon's main thread and workers. */
import { randomBytes } from 'node:crypto';
import { request } from 'node:http';
import type { Duplex } from 'node:stream';
import { z } from 'zod';
import { until } from '../../support/wait.ts';
import { connectIn, httpIn } from './connect.ts';
import type { Place } from './process.ts';

const Targets = z.array(z.object({ webSocketDebuggerUrl: z.string() }));

const Message = z.object({
  id: z.number().optional(),
  method: z.string().optional(),
  params: z.record(z.string(), z.unknown()).optional(),
  result: z.unknown().optional(),
  error: z.object({ message: z.string() }).optional(),
});

const Evaluated = z.object({
  result: z.object({ value: z.unknown().optional(), description: z.string().optional() }),
  exceptionDetails: z
    .object({ text: z.string(), exception: z.object({ description: z.string().optional() }).optional() })
    .optional(),
});

const Attached = z.object({
  sessionId: z.string(),
  workerInfo: z.object({ workerId: z.string(), title: z.string(), url: z.string() }),
});

export interface WorkerThread {
  readonly sessionId: string;
  readonly title: string;
  readonly url: string;
}

type Waiting = PromiseWithResolvers<unknown>;

export class Inspector implements AsyncDisposable {
  readonly #socket: Duplex;
  readonly #waiting = new Map<string, Waiting>();
  readonly #workers: WorkerThread[] = [];
  #received = Buffer.alloc(0);
  #text = '';
  #nextId = 1;

  /** Connects to `--inspect=127.0.0.1:port` of a process whose loopback is that of `place`. */
  static async connect(place: Place, port: number): Promise<Inspector> {
    const answer = await httpIn(place, { host: '127.0.0.1', port, path: '/json/list' });
    const url = new URL(Targets.parse(JSON.parse(answer.body))[0]?.webSocketDebuggerUrl ?? '');
    const socket = await upgrade(place, port, url.pathname);
    const inspector = new Inspector(socket);
    await inspector.#send('', 'Runtime.enable', {});
    await inspector.#send('', 'NodeWorker.enable', { waitForDebuggerOnStart: false });
    return inspector;
  }

  private constructor(socket: Duplex) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('close', () => {
      for (const waiting of this.#waiting.values()) waiting.reject(new Error('the inspector is gone'));
      this.#waiting.clear();
    });
  }

  /** Threads seen so far, in the order in which they started. */
  get workers(): readonly WorkerThread[] {
    return this.#workers;
  }

  /** The thread whose title or URL holds `text`; the `index`th of them. */
  worker(text: string, index = 0): Promise<WorkerThread> {
    const matches = (thread: WorkerThread): boolean =>
      thread.title.includes(text) || thread.url.includes(text);
    const seen = (): string => this.#workers.map(({ title, url }) => `${title} ${url}`).join('\n');
    return until(`thread ${text} ${index}`, () => this.#workers.filter(matches)[index], { detail: seen });
  }

  /**
   * Evaluates in the main thread, or in `thread`; `require` is there. Promises are awaited; the value must be JSON.
   * @throws Error when the expression throws, or when the thread ends over it.
   */
  async evaluate(expression: string, thread?: WorkerThread): Promise<unknown> {
    const parameters = { expression, awaitPromise: true, returnByValue: true, includeCommandLineAPI: true };
    const answer = Evaluated.parse(await this.#send(thread?.sessionId ?? '', 'Runtime.evaluate', parameters));
    const failed = answer.exceptionDetails;
    if (failed !== undefined) throw new Error(failed.exception?.description ?? failed.text);
    return answer.result.value;
  }

  /** Blocks a thread's event loop for `ms`. Resolves when it turns again. */
  async block(ms: number, thread?: WorkerThread): Promise<void> {
    await this.evaluate(`Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ${ms}), 0`, thread);
  }

  /** Ends a worker thread at once, as a crash would. */
  kill(thread: WorkerThread): void {
    void this.evaluate('process.exit(70)', thread).catch(() => undefined);
  }

  #send(session: string, method: string, params: Readonly<Record<string, unknown>>): Promise<unknown> {
    const id = this.#nextId++;
    const waiting = Promise.withResolvers<unknown>();
    this.#waiting.set(`${session}/${id}`, waiting);
    const message = JSON.stringify({ id, method, params });
    if (session === '') this.#write(message);
    else {
      const wrapped = { sessionId: session, message };
      this.#write(
        JSON.stringify({ id: this.#nextId++, method: 'NodeWorker.sendMessageToWorker', params: wrapped }),
      );
    }
    return waiting.promise;
  }

  /** One text frame, masked as a client must (RFC 6455 section 5). */
  #write(text: string): void {
    const payload = Buffer.from(text);
    const header = Buffer.alloc(payload.length < 126 ? 2 : 4);
    header.writeUInt8(0x81, 0);
    header.writeUInt8(0x80 | Math.min(payload.length, 126), 1);
    if (payload.length >= 126) header.writeUInt16BE(payload.length, 2);
    const mask = randomBytes(4);
    for (const [index, byte] of payload.entries())
      payload.writeUInt8(byte ^ mask.readUInt8(index % 4), index);
    this.#socket.write(Buffer.concat([header, mask, payload]));
  }

  #take(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    for (;;) {
      const frame = readFrame(this.#received);
      if (frame === undefined) return;
      this.#received = this.#received.subarray(frame.end);
      this.#text += frame.payload.toString();
      if (!frame.final) continue;
      const text = this.#text;
      this.#text = '';
      if (frame.isText) this.#hear('', text);
    }
  }

  #hear(session: string, text: string): void {
    const message = Message.parse(JSON.parse(text));
    if (message.method === 'NodeWorker.attachedToWorker') this.#attached(Attached.parse(message.params));
    if (message.method === 'NodeWorker.receivedMessageFromWorker') {
      const inner = z.object({ sessionId: z.string(), message: z.string() }).parse(message.params);
      this.#hear(inner.sessionId, inner.message);
    }
    const waiting = this.#waiting.get(`${session}/${message.id ?? ''}`);
    if (waiting === undefined) return;
    this.#waiting.delete(`${session}/${message.id ?? ''}`);
    if (message.error === undefined) waiting.resolve(message.result);
    else waiting.reject(new Error(message.error.message));
  }

  #attached(attached: z.infer<typeof Attached>): void {
    const { title, url } = attached.workerInfo;
    this.#workers.push({ sessionId: attached.sessionId, title, url });
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy();
    return Promise.resolve();
  }
}

async function upgrade(place: Place, port: number, path: string): Promise<Duplex> {
  const stream = await connectIn(place, '127.0.0.1', port);
  const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
  const headers = {
    host: `127.0.0.1:${port}`,
    connection: 'Upgrade',
    upgrade: 'websocket',
    'sec-websocket-version': '13',
    'sec-websocket-key': randomBytes(16).toString('base64'),
  };
  const asked = request({ createConnection: () => stream, path, headers, timeout: 15_000 });
  asked.on('error', reject);
  asked.on('upgrade', (_response, socket) => resolve(socket));
  asked.end();
  return promise;
}

interface Frame {
  readonly payload: Buffer;
  readonly final: boolean;
  readonly isText: boolean;
  readonly end: number;
}

/** The first whole frame of `bytes`. A server's frames are not masked. */
function readFrame(bytes: Buffer): Frame | undefined {
  if (bytes.length < 2) return undefined;
  const short = bytes.readUInt8(1) & 0x7f;
  const header = short < 126 ? 2 : short === 126 ? 4 : 10;
  if (bytes.length < header) return undefined;
  const length =
    short < 126 ? short : short === 126 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
  if (bytes.length < header + length) return undefined;
  const first = bytes.readUInt8(0);
  return {
    payload: bytes.subarray(header, header + length),
    final: (first & 0x80) !== 0,
    // Continuation (0) or text (1); a ping or close is neither.
    isText: (first & 0x0f) <= 1,
    end: header + length,
  };
}
