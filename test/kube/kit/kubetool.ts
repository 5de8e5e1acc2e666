/** The kit's C program, built once per source. */
import { join } from 'node:path';
import { must } from '../../support/run.ts';
import { cached } from './cache.ts';

const SOURCE = join(import.meta.dirname, 'kubetool.c');

/** Its path; compiled with gcc when its source is new. */
export function kubetool(): Promise<string> {
  return cached({
    name: 'kubetool',
    files: [SOURCE],
    make: async (target) => {
      await must(['gcc', '-O2', '-Wall', '-Wextra', '-o', target, SOURCE]);
    },
  });
}
