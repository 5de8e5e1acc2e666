/** A file that a command was given, or standard input (`-`), with a bound. */
import { createReadStream } from 'node:fs';
import { MeshError } from '../../errors.ts';
import type { Io } from '../io.ts';

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
