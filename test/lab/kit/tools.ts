/** The lab's two C programs, built once per source and kept with the installed packages. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { must } from '../../support/run.ts';

export const REPOSITORY = join(import.meta.dirname, '../../..');
const APPS = join(import.meta.dirname, '../apps');
const CACHE = join(REPOSITORY, 'node_modules/.cache/culvert-lab');

const LABTOOL = { name: 'labtool', sources: [join(import.meta.dirname, 'labtool.c')], headers: [] };
const LABAPP = {
  name: 'labapp',
  sources: ['labapp.c', 'serve.c', 'client.c', 'stream.c'].map((file) => join(APPS, file)),
  headers: ['labapp.h', 'stream.h'].map((file) => join(APPS, file)),
};

export interface Tools {
  readonly labtool: string;
  readonly labapp: string;
}

let built: Promise<Tools> | undefined;

/** Paths of the two programs; compiles them with gcc when their sources are new (half a second). */
export function tools(): Promise<Tools> {
  built ??= Promise.all([build(LABTOOL), build(LABAPP)]).then(([labtool, labapp]) => ({ labtool, labapp }));
  return built;
}

async function build(program: typeof LABAPP): Promise<string> {
  const hash = createHash('sha256');
  for (const file of [...program.sources, ...program.headers]) hash.update(readFileSync(file));
  const path = join(CACHE, `${program.name}-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(path)) return path;
  await mkdir(CACHE, { recursive: true });
  // Two test files may build at once: each under its own name, the last rename wins.
  const mine = `${path}.${process.pid}`;
  await must(['gcc', '-O2', '-Wall', '-Wextra', '-o', mine, ...program.sources]);
  await rename(mine, path);
  return path;
}
