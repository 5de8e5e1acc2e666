/** The tunnels of one worker and one direction, within their limits: idle ones go first, oldest use first. */
import type { Http2Session } from 'node:http2';
import type { PodUid } from '../../mesh/ids.ts';

export interface CountedTunnel {
  readonly podUid: PodUid;
  readonly session: Http2Session;
  readonly streams: number;
  /** Of performance.now(): when its last stream ended, or when it was made. */
  readonly lastUsed: number;
}

export class TunnelTable<T extends CountedTunnel> {
  readonly #limits: { readonly maxTunnels: number; readonly maxTunnelsPerPod: number };
  readonly #byPod = new Map<PodUid, Set<T>>();
  #size = 0;

  constructor(limits: { readonly maxTunnels: number; readonly maxTunnelsPerPod: number }) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#size;
  }

  *[Symbol.iterator](): Iterator<T> {
    for (const tunnels of this.#byPod.values()) yield* tunnels;
  }

  /** A snapshot: closing changes the table. */
  ofPod(uid: PodUid): readonly T[] {
    return [...(this.#byPod.get(uid) ?? [])];
  }

  /** Makes sure that one more tunnel of this pod is within the limits, closing an idle one. @returns whether it is. */
  makeRoom(uid: PodUid): boolean {
    const own = this.#byPod.get(uid);
    if (own !== undefined && own.size >= this.#limits.maxTunnelsPerPod && !this.#closeIdle(own)) return false;
    return this.#size < this.#limits.maxTunnels || this.#closeIdle(this);
  }

  add(tunnel: T): void {
    const own = this.#byPod.get(tunnel.podUid);
    if (own === undefined) this.#byPod.set(tunnel.podUid, new Set([tunnel]));
    else own.add(tunnel);
    this.#size++;
  }

  remove(tunnel: T): void {
    const own = this.#byPod.get(tunnel.podUid);
    if (own?.delete(tunnel) !== true) return;
    this.#size--;
    if (own.size === 0) this.#byPod.delete(tunnel.podUid);
  }

  /** Closes the idle tunnel, of this pod or of any, that was used longest ago. @returns whether there was one. */
  closeIdle(uid: PodUid | undefined): boolean {
    return this.#closeIdle(uid === undefined ? this : this.ofPod(uid));
  }

  #closeIdle(among: Iterable<T>): boolean {
    let oldest: T | undefined;
    for (const tunnel of among)
      if (tunnel.streams === 0 && (oldest === undefined || tunnel.lastUsed < oldest.lastUsed))
        oldest = tunnel;
    if (oldest === undefined) return false;
    this.remove(oldest);
    oldest.session.close();
    return true;
  }
}
