/** A client's socket, the HTTP relay and an app, in one process. */
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
  /** What the judge was asked, in order. */
  readonly asked: (HttpRequest | undefined)[];
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
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (client) => {
    client.on('error', () => undefined);
    sockets.add(client);
    const upstream = new Socket({ allowHalfOpen: true });
    upstream.on('error', () => client.destroy());
    upstream.setNoDelay(true);
    upstream.connect(appPort, '127.0.0.1', () => {
      front.relays.push(
        relayHttp(client, upstream, {
          halfClosedTimeoutMs: 60_000,
          sniffTimeoutMs: 10_000,
          normalization: 'BASE',
          ...options,
          judge: (request) => {
            front.asked.push(request);
            return { allowed: front.judge(request), detail: 'AuthorizationPolicy test/kit rule 0' };
          },
        }),
      );
    });
    sockets.add(upstream);
  });
  const front: Front = {
    port: await listening(server),
    relays: [],
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
