/** A client's socket, the HTTP relay and an app, in one process. */
import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { createServer, Socket } from 'node:net';
import type { AddressInfo, Server } from 'node:net';
import type { HttpRequest } from '../../../daemon/mesh/policy/model.ts';
import { relayHttp } from '../../../daemon/proxy/http/index.ts';
import type { HttpRelay, HttpRelayOptions } from '../../../daemon/proxy/http/index.ts';

export interface Front extends AsyncDisposable {
  /** Clients connect here; each connection gets one of its own to the app. */
  readonly port: number;
  readonly relays: HttpRelay[];
  /** The first of them. */
  readonly opened: Promise<HttpRelay>;
  /** The clients' ends of them, and the app's. */
  readonly clients: Socket[];
  readonly upstreams: Socket[];
  /** What the judge was asked, in order. */
  readonly asked: (HttpRequest | undefined)[];
  /** The server names that came with that. */
  readonly servers: (string | undefined)[];
  /** Changes what the judge says. */
  judge: (request: HttpRequest | undefined) => boolean;
}

export async function listening(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return addressOf(server).port;
}

function addressOf(server: Server): AddressInfo {
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('not listening on a port');
  return address;
}

/** Puts the relay in front of the app on `appPort`. By default everything is allowed but paths under /denied. */
export async function openFront(
  appPort: number,
  options: Partial<Omit<HttpRelayOptions, 'judge'>> = {},
): Promise<Front> {
  const sockets = new Set<Socket>();
  const opened = Promise.withResolvers<HttpRelay>();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (client) => {
    client.on('error', () => undefined);
    sockets.add(client);
    front.clients.push(client);
    const upstream = new Socket({ allowHalfOpen: true });
    upstream.on('error', () => client.destroy());
    upstream.setNoDelay(true);
    upstream.connect(appPort, '127.0.0.1', () => {
      const one = relayHttp(client, upstream, {
        halfClosedTimeoutMs: 60_000,
        sniffTimeoutMs: 10_000,
        normalization: 'BASE',
        ...options,
        judge: (request, sni) => {
          front.asked.push(request);
          front.servers.push(sni);
          return { allowed: front.judge(request), detail: 'AuthorizationPolicy test/kit rule 0' };
        },
      });
      front.relays.push(one);
      opened.resolve(one);
    });
    sockets.add(upstream);
    front.upstreams.push(upstream);
  });
  const front: Front = {
    port: await listening(server),
    relays: [],
    opened: opened.promise,
    clients: [],
    upstreams: [],
    servers: [],
    asked: [],
    judge: (request) => request !== undefined && !request.path.startsWith('/denied'),
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
  return front;
}

/** Connects to a port of this machine. */
export async function connectTo(port: number): Promise<Socket> {
  const socket = new Socket({ allowHalfOpen: true });
  socket.on('error', () => undefined);
  socket.connect(port, '127.0.0.1');
  await once(socket, 'connect');
  return socket;
}

/** All that comes out of a socket, as Latin-1. */
export class Transcript {
  readonly socket: Socket;
  readonly ended: Promise<void>;
  text = '';

  constructor(socket: Socket) {
    this.socket = socket;
    this.ended = new Promise((resolve) => socket.once('end', () => resolve()));
    socket.on('data', (chunk: Buffer) => {
      this.text += chunk.toString('latin1');
    });
  }

  /** Waits until at least as much as `wanted` has come, and compares. */
  async has(wanted: string): Promise<void> {
    while (this.text.length < wanted.length && !this.socket.destroyed && !this.socket.readableEnded)
      await Promise.race([once(this.socket, 'data').catch(() => undefined), this.ended]);
    assert.equal(this.text, wanted);
  }
}

export interface RawApp extends AsyncDisposable {
  readonly port: number;
  /** The first connection that reaches it. */
  readonly connection: Promise<Transcript>;
}

/** An app that does nothing by itself. */
export async function rawApp(): Promise<RawApp> {
  const sockets = new Set<Socket>();
  const { promise, resolve } = Promise.withResolvers<Transcript>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined);
    sockets.add(socket);
    resolve(new Transcript(socket));
  });
  return {
    port: await listening(server),
    connection: promise,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

/** Waits until a socket is gone, however that came. */
export async function gone(socket: Socket): Promise<void> {
  if (!socket.closed) await new Promise<void>((resolve) => socket.once('close', () => resolve()));
}
