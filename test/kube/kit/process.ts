/** A process of a cluster: in a cgroup and a network namespace of it, printing to a file, outliving its starter. */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { until } from '../../support/wait.ts';
import { tools } from '../../lab/kit/tools.ts';

export interface KubeProcessOptions {
  /** Absolute, as this machine sees it. */
  readonly cgroup: string;
  /** `/proc/PID/ns/net`, or `new` for one of its own; the machine's when left out. */
  readonly netns?: string;
  /** Everything it prints is appended there. */
  readonly logFile: string;
  readonly env?: NodeJS.ProcessEnv;
}

export class KubeProcess {
  /** As this machine sees it. */
  readonly pid: number;
  readonly exited: Promise<void>;
  readonly logFile: string;
  readonly #child: ChildProcess;
  #hasEnded = false;

  /** Starts `argv` there; resolves when it runs. @throws Error with what it printed when it can't be started. */
  static async start(argv: readonly string[], options: KubeProcessOptions): Promise<KubeProcess> {
    const { labtool } = await tools();
    const log = openSync(options.logFile, 'a');
    const words = ['run', '--cgroup', options.cgroup];
    if (options.netns === 'new') words.push('--new-net');
    else if (options.netns !== undefined) words.push('--net', options.netns);
    const child = spawn(labtool, [...words, '--', ...argv], {
      cwd: '/',
      env: options.env ?? process.env,
      // No pipe for its words: a cluster that stays up must not die of its starter's end.
      stdio: ['ignore', log, log, 'pipe'],
      detached: true,
    });
    closeSync(log);
    return new KubeProcess(child, await readPid(child, options.logFile), options.logFile);
  }

  private constructor(child: ChildProcess, pid: number, logFile: string) {
    this.#child = child;
    this.pid = pid;
    this.logFile = logFile;
    this.exited = ended(child).then(() => void (this.#hasEnded = true));
    child.unref();
  }

  get isRunning(): boolean {
    return !this.#hasEnded && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** `/proc/PID/ns/net`. */
  get netns(): string {
    return `/proc/${this.pid}/ns/net`;
  }

  /** Sends `signal` and waits for the end. Nothing happens when it has ended. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (!this.isRunning) return;
    this.#child.ref();
    if (signal === 'SIGKILL') process.kill(this.pid, signal);
    else this.#child.kill(signal);
    await this.exited;
  }

  /** The last lines that it printed. */
  tail(lines = 15): string {
    return readFileSync(this.logFile, 'utf8').split('\n').slice(-lines).join('\n');
  }

  /** What `pick` finds in its output. @throws Error with its last lines when it ends or the time is over first. */
  waitForOutput(pattern: RegExp, timeoutMs = 15_000): Promise<RegExpExecArray> {
    return until(
      `${String(pattern)} in ${this.logFile}`,
      () => {
        const found = pattern.exec(readFileSync(this.logFile, 'utf8'));
        if (found === null && !this.isRunning) throw new Error(`ended early:\n${this.tail()}`);
        return found ?? undefined;
      },
      { timeoutMs, detail: () => this.tail() },
    );
  }
}

function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => child.once('exit', () => resolve()));
}

async function readPid(child: ChildProcess, logFile: string): Promise<number> {
  const pipe = child.stdio[3];
  if (pipe === null || pipe === undefined) throw new Error('labtool has no pipe for the pid');
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const failed = (): void =>
    reject(new Error(`could not start:\n${readFileSync(logFile, 'utf8').slice(-2000)}`));
  child.on('error', reject);
  child.once('exit', failed);
  pipe.on('error', reject);
  pipe.once('data', (chunk: Buffer) => resolve(Number(chunk.toString().trim())));
  try {
    return await promise;
  } finally {
    child.off('exit', failed);
    pipe.destroy();
  }
}
