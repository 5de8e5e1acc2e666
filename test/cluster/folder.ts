/** A folder for a FileSource, and what the source says of it. */
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { FileSource } from '../../daemon/cluster/files.ts';
import type { FileSourceOptions } from '../../daemon/cluster/files.ts';
import { formatProblem } from '../../daemon/cluster/problems.ts';
import type { Delta } from '../../daemon/mesh/model.ts';

/** A folder, a source over it, and all that the source has said. */
export class Folder {
  readonly path: string;
  readonly said: Delta[] = [];
  readonly source: FileSource;
  readonly #waiting = new Set<() => void>();

  constructor(path: string, options: FileSourceOptions) {
    this.path = path;
    this.source = new FileSource(path, { intervalMs: 50, settleMs: 40, ...options });
  }

  /** Started and synced. */
  static async with(
    t: TestContext,
    files: Readonly<Record<string, string>>,
    options: FileSourceOptions = {},
  ): Promise<Folder> {
    const folder = await Folder.begun(t, files, options);
    await folder.source.synced;
    return folder;
  }

  /** Started. */
  static async begun(
    t: TestContext,
    files: Readonly<Record<string, string>>,
    options: FileSourceOptions = {},
  ): Promise<Folder> {
    const path = await mkdtemp(join(tmpdir(), 'culvert-folder-'));
    t.after(() => rm(path, { recursive: true, force: true }));
    const folder = new Folder(path, options);
    for (const [name, text] of Object.entries(files)) await folder.replace(name, text);
    t.after(() => folder.source[Symbol.asyncDispose]());
    folder.source.start((deltas) => {
      folder.said.push(...deltas);
      for (const wake of folder.#waiting) wake();
    });
    return folder;
  }

  /** Writes a file as a careful writer does: whole, by rename. */
  async replace(name: string, text: string): Promise<void> {
    const draft = join(this.path, `.draft-${Math.random()}`);
    await mkdir(join(this.path, name, '..'), { recursive: true });
    await writeFile(draft, text);
    await rename(draft, join(this.path, name));
  }

  /** What the source says now: the last word on each key that is still there. */
  now(): string[] {
    const last = new Map(this.said.map((delta) => [`${delta.kind} ${delta.key}`, delta.value]));
    return [...last].flatMap(([key, value]) => (value === undefined ? [] : key)).sort();
  }

  last(kind: Delta['kind'], key: string): unknown {
    return this.said.findLast((delta) => delta.kind === kind && delta.key === key)?.value;
  }

  /** Resolves when `holds` does: asked after every word of the source, and at its pace for problems. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, 20);
      this.#waiting.add(resolve);
      await promise;
      clearTimeout(timer);
      this.#waiting.delete(resolve);
    }
  }

  problems(): string[] {
    return this.source.problems().map((problem) => formatProblem(problem).replace(`${this.path}/`, ''));
  }
}
