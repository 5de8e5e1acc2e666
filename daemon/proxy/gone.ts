/** Who waits for something may be gone before it comes: said once per connection, so without an AbortSignal's weight. */
import type { Socket } from 'node:net';
import type { Gone } from './seams.ts';

/** Says that the other side is gone, to those who listen at that moment. */
export class Departure implements Gone {
  #aborted = false;
  #listeners: readonly (() => void)[] = NOBODY;

  get aborted(): boolean {
    return this.#aborted;
  }

  /** Tells everyone, once. */
  abort(): void {
    if (this.#aborted) return;
    this.#aborted = true;
    const listeners = this.#listeners;
    this.#listeners = NOBODY;
    for (const listener of listeners) listener();
  }

  addEventListener(_type: 'abort', listener: () => void): void {
    if (!this.#aborted) this.#listeners = [...this.#listeners, listener];
  }

  removeEventListener(_type: 'abort', listener: () => void): void {
    if (this.#listeners.length > 0) this.#listeners = this.#listeners.filter((one) => one !== listener);
  }
}

const NOBODY: readonly (() => void)[] = [];

/** Fires when the socket closes, until `release` says that its fate is decided. */
export function abortOnClose(socket: Socket): {
  readonly signal: Gone;
  readonly abort: () => void;
  readonly release: () => void;
} {
  const signal = new Departure();
  const abort = (): void => signal.abort();
  socket.on('close', abort);
  return { signal, abort, release: () => socket.removeListener('close', abort) };
}
