/** The `culvert` command's entry: the real terminal, the real clock, this package's version. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { entryPoints } from './entry-points.ts';
import { run } from './program.ts';

const manifest: unknown = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));

// A reader that has seen enough (`culvert status | head`) is no failure of ours.
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));

process.exitCode = await run(process.argv.slice(2), {
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
  env: process.env,
  // https://no-color.org: any value but the empty one.
  colour: process.stdout.isTTY && (process.env['NO_COLOR'] ?? '') === '',
  now: () => Date.now(),
  sleep: (ms) => sleep(ms),
  version: versionOf(manifest),
  entryPoints,
});

function versionOf(value: unknown): string {
  const version =
    typeof value === 'object' && value !== null && 'version' in value ? value.version : undefined;
  return typeof version === 'string' ? version : 'unknown';
}
