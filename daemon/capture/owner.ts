/**
 * One owner per node, with a generation (DESIGN.md 3a). The owner answers on a unix socket in `stateDir`, a folder
 * that both daemons of a rolling upgrade see. A newcomer asks; the owner stops reconciling and yields; when the
 * newcomer dies, its connection breaks and the node comes back to the old one. The kernel keeps this lock: a dead
 * process holds no socket.
 */
import { randomBytes } from 'node:crypto';
import { linkSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { MeshError } from '../errors.ts';

const ASK_TIMEOUT_MS = 10_000;
const MAX_ASKERS = 8;
/** Of an owner's answer. */
const MAX_ANSWER_BYTES = 1_024;
/** Each time another daemon was quicker. */
const MAX_TRIES = 8;
const RETRY_MS = 50;

/** `busy`: it is yielding to another daemon. */
const answerSchema = z.union([
  z.object({ generation: z.number().int() }),
  z.object({ busy: z.literal(true) }),
]);

export interface OwnerEvents {
  /** Stop changing kernel and published state now; the newcomer waits for this to return. */
  onYield(): void;
  /** The newcomer died: the node is ours again. */
  onReturned(): void;
  /** We have released the node, and the newcomer has told since that it ends too, with nobody in its place. */
  onOrphaned?(): void;
}

/** The last word of a daemon that ends with nobody in its place, to the one that yielded to it: it may drain still. */
const ORPHANED = `${JSON.stringify({ orphaned: true })}\n`;

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
    const own = path.join(stateDir, `owner-${randomBytes(6).toString('hex')}.sock`);
    const made: { owner?: Owner } = {};
    const server = createServer((socket) =>
      made.owner ? made.owner.answer(socket, events) : socket.destroy(),
    );
    server.maxConnections = MAX_ASKERS;
    await listen(server, own);
    try {
      for (let tries = 0; tries < MAX_TRIES; tries++) {
        const found = await askToYield(file);
        if (!takeName(found, own, file)) {
          await sleep(RETRY_MS); // another newcomer was quicker: it is asked
          continue;
        }
        const predecessor = found.kind === 'yielded' ? found : undefined;
        made.owner = new Owner((predecessor?.generation ?? 0) + 1, server, file, predecessor?.socket);
        return made.owner;
      }
      throw new MeshError(
        'NODE_OWNED',
        `other daemons start on this node all the time (${file}); start again`,
      );
    } catch (error) {
      server.close();
      rmSync(own, { force: true });
      throw error;
    }
  }

  /** Whether another daemon has the node now. */
  get hasYielded(): boolean {
    return this.#successor !== undefined;
  }

  /** Gives the node up for good: the process is ending. */
  release(): void {
    this.#server.close();
    this.#successor?.unref();
    this.#predecessor?.unref();
    if (this.#successor !== undefined) {
      this.#predecessor?.destroy();
      return;
    }
    this.#predecessor?.end(ORPHANED);
    rmSync(this.#file, { force: true });
  }

  private answer(socket: Socket, events: OwnerEvents): void {
    socket.on('error', () => socket.destroy());
    if (this.#successor !== undefined) {
      socket.end(`${JSON.stringify({ busy: true })}\n`);
      return;
    }
    this.#successor = socket;
    // It has one thing to say, at its end. A crash says nothing: its pod starts again by itself.
    socket.once('data', () => {
      if (!this.#server.listening) events.onOrphaned?.();
    });
    socket.resume();
    socket.once('close', () => {
      this.#successor = undefined;
      if (this.#server.listening) events.onReturned();
    });
    events.onYield();
    socket.write(`${JSON.stringify({ generation: this.generation })}\n`);
  }
}

/** Who had the name: nobody, a dead daemon (of its socket, this inode), or one that has yielded. */
type Found =
  | { readonly kind: 'nobody' }
  | { readonly kind: 'dead'; readonly inode: bigint }
  | { readonly kind: 'yielded'; readonly socket: Socket; readonly generation: number };

/** `own` becomes `file`; false when another newcomer was quicker. Rename is atomic, and so is a link: one of two gets it. */
function takeName(found: Found, own: string, file: string): boolean {
  if (found.kind === 'nobody') {
    if (!link(own, file)) return false;
    rmSync(own);
    return true;
  }
  if (found.kind === 'yielded') {
    renameSync(own, file);
    return true;
  }
  return succeed(own, file, found.inode);
}

/**
 * Takes a dead owner's name over. Removing it by name could remove that of a newcomer who has just done the same, so
 * newcomers first agree on the one that may: who gets the link named after the dead socket's inode.
 */
function succeed(own: string, file: string, inode: bigint): boolean {
  const turn = path.join(path.dirname(file), `owner-after-${inode}.sock`);
  if (!link(own, turn)) return false;
  const isStillDead = inodeOf(file) === inode;
  if (isStillDead) renameSync(own, file);
  rmSync(turn, { force: true });
  return isStillDead;
}

/** Whether `name` was free and is `own` now. */
function link(own: string, name: string): boolean {
  try {
    linkSync(own, name);
    return true;
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
    return false;
  }
}

function inodeOf(file: string): bigint | undefined {
  return statSync(file, { bigint: true, throwIfNoEntry: false })?.ino;
}

function codeOf(error: unknown): unknown {
  return Reflect.get(Object(error), 'code');
}

function listen(server: Server, file: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) =>
      reject(new MeshError('NODE_OWNED', `could not listen on ${file}: ${error.message}`, { cause: error })),
    );
    server.listen(file, resolve);
  });
}

