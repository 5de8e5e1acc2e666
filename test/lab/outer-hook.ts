/** A connect hook on a cgroup above the pods', as kube-proxy replacements have one: the test's, not the product's. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { must } from '../support/run.ts';
import type { LabNode } from './kit/node.ts';
import type { Lab } from './kit/lab.ts';
import { LabProcess } from './kit/process.ts';
import { REPOSITORY } from './kit/tools.ts';

const APPS = join(import.meta.dirname, 'apps');
const CACHE = join(REPOSITORY, 'node_modules/.cache/culvert-lab');

const Seen = z.object({ service: z.number(), loopback: z.number(), other: z.number() });
/** How many TCP connects it was asked about, by what it found as their destination. */
export type Seen = z.infer<typeof Seen>;

export class OuterHook implements AsyncDisposable {
  readonly #process: LabProcess;

  /**
   * Attaches to the cgroup of `node` that is above kubepods. `preorder`: BPF_F_PREORDER, which the kernel runs before
   * the hooks of the cgroups below; `normal` ones run after them. Ends with `await using`, or with the lab.
   * @throws Error with the kernel's word when it can't be attached.
   */
  static async attach(lab: Lab, node: LabNode, order: 'normal' | 'preorder'): Promise<OuterHook> {
    const argv = ['python3', join(APPS, 'outer-hook.py'), await compiled(), node.cgroup, order];
    const hook = new OuterHook(await LabProcess.start(argv, { cgroup: join(lab.cgroup, 'tools') }));
    await hook.#process.waitForLine('to attach', (line) => line === 'ready' || undefined);
    return hook;
  }

  private constructor(process: LabProcess) {
    this.#process = process;
  }

  /** From now on a connect to `ip:port` goes to `toIp:toPort`. */
  async translate(ip: string, port: number, toIp: string, toPort: number): Promise<void> {
    await this.#ask(`service ${ip} ${port} ${toIp} ${toPort}`, (line) => line === 'added' || undefined);
  }

  seen(): Promise<Seen> {
    return this.#ask('seen', (line) => (line.startsWith('{') ? Seen.parse(JSON.parse(line)) : undefined));
  }

  #ask<T>(command: string, pick: (line: string) => T | undefined): Promise<T> {
    const from = this.#process.lines.length;
    this.#process.stdin.write(`${command}\n`);
    return this.#process.waitForLine(`answer to ${command}`, pick, { from });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process.stop('SIGKILL');
  }
}

/** The object's path; compiled once per source. */
async function compiled(): Promise<string> {
  const source = join(APPS, 'outer-hook.bpf.c');
  const hash = createHash('sha256').update(readFileSync(source)).digest('hex').slice(0, 16);
  const path = join(CACHE, `outer-hook-${hash}.bpf.o`);
  const mine = `${path}.${process.pid}`;
  await mkdir(CACHE, { recursive: true });
  const includes = `/usr/include/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`;
  await must(['clang-19', '-target', 'bpf', '-O2', '-g', `-I${includes}`, '-c', source, '-o', mine]);
  await rename(mine, path);
  return path;
}
