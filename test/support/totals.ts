/** `node test/support/totals.ts RECORD…`: a line for each run of tests that `record.ts` has written down, and one for all. */
import { readFileSync } from 'node:fs';
import path from 'node:path';

interface Total {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly seconds: number;
}

/** A table of `records` (what `record.ts` wrote, by name of the run: `lab`, `kube`, `kube-again`). */
export function totals(records: ReadonlyMap<string, string>): string {
  const runs = [...records].map(([name, text]) => ({ name, total: totalOf(text) }));
  const isAgain = (name: string): boolean => name.endsWith('-again');
  const all = { passed: 0, failed: 0, skipped: 0, seconds: 0 };
  let mended = 0;
  for (const { name, total } of runs) {
    all.seconds += total?.seconds ?? 0;
    if (total === undefined || isAgain(name)) continue;
    const again = runs.find((one) => one.name === `${name}-again`)?.total;
    // What fails again has failed; what does not was counted as failed the first time.
    const failed = Math.min(again?.failed ?? total.failed, total.failed);
    all.passed += total.passed + total.failed - failed;
    all.failed += failed;
    all.skipped += total.skipped;
    mended += total.failed - failed;
  }
  const lines = runs.map(({ name, total }) => line(name, total));
  const more = mended > 0 ? `; ${mended} failed at first, and passed alone` : '';
  return [...lines, `${line('all', all)}${more}`].join('\n');
}

function totalOf(text: string): Total | undefined {
  const found = /^total (\d+) passed, (\d+) failed, (\d+) skipped, (\d+) s$/m.exec(text);
  if (found === null) return undefined;
  const [passed = 0, failed = 0, skipped = 0, seconds = 0] = found.slice(1).map(Number);
  return { passed, failed, skipped, seconds };
}

function line(name: string, total: Total | undefined): string {
  if (total === undefined) return `  ${name.padEnd(12)} did not come to its end`;
  const { passed, failed, skipped, seconds } = total;
  const time = `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `  ${name.padEnd(12)} ${passed} passed, ${failed} failed, ${skipped} skipped in ${time}`;
}

if (import.meta.main) {
  const files = process.argv.slice(2);
  const records = files.map((file): [string, string] => [
    path.basename(file).replace(/^run-/, ''),
    readFileSync(file, 'utf8'),
  ]);
  console.log(`\n${totals(new Map(records))}`);
}
