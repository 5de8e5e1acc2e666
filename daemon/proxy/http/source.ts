/** Reads a stream a chunk at a time, holding a bounded number of bytes, so that code can say what it waits for. */
import type { Duplex } from 'node:stream';

/** What is held of a stream that nobody reads at the moment, before it is paused; one more chunk may come. */
const MAX_HELD_BYTES = 65_536;

export class ByteSource {
  readonly stream: Duplex;
  /** Called when bytes or the end come while nobody waits for them; cleared by the next `next()`. */
  onUnasked: (() => void) | undefined;
  /** All bytes that came. */
  bytes = 0;
  #held: Buffer[] = [];
  #heldBytes = 0;
  #ended = false;
  #stopped = false;
  #detached = false;
  #waiter: ((chunk: Buffer | undefined) => void) | undefined;

  /** Takes over the reading of `stream`, which has an error listener already. */
  constructor(stream: Duplex) {
    this.stream = stream;
    stream.on('data', this.#onData);
    stream.on('end', this.#onEnd);
    stream.on('close', this.#onClose);
    stream.resume();
  }

  /** It has said all, and all has been read. */
  get isSpent(): boolean {
    return this.#ended && this.#heldBytes === 0;
  }

  /** It has said all; some of that may not have been read yet. */
  get hasEnded(): boolean {
    return this.#ended;
  }

  get isEmpty(): boolean {
    return this.#heldBytes === 0;
  }

  /** What `next` would give now. */
  peek(): Buffer | undefined {
    return this.#held[0];
  }

  /** The next bytes; undefined at the end, when the stream broke, or when `release` or `stop` was called. */
  next(): Promise<Buffer | undefined> | Buffer | undefined {
    this.onUnasked = undefined;
    const first = this.#held.shift();
    if (first !== undefined) {
      this.#heldBytes -= first.length;
      if (this.#heldBytes < MAX_HELD_BYTES && this.stream.isPaused()) this.stream.resume();
      return first;
    }
    if (this.#ended || this.#stopped || this.stream.destroyed) return undefined;
    return new Promise((resolve) => {
      this.#waiter = resolve;
    });
  }

  /** Puts back what was read too much. */
  unread(chunk: Buffer | undefined): void {
    if (chunk === undefined || chunk.length === 0) return;
    this.#held.unshift(chunk);
    this.#heldBytes += chunk.length;
  }

  /** Whoever waits is told that nothing comes. */
  release(): void {
    const waiter = this.#waiter;
    this.#waiter = undefined;
    waiter?.(undefined);
  }

  /** Nobody will be given anything any more; what comes is thrown away. */
  stop(): void {
    if (this.#detached) return;
    this.#stopped = true;
    this.#held = [];
    this.#heldBytes = 0;
    this.onUnasked = undefined;
    this.release();
    if (this.stream.isPaused()) this.stream.resume();
  }

  /** Gives the stream back, paused. @returns what was read of it and not taken. */
  detach(): Buffer[] {
    this.#detached = true;
    this.onUnasked = undefined;
    this.stream.pause();
    this.stream.off('data', this.#onData);
    this.stream.off('end', this.#onEnd);
    this.stream.off('close', this.#onClose);
    this.release();
    const held = this.#held;
    this.#held = [];
    this.#heldBytes = 0;
    return held;
  }

  readonly #onData = (chunk: Buffer): void => {
    this.bytes += chunk.length;
    if (this.#stopped) return;
    const waiter = this.#waiter;
    if (waiter !== undefined) {
      this.#waiter = undefined;
      waiter(chunk);
      return;
    }
    this.#held.push(chunk);
    this.#heldBytes += chunk.length;
    if (this.#heldBytes >= MAX_HELD_BYTES) this.stream.pause();
    this.onUnasked?.();
  };

  readonly #onEnd = (): void => {
    this.#ended = true;
    this.release();
    this.onUnasked?.();
  };

  readonly #onClose = (): void => {
    this.release();
  };
}
