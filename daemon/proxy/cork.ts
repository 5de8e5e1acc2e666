/**
 * Gathers what one turn of the event loop writes to a socket into one writev. TLS hands us one 16 KiB record at a
 * time, so that a bulk reader's records would cost one system call each (HBONE.md, trap 4).
 */
import type { Duplex } from 'node:stream';

const corked: Duplex[] = [];

/** Writes `chunk` so that it leaves with everything else that this turn writes to `socket`. Returns as write() does. */
export function writeInTurn(socket: Duplex, chunk: Uint8Array): boolean {
  if (socket.writableCorked === 0) {
    socket.cork();
    if (corked.push(socket) === 1) setImmediate(uncorkAll);
  }
  return socket.write(chunk);
}

function uncorkAll(): void {
  // A write's callback runs in a later turn, so that nothing is pushed while this runs.
  for (const socket of corked) socket.uncork();
  corked.length = 0;
}
