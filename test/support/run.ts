/** Runs other programs for tests. */
import { spawn } from 'node:child_process';

export interface RunOptions {
  readonly input?: string;
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Killed with SIGKILL after this; default 60 s. */
  readonly timeoutMs?: number;
}

export interface RunResult {
  /** undefined when a signal ended it. */
  readonly code: number | undefined;
  readonly signal: NodeJS.Signals | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `argv` to its end. Never throws for how it ended. @throws when the program can't be started. */
export function run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const [program = '', ...args] = argv;
  const { promise, resolve, reject } = Promise.withResolvers<RunResult>();
  const child = spawn(program, args, {
    cwd: options.cwd,
    env: options.env ?? process.env,
    timeout: options.timeoutMs ?? 60_000,
    killSignal: 'SIGKILL',
  });
  child.on('error', reject);
  // A program that ends before it has read its input is no error of ours.
  child.stdin.on('error', () => undefined);
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
  child.on('close', (code, signal) =>
    resolve({
      code: code ?? undefined,
      signal: signal ?? undefined,
      stdout: Buffer.concat(out).toString(),
      stderr: Buffer.concat(err).toString(),
    }),
  );
  child.stdin.end(options.input ?? '');
  return promise;
}

/** Runs `argv` and gives its stdout. @throws Error with its stderr when it does not exit with 0. */
export async function must(argv: readonly string[], options: RunOptions = {}): Promise<string> {
  const result = await run(argv, options);
  if (result.code === 0) return result.stdout;
  const how = result.signal ?? `exit ${result.code ?? '?'}`;
  throw new Error(`${argv.join(' ')}: ${how}\n${result.stderr}${result.stdout}`);
}
