/** A test reporter: the files in which a test failed, one a line, for `make test-again`. */
import path from 'node:path';
import type { TestEvent } from 'node:test/reporters';

export async function* failedFiles(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const event of source) {
    if (event.type === 'test:fail' && event.data.file !== undefined)
      yield `${path.relative(process.cwd(), event.data.file)}\n`;
  }
}

// The runner takes a reporter by its module's default export, as nothing else of ours is.
// eslint-disable-next-line no-restricted-syntax
export default failedFiles;
