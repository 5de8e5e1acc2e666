/** Every case of the interop tests by name, with how it went: a table for people, and for a closing note. */
import { writeFileSync } from 'node:fs';
import { it } from 'node:test';

interface Result {
  readonly name: string;
  /** `passed`, or the first line of what went wrong; undefined: it has not run to its end. */
  outcome: string | undefined;
  ms: number;
}

const results: Result[] = [];

/** Like node:test's `it`, and remembers how it went. Call order is the table's. */
export function check(name: string, run: () => Promise<void>): void {
  const result: Result = { name, outcome: undefined, ms: 0 };
  results.push(result);
  it(name, async () => {
    const started = performance.now();
    try {
      await run();
      result.outcome = 'passed';
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      result.outcome = `FAILED: ${(text.split('\n', 1)[0] ?? '').slice(0, 160)}`;
      throw error;
    } finally {
      result.ms = performance.now() - started;
    }
  });
}

/** Prints the table, and writes it to CULVERT_INTEROP_LOG when that is set. */
export function report(version: string): void {
  const width = Math.max(0, ...results.map(({ name }) => name.length));
  const rows = results.map(
    ({ name, outcome, ms }) =>
      `${name.padEnd(width)}  ${String(Math.round(ms)).padStart(6)} ms  ${outcome ?? 'NOT RUN'}`,
  );
  const passed = results.filter(({ outcome }) => outcome === 'passed').length;
  const head = `Interop with ztunnel, ${new Date().toISOString()}\n${version}`;
  const text = `${[head, '', ...rows, '', `${passed} of ${results.length} passed`].join('\n')}\n`;
  process.stdout.write(`\n${text}`);
  const file = process.env['CULVERT_INTEROP_LOG'] ?? '';
  if (file !== '') writeFileSync(file, text);
}
