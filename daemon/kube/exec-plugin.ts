/**
 * The program that a kubeconfig names to get credentials (client.authentication.k8s.io). Run by ourselves: client-node
 * starts one for each request that waits, ends none that hangs, and tells none its cluster.
 */
import { spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import type { Readable } from 'node:stream';
import { z } from 'zod';

/** At least a token, or a certificate with its key (PEM). */
export interface PluginCredentials {
  readonly token: string | undefined;
  readonly cert: string | undefined;
  readonly key: string | undefined;
}

export interface ExecPluginOptions {
  /** A plugin may wait for a person, or hang; default one minute. */
  readonly limitMs?: number;
  /** Wall clock, as what the plugin answers has a time in it. */
  readonly nowMs?: () => number;
}

const LIMIT_MS = 60_000;
/** After which one that was asked to end is killed. */
const GRACE_MS = 5_000;
/** What is so new and yet refused is not asked for again: those who are refused together would each start a plugin. */
const FRESH_MS = 10_000;
const MAX_BYTES = 1024 * 1024;
/** Of what it says to a person; the last counts. */
const MAX_SAID = 200;

const execSchema = z.object({
  apiVersion: z.string().nullish(),
  command: z.string().min(1),
  args: z.array(z.string()).nullish(),
  env: z.array(z.object({ name: z.string(), value: z.string() })).nullish(),
  installHint: z.string().nullish(),
  interactiveMode: z.string().nullish(),
  provideClusterInfo: z.boolean().nullish(),
});
type Exec = z.infer<typeof execSchema>;

const answerSchema = z.object({
  status: z.object({
    token: z.string().nullish(),
    clientCertificateData: z.string().nullish(),
    clientKeyData: z.string().nullish(),
    expirationTimestamp: z
      .string()
      .refine((text) => !Number.isNaN(Date.parse(text)), 'no time')
      .nullish(),
  }),
});

interface Answer {
  readonly credentials: PluginCredentials;
  readonly takenMs: number;
  readonly endMs: number;
}

export class ExecPlugin {
  readonly #exec: Exec;
  readonly #cluster: () => object;
  readonly #limitMs: number;
  readonly #nowMs: () => number;
  #answer: Answer | undefined;
  #running: Promise<Answer> | undefined;

  /**
   * @param exec `exec` of a user in a kubeconfig, not yet checked.
   * @param cluster what a plugin that wants to know its cluster is told; asked at each run.
   * @throws Error when it can't be run as it is.
   */
  constructor(exec: unknown, cluster: () => object, options: ExecPluginOptions = {}) {
    this.#exec = checked(exec);
    if (this.#exec.interactiveMode === 'Always')
      throw new Error('it wants a terminal (interactiveMode: Always), which is not supported');
    this.#cluster = cluster;
    this.#limitMs = options.limitMs ?? LIMIT_MS;
    this.#nowMs = options.nowMs ?? (() => Date.now());
  }

  /** What it answered, or answers now: it runs once for all who ask meanwhile. @throws Error in its own words. */
  async credentials(): Promise<PluginCredentials> {
    if (this.#answer !== undefined && this.#nowMs() < this.#answer.endMs) return this.#answer.credentials;
    this.#running ??= this.#ask().finally(() => (this.#running = undefined));
    this.#answer = await this.#running;
    return this.#answer.credentials;
  }

  /** The server refused what it answered: it runs again, unless the answer is new. */
  renew(): void {
    if (this.#answer !== undefined && this.#nowMs() - this.#answer.takenMs >= FRESH_MS)
      this.#answer = undefined;
  }

  async #ask(): Promise<Answer> {
    const { command } = this.#exec;
    const credentials = parsed(command, await runOnce(this.#exec, this.#environment(), this.#limitMs));
    return { ...credentials, takenMs: this.#nowMs() };
  }

  #environment(): NodeJS.ProcessEnv {
    const { apiVersion, env, provideClusterInfo } = this.#exec;
    const info = {
      apiVersion: apiVersion ?? 'client.authentication.k8s.io/v1',
      kind: 'ExecCredential',
      spec: { interactive: false, ...(provideClusterInfo === true ? { cluster: this.#cluster() } : {}) },
    };
    return {
      ...process.env,
      ...Object.fromEntries((env ?? []).map(({ name, value }) => [name, value])),
      KUBERNETES_EXEC_INFO: JSON.stringify(info),
    };
  }
}

function checked(exec: unknown): Exec {
  const { success, data, error } = execSchema.safeParse(exec);
  if (success) return data;
  throw new Error(error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; '));
}

function parsed(command: string, text: string): Omit<Answer, 'takenMs'> {
  const status = statusIn(command, text);
  const [token, cert, key] = [status.token, status.clientCertificateData, status.clientKeyData].map(
    (value) => value || undefined,
  );
  if (token === undefined && (cert === undefined || key === undefined))
    throw new Error(`the plugin ${command} answered neither a token nor a certificate with its key`);
  const end = status.expirationTimestamp ?? undefined;
  return { credentials: { token, cert, key }, endMs: end === undefined ? Infinity : Date.parse(end) };
}

/** Its answer is in no message: there may be a token in it. */
function statusIn(command: string, text: string): z.infer<typeof answerSchema>['status'] {
  try {
    return answerSchema.parse(JSON.parse(text)).status;
  } catch {
    throw new Error(`the answer of the plugin ${command} is of no use: it is no ExecCredential`);
  }
}

type Child = ChildProcessByStdio<null, Readable, Readable>;

/** What it wrote to its standard output until it ended well. */
async function runOnce(exec: Exec, env: NodeJS.ProcessEnv, limitMs: number): Promise<string> {
  const { command, args, installHint } = exec;
  const child = spawn(command, args ?? [], { stdio: ['ignore', 'pipe', 'pipe'], env });
  let said = '';
  child.stderr.on('error', () => undefined).setEncoding('utf8');
  child.stderr.on('data', (chunk: string) => {
    said = (said + chunk).slice(-MAX_SAID);
    // 'Open this page and enter this code': who waits for it has to see it, as with kubectl.
    if (process.stderr.isTTY) process.stderr.write(chunk);
  });
  const why = (how: string): Error => new Error(`the plugin ${command} ${how}${said && `: ${said.trim()}`}`);
  const failed = Promise.withResolvers<never>();
  const hint = installHint ? `; ${installHint}` : '';
  child.on('error', ({ message }) => failed.reject(new Error(`${message}${hint}`)));
  const timer = setTimeout(() => failed.reject(why(`gave no answer within ${limitMs} ms`)), limitMs);
  try {
    const [text, end] = await Promise.race([
      Promise.all([allOf(child.stdout), endOf(child)]),
      failed.promise,
    ]);
    if (end !== 0) throw why(`ended with ${end}`);
    return text;
  } finally {
    clearTimeout(timer);
    letGo(child);
  }
}

function endOf(child: Child): Promise<number | string> {
  return new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal ?? '?')));
}

/** Not of its standard error too: a browser that it opened may hold that. */
function allOf(stream: Readable): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      if (text.length + chunk.length <= MAX_BYTES) text += chunk;
      else reject(new Error(`the plugin answered more than ${MAX_BYTES} bytes`));
    });
    stream.once('end', () => resolve(text)).on('error', reject);
  });
}

/** Ends it where it runs still. What it started itself may live on, but holds nothing of ours. */
function letGo(child: Child): void {
  child.stdout.destroy();
  child.stderr.destroy();
  child.unref();
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGTERM');
  setTimeout(() => child.kill('SIGKILL'), GRACE_MS).unref();
}
