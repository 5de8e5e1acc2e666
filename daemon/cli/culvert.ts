/** The `culvert` command's entry: the real terminal, the real clock, this version. */
import { setTimeout as sleep } from 'node:timers/promises';
import { VERSION } from '../version.ts';
import { entryPoints } from './entry-points.ts';
import { run } from './program.ts';

// A reader that has seen enough (`culvert status | head`) is no failure of ours.
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));

process.exitCode = await run(process.argv.slice(2), {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  stdin: () => process.stdin,
  env: process.env,
  // https://no-color.org: any value but the empty one.
  colour: process.stdout.isTTY && (process.env['NO_COLOR'] ?? '') === '',
  now: () => Date.now(),
  sleep: (ms) => sleep(ms),
  version: VERSION,
  entryPoints,
});
