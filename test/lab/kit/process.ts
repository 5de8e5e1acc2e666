/** A process of the lab: started in a node, a cgroup and a network namespace, heard line by line. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createWriteStream, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { within } from '../../support/wait.ts';
import { REPOSITORY, tools } from './tools.ts';

/** Where a process lives. */
export interface Place {
  /** Absolute path, as this machine sees it. */
  readonly cgroup: string;
  /** pid 1 of the node whose process, mount and cgroup view it gets; the machine's when left out. */
  readonly nodePid?: number;
  /** `/proc/PID/ns/net`, or `new` for one of its own; the machine's when left out. */
  readonly netns?: string;
  /** The cgroup is the root of a cgroup namespace, as in a container. */
  readonly ownCgroupNamespace?: boolean;
}

export interface StartOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Everything it prints goes there too. */
  readonly logFile?: string;
  /** Raw bytes on `stdin`/`stdout` instead of lines. */
  readonly raw?: boolean;
}

export interface Exit {
  readonly code: number | undefined;
  readonly signal: NodeJS.Signals | undefined;
}

/** Lines kept in memory; a log file has them all. */
const MAX_LINES = 200_000;

/** Processes that have not ended, by the cgroup in which they were started. */
const living = new Map<LabProcess, string>();

/** Resolves when every process that was started below `cgroup` has ended and been heard to its end. */
export async function allEnded(cgroup: string): Promise<void> {
  const below = [...living].filter(([, place]) => place.startsWith(`${cgroup}/`));
  await Promise.all(below.map(([process]) => process.exited));
}

export class LabProcess implements AsyncDisposable {
  readonly argv: readonly string[];
  readonly exited: Promise<Exit>;
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly lines: string[] = [];
  readonly #child: ChildProcess;
  readonly #listeners = new Set<(line: string) => void>();
  #exit: Exit | undefined;
  #pid = 0;

  /** Starts `argv` there. Resolves when it exists. @throws Error with its stderr when the place can't be entered. */
  static async start(argv: readonly string[], place: Place, options: StartOptions = {}): Promise<LabProcess> {
    const { labtool } = await tools();
    const child = spawn(labtool, [...placeArguments(place), '--', ...argv], {
      cwd: options.cwd ?? REPOSITORY,
      env: options.env ?? process.env,
      stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
      // A terminal's Ctrl-C is for the lab, which ends its processes in order.
      detached: true,
    });
    const exited = new Promise<Exit>((resolve) => {
      child.on('close', (code, signal) => resolve({ code: code ?? undefined, signal: signal ?? undefined }));
    });
    const started = new LabProcess(argv, child, exited, options);
    living.set(started, place.cgroup);
    void exited.then(() => living.delete(started));
    started.#pid = await readPid(child, started);
    return started;
  }

  private constructor(
    argv: readonly string[],
    child: ChildProcess,
    exited: Promise<Exit>,
    options: StartOptions,
  ) {
    if (child.stdin === null || child.stdout === null || child.stderr === null)
      throw new Error('a process without pipes');
    this.argv = argv;
    this.exited = exited;
    this.stdin = child.stdin;
    this.stdout = child.stdout;
    this.#child = child;
    this.stdin.on('error', () => undefined);
    void exited.then((exit) => (this.#exit = exit));
    if (options.logFile !== undefined) {
      const log = createWriteStream(options.logFile, { flags: 'a' });
      log.on('error', () => undefined);
      child.stdout.pipe(log, { end: false });
      child.stderr.pipe(log, { end: false });
      void exited.then(() => log.end());
    }
    if (options.raw !== true) this.#hear(child.stdout);
    this.#hear(child.stderr);
  }

  #hear(stream: Readable): void {
    createInterface({ input: stream }).on('line', (line) => {
      this.lines.push(line);
      if (this.lines.length > MAX_LINES) this.lines.splice(0, MAX_LINES / 2);
      for (const listener of this.#listeners) listener(line);
    });
  }

  /** As this machine sees it. */
  get pid(): number {
    return this.#pid;
  }

  /** How it ended, or undefined while it runs. */
  get exit(): Exit | undefined {
    return this.#exit;
  }

  /** Calls back for each line from now on. Returns the unsubscribe. */
  onLine(listener: (line: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * The first line, past or to come, for which `pick` gives something: that.
   * @throws Error with the last lines when the process ends or the time is over first.
   */
  waitForLine<T>(
    what: string,
    pick: (line: string) => T | undefined,
    options: { timeoutMs?: number; from?: number } = {},
  ): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const off = this.onLine((line) => settle(pick(line)));
    const settle = (found: T | undefined): void => {
      if (found !== undefined) resolve(found);
    };
    for (const line of this.lines.slice(options.from ?? 0)) settle(pick(line));
    void this.exited.then((exit) =>
      reject(new Error(`ended (${describeExit(exit)}) before ${what}\n${this.tail()}`)),
    );
    const whole = `${what} of ${this.argv.slice(0, 4).join(' ')}`;
    return within(whole, promise, options.timeoutMs ?? 15_000, () => this.tail()).finally(off);
  }

  /** Its last lines, for an error message. */
  tail(count = 20): string {
    return this.lines.slice(-count).join('\n');
  }

  /** Sends a signal. Nothing happens when it has ended. */
  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Sends `signal`, waits for the end; SIGKILL after `timeoutMs`. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', timeoutMs = 10_000): Promise<Exit> {
    this.signal(signal);
    const timer = setTimeout(() => this.signal('SIGKILL'), timeoutMs);
    try {
      return await this.exited;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Resident memory in KiB; 0 when it has ended. */
  rssKb(): number {
    return Number(/^VmRSS:\s+(\d+)/m.exec(readProc(this.pid, 'status'))?.[1] ?? 0);
  }

  /** User and system CPU seconds of all its threads; 0 when it has ended. */
  cpuSeconds(): number {
    const fields = readProc(this.pid, 'stat').split(') ')[1]?.split(' ') ?? [];
    return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / 100;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop('SIGKILL');
  }
}

export function describeExit(exit: Exit): string {
  return exit.signal ?? `exit ${exit.code ?? '?'}`;
}

/** Words for labtool that start a process in `place`. */
export function placeArguments(place: Place): string[] {
  const words = ['run', '--cgroup', place.cgroup];
  if (place.nodePid !== undefined) words.push('--node', String(place.nodePid));
  if (place.netns === 'new') words.push('--new-net');
  else if (place.netns !== undefined) words.push('--net', place.netns);
  if (place.ownCgroupNamespace === true) words.push('--own-cgroupns');
  return words;
}

function readProc(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return '';
  }
}

async function readPid(child: ChildProcess, started: LabProcess): Promise<number> {
  const pipe = child.stdio[3];
  if (pipe === null || pipe === undefined) throw new Error('labtool has no pipe for the pid');
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  child.on('error', reject);
  pipe.on('error', reject);
  pipe.once('data', (chunk: Buffer) => resolve(Number(chunk.toString().trim())));
  void started.exited.then(() => reject(new Error(`could not start:\n${started.tail()}`)));
  return await promise;
}
