/**
 * Where a cluster lives: one cgroup and one folder, both named `culvert-kube-<id>`. No namespace has a name; all of
 * them, their links, mounts and pins go with their processes. A reaper outside ends it all when the owner disposes of
 * it, exits or is killed, unless the owner has let go of it: then `make cluster-down` does.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cgroup2Mount } from '../../lab/kit/cgroups.ts';
import { REPOSITORY } from '../../lab/kit/tools.ts';
import { within } from '../../support/wait.ts';

export const PREFIX = 'culvert-kube-';
/** In the folder of a cluster that its owner has let go of. */
export const KEPT = 'kept';
/** Waits for the owner's end; also what removes a leftover. */
export const REAP = join(REPOSITORY, 'test/lab/kit/reap.sh');

export class Home implements AsyncDisposable {
  readonly name: string;
  readonly dir: string;
  /** As this machine sees it; holds cgroups only, no process. */
  readonly cgroup: string;
  readonly #reaper: ChildProcess;
  readonly #complaints: string[] = [];

  static async create(): Promise<Home> {
    const name = `${PREFIX}${randomBytes(4).toString('hex')}`;
    const dir = join(tmpdir(), name);
    const cgroup = join(cgroup2Mount(), name);
    for (const folder of ['', 'logs', 'captures', 'pki']) mkdirSync(join(dir, folder), { mode: 0o755 });
    const reaper = spawn('sh', [REAP, cgroup, dir], { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
    const home = new Home(name, dir, cgroup, reaper);
    await within('the reaper', once(reaper.stdout, 'data'));
    mkdirSync(join(cgroup, 'tools'), { recursive: true });
    return home;
  }

  private constructor(name: string, dir: string, cgroup: string, reaper: ChildProcess) {
    this.name = name;
    this.dir = dir;
    this.cgroup = cgroup;
    this.#reaper = reaper;
    reaper.on('error', (error) => this.#complaints.push(error.message));
    reaper.stdin?.on('error', () => undefined);
    reaper.stderr?.on('data', (chunk: Buffer) => this.#complaints.push(chunk.toString()));
    // The reaper alone keeps nobody alive: a test that ends early is cleaned up after all the same.
    reaper.unref();
    for (const stream of reaper.stdio) if (stream instanceof Socket) stream.unref();
  }

  /** A cgroup of the cluster. */
  cgroupOf(name: string): string {
    const path = join(this.cgroup, name);
    mkdirSync(path, { recursive: true });
    return path;
  }

  logFile(name: string): string {
    return join(this.dir, 'logs', `${name}.log`);
  }

  /** Lets go: from now on it all stays until `make cluster-down`. */
  async keep(): Promise<void> {
    writeFileSync(join(this.dir, KEPT), '');
    const ended = once(this.#reaper, 'exit');
    this.#reaper.ref();
    this.#reaper.kill('SIGKILL');
    await ended;
  }

  /** Ends everything. @throws Error when something can't be removed. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#reaper.exitCode !== null || this.#reaper.signalCode !== null) return;
    const { promise: ended, resolve } = Promise.withResolvers<number | null>();
    this.#reaper.once('exit', resolve);
    this.#reaper.ref();
    this.#reaper.stdin?.end();
    const code = await within('the end of the cluster', ended, 180_000);
    if (code !== 0) throw new Error(`the cluster could not be ended: ${this.#complaints.join('')}`);
  }
}