/** @throws MeshError NODE_OWNED when the owner does not yield. */
async function askToYield(file: string): Promise<Found> {
  const inode = inodeOf(file);
  if (inode === undefined) return { kind: 'nobody' };
  const socket = createConnection(file);
  try {
    const answer = await readAnswer(socket, file);
    if ('generation' in answer) return { kind: 'yielded', socket, generation: answer.generation };
    throw new MeshError(
      'NODE_OWNED',
      `this node is being handed to another daemon just now (${file}); start again`,
    );
  } catch (error) {
    socket.destroy();
    if (codeOf(error) === 'ENOENT') return { kind: 'nobody' };
    if (codeOf(error) !== 'ECONNREFUSED') throw error;
    endDeadTurn(file, inode);
    return { kind: 'dead', inode };
  }
}

/** A newcomer that died between its turn and the name has left the turn: nobody could take it any more. */
function endDeadTurn(file: string, inode: bigint): void {
  const turn = path.join(path.dirname(file), `owner-after-${inode}.sock`);
  const age = Date.now() - (statSync(turn, { throwIfNoEntry: false })?.ctimeMs ?? Date.now());
  if (age > ASK_TIMEOUT_MS) rmSync(turn, { force: true });
}

/** The owner's one line, within bounds of time and size. */
function readAnswer(socket: Socket, file: string): Promise<z.infer<typeof answerSchema>> {
  const { promise, resolve, reject } = Promise.withResolvers<z.infer<typeof answerSchema>>();
  const fail = (why: string): void => reject(new MeshError('NODE_OWNED', why));
  const timer = setTimeout(() => {
    fail(`the daemon that owns this node did not yield within ${ASK_TIMEOUT_MS} ms`);
  }, ASK_TIMEOUT_MS);
  let text = '';
  const onData = (chunk: Buffer): void => {
    text += chunk.toString('latin1');
    const end = text.indexOf('\n');
    const answer = end < 0 ? undefined : parseAnswer(text.slice(0, end));
    if (answer !== undefined) resolve(answer);
    else if (end >= 0 || text.length > MAX_ANSWER_BYTES)
      fail(`what answers on ${file} is no daemon of ours: remove that file when nothing of yours needs it`);
  };
  // Stays: a connection that breaks later has been heard of by 'close'.
  socket.on('error', reject);
  socket.on('data', onData);
  socket.once('end', () => fail('the daemon that owns this node hung up; start again'));
  return promise.finally(() => {
    clearTimeout(timer);
    socket.off('data', onData);
    socket.resume();
  });
}

function parseAnswer(line: string): z.infer<typeof answerSchema> | undefined {
  try {
    return answerSchema.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined; // no JSON
  }
}
