/** The end of a worker: accept nothing new, say GOAWAY, wait for connections to end, cut what is left. */
import type { DataPlane } from './plane.ts';

const LOOK_EVERY_MS = 100;
/** With nobody to take new connections meanwhile: enough for answers that are on their way. */
const ALONE_MS = 1_000;
const RECORDS_MS = 1_000;
const RECORDS_LOOK_MS = 10;
const ALONE =
  'this daemon was stopped with no other one in its place, which can start only once it has ended';

export class Drain {
  readonly #plane: DataPlane;
  #deadlineMs = Infinity;
  #detail: string | undefined;

  constructor(plane: DataPlane) {
    this.#plane = plane;
  }

  /** Nobody else can serve this node's pods before this process has ended. May come before the drain begins. */
  hurry(): void {
    this.#deadlineMs = Math.min(this.#deadlineMs, Date.now() + ALONE_MS);
    this.#detail = ALONE;
  }

  /** @returns how many connections had to be cut at `deadlineMs` (since the epoch), or sooner when it had to hurry. */
  async run(closeListeners: () => void, deadlineMs: number): Promise<number> {
    const { connections, holding, tunnels, tunnelServer } = this.#plane;
    this.#deadlineMs = Math.min(this.#deadlineMs, deadlineMs);
    closeListeners();
    holding.giveUpAll();
    tunnels.drain();
    tunnelServer.drain();
    while (connections.size > 0 && Date.now() < this.#deadlineMs) await pause(LOOK_EVERY_MS);
    const cut = connections.cut(() => true, 'DRAINED', this.#detail);
    // A connection's record is written when its sockets have closed, which takes some turns of the loop.
    const recordsMs = Date.now() + RECORDS_MS;
    while (connections.size > 0 && Date.now() < recordsMs) await pause(RECORDS_LOOK_MS);
    return cut;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
