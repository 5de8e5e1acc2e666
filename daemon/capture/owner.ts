/**
 * One owner per node, with a generation (DESIGN.md 3a). The owner answers on a unix socket in `stateDir`, a folder
 * that both daemons of a rolling upgrade see. A newcomer asks; the owner stops reconciling and yields; when the
 * newcomer dies, its connection breaks and the node comes back to the old one. The kernel keeps this lock: a dead
 * process holds no socket.
 */
import { randomBytes } from 'node:crypto';
import { linkSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { MeshError } from '../errors.ts';

const ASK_TIMEOUT_MS = 10_000;
const MAX_ASKERS = 8;

export interface OwnerEvents {
  /** Stop changing kernel and published state now; the newcomer waits for this to return. */
  onYield(): void;
  /** The newcomer died: the node is ours again. */
  onReturned(): void;
}

export class Owner {
  readonly generation: number;
  readonly #server: Server;
  readonly #file: string;
  readonly #predecessor: Socket | undefined;
  #successor: Socket | undefined;

  private constructor(generation: number, server: Server, file: string, predecessor: Socket | undefined) {
    this.generation = generation;
    this.#server = server;
    this.#file = file;
    this.#predecessor = predecessor;
  }

  /**
   * Becomes the owner of the node, after the present owner (if one lives) has yielded.
   * @throws MeshError NODE_OWNED when the owner does not yield: it is yielding to another one, or hangs.
   */
  static async take(stateDir: string, events: OwnerEvents): Promise<Owner> {
    mkdirSync(stateDir, { recursive: true, mode: 0o700 });
    const file = path.join(stateDir, 'owner.sock');
    const predecessor = await askToYield(file);
    const generation = (predecessor?.generation ?? 0) + 1;
    const made: { owner?: Owner } = {};
    const server = createServer((socket) => made.owner?.answer(socket, events));
    server.maxConnections = MAX_ASKERS;
    const own = path.join(stateDir, `owner-${randomBytes(6).toString('hex')}.sock`);
    await listen(server, own);
    // Taking a dead owner's name over, or a living one's that has yielded: rename is atomic either way. A first
    // owner claims the name with link, so that of two that start at once one loses and asks the other.
    if (predecessor === undefined && !claim(own, file)) {
      server.close();
      rmSync(own, { force: true });
      return Owner.take(stateDir, events);
    }
    if (predecessor !== undefined) renameSync(own, file);
    made.owner = new Owner(generation, server, file, predecessor?.socket);
    return made.owner;
  }

  /** Whether another daemon has the node now. */
  get hasYielded(): boolean {
    return this.#successor !== undefined;
  }

  /** Gives the node up for good: the process is ending. */
  release(): void {
    this.#server.close();
    this.#successor?.destroy();
    this.#predecessor?.destroy();
    if (this.#successor === undefined) rmSync(this.#file, { force: true });
  }

  private answer(socket: Socket, events: OwnerEvents): void {
    socket.on('error', () => socket.destroy());
    if (this.#successor !== undefined) {
      socket.end(`${JSON.stringify({ busy: true })}\n`);
      return;
    }
    this.#successor = socket;
    socket.resume();
    socket.once('close', () => {
      this.#successor = undefined;
      if (this.#server.listening) events.onReturned();
    });
    events.onYield();
    socket.write(`${JSON.stringify({ generation: this.generation })}\n`);
  }
}

/** `own` becomes `file` unless a living owner has that name already. */
function claim(own: string, file: string): boolean {
  try {
    linkSync(own, file);
  } catch (error) {
    if (Reflect.get(Object(error), 'code') !== 'EEXIST') throw error;
    return false;
  }
  rmSync(own);
  return true;
}

function listen(server: Server, file: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) =>
      reject(new MeshError('NODE_OWNED', `could not listen on ${file}: ${error.message}`, { cause: error })),
    );
    server.listen(file, resolve);
  });
}

/** The present owner's generation once it has yielded; undefined when there is none (a stale file is removed). */
async function askToYield(file: string): Promise<{ socket: Socket; generation: number } | undefined> {
  const socket = createConnection(file);
  try {
    const answer = await firstLine(socket);
    if (typeof answer['generation'] === 'number') return { socket, generation: answer['generation'] };
    socket.destroy();
    throw new MeshError(
      'NODE_OWNED',
      `this node is being handed to another daemon just now (${file}); start again`,
    );
  } catch (error) {
    socket.destroy();
    const code: unknown = Reflect.get(Object(error), 'code');
    if (code === 'ENOENT') return undefined;
    if (code === 'ECONNREFUSED') {
      rmSync(file, { force: true });
      return undefined;
    }
    throw error;
  }
}

function firstLine(socket: Socket): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      socket.destroy();
      reject(
        new MeshError(
          'NODE_OWNED',
          `the daemon that owns this node did not yield within ${ASK_TIMEOUT_MS} ms`,
        ),
      );
    }, ASK_TIMEOUT_MS);
    const done = (finish: () => void): void => {
      clearTimeout(timer);
      lines.close();
      finish();
    };
    socket.once('error', (error) => done(() => reject(error)));
    const lines = createInterface({ input: socket });
    lines.on('error', () => undefined);
    lines.once('line', (line) => done(() => resolve(JSON.parse(line) as Record<string, unknown>)));
    socket.once('end', () =>
      done(() => reject(new MeshError('NODE_OWNED', 'the daemon that owns this node hung up; start again'))),
    );
  });
}
