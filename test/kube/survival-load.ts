/** A steady load of new connections between two nodes' pods, each of which is counted. */
import assert from 'node:assert/strict';
import { httpRequest } from '../lab/kit/apps.ts';
import type { Counts, Loop } from '../lab/kit/apps.ts';
import { until } from '../support/wait.ts';
import { APP_PORT } from './kit/mesh.ts';
import type { Stage } from './survival-stage.ts';

const OFTEN_MS = 20;
const SELDOM_MS = 400;

/** New connections both ways between the nodes: many on tunnels that are there, and some that need a handshake each. */
export class Load implements AsyncDisposable {
  readonly #loops: ReadonlyMap<string, Loop>;

  /** `body`: of each request. */
  static async start({ mesh }: Stage, body?: Uint8Array): Promise<Load> {
    const back = (await mesh.inPod('back')).ip;
    const web = await mesh.shop.serviceIp('web');
    const ways = [
      ['client', web, 80, OFTEN_MS],
      ['caller', back, APP_PORT, OFTEN_MS],
      ['fresh-1', web, 80, SELDOM_MS],
      ['fresh-2', back, APP_PORT, SELDOM_MS],
    ] as const;
    const loops = new Map<string, Loop>();
    for (const [from, to, port, everyMs] of ways)
      loops.set(
        from,
        await (await mesh.inPod(from)).loop(to, port, { everyMs, first: httpRequest('/', body) }),
      );
    const load = new Load(loops);
    await load.more(20);
    return load;
  }

  private constructor(loops: ReadonlyMap<string, Loop>) {
    this.#loops = loops;
  }

  /** Resolves when `count` more connections have had their answers. */
  async more(count: number): Promise<void> {
    const before = (await this.#counts()).ok;
    await until(`${count} more answers`, async () => (await this.#counts()).ok >= before + count, {
      timeoutMs: 180_000,
      everyMs: 250,
    });
  }

  /** Connections begun so far. */
  async started(): Promise<number> {
    return (await this.#counts()).started;
  }

  /** Failures so far. */
  async failed(): Promise<number> {
    return (await this.#counts()).failed;
  }

  /** Ends it; what it has seen. `handshakes`: those that could not use a tunnel that was there. */
  async stop(): Promise<Tally> {
    const counts = new Map<string, Counts>();
    for (const [name, loop] of this.#loops) counts.set(name, await loop.stop());
    const fresh = [...counts].filter(([name]) => name.startsWith('fresh'));
    const failures = [...this.#loops].flatMap(([name, { process }]) =>
      process.lines.filter((line) => line.includes('"event":"failed"')).map((line) => `${name} ${line}`),
    );
    return { ...sum(counts.values()), handshakes: sum(fresh.map(([, one]) => one)).ok, failures };
  }

  async #counts(): Promise<Sum> {
    return sum(await Promise.all([...this.#loops.values()].map((loop) => loop.stats())));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const loop of this.#loops.values()) await loop[Symbol.asyncDispose]();
  }
}

interface Sum {
  readonly started: number;
  readonly ok: number;
  readonly failed: number;
  readonly slowestMs: number;
}

export interface Tally extends Sum {
  readonly handshakes: number;
  /** What each that failed had to say. */
  readonly failures: readonly string[];
}

function sum(counts: Iterable<Counts>): Sum {
  const total = { started: 0, ok: 0, failed: 0, slowestMs: 0 };
  for (const { started, ok, failed, slowestMs } of counts) {
    total.started += started;
    total.ok += ok;
    total.failed += failed;
    total.slowestMs = Math.max(total.slowestMs, slowestMs);
  }
  return total;
}

/** @throws AssertionError unless nothing failed, and that many were tried at least; it has the daemons' reasons. */
export async function allWell({ mesh }: Stage, tally: Tally, atLeast = 500): Promise<void> {
  if (tally.failed > 0) {
    const { failures } = tally;
    const some = [...failures.slice(0, 10), '…', ...failures.slice(-10)];
    assert.fail([shown(tally), ...some, ...(await reasons(mesh))].join('\n'));
  }
  assert.ok(tally.started >= atLeast, shown(tally));
}

/** What daemons that are still there say of connections that came to nothing: how many of each, and one of them. */
async function reasons(mesh: Stage['mesh']): Promise<string[]> {
  const records = (await mesh.logs()).filter((one) => one['conn_id'] !== undefined && one['reason'] !== 'OK');
  const alike = Map.groupBy(records, (one) =>
    ['direction', 'reason', 'error'].map((key) => String(one[key])).join(' '),
  );
  return [...alike].map(([what, all]) => `${all.length} × ${what}: ${JSON.stringify(all.at(-1))}`);
}

/** In words, for `context.diagnostic`. */
export function shown({ started, failed, handshakes, slowestMs }: Tally): string {
  return `${started} new connections (${handshakes} with a handshake), ${failed} failed, the slowest took ${Math.round(slowestMs)} ms`;
}
