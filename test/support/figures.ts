/** A test reporter: what tests say of themselves (`context.diagnostic`), one figure a line, for `make soak`. */
import path from 'node:path';
import type { TestEvent } from 'node:test/reporters';

export async function* figures(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const event of source) {
    if (event.type !== 'test:diagnostic' || event.data.nesting === 0) continue;
    const file = event.data.file === undefined ? '' : `${path.relative(process.cwd(), event.data.file)}: `;
    yield `${file}${event.data.message}\n`;
  }
}

// The runner takes a reporter by its module's default export, as nothing else of ours is.
// eslint-disable-next-line no-restricted-syntax
export default figures;
