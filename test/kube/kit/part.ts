/** A part of the control plane: a process that can be killed and started again. */
import { until } from '../../support/wait.ts';
import { KubeProcess } from './process.ts';
import type { KubeProcessOptions } from './process.ts';

export class Part {
  readonly #argv: readonly string[];
  readonly #isReady: () => Promise<boolean>;
  readonly #options: KubeProcessOptions;
  #process: KubeProcess | undefined;

  constructor(argv: readonly string[], isReady: () => Promise<boolean>, options: KubeProcessOptions) {
    this.#argv = argv;
    this.#isReady = isReady;
    this.#options = options;
  }

  /** Starts it, again after `kill`; resolves when it is ready. @throws Error with its last lines when it is not. */
  async start(): Promise<void> {
    const process = await KubeProcess.start(this.#argv, this.#options);
    this.#process = process;
    await until(
      `${this.#argv[1] ?? ''} to be ready`,
      async () => {
        if (!process.isRunning) throw new Error(`it ended:\n${process.tail()}`);
        return this.#isReady();
      },
      { timeoutMs: 60_000, everyMs: 50, detail: () => process.tail() },
    );
  }

  /** Ends it at once, as a crash would, or with another signal; resolves when it is gone. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await this.#process?.kill(signal);
  }

  get isRunning(): boolean {
    return this.#process?.isRunning ?? false;
  }

  /** As this machine sees it; undefined before the first start. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /** The last lines that it printed. */
  tail(): string {
    return this.#process?.tail() ?? 'it was never started';
  }
}
