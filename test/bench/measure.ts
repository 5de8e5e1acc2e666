/** One figure of one candidate, once. CPU is that of all the proxies' processes. */
import type { Candidate } from './candidates/candidate.ts';
import type { Figures } from './figures.ts';
import { HeldConnections, Load } from './load.ts';
import type { LoadResult, Target } from './load.ts';
import { slopeKb, treeCpuSeconds, treeResidentKib } from './stats.ts';
import { setTimeout as sleep } from 'node:timers/promises';

/** Connections under way at once while new ones are counted. */
const CHURN_SLOTS = 16;
/** Connections held in the first of the two measurements of memory. */
const FEW = 1_000;
/** From the last event to reading memory: a collection of garbage is due by then. */
const SETTLE_MS = 2_000;

export interface Bench {
  readonly program: string;
  readonly seconds: number;
}

/** Bytes one way, on one stream and on eight. */
export async function bulk(bench: Bench, candidate: Candidate): Promise<Figures> {
  const figures: Figures = {};
  for (const streams of [1, 8] as const) {
    const [client, to] = ends(candidate, candidate.sink);
    await using load = await Load.bulk(bench.program, client, to, streams, bench.seconds * 1_000);
    const { result, near, far } = await run(candidate, load);
    const gb = result.done / 1e9;
    figures[`gb${streams}`] = gb / result.seconds;
    if (!hasProxies(candidate)) continue;
    figures[`cpuGb${streams}`] = (near + far) / gb;
    figures[`cpuGb${streams}Near`] = near / gb;
    figures[`cpuGb${streams}Far`] = far / gb;
  }
  return figures;
}

/** 1 KiB there and back on connections that stay. */
export async function requests(bench: Bench, candidate: Candidate): Promise<Figures> {
  const figures: Figures = {};
  for (const connections of [1, 64] as const) {
    const [client, to] = ends(candidate, candidate.echo);
    await using load = await Load.ping(bench.program, client, to, connections, bench.seconds * 1_000);
    const { result, near, far } = await run(candidate, load);
    figures[`rps${connections}`] = result.done / result.seconds;
    figures[`p50x${connections}`] = result.p50;
    figures[`p99x${connections}`] = result.p99;
    if (hasProxies(candidate)) figures[`cpuReq${connections}`] = ((near + far) / result.done) * 1e6;
  }
  return figures;
}

/** New connections: connect, 1 KiB there and back, close. */
export async function connections(bench: Bench, candidate: Candidate): Promise<Figures> {
  const [client, to] = ends(candidate, candidate.echo);
  await using load = await Load.churn(bench.program, client, to, CHURN_SLOTS, bench.seconds * 1_000);
  const { result, near, far } = await run(candidate, load);
  const figures: Figures = {
    conns: result.done / result.seconds,
    connP50: result.p50,
    connP99: result.p99,
  };
  if (hasProxies(candidate)) figures['cpuConn'] = ((near + far) / result.done) * 1e6;
  return figures;
}

/** MB of each side before any load; of one process when there are several. */
export function idle(candidate: Candidate): Figures {
  if (!hasProxies(candidate)) return {};
  return {
    idleNear: megabytes(treeResidentKib(candidate.near)) / candidate.near.length,
    idleFar: megabytes(treeResidentKib(candidate.far)) / candidate.far.length,
  };
}

/** KB that one more connection costs each side, by the slope from 1,000 to `most` (or as many as it takes). */
export async function slope(bench: Bench, candidate: Candidate, most: number): Promise<Figures> {
  if (!hasProxies(candidate)) return {};
  const [client, to] = ends(candidate, candidate.echo);
  await using held = await HeldConnections.start(bench.program, client, to);
  const few = await hold(candidate, held, FEW);
  const many = await hold(candidate, held, most);
  return {
    held: many.count,
    kbNear: slopeKb({ count: few.count, kib: few.near }, { count: many.count, kib: many.near }),
    kbFar: slopeKb({ count: few.count, kib: few.far }, { count: many.count, kib: many.far }),
  };
}

/**
 * Every client pod opens one new connection a second to every server pod, for `seconds`. Cold but for the pairs of one
 * number, on which the proxies were waited for.
 */
export async function matrix(bench: Bench, candidate: Candidate): Promise<Figures> {
  const before = residentOf(candidate);
  const loads = await Promise.all(
    candidate.clients.map((client) =>
      Load.pace(bench.program, client, candidate.echo, bench.seconds * 1_000),
    ),
  );
  const [near, far] = cpuOf(candidate);
  const results = await Promise.all(loads.map((load) => load.go()));
  const [nearAfter, farAfter] = cpuOf(candidate);
  const done = results.reduce((sum, result) => sum + result.done, 0);
  const failed = results.reduce((sum, result) => sum + result.failed, 0);
  const after = residentOf(candidate);
  await Promise.all(loads.map((load) => load[Symbol.asyncDispose]()));
  const figures: Figures = {
    pairs: candidate.clients.length * candidate.echo.length,
    pacedPerS: done / bench.seconds,
    pacedFailed: failed,
    pacedP99: Math.max(...results.map((result) => result.p99)),
  };
  if (!hasProxies(candidate)) return figures;
  return {
    ...figures,
    pacedCpu: ((nearAfter + farAfter - near - far) / done) * 1e6,
    pacedMbBefore: megabytes(before),
    pacedMb: megabytes(after),
  };
}

interface Run {
  readonly result: LoadResult;
  /** CPU seconds of each side's proxies. */
  readonly near: number;
  readonly far: number;
}

async function run(candidate: Candidate, load: Load): Promise<Run> {
  const [near, far] = cpuOf(candidate);
  const result = await load.go();
  const [nearAfter, farAfter] = cpuOf(candidate);
  if (result.failed > 0 || result.mismatched > 0 || result.done === 0)
    throw new Error(
      `${result.done} done, ${result.failed} failed (${result.error}), ${result.mismatched} not what was sent`,
    );
  if (hasProxies(candidate) && nearAfter + farAfter === near + far)
    throw new Error('the proxies have used no CPU: the load went past them');
  return { result, near: nearAfter - near, far: farAfter - far };
}

async function hold(
  candidate: Candidate,
  held: HeldConnections,
  count: number,
): Promise<{ count: number; near: number; far: number }> {
  const { open } = await held.until(count);
  await sleep(SETTLE_MS);
  return { count: open, near: treeResidentKib(candidate.near), far: treeResidentKib(candidate.far) };
}

function ends(candidate: Candidate, targets: readonly Target[]): [Candidate['clients'][number], Target] {
  const [client] = candidate.clients;
  const [to] = targets;
  if (client === undefined || to === undefined) throw new Error(`${candidate.name} has no pods`);
  return [client, to];
}

export function hasProxies(candidate: Candidate): boolean {
  return candidate.near.length > 0;
}

function cpuOf(candidate: Candidate): [number, number] {
  return [treeCpuSeconds(candidate.near), treeCpuSeconds(candidate.far)];
}

function residentOf(candidate: Candidate): number {
  return treeResidentKib([...candidate.near, ...candidate.far]);
}

function megabytes(kib: number): number {
  return (kib * 1.024) / 1_000;
}
