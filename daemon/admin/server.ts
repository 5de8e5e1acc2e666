/**
 * The three HTTP servers of a daemon: health and metrics on every address (GET only, nothing to be told), admin on
 * loopback only. The daemon pod has a network namespace of its own, so no other pod reaches that loopback.
 */
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { MeshError } from '../errors.ts';
import type { Log } from '../observe/log.ts';
import { adminRoutes, healthRoutes, metricsRoutes } from './routes.ts';
import type { Answer, Routes, RouteSources } from './routes.ts';

export interface AdminPorts {
  /** 0 takes any free port. */
  readonly admin: number;
  readonly metrics: number;
  readonly health: number;
}

export interface AdminOptions extends RouteSources {
  readonly ports: AdminPorts;
  readonly log: Log;
  /** Told once all three listen, with the real ports. */
  readonly onListening?: (ports: AdminPorts) => void;
}

const LOOPBACK = '127.0.0.1';
/** How long a backend may take to answer. */
const ANSWER_MS = 5_000;
const REQUEST_MS = 5_000;
const MAX_HEADER_BYTES = 8_192;
const MAX_CONNECTIONS = 512;
/** So that one pod that opens many can't keep the kubelet's probe out. */
const MAX_CONNECTIONS_PER_ADDRESS = 16;

