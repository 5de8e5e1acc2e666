/** Runs hot.bench.ts as it wants to be run: under hot-maps, which gives it the kernel's maps. */
import { join } from 'node:path';
import { z } from 'zod';
import { must } from '../support/run.ts';
import type { Figures } from './figures.ts';

const Last = z.object({ figures: z.object({ connection: z.number() }) });

/** Nanoseconds of all native calls of one connection. `folder` gets the compiled program. */
export async function hot(folder: string): Promise<Figures> {
  const maps = join(folder, 'hot-maps');
  await must(['cc', '-o', maps, join(import.meta.dirname, '../native/hot-maps.c')]);
  const script = join(import.meta.dirname, 'hot.bench.ts');
  const printed = await must([maps, 'run', process.execPath, script], { timeoutMs: 120_000 });
  const line = printed.trim().split('\n').at(-1) ?? '';
  return { hotConnectionNs: Last.parse(JSON.parse(line)).figures.connection };
}
