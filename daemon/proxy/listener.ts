/** A worker's listening sockets: one per pod and role, made by the enrolment thread and handed over as descriptors. */
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import type { PodUid } from '../mesh/ids.ts';
import type { Role } from '../mesh/wiring.ts';

/** `listen({fd})` ignores `backlog` among its options; as an argument it counts (CAPTURE.md, from Node). */
const BACKLOG = 4096;

export class Listeners {
  readonly #servers = new Map<string, Server>();
  readonly #onConnection: (uid: PodUid, role: Role, socket: Socket) => void;
  readonly #onError: (uid: PodUid, role: Role, error: Error) => void;

  constructor(
    onConnection: (uid: PodUid, role: Role, socket: Socket) => void,
    onError: (uid: PodUid, role: Role, error: Error) => void,
  ) {
    this.#onConnection = onConnection;
    this.#onError = onError;
  }

  get size(): number {
    return this.#servers.size;
  }

  /** Starts accepting on `fd`, which this worker owns from now on; calls back when it does. */
  open(uid: PodUid, role: Role, fd: number, onListening: () => void): void {
    this.close(uid, [role]);
    // TCP_NODELAY and keepalive are inherited from the listening socket: no call for each connection.
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: true });
    server.on('error', (error) => this.#onError(uid, role, error));
    server.on('connection', (socket) => this.#onConnection(uid, role, socket));
    this.#servers.set(keyOf(uid, role), server);
    server.listen({ fd }, BACKLOG, onListening);
  }

  /** Stops accepting; connections that were accepted live on. */
  close(uid: PodUid, roles: readonly Role[]): void {
    for (const role of roles) {
      const key = keyOf(uid, role);
      this.#servers.get(key)?.close();
      this.#servers.delete(key);
    }
  }

  closeAll(): void {
    for (const server of this.#servers.values()) server.close();
    this.#servers.clear();
  }
}

function keyOf(uid: PodUid, role: Role): string {
  return `${uid}/${role}`;
}
