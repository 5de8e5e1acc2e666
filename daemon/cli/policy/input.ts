/** A file that a command was given, or standard input (`-`), with a bound. */
import { createReadStream } from 'node:fs';
import { MeshError } from '../../errors.ts';
import type { Io, Manifests } from '../io.ts';

/** The bytes of `file` in pieces. */
export function openInput(io: Pick<Io, 'stdin'>, file: string): AsyncIterable<Uint8Array> {
  return file === '-' ? io.stdin() : createReadStream(file);
}

/**
 * The text of `file`. Bytes that are no UTF-8 become replacement characters: what reads the text refuses them.
 * @throws MeshError CONFIG_INVALID when it can't be read or is too long; `what` says which argument it was.
 */
export async function readInput(
  io: Pick<Io, 'stdin'>,
  file: string,
  what: string,
  maxBytes: number,
): Promise<string> {
  const parts: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const part of openInput(io, file)) {
      size += part.length;
      if (size > maxBytes) throw new RangeError(`${file} is larger than ${maxBytes} bytes`);
      parts.push(part);
    }
  } catch (error) {
    throw unreadable(what, error);
  }
  return Buffer.concat(parts).toString('utf8');
}

/** A file can't be read: the user named it, so it is the usage that is wrong. */
export function unreadable(what: string, error: unknown): MeshError {
  return new MeshError(
    'CONFIG_INVALID',
    `${what}: ${error instanceof Error ? error.message : String(error)}`,
    {
      cause: error,
    },
  );
}

/** What `files` hold. @throws MeshError CONFIG_INVALID when one that was named is not there; what is wrong inside is not. */
export async function readFiles(
  io: Pick<Io, 'stdin' | 'entryPoints'>,
  files: readonly string[],
): Promise<Manifests> {
  const manifests = await io.entryPoints.readManifests(files, io.stdin);
  const away = manifests.problems.find(
    ({ file, reason }) => files.includes(file) && reason.startsWith("can't be read"),
  );
  if (away === undefined) return manifests;
  throw new MeshError('CONFIG_INVALID', `${away.file}: ${away.reason}`);
}
