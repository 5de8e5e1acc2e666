/** Writes to a stream and waits while it is full. */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { writeInTurn } from '../cork.ts';

export class Outlet {
  readonly stream: Duplex;
  /** All bytes written. */
  bytes = 0;
  readonly #isSocket: boolean;
  #waiters: (() => void)[] = [];
  #listens = false;

  constructor(stream: Duplex) {
    this.stream = stream;
    this.#isSocket = stream instanceof Socket;
    // Heads and bodies are written apart: the second would wait for the acknowledgement of the first.
    if (stream instanceof Socket) stream.setNoDelay(true);
  }

  /** @returns what to wait for before writing more; undefined: nothing. A stream that is gone takes everything. */
  write(chunk: Buffer): Promise<void> | undefined {
    const { stream } = this;
    if (!stream.writable) return undefined;
    this.bytes += chunk.length;
    // A tunnel's session gathers the frames of a turn by itself.
    const goOn = this.#isSocket ? writeInTurn(stream, chunk) : stream.write(chunk);
    return goOn || stream.destroyed ? undefined : this.#drained();
  }

  #drained(): Promise<void> {
    if (!this.#listens) {
      this.#listens = true;
      this.stream.on('drain', this.#release);
      this.stream.on('close', this.#release);
    }
    return new Promise((resolve) => {
      this.#waiters.push(resolve);
    });
  }

  readonly #release = (): void => {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter();
  };
}
