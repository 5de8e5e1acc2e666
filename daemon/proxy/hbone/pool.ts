/** The client side of HBONE: tunnels shared by the streams of one pod to one destination (HBONE.md 3.10). */
import { ClientTunnel, dialTunnel } from './tunnel.ts';
import type { DialContext, StreamRefusal } from './tunnel.ts';
import { TunnelLostError } from './session.ts';
import { TunnelTable } from './table.ts';
import type { PodUid } from '../../mesh/ids.ts';
import type { Refusal, TunnelKey, TunnelRequest, Tunnels, TunnelStream } from '../seams.ts';

/** The tunnels of one key. */
interface Lane {
  readonly tunnels: Set<ClientTunnel>;
  /** The dial under way: everybody who needs a tunnel of this key waits for this one. */
  dialling: Promise<ClientTunnel | Refusal> | undefined;
}

/** A pool of tunnels for one worker. */
export function createTunnels(context: DialContext): Tunnels {
  return new Pool(context);
}

class Pool implements Tunnels {
  readonly #context: DialContext;
  readonly #lanes = new Map<string, Lane>();
  readonly #table: TunnelTable<ClientTunnel>;
  #draining = false;

  constructor(context: DialContext) {
    this.#context = context;
    this.#table = new TunnelTable(context.config);
  }

  get size(): number {
    return this.#table.size;
  }

  async open(request: TunnelRequest): Promise<TunnelStream | Refusal> {
    const first = await this.#attempt(request, 0);
    const outcome =
      first.ok || first.again === 'no'
        ? first
        : await this.#attempt(request, first.again === 'fresh' ? performance.now() : 0);
    return outcome.ok ? outcome : { ok: false, reason: outcome.reason, detail: outcome.detail };
  }

  closePod(uid: PodUid, cut: boolean): void {
    for (const tunnel of this.#table.ofPod(uid)) {
      if (cut) tunnel.session.destroy(new TunnelLostError('the pod has left'));
      else tunnel.retire();
    }
  }

  closeIdle(uid: PodUid | undefined): boolean {
    return this.#table.closeIdle(uid);
  }

  drain(): void {
    this.#draining = true;
    for (const tunnel of [...this.#table]) tunnel.retire();
  }

  /** On a tunnel that was made at `sinceMs` or later. */
  async #attempt(request: TunnelRequest, sinceMs: number): Promise<TunnelStream | StreamRefusal> {
    const name = nameOf(request.key);
    const lane = this.#lanes.get(name) ?? { tunnels: new Set(), dialling: undefined };
    this.#lanes.set(name, lane);
    while (!request.signal.aborted) {
      const tunnel = withRoom(lane, request.identity.generation, sinceMs);
      if (tunnel !== undefined) return tunnel.open(request);
      const dialled = await (lane.dialling ?? this.#dial(name, lane, request));
      if (!(dialled instanceof ClientTunnel)) return { ...dialled, again: 'no' };
    }
    this.#forgetIfEmpty(name, lane);
    return { ok: false, reason: 'CLIENT_RESET', detail: undefined, again: 'no' };
  }

  #dial(name: string, lane: Lane, request: TunnelRequest): Promise<ClientTunnel | Refusal> {
    const dialling = this.#dialOnce(name, lane, request).finally(() => {
      lane.dialling = undefined;
      this.#forgetIfEmpty(name, lane);
    });
    lane.dialling = dialling;
    return dialling;
  }

  async #dialOnce(name: string, lane: Lane, request: TunnelRequest): Promise<ClientTunnel | Refusal> {
    const uid = request.key.podUid;
    if (this.#draining) return { ok: false, reason: 'DRAINED', detail: undefined };
    for (const old of lane.tunnels) if (old.generation < request.identity.generation) old.retire();
    if (!this.#table.makeRoom(uid)) return { ok: false, reason: 'TUNNEL_LIMIT', detail: undefined };
    const dialled = await dialTunnel(request, this.#context);
    if (!dialled.ok) return dialled;
    const tunnel = new ClientTunnel(dialled.socket, request, this.#context.config, () => {
      lane.tunnels.delete(tunnel);
      this.#table.remove(tunnel);
      this.#forgetIfEmpty(name, lane);
    });
    lane.tunnels.add(tunnel);
    this.#table.add(tunnel);
    return tunnel;
  }

  #forgetIfEmpty(name: string, lane: Lane): void {
    if (lane.tunnels.size === 0 && lane.dialling === undefined && this.#lanes.get(name) === lane)
      this.#lanes.delete(name);
  }
}

/** The first tunnel with room: filling one lets the others fall idle. */
function withRoom(lane: Lane, generation: number, sinceMs: number): ClientTunnel | undefined {
  for (const tunnel of lane.tunnels)
    if (tunnel.madeAt >= sinceMs && tunnel.hasRoom(generation)) return tunnel;
  return undefined;
}

function nameOf(key: TunnelKey): string {
  return `${key.podUid} ${key.sourceId} ${key.destinationId} ${key.address}`;
}
