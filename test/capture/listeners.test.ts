import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { PodListeners } from '../../daemon/capture/listeners.ts';
import { MeshError } from '../../daemon/errors.ts';
import { port, uid } from '../mesh/world.ts';

const EADDRINUSE = -98;
const EMFILE = -24;
const NETNS = 7;

/** A kernel that counts descriptors from 100, and two workers that note what they are given. */
class World {
  readonly given: string[] = [];
  readonly closed: number[] = [];
  readonly alive = [0, 1];
  readonly used = new Set<number>();
  descriptorsLeft = Number.POSITIVE_INFINITY;
  #next = 100;
  readonly listeners: PodListeners;

  constructor() {
    const open = (): number => {
      if (this.descriptorsLeft === 0) return EMFILE;
      this.descriptorsLeft -= 1;
      return this.#next++;
    };
    const hot = {
      listen: (_netns: number, _family: number, wanted: number) =>
        this.used.has(wanted) ? EADDRINUSE : open(),
      socketCookie: BigInt,
      localPortRange: () => ({ low: 32_768, high: 60_999 }),
      dupFd: open,
      closeFd: (fd: number) => {
        this.closed.push(fd);
        return 0;
      },
    };
    const fleet = {
      count: 2,
      indexes: this.alive,
      handOver: (worker: number, _uid: unknown, role: string) => void this.given.push(`${worker} ${role}`),
    };
    this.listeners = new PodListeners({ hot, fleet, ports: { min: 61_001, max: 61_010 } }, uid('pod'));
  }
}

const isShort = (error: unknown): boolean =>
  error instanceof MeshError && error.code === 'SYSTEM_CALL_FAILED';

describe('the listeners in a pod', () => {
  it('are on ports that are free, one for each role and worker, and each worker gets its own', () => {
    const { listeners, used, given } = new World();
    used.add(61_001);
    listeners.open(NETNS, [port(61_003)]);
    const ports = listeners.all.map((listener) => listener.port);
    assert.equal(new Set(ports).size, 6);
    assert.ok(!ports.includes(port(61_001)) && !ports.includes(port(61_003)), ports.join());
    assert.equal(listeners.isHandedOver, false);
    listeners.handOver();
    assert.equal(listeners.isHandedOver, true);
    assert.deepEqual(given, ['0 outbound', '0 plaintext', '0 hbone', '1 outbound', '1 plaintext', '1 hbone']);
  });

  it('are owed as long as no descriptor is left for a copy, each handed over once', () => {
    const world = new World();
    const { listeners, given } = world;
    listeners.open(NETNS, []);
    world.descriptorsLeft = 4;
    assert.throws(() => listeners.handOver(), isShort);
    assert.throws(() => listeners.handOver(), isShort);
    assert.equal(listeners.isHandedOver, false);
    world.descriptorsLeft = 100;
    listeners.handOver();
    listeners.handOver();
    assert.equal(listeners.isHandedOver, true);
    assert.equal(new Set(given).size, 6);
    assert.equal(given.length, 6);
  });

  it('wait for the successor of a worker that is dead, without holding the pod up', () => {
    const world = new World();
    const { listeners, given, alive } = world;
    listeners.open(NETNS, []);
    alive.pop();
    listeners.handOver();
    assert.equal(listeners.isHandedOver, true);
    assert.equal(given.length, 3);
    alive.push(1);
    listeners.owe(1);
    assert.equal(listeners.isHandedOver, false);
    listeners.handOver();
    assert.deepEqual(given.slice(3), ['1 outbound', '1 plaintext', '1 hbone']);
  });

  it('are all closed when they can not all be opened', () => {
    const world = new World();
    world.descriptorsLeft = 4;
    assert.throws(
      () => world.listeners.open(NETNS, []),
      (error) => error instanceof MeshError && error.code === 'NETNS_FAILED',
    );
    world.listeners.close();
    assert.deepEqual(world.closed, [100, 101, 102, 103]);
  });
});
