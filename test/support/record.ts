/**
 * A test reporter for `make`: what of a run is needed after it, one thing a line. `failed FILE` for each test that failed;
 * `figure FILE: TEXT` for what tests say of themselves (`context.diagnostic`); `total …` at the end.
 */
import path from 'node:path';
import type { TestEvent } from 'node:test/reporters';

export async function* record(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const event of source) {
    const line = lineOf(event);
    if (line !== undefined) yield `${line}\n`;
  }
}

/** The line that an event is worth, if it is worth one. */
function lineOf({ type, data }: TestEvent): string | undefined {
  if (type === 'test:fail' && data.file !== undefined) return `failed ${shortened(data.file)}`;
  // Those of the run itself, without nesting, are its totals; `test:summary` has them better.
  if (type === 'test:diagnostic' && data.nesting > 0 && data.file !== undefined)
    return `figure ${shortened(data.file)}: ${data.message}`;
  // One for each file comes before the one for all.
  if (type !== 'test:summary' || data.file !== undefined) return undefined;
  const { tests, passed, skipped, todo } = data.counts;
  const seconds = Math.round(data.duration_ms / 1_000);
  return `total ${passed} passed, ${tests - passed - skipped - todo} failed, ${skipped} skipped, ${seconds} s`;
}

function shortened(file: string): string {
  return path.relative(process.cwd(), file);
}

// The runner takes a reporter by its module's default export, as nothing else of ours is.
// eslint-disable-next-line no-restricted-syntax
export default record;
