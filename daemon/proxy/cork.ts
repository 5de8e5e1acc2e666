/**
 * Gathers what one turn of the event loop writes to a socket into one writev. TLS hands us one 16 KiB record at a
 * time, so that a bulk reader's records would cost one system call each (HBONE.md, trap 4).
 */
import type { Duplex } from 'node:stream';

/** Smaller than this, a record is likely the only one: it need not wait for the end of the turn. */
const SMALL_BYTES = 8_192;
/** Small writes to one socket this close together are a burst, and are gathered after all. */
const BURST_MS = 0.05;

const corked: Duplex[] = [];
let lastDirect: Duplex | undefined;
let lastDirectAt = 0;

/** Writes `chunk`, with everything else that this turn writes to `socket` unless it stands alone. Returns as write(). */
export function writeInTurn(socket: Duplex, chunk: Uint8Array): boolean {
  if (socket.writableCorked === 0 && !(chunk.length < SMALL_BYTES && standsAlone(socket))) {
    socket.cork();
    if (corked.push(socket) === 1) setImmediate(uncorkAll);
  }
  return socket.write(chunk);
}

function standsAlone(socket: Duplex): boolean {
  const now = performance.now();
  const alone = socket !== lastDirect || now - lastDirectAt > BURST_MS;
  lastDirect = socket;
  lastDirectAt = now;
  return alone;
}

function uncorkAll(): void {
  // A write's callback runs in a later turn, so that nothing is pushed while this runs.
  for (const socket of corked) socket.uncork();
  corked.length = 0;
}
