/**
 * Our listeners in one pod: one for each role and worker, opened inside its namespace. We keep each, so that a worker's
 * successor gets the same socket; a worker gets a copy.
 */
import type { Hot } from '../../native/hot/index.ts';
import { must } from '../../native/hot/index.ts';
import { MeshError } from '../errors.ts';
import type { PodUid, Port } from '../mesh/ids.ts';
import type { Role } from '../mesh/wiring.ts';
import { ROLE_NAMES } from './fleet.ts';
import type { Fleet } from './fleet.ts';
import { candidatePorts } from './ports.ts';

const BACKLOG = 4_096;
const EADDRINUSE = -98;
const EAFNOSUPPORT = -97;

export interface ListenerContext {
  readonly hot: Pick<Hot, 'listen' | 'socketCookie' | 'localPortRange' | 'dupFd' | 'closeFd'>;
  readonly fleet: Pick<Fleet, 'count' | 'indexes' | 'handOver'>;
  readonly ports: { readonly min: number; readonly max: number };
}

export interface Listener {
  readonly fd: number;
  readonly port: Port;
  readonly cookie: bigint;
  readonly role: Role;
  readonly worker: number;
}

export class PodListeners {
  readonly #context: ListenerContext;
  readonly #uid: PodUid;
  readonly #all: Listener[] = [];
  /** Those that their worker has not been given yet. */
  readonly #owed = new Set<Listener>();

  constructor(context: ListenerContext, uid: PodUid) {
    this.#context = context;
    this.#uid = uid;
  }

  get all(): readonly Listener[] {
    return this.#all;
  }

  /** Port of each worker's listener of that role; 0: none. */
  portsOf(role: Role): number[] {
    const ports = new Array<number>(this.#context.fleet.count).fill(0);
    for (const listener of this.#all) if (listener.role === role) ports[listener.worker] = listener.port;
    return ports;
  }

  /**
   * Opens them all, on none of `taken`; `handOver` gives them to the workers.
   * @throws MeshError NETNS_FAILED; what was opened until then stays, for `close`.
   */
  open(netnsFd: number, taken: readonly Port[]): void {
    const { hot, fleet, ports } = this.#context;
    const range = hot.localPortRange(netnsFd);
    const candidates = candidatePorts({
      ...ports,
      ephemeral: typeof range === 'number' ? undefined : range,
      taken: new Set(taken),
    });
    for (let worker = 0; worker < fleet.count; worker++)
      for (const role of ROLE_NAMES) this.#all.push(this.#openOne(netnsFd, candidates, role, worker));
    for (const index of fleet.indexes) this.owe(index);
  }

  #openOne(netnsFd: number, candidates: Generator<Port>, role: Role, worker: number): Listener {
    const { hot, ports } = this.#context;
    // Not for…of: leaving it would end the generator, and the next listener goes on where this one stops.
    for (let next = candidates.next(); next.done !== true; next = candidates.next()) {
      const port = next.value;
      let fd = hot.listen(netnsFd, 6, port, BACKLOG, 0);
      if (fd === EAFNOSUPPORT) fd = hot.listen(netnsFd, 4, port, BACKLOG, 0);
      if (fd === EADDRINUSE) continue;
      must(fd, `open a listener on port ${port} of pod ${this.#uid}`, 'NETNS_FAILED');
      const cookie = must(hot.socketCookie(fd), 'read a socket cookie');
      return { fd, port, cookie, role, worker };
    }
    throw new MeshError(
      'NETNS_FAILED',
      `no free port for a listener in pod ${this.#uid} from ${ports.min} to ${ports.max}: widen --listener-port-min/max`,
    );
  }

  /** A new worker has nothing yet: `handOver` gives it its share. */
  owe(worker: number): void {
    for (const listener of this.#all) if (listener.worker === worker) this.#owed.add(listener);
  }

  /** Whether every live worker has been given its share. */
  get isHandedOver(): boolean {
    const { indexes } = this.#context.fleet;
    return ![...this.#owed].some(({ worker }) => indexes.includes(worker));
  }

  /** Gives the workers what they are owed. @throws MeshError SYSTEM_CALL_FAILED: no descriptor is left, call it again. */
  handOver(): void {
    const { hot, fleet } = this.#context;
    for (const listener of this.#owed) {
      const { worker, role, port, cookie } = listener;
      if (!fleet.indexes.includes(worker)) continue; // dead: its successor is owed them
      const fd = must(hot.dupFd(listener.fd), `copy a listener of pod ${this.#uid}`, 'SYSTEM_CALL_FAILED');
      fleet.handOver(worker, this.#uid, role, { fd, cookie }, port);
      this.#owed.delete(listener);
    }
  }

  /** Closes our copies; a worker's stay open until it closes its own. */
  close(): void {
    for (const { fd } of this.#all) this.#context.hot.closeFd(fd);
    this.#all.length = 0;
    this.#owed.clear();
  }
}
