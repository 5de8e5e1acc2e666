/**
 * Requests to one API server: verified TLS, connections that are used again, answers bounded in time and size, and
 * every failure as a KubeError. Tokens are in no message.
 */
import type { IncomingMessage } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import { z } from 'zod';
import { openAccess, openKubeconfig } from './config.ts';
import type { Access, Credentials, KubeconfigChoice } from './config.ts';
import { protobufStatus } from './protobuf.ts';
import { KubeError } from './seams.ts';
import type { ApiRequest, ApiStream, KubeApi } from './seams.ts';

export interface KubeClientOptions {
  /** Name and version, for the server's log. */
  readonly userAgent: string;
  /** From a request to the end of its answer; of a stream, to its beginning. */
  readonly timeoutMs?: number;
  /** Of an answer that is not a stream. */
  readonly maxBytes?: number;
}

const TIMEOUT_MS = 30_000;
const MAX_BYTES = 64 * 1024 * 1024;
/** Watches each hold one. */
const MAX_CONNECTIONS = 256;
const MAX_IDLE_CONNECTIONS = 4;
/** A server whose machine is gone is noticed 10 s after this (libuv: 10 probes, one a second). */
const KEEPALIVE_MS = 20_000;
const MAX_RETRY_AFTER_MS = 300_000;

/** The API that a kubeconfig names, or a pod's own. @throws MeshError CONFIG_INVALID */
export function connectKube(
  kubeconfig: string,
  env: Readonly<Record<string, string | undefined>>,
  options: KubeClientOptions,
): KubeClient {
  return new KubeClient(openAccess(kubeconfig, env), options);
}

/** The API that a person's kubeconfig files name. @throws MeshError CONFIG_INVALID */
export function connectKubeconfig(chosen: KubeconfigChoice, options: KubeClientOptions): KubeClient {
  return new KubeClient(openKubeconfig(chosen), options);
}

export class KubeClient implements KubeApi, Disposable {
  readonly #access: Access;
  readonly #options: Required<KubeClientOptions>;
  #connections: { readonly agent: Agent; readonly material: string } | undefined;
  #closed = false;

  constructor(access: Access, options: KubeClientOptions) {
    this.#access = access;
    this.#options = { timeoutMs: TIMEOUT_MS, maxBytes: MAX_BYTES, ...options };
  }

  async request(asked: ApiRequest): Promise<unknown> {
    using answer = await this.#ask(asked, true);
    const bytes = await collect(answer, this.#options.maxBytes, title(asked));
    try {
      return bytes.length === 0 ? undefined : JSON.parse(bytes.toString());
    } catch (cause) {
      throw new KubeError(0, 'BadAnswer', `${title(asked)}: the answer is no JSON`, undefined, cause);
    }
  }

  stream(asked: ApiRequest): Promise<ApiStream> {
    return this.#ask(asked, false);
  }

  /** Ends all connections; requests under way fail. */
  [Symbol.dispose](): void {
    this.#closed = true;
    this.#connections?.agent.destroy();
  }

  /** A token may have been replaced since it was read, and a connection closed since it was used: each is tried again once. */
  async #ask(asked: ApiRequest, isWhole: boolean): Promise<ApiStream> {
    try {
      return await this.#send(asked, isWhole);
    } catch (error) {
      if (!(error instanceof KubeError) || asked.signal?.aborted === true) throw error;
      if (error.status === 401) this.#access.renew();
      else if (error.reason !== STALE_CONNECTION || asked.method !== 'GET') throw error;
      return this.#send(asked, isWhole);
    }
  }

  async #send(asked: ApiRequest, isWhole: boolean): Promise<ApiStream> {
    const credentials = await this.#access.credentials().catch((cause: unknown) => {
      throw new KubeError(0, 'Credentials', messageOf(cause), undefined, cause);
    });
    if (this.#closed) throw new KubeError(0, 'Closed', `${title(asked)}: the client is closed`);
    const exchange = new Exchange(asked, this.#options.timeoutMs);
    try {
      const answer = await exchange.send(this.#url(asked), {
        agent: this.#agent(credentials),
        headers: headersOf(asked, credentials, this.#options.userAgent),
      });
      const status = answer.statusCode ?? 0;
      if (status < 200 || status > 299) throw await refusal(asked, answer, exchange.body(answer));
      if (!isWhole) exchange.clearTimeout();
      return exchange.body(answer);
    } catch (error) {
      // Before it is ended, which is a reason of its own.
      const failure = exchange.failure(error);
      exchange[Symbol.dispose]();
      throw failure;
    }
  }

  #url({ path, query }: ApiRequest): URL {
    const url = new URL(this.#access.server + path);
    for (const [name, value] of Object.entries(query ?? {})) url.searchParams.set(name, value);
    return url;
  }

  /** One pool of connections for as long as roots, certificate and key are the same. */
  #agent({ ca, cert, key }: Credentials): Agent {
    const material = JSON.stringify([ca, cert, key]);
    if (this.#connections?.material === material) return this.#connections.agent;
    // Watches on the old connections are begun again where they were.
    this.#connections?.agent.destroy();
    const servername = this.#access.serverName;
    const agent = new Agent({
      keepAlive: true,
      keepAliveMsecs: KEEPALIVE_MS,
      maxSockets: MAX_CONNECTIONS,
      maxFreeSockets: MAX_IDLE_CONNECTIONS,
      minVersion: 'TLSv1.2',
      // Said here, so that NODE_TLS_REJECT_UNAUTHORIZED does not turn it off.
      rejectUnauthorized: true,
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
      ...(servername === undefined ? {} : { servername }),
    });
    this.#connections = { agent, material };
    return agent;
  }
}

