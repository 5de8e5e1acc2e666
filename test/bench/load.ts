/** The load (load.c): compiled for each run, started in pods. */
import { join } from 'node:path';
import { z } from 'zod';
import type { LabPod } from '../lab/kit/pod.ts';
import type { LabProcess } from '../lab/kit/process.ts';
import { must } from '../support/run.ts';

/** What every server pod listens on. */
export const ECHO_PORT = 8_080;
export const SINK_PORT = 8_081;

const Result = z.object({
  event: z.literal('result'),
  /** Bytes of bulk that the other end has compared and counted, else exchanges. */
  done: z.number(),
  failed: z.number(),
  mismatched: z.number(),
  seconds: z.number(),
  /** µs of one exchange; with churn its connect too. */
  p50: z.number(),
  p99: z.number(),
  open: z.number(),
  /** errno name of the last failure. */
  error: z.string(),
  /** CPU seconds of the client itself. */
  cpu: z.number(),
});
export type LoadResult = z.infer<typeof Result>;

const Held = z.object({
  event: z.literal('held'),
  open: z.number(),
  failed: z.number(),
  error: z.string(),
});
export type Held = z.infer<typeof Held>;

export interface Target {
  readonly ip: string;
  readonly port: number;
}

/** Compiles load.c into `folder`. Gives the program's path. */
export async function buildLoad(folder: string): Promise<string> {
  const program = join(folder, 'load');
  await must(['gcc', '-O2', '-Wall', '-Wextra', '-o', program, join(import.meta.dirname, 'load.c')]);
  return program;
}

/** Starts the server of a pod; resolves when it listens. */
export async function serveLoad(program: string, pod: LabPod): Promise<void> {
  const server = await pod.spawn([program, 'serve', String(ECHO_PORT), String(SINK_PORT)]);
  await server.waitForLine('to listen', (line) => line.includes('"listening"') || undefined);
}

/** A client that is connected and warm. */
export class Load implements AsyncDisposable {
  readonly #process: LabProcess;
  readonly #timeoutMs: number;

  static bulk(program: string, pod: LabPod, to: Target, streams: number, ms: number): Promise<Load> {
    return Load.#start(pod, [program, 'bulk', to.ip, String(to.port), String(streams), String(ms)], ms);
  }

  static ping(program: string, pod: LabPod, to: Target, connections: number, ms: number): Promise<Load> {
    return Load.#start(pod, [program, 'ping', to.ip, String(to.port), String(connections), String(ms)], ms);
  }

  static churn(program: string, pod: LabPod, to: Target, slots: number, ms: number): Promise<Load> {
    return Load.#start(pod, [program, 'churn', to.ip, String(to.port), String(slots), String(ms)], ms);
  }

  /** A new connection a second to each target. */
  static pace(program: string, pod: LabPod, to: readonly Target[], ms: number): Promise<Load> {
    const targets = to.map(({ ip, port }) => `${ip}:${port}`);
    return Load.#start(pod, [program, 'pace', String(ms), ...targets], ms);
  }

  static async #start(pod: LabPod, argv: readonly string[], ms: number): Promise<Load> {
    const process = await pod.spawn(argv);
    await process.waitForLine('to be warm', (line) => line.includes('"ready"') || undefined, {
      timeoutMs: 30_000,
    });
    return new Load(process, ms + 60_000);
  }

  private constructor(process: LabProcess, timeoutMs: number) {
    this.#process = process;
    this.#timeoutMs = timeoutMs;
  }

  /** Starts it and gives its result at the moment it ends; its connections stay until it is disposed of. */
  go(): Promise<LoadResult> {
    this.#process.stdin.write('go\n');
    const pick = (line: string): LoadResult | undefined =>
      line.includes('"result"') ? Result.parse(JSON.parse(line)) : undefined;
    return this.#process.waitForLine('the result', pick, { timeoutMs: this.#timeoutMs });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.stop('SIGKILL');
  }
}

/** Connections held open, one exchange each. */
export class HeldConnections implements AsyncDisposable {
  readonly #process: LabProcess;

  static async start(program: string, pod: LabPod, to: Target): Promise<HeldConnections> {
    return new HeldConnections(await pod.spawn([program, 'hold', to.ip, String(to.port)]));
  }

  private constructor(process: LabProcess) {
    this.#process = process;
  }

  /** Opens more until `count` have been tried and have answered. */
  until(count: number): Promise<Held> {
    const from = this.#process.lines.length;
    this.#process.stdin.write(`${count}\n`);
    const pick = (line: string): Held | undefined =>
      line.includes('"held"') ? Held.parse(JSON.parse(line)) : undefined;
    return this.#process.waitForLine(`${count} held connections`, pick, { timeoutMs: 120_000, from });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.stop('SIGKILL');
  }
}
