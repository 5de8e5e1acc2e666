/** The least that our daemon could take: Node with two empty workers and the packages that it imports. */
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { within } from '../support/wait.ts';
import type { Figures } from './figures.ts';
import { treeResidentKib } from './stats.ts';

const SETTLE_MS = 2_000;
const PROGRAM = join(import.meta.dirname, 'bare-program.ts');

/**
 * Resident MB of it: run as TypeScript, as our daemon is in a checkout, and as JavaScript, as the image has it.
 * `folder` must be in the repository, or the packages are not found.
 */
export async function bare(folder: string): Promise<Figures> {
  mkdirSync(folder, { recursive: true });
  const script = join(folder, `bare-${process.pid}.mjs`);
  writeFileSync(script, stripTypeScriptTypes(readFileSync(PROGRAM, 'utf8')));
  try {
    return { bareMb: await residentMb(PROGRAM), bareJsMb: await residentMb(script) };
  } finally {
    rmSync(script);
  }
}

async function residentMb(program: string): Promise<number> {
  const child = spawn(process.execPath, [program], { stdio: ['ignore', 'pipe', 'inherit'] });
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  child.on('error', reject);
  child.on('exit', () => reject(new Error(`${program} ended`)));
  createInterface({ input: child.stdout }).once('line', () => resolve(child.pid ?? 0));
  try {
    const pid = await within('bare Node', promise, 30_000);
    await sleep(SETTLE_MS);
    return (treeResidentKib([pid]) * 1.024) / 1_000;
  } finally {
    child.kill('SIGKILL');
  }
}
