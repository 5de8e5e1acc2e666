/** The end of a worker: accept nothing new, say GOAWAY, wait for connections to end, cut what is left. */
import type { DataPlane } from './plane.ts';

const LOOK_EVERY_MS = 100;

/** @returns how many connections had to be cut at `deadlineMs` (since the epoch). */
export async function drain(
  plane: DataPlane,
  closeListeners: () => void,
  deadlineMs: number,
): Promise<number> {
  closeListeners();
  plane.holding.giveUpAll();
  plane.tunnels.drain();
  plane.tunnelServer.drain();
  while (plane.connections.size > 0 && Date.now() < deadlineMs) await pause(LOOK_EVERY_MS);
  return plane.connections.cut(() => true, 'DRAINED');
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