/** A connection that the server had closed meanwhile: the request never reached it. */
const STALE_CONNECTION = 'StaleConnection';

/** One request and its answer; disposing ends both. */
class Exchange implements Disposable {
  readonly #asked: ApiRequest;
  readonly #ending = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly #onAbort = (): void =>
    this.#ending.abort(new KubeError(0, 'Aborted', `${title(this.#asked)}: given up`));

  constructor(asked: ApiRequest, timeoutMs: number) {
    this.#asked = asked;
    asked.signal?.addEventListener('abort', this.#onAbort);
    if (asked.signal?.aborted === true) this.#onAbort();
    this.#timer = setTimeout(() => {
      const why = `${title(asked)}: no complete answer within ${timeoutMs} ms`;
      this.#ending.abort(new KubeError(0, 'Timeout', why));
    }, timeoutMs);
  }

  clearTimeout(): void {
    clearTimeout(this.#timer);
  }

  send(url: URL, options: { agent: Agent; headers: Record<string, string> }): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const { method, body } = this.#asked;
      const sent = httpsRequest(url, { ...options, method, signal: this.#ending.signal });
      sent.on('error', (error) => {
        const isStale = sent.reusedSocket && Reflect.get(error, 'code') === 'ECONNRESET';
        reject(this.failure(error, isStale ? STALE_CONNECTION : undefined));
      });
      sent.once('response', (answer) => {
        // Whoever iterates hears of it; until then nobody does.
        answer.on('error', () => undefined);
        resolve(answer);
      });
      if (body === undefined) sent.end();
      else {
        const bytes = Buffer.from(JSON.stringify(body));
        // Node leaves it out with DELETE, and the body is then taken for the next request.
        sent.setHeader('Content-Length', bytes.length);
        sent.end(bytes);
      }
    });
  }

  body(answer: IncomingMessage): ApiStream {
    return {
      [Symbol.asyncIterator]: () => this.#chunks(answer),
      [Symbol.dispose]: () => this[Symbol.dispose](),
    };
  }

  async *#chunks(answer: IncomingMessage): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      for await (const chunk of answer) if (chunk instanceof Uint8Array) yield chunk;
    } catch (error) {
      throw this.failure(error);
    } finally {
      this[Symbol.dispose]();
    }
  }

  /** What `error` is to the caller; an error of ours as it is. */
  failure(error: unknown, reason?: string): KubeError {
    if (error instanceof KubeError) return error;
    const why: unknown = this.#ending.signal.reason;
    if (why instanceof KubeError) return why;
    const code: unknown = Reflect.get(Object(error), 'code');
    const message = `${title(this.#asked)}: ${messageOf(error)}`;
    return new KubeError(
      0,
      reason ?? (typeof code === 'string' ? code : 'NoAnswer'),
      message,
      undefined,
      error,
    );
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#asked.signal?.removeEventListener('abort', this.#onAbort);
    this.#ending.abort(new KubeError(0, 'Aborted', `${title(this.#asked)}: given up`));
  }
}

function headersOf(asked: ApiRequest, credentials: Credentials, userAgent: string): Record<string, string> {
  const headers: Record<string, string> = {
    Accept: asked.accept ?? 'application/json',
    'User-Agent': userAgent,
  };
  if (credentials.authorization !== undefined) headers['Authorization'] = credentials.authorization;
  if (credentials.impersonate !== undefined) headers['Impersonate-User'] = credentials.impersonate;
  if (asked.body !== undefined) headers['Content-Type'] = asked.patch ?? 'application/json';
  return headers;
}

const statusSchema = z.object({
  message: z.string().max(65_536).nullish(),
  reason: z.string().max(256).nullish(),
  details: z.object({ retryAfterSeconds: z.number().nullish() }).nullish(),
});

const MAX_STATUS_BYTES = 65_536;

/** What the server said when it refused: its Status object, where there is one. */
async function refusal(asked: ApiRequest, answer: IncomingMessage, body: ApiStream): Promise<KubeError> {
  const code = answer.statusCode ?? 0;
  const status = statusSchema.safeParse(await readStatus(body));
  const said = status.success ? status.data : undefined;
  const seconds = Number(answer.headers['retry-after'] ?? said?.details?.retryAfterSeconds ?? Number.NaN);
  const retryAfterMs = seconds >= 0 ? Math.min(seconds * 1_000, MAX_RETRY_AFTER_MS) : undefined;
  const why = (said?.message ?? answer.statusMessage ?? '').slice(0, 500);
  return new KubeError(code, said?.reason ?? String(code), `${title(asked)}: ${code} ${why}`, retryAfterMs);
}

async function readStatus(body: ApiStream): Promise<unknown> {
  try {
    const bytes = await collect(body, MAX_STATUS_BYTES, 'status');
    return protobufStatus(bytes) ?? JSON.parse(bytes.toString());
  } catch {
    return undefined;
  }
}

/** All of a stream that is an answer. @throws KubeError `TooLarge` */
export async function collect(stream: ApiStream, maxBytes: number, what: string): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.length;
    if (size > maxBytes) throw new KubeError(0, 'TooLarge', `${what}: more than ${maxBytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function title({ method, path }: ApiRequest): string {
  return `${method} ${path}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
