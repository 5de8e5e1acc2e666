/** The real daemon on a lab node, run as the pod that its DaemonSet makes. */
import { join } from 'node:path';
import { z } from 'zod';
import { until } from '../../support/wait.ts';
import { httpIn } from './connect.ts';
import type { HttpAnswer } from './connect.ts';
import { Inspector } from './inspector.ts';
import type { LabNode } from './node.ts';
import type { LabPod } from './pod.ts';
import { LabProcess } from './process.ts';
import type { Exit, Place } from './process.ts';
import { REPOSITORY } from './tools.ts';

const COMMAND = join(REPOSITORY, 'daemon/cli/culvert');
const INSPECTOR_PORT = 9229;

export interface DaemonOptions {
  /** Added to the command line after the lab's own: `['--join-wait', '500ms']`. The last one wins. */
  readonly flags?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** With Node's inspector on its loopback: needed by `inspect()`. */
  readonly inspect?: boolean;
  /** False: don't wait for /readyz. Default true. */
  readonly waitReady?: boolean;
  /** A cgroup namespace of its own, as containerd gives every container. Default false: the node's. */
  readonly ownCgroupNamespace?: boolean;
}

/** A line of the daemon's log. */
export type LogRecord = Readonly<Record<string, unknown>>;

const NodeStatus = z.object({ pods: z.array(z.object({ uid: z.string(), state: z.string() })) });

const Published = z.object({
  state: z.array(
    z.object({
      kind: z.string(),
      key: z.string(),
      value: z.object({ state: z.string() }).partial().nullish(),
    }),
  ),
});

const Record_ = z.record(z.string(), z.unknown());

export class LabDaemon implements AsyncDisposable {
  readonly node: LabNode;
  /** Its pod: stays when the daemon dies, so that it can be started again in the same place. */
  readonly pod: LabPod;
  readonly logFile: string;
  readonly process: LabProcess;
  readonly #place: Place;

  /** Starts a daemon in `pod`. Use `lab.startDaemon()`. */
  static async start(
    pod: LabPod,
    clusterDir: string,
    caDir: string,
    options: DaemonOptions,
  ): Promise<LabDaemon> {
    const { node } = pod;
    const logFile = join(node.dir, 'logs', `${pod.name}.log`);
    const place = { ...pod.place(), ownCgroupNamespace: options.ownCgroupNamespace === true };
    const own = ['--node-name', node.name, '--cluster-dir', clusterDir, '--ca-dir', caDir];
    const debugging = options.inspect === true ? ` --inspect=127.0.0.1:${INSPECTOR_PORT}` : '';
    const env = {
      ...process.env,
      ...options.env,
      NODE_OPTIONS: `${options.env?.['NODE_OPTIONS'] ?? ''}${debugging}`,
    };
    const argv = [COMMAND, 'daemon', ...own, ...(options.flags ?? [])];
    const daemon = new LabDaemon(pod, logFile, await LabProcess.start(argv, place, { env, logFile }), place);
    if (options.waitReady !== false) await daemon.ready();
    return daemon;
  }

  private constructor(pod: LabPod, logFile: string, process: LabProcess, place: Place) {
    this.node = pod.node;
    this.pod = pod;
    this.logFile = logFile;
    this.process = process;
    this.#place = place;
  }

  /** Waits until /readyz says 200. @throws Error with its last lines when it ends first. */
  async ready(timeoutMs = 30_000): Promise<void> {
    const isReady = async (): Promise<boolean> => {
      if (this.process.exit !== undefined)
        throw new Error(`the daemon of ${this.node.name} ended:\n${this.process.tail(40)}`);
      const answer = await this.http(15_021, '/readyz').catch(() => undefined);
      return answer?.status === 200;
    };
    const detail = (): string => this.process.tail(40);
    await until(`the daemon of ${this.node.name} to be ready`, isReady, { timeoutMs, detail, everyMs: 50 });
  }

