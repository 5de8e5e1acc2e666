/** Which files a folder holds, with bounds, and what tells that one has changed. */
import { constants } from 'node:fs';
import type { Dirent, Stats } from 'node:fs';
import { open, readdir, stat } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { STATUS_FOLDER } from './published.ts';

/** Changes whenever a file is written or replaced. */
export interface Stamp {
  readonly inode: number;
  readonly sizeBytes: number;
  readonly mtimeMs: number;
  readonly ctimeMs: number;
}

export interface Listing {
  /** Path from the root → stamp. */
  readonly files: Map<string, Stamp>;
  /** Folders, '' for the root. */
  readonly folders: string[];
  /** Folders and files that could not be read, folders too deep or too many, with the reason: they stay as they were. */
  readonly unread: Map<string, string>;
}

const EXTENSIONS: ReadonlySet<string> = new Set(['.yaml', '.yml', '.json']);
export const MAX_FILE_BYTES = 16 * 1024 * 1024;
const MAX_FILES = 50_000;
const MAX_FOLDERS = 2_000;
const MAX_DEPTH = 8;
/** Files looked at together. */
const BATCH = 64;

/** Whether a file of this name is read: YAML or JSON, and not hidden. */
export function isWanted(name: string): boolean {
  return !name.startsWith('.') && EXTENSIONS.has(extname(name));
}

/** All wanted files below `root`. Links to files are followed; of links to folders only `status`. Never rejects. */
export async function list(root: string): Promise<Listing> {
  const listing: Listing = { files: new Map(), folders: [], unread: new Map() };
  let level = [''];
  for (let depth = 0; level.length > 0; depth++) {
    const next: string[] = [];
    for (const folder of level) {
      if (depth > MAX_DEPTH) listing.unread.set(folder, `is more than ${MAX_DEPTH} folders deep`);
      else if (listing.folders.length >= MAX_FOLDERS)
        listing.unread.set(folder, `is beyond ${MAX_FOLDERS} folders`);
      else next.push(...(await listFolder(root, folder, listing)));
    }
    level = next;
  }
  return listing;
}

/** Lists one folder and gives its subfolders. */
async function listFolder(root: string, folder: string, listing: Listing): Promise<string[]> {
  let entries: Dirent[];
  try {
    entries = await readdir(join(root, folder), { withFileTypes: true });
  } catch (error) {
    listing.unread.set(folder, `can't be read: ${errnoOf(error)}`);
    return [];
  }
  listing.folders.push(folder);
  const files = entries.filter((entry) => !entry.isDirectory() && isWanted(entry.name));
  for (let i = 0; i < files.length; i += BATCH) {
    if (listing.files.size + BATCH > MAX_FILES) {
      listing.unread.set(folder, `the folder holds more than ${MAX_FILES} files`);
      break;
    }
    const paths = files.slice(i, i + BATCH).map(({ name }) => join(folder, name));
    const stamps = await Promise.all(paths.map((path) => stampOf(join(root, path))));
    for (const [j, path] of paths.entries()) {
      const stamp = stamps[j];
      if (typeof stamp === 'string') listing.unread.set(path, `can't be read: ${stamp}`);
      else if (stamp !== undefined) listing.files.set(path, stamp);
    }
  }
  return entries
    .filter((entry) => isFolder(entry, folder) && !entry.name.startsWith('.'))
    .map(({ name }) => join(folder, name));
}

/** `status` may be a link: nodes with folders of their own share it. Other links could lead round in circles. */
function isFolder(entry: Dirent, parent: string): boolean {
  const isShared = parent === '' && entry.name === STATUS_FOLDER && entry.isSymbolicLink();
  return entry.isDirectory() || isShared;
}

/** The stamp of a file; undefined when there surely is none, or the error's code when that can't be told. Never rejects. */
export async function stampOf(path: string): Promise<Stamp | string | undefined> {
  try {
    const stats = await stat(path);
    return stats.isFile() ? toStamp(stats) : undefined;
  } catch (error) {
    const code = errnoOf(error);
    return GONE.has(code) ? undefined : code;
  }
}

/** Any other error of stat (EIO, EACCES, ESTALE …) says nothing of whether there is a file. */
const GONE: ReadonlySet<string> = new Set(['ENOENT', 'ENOTDIR']);

export function isSameStamp(a: Stamp, b: Stamp): boolean {
  return (
    a.inode === b.inode && a.sizeBytes === b.sizeBytes && a.mtimeMs === b.mtimeMs && a.ctimeMs === b.ctimeMs
  );
}

export type FileText =
  | { readonly ok: true; readonly text: string; readonly stamp: Stamp }
  /** Changed while it was read: ask again. */
  | { readonly ok: false; readonly reason: undefined }
  | { readonly ok: false; readonly reason: string };

/** A file's text, whole and of one moment. Never rejects. */
export async function readText(path: string): Promise<FileText> {
  try {
    // Non-blocking: a pipe that took the file's place must not hold us.
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const before = await file.stat();
    if (!before.isFile()) return { ok: false, reason: 'is no regular file' };
    if (before.size > MAX_FILE_BYTES)
      return { ok: false, reason: `is larger than ${MAX_FILE_BYTES} bytes: left as it was` };
    const bytes = Buffer.alloc(before.size + 1);
    let length = 0;
    while (length < bytes.length) {
      const { bytesRead } = await file.read(bytes, length);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
    const stamp = toStamp(before);
    const isWhole = length === before.size && isSameStamp(stamp, toStamp(await file.stat()));
    if (!isWhole) return { ok: false, reason: undefined };
    return { ok: true, text: decode(bytes.subarray(0, length)), stamp };
  } catch (error) {
    return {
      ok: false,
      reason: error instanceof TypeError ? 'is not UTF-8' : `can't be read: ${errnoOf(error)}`,
    };
  }
}

function decode(bytes: Uint8Array): string {
  return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
}

function toStamp({ ino, size, mtimeMs, ctimeMs }: Stats): Stamp {
  return { inode: ino, sizeBytes: size, mtimeMs, ctimeMs };
}

function errnoOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error);
}
