/** The loads, without the mesh and with it, by turns: what else the machine does hits both. */
import { setTimeout as sleep } from 'node:timers/promises';

const ECHO = '8080';
const SINK = '8081';
const READY_TIMEOUT_MS = 180_000;
const RETRY_MS = 1_000;

/** One row of the table. */
const LOADS = [
  { load: '1 KiB requests, 1 connection', argv: ['ping', ECHO, '1'], unit: 'req/s' },
  { load: '1 KiB requests, 64 connections', argv: ['ping', ECHO, '64'], unit: 'req/s' },
  { load: 'bulk, 1 stream', argv: ['bulk', SINK, '1'], unit: 'MB/s' },
  { load: 'bulk, 8 streams', argv: ['bulk', SINK, '8'], unit: 'MB/s' },
  { load: 'new connections, 16 at once', argv: ['churn', ECHO, '16'], unit: 'conn/s' },
] as const;

export interface Side {
  /** URL of the agent in the client's pod. */
  readonly agent: string;
  readonly server: string;
  /** Whether the client's connections have to go through the mesh. */
  readonly isCaptured: boolean;
}

export interface Figures {
  /** In the load's unit; the median of the rounds, like the others. */
  readonly rate: number;
  /** µs of an exchange; means nothing for bulk. */
  readonly p50: number;
  readonly p99: number;
  /** Exchanges that failed or came back wrong, in all rounds. */
  readonly failed: number;
}

export interface Row {
  readonly load: string;
  readonly unit: string;
  readonly plain: Figures;
  readonly mesh: Figures;
}

interface Options {
  readonly sides: { readonly plain: Side; readonly mesh: Side };
  readonly rounds: number;
  readonly milliseconds: number;
}

/** All rows. @throws Error when an agent does not get ready, or one that must be captured is not (or the reverse). */
export async function measure({ sides, rounds, milliseconds }: Options): Promise<readonly Row[]> {
  await untilReady(sides.plain);
  await untilReady(sides.mesh);
  const rows: Row[] = [];
  for (const { load, argv, unit } of LOADS) {
    const figures: { plain: Figures[]; mesh: Figures[] } = { plain: [], mesh: [] };
    for (let round = 0; round < rounds; round++)
      for (const name of ['plain', 'mesh'] as const)
        figures[name].push(await once(sides[name], argv, unit, milliseconds));
    rows.push({ load, unit, plain: median(figures.plain), mesh: median(figures.mesh) });
    process.stderr.write(`${load}: measured\n`);
  }
  return rows;
}

/** Waits for the agent, its server, and for the pod to be in the mesh, or out of it. */
async function untilReady({ agent, server, isCaptured }: Side): Promise<void> {
  const deadline = performance.now() + READY_TIMEOUT_MS;
  for (;;) {
    const said = await fetch(`${agent}/captured?server=${server}`).then(
      (response) => response.text(),
      (error: unknown) => String(error),
    );
    if (said === String(isCaptured)) return;
    if (performance.now() > deadline)
      throw new Error(`${agent}: captured is not ${String(isCaptured)}: ${said}`);
    await sleep(RETRY_MS);
  }
}

async function once(
  side: Side,
  argv: readonly string[],
  unit: string,
  milliseconds: number,
): Promise<Figures> {
  const [mode = '', port = '', count = ''] = argv;
  const body = JSON.stringify([mode, side.server, port, count, String(milliseconds)]);
  const response = await fetch(`${side.agent}/run`, { method: 'POST', body });
  const text = await response.text();
  if (!response.ok) throw new Error(`${side.agent} ${body}: ${text}`);
  const result: unknown = JSON.parse(text);
  const figure = (key: string): number => Number(Reflect.get(Object(result), key));
  const done = unit === 'MB/s' ? figure('done') / 1e6 : figure('done');
  const failed = figure('failed') + figure('mismatched');
  return { rate: done / figure('seconds'), p50: figure('p50'), p99: figure('p99'), failed };
}

/** Of each figure by itself; failures are added up. */
function median(rounds: readonly Figures[]): Figures {
  const middle = (key: 'rate' | 'p50' | 'p99'): number =>
    rounds.map((one) => one[key]).sort((a, b) => a - b)[Math.floor(rounds.length / 2)] ?? 0;
  const failed = rounds.reduce((sum, one) => sum + one.failed, 0);
  return { rate: middle('rate'), p50: middle('p50'), p99: middle('p99'), failed };
}