/** The names by which a browser or port-forward on this machine can call loopback. Others: DNS rebinding. */
const LOOPBACK_HOST = /^(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?$/i;

/**
 * Starts all three servers. Disposing closes them and every connection.
 * @throws MeshError SYSTEM_CALL_FAILED that names the port when one can't be bound.
 */
export async function startAdmin(options: AdminOptions): Promise<AsyncDisposable> {
  await using started = new AsyncDisposableStack();
  const listen = listener(started, options.log);
  const ports = {
    admin: await listen('admin', options.ports.admin, LOOPBACK, adminRoutes(options), loopbackOnly),
    metrics: await listen('metrics', options.ports.metrics, undefined, metricsRoutes(options), anyone),
    health: await listen('health', options.ports.health, undefined, healthRoutes(options), anyone),
  };
  options.onListening?.(ports);
  return started.move();
}

export type PublicOptions = Omit<RouteSources, 'backend'> & {
  readonly ports: Omit<AdminPorts, 'admin'>;
  readonly log: Log;
};

/**
 * Starts health and metrics alone: for `culvert-ca`, which nobody administers. Disposing closes them.
 * @throws MeshError SYSTEM_CALL_FAILED that names the port when one can't be bound.
 */
export async function startPublic(options: PublicOptions): Promise<AsyncDisposable> {
  await using started = new AsyncDisposableStack();
  const listen = listener(started, options.log);
  await listen('metrics', options.ports.metrics, undefined, metricsRoutes(options), anyone);
  await listen('health', options.ports.health, undefined, healthRoutes(options), anyone);
  return started.move();
}

type Listen = (
  what: string,
  port: number,
  host: string | undefined,
  routes: Routes,
  guard: Guard,
) => Promise<number>;

/** Starts servers that end with `started`; each resolves with its real port. */
function listener(started: AsyncDisposableStack, log: Log): Listen {
  return async (what, port, host, routes, guard) => {
    const server = makeServer(routes, guard, log);
    started.defer(() => closeServer(server));
    return await listenOn(server, what, port, host);
  };
}

/** A refusal, or undefined when the request may go on. */
type Guard = (request: IncomingMessage) => Answer | undefined;

const anyone: Guard = () => undefined;

/** Only programs and port-forwards of this machine; a page in a browser can't set Host, and always sends Origin. */
const loopbackOnly: Guard = (request) => {
  if (!LOOPBACK_HOST.test(request.headers.host ?? ''))
    return { status: 403, body: { error: 'the Host header must be localhost, 127.0.0.1 or [::1]' } };
  if (request.headers.origin !== undefined)
    return { status: 403, body: { error: 'requests of web pages (with an Origin header) are refused' } };
  return undefined;
};

function makeServer(routes: Routes, guard: Guard, log: Log): Server {
  const server = createServer(
    {
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: REQUEST_MS,
      requestTimeout: REQUEST_MS,
      keepAliveTimeout: REQUEST_MS,
      connectionsCheckingInterval: 1_000,
    },
    (request, response) => {
      void respond(routes, guard, request, response, log);
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  limitPerAddress(server);
  server.on('error', (error) => log.error({ err: error }, 'admin server failed'));
  return server;
}

function limitPerAddress(server: Server): void {
  const open = new Map<string, number>();
  server.on('connection', (socket) => {
    const address = socket.remoteAddress ?? '';
    const count = (open.get(address) ?? 0) + 1;
    open.set(address, count);
    socket.once('close', () => {
      const left = (open.get(address) ?? 1) - 1;
      if (left > 0) open.set(address, left);
      else open.delete(address);
    });
    if (count > MAX_CONNECTIONS_PER_ADDRESS) socket.destroy();
  });
}

async function respond(
  routes: Routes,
  guard: Guard,
  request: IncomingMessage,
  response: ServerResponse,
  log: Log,
): Promise<void> {
  response.on('error', (error) => log.debug({ err: error }, 'admin response failed'));
  // No route takes a body: whatever comes is dropped, and the connection with it.
  request.resume();
  const { status, text, headers } = rendered(guard(request) ?? (await answerOf(routes, request, log)), log);
  response.writeHead(status, {
    ...headers,
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    ...(request.method === 'POST' ? { connection: 'close' } : {}),
  });
  response.end(text);
}

interface Rendered {
  readonly status: number;
  readonly text: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** Never throws: state that JSON can't hold (a bigint, a circle) is a 500, not the end of the daemon. */
function rendered({ status, body, contentType, allow }: Answer, log: Log): Rendered {
  const allowed: Record<string, string> = allow === undefined ? {} : { allow };
  if (typeof body === 'string')
    return {
      status,
      text: body,
      headers: { ...allowed, 'content-type': contentType ?? 'text/plain; charset=utf-8' },
    };
  const headers = { ...allowed, 'content-type': 'application/json' };
  try {
    return { status, text: `${JSON.stringify(body)}\n`, headers };
  } catch (error) {
    log.error({ err: error }, 'admin answer is no JSON');
    return { status: 500, text: '{"error":"the answer can not be written as JSON"}\n', headers };
  }
}

async function answerOf(routes: Routes, request: IncomingMessage, log: Log): Promise<Answer> {
  const path = (request.url ?? '').split('?', 1)[0] ?? '';
  const route = routes.get(path);
  if (route === undefined) return { status: 404, body: { error: 'no such path', paths: [...routes.keys()] } };
  // HEAD is GET without the body, which node leaves out by itself.
  const method = request.method === 'HEAD' ? 'GET' : request.method;
  if (method !== route.method)
    return { status: 405, allow: route.method, body: { error: `${path} takes ${route.method} only` } };
  try {
    return await within(ANSWER_MS, route.answer());
  } catch (error) {
    log.error({ err: error, path }, 'admin request failed');
    return { status: 500, body: { error: error instanceof Error ? error.message : 'failed' } };
  }
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`no answer within ${ms} ms`)), ms);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

async function listenOn(
  server: Server,
  what: string,
  port: number,
  host: string | undefined,
): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  server.once('error', reject);
  server.once('listening', () => resolve(undefined));
  server.listen(host === undefined ? { port } : { port, host });
  try {
    await promise;
  } catch (error) {
    const where = `${host ?? '*'}:${port}`;
    throw new MeshError(
      'SYSTEM_CALL_FAILED',
      `the ${what} server can't listen on ${where}: ${error instanceof Error ? error.message : 'unknown'}; choose another with --${what}-port, or end what holds it`,
      { cause: error },
    );
  } finally {
    server.off('error', reject);
  }
  return portOf(server.address());
}

function portOf(address: AddressInfo | string | null): number {
  if (address === null || typeof address === 'string') throw new TypeError('not a TCP server');
  return address.port;
}

async function closeServer(server: Server): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  // The callback's error says only that it was not listening.
  server.close(() => resolve(undefined));
  server.closeAllConnections();
  await promise;
}