  /** HTTP to its own loopback: 15000 admin, 15020 metrics, 15021 health. */
  http(port: number, path: string, method = 'GET'): Promise<HttpAnswer> {
    return httpIn(this.#place, { host: '127.0.0.1', port, path, method });
  }

  /** The JSON of an admin page: `/config`, `/connections`, `/status`. @throws Error when it isn't 200. */
  async admin(path: string): Promise<unknown> {
    const answer = await this.http(15_000, path);
    if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${answer.body}`);
    return JSON.parse(answer.body);
  }

  /** What `culvert status` says of a pod now; `none` when it is not ours. */
  async podState(pod: { readonly uid: string }): Promise<string> {
    const { pods } = NodeStatus.parse(await this.admin('/status'));
    return pods.find(({ uid }) => uid === pod.uid)?.state ?? 'none';
  }

  /** Waits until a pod of this node is in `state`: `enrolled` comes joinWait after it has been published. */
  async waitState(pod: { readonly uid: string }, state: string, timeoutMs = 30_000): Promise<void> {
    let last = '';
    const isThere = async (): Promise<boolean> => (last = await this.podState(pod)) === state;
    await until(`state ${state}`, isThere, {
      timeoutMs,
      detail: () => `it is ${last}\n${this.process.tail()}`,
    });
  }

  /** Waits until each of its workers knows that these pods are enrolled, wherever they run: it tunnels to them then. */
  async waitHeard(...pods: readonly { readonly uid: string }[]): Promise<void> {
    const haveBeenHeard = async (): Promise<boolean> => {
      const { state } = Published.parse(await this.admin('/config'));
      const published = state.filter(({ kind }) => kind === 'published');
      const states = new Map(published.map(({ key, value }) => [key, value?.state]));
      return pods.every(({ uid }) => states.get(uid) === 'enrolled');
    };
    await until('it to have heard of them', haveBeenHeard, { detail: () => this.process.tail() });
    // Every worker answers this, on the way on which the news came before.
    await this.admin('/connections');
  }

  /** /metrics as text. */
  async metrics(): Promise<string> {
    return (await this.http(15_020, '/metrics')).body;
  }

  /** Runs `culvert ARGV` in the daemon's pod. */
  async cli(argv: readonly string[]): Promise<Exit & { readonly output: string }> {
    const { code, signal, lines } = await this.pod.exec([COMMAND, ...argv]);
    return { code, signal, output: lines.join('\n') };
  }

  /** Its log so far, parsed; lines that are no JSON are left out. */
  logs(): LogRecord[] {
    return this.process.lines.map(parseLine).filter((record) => record !== undefined);
  }

  /** The first log record, past (from line `from`) or to come, that `test` takes. */
  waitForLog(
    what: string,
    test: (record: LogRecord) => boolean,
    options: { readonly timeoutMs?: number; readonly from?: number } = {},
  ): Promise<LogRecord> {
    const pick = (line: string): LogRecord | undefined => {
      const record = parseLine(line);
      return record !== undefined && test(record) ? record : undefined;
    };
    return this.process.waitForLine(what, pick, options);
  }

  /** Its access records so far: the log records that have a connection's `reason` and `direction`. */
  accessRecords(): LogRecord[] {
    return this.logs().filter(isAccessRecord);
  }

  /** The first access record, past or to come, that `test` takes. */
  waitForAccess(
    what: string,
    test: (record: LogRecord) => boolean,
    options: { readonly timeoutMs?: number; readonly from?: number } = {},
  ): Promise<LogRecord> {
    return this.waitForLog(what, (record) => isAccessRecord(record) && test(record), options);
  }

  /** Into its main thread and workers; it must have been started with `inspect: true`. */
  inspect(): Promise<Inspector> {
    return Inspector.connect(this.#place, INSPECTOR_PORT);
  }

  /** Ends it; its pod stays. `SIGKILL` is a crash. */
  stop(signal: NodeJS.Signals = 'SIGTERM', timeoutMs = 30_000): Promise<Exit> {
    return this.process.stop(signal, timeoutMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop('SIGKILL');
  }
}

function parseLine(line: string): LogRecord | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    return Record_.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}

function isAccessRecord(record: LogRecord): boolean {
  return typeof record['reason'] === 'string' && typeof record['direction'] === 'string';
}
