/** Files of YAML as the command line is given them (`culvert lint`, `culvert why --files`): read as the daemon reads its folder. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';
import type { Delta } from '../mesh/model.ts';
import { parseText } from './documents.ts';
import type { JsonPath } from './fields.ts';
import { objectsIn, translate } from './objects.ts';
import { STATUS_FOLDER, readStatus } from './published.ts';
import { MAX_FILE_BYTES, list } from './walk.ts';

/** One object of a file. */
export interface ManifestObject {
  /** As it was named, or `-`. */
  readonly file: string;
  readonly value: unknown;
  /** The line of the innermost part of `path` that is there. */
  readonly lineOf: (path: JsonPath) => number | undefined;
}

export interface Manifests {
  readonly objects: readonly ManifestObject[];
  /** What nodes' status files say of pods. */
  readonly published: readonly Delta[];
  /** Files that could not be read, or are no YAML. */
  readonly problems: readonly {
    readonly file: string;
    readonly line: number | undefined;
    readonly reason: string;
  }[];
}

/** Objects of all files together. */
const MAX_OBJECTS = 200_000;

/** Reads files, whole folders, and standard input (`-`). Never rejects: what can't be read is a problem. */
export async function readManifests(
  paths: readonly string[],
  stdin: () => AsyncIterable<Uint8Array>,
): Promise<Manifests> {
  const reading = new Reading();
  for (const path of paths) {
    if (path === '-') await reading.take(path, stdin());
    else await takePath(path, reading);
  }
  return reading;
}

/** What the mesh makes of one object; undefined where that is nothing, or the object is broken. */
export function deltaOf(value: unknown): Delta | undefined {
  const translation = translate(value);
  return translation.kind === 'object' ? translation.delta : undefined;
}

async function takePath(path: string, reading: Reading): Promise<void> {
  let isFolder: boolean;
  try {
    isFolder = (await stat(path)).isDirectory();
  } catch (error) {
    reading.fail(path, `can't be read: ${reasonOf(error)}`);
    return;
  }
  if (!isFolder) {
    await reading.take(path, createReadStream(path));
    return;
  }
  const { files, unread } = await list(path);
  for (const [name, reason] of unread) reading.fail(join(path, name), reason);
  for (const name of [...files.keys()].sort()) {
    const file = join(path, name);
    if (dirname(name) === STATUS_FOLDER) await reading.takeStatus(file, createReadStream(file));
    else await reading.take(file, createReadStream(file));
  }
}

class Reading implements Manifests {
  readonly objects: ManifestObject[] = [];
  readonly published: Delta[] = [];
  readonly problems: { file: string; line: number | undefined; reason: string }[] = [];

  fail(file: string, reason: string, line?: number): void {
    this.problems.push({ file, line, reason });
  }

  async take(file: string, chunks: AsyncIterable<Uint8Array>): Promise<void> {
    const text = await this.#read(file, chunks);
    if (text === undefined) return;
    const parsed = parseText(text);
    if (!parsed.ok) {
      this.fail(file, `is no YAML: ${parsed.problem.reason}`, parsed.problem.line);
      return;
    }
    for (const document of parsed.documents)
      for (const { path, value } of objectsIn(document.value)) {
        if (this.objects.length >= MAX_OBJECTS) {
          this.fail(file, `there are more than ${MAX_OBJECTS} objects: the rest is left out`);
          return;
        }
        this.objects.push({ file, value, lineOf: (rest) => document.lineOf([...path, ...rest]) });
      }
  }

  async takeStatus(file: string, chunks: AsyncIterable<Uint8Array>): Promise<void> {
    const text = await this.#read(file, chunks);
    if (text === undefined) return;
    const { pods, problems } = readStatus(text, basename(file, extname(file)));
    for (const { line, reason } of problems) this.fail(file, reason, line);
    for (const [key, value] of pods ?? []) this.published.push({ kind: 'published', key, value });
  }

  async #read(file: string, chunks: AsyncIterable<Uint8Array>): Promise<string | undefined> {
    const parts: Uint8Array[] = [];
    let size = 0;
    try {
      for await (const chunk of chunks) {
        size += chunk.length;
        if (size > MAX_FILE_BYTES) throw new RangeError(`is larger than ${MAX_FILE_BYTES} bytes`);
        parts.push(chunk);
      }
      return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(parts));
    } catch (error) {
      if (error instanceof RangeError) this.fail(file, error.message);
      else this.fail(file, error instanceof TypeError ? 'is not UTF-8' : `can't be read: ${reasonOf(error)}`);
      return undefined;
    }
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error);
}
