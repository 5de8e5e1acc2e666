/** Where what takes minutes to make is kept, outside the tree: `~/.cache/culvert`, or `$XDG_CACHE_HOME/culvert`. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { lock } from './lock.ts';

export const CACHE_ROOT = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'culvert');
export const CACHE = join(CACHE_ROOT, 'kube');

/** What to make, and from what: the same sources make it once on a machine. */
export interface Recipe {
  /** `multi`: the first part of the entry's name. */
  readonly name: string;
  /** Files and words on which the result depends. */
  readonly files: readonly string[];
  readonly words?: readonly string[];
  /** Makes it at `target`, which does not exist. Told when it is done; throws otherwise. */
  readonly make: (target: string) => Promise<void>;
}

/** The path where the result of `recipe` is, or will be. */
export function cachedPath({ name, files, words = [] }: Recipe): string {
  const hash = createHash('sha256');
  for (const file of files) hash.update(readFileSync(file)).update('\0');
  for (const word of words) hash.update(word).update('\0');
  return join(CACHE, `${name}-${hash.digest('hex').slice(0, 16)}`);
}

/** Whether it was made already. */
export function isMade(recipe: Recipe): boolean {
  return existsSync(cachedPath(recipe));
}

/** The path of what `recipe` makes; made now when it is not there. One maker at a time, the others wait for it. */
export async function cached(recipe: Recipe): Promise<string> {
  const path = cachedPath(recipe);
  if (existsSync(path)) return path;
  mkdirSync(CACHE, { recursive: true });
  const turn = await lock(`${path}.lock`);
  try {
    if (!existsSync(path)) await makeWhole(recipe, path);
  } finally {
    await turn[Symbol.asyncDispose]();
  }
  return path;
}

/** What is at a path is complete. */
async function makeWhole(recipe: Recipe, path: string): Promise<void> {
  const part = `${path}.part`;
  rmSync(part, { recursive: true, force: true });
  await recipe.make(part);
  renameSync(part, path);
}
