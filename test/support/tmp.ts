/** Folders that go away with their test. */
import { rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface TempDir extends AsyncDisposable {
  readonly path: string;
}

const alive = new Set<string>();
process.on('exit', () => {
  for (const path of alive) rmSync(path, { recursive: true, force: true });
});

/** A new folder `culvert-<name>-XXXXXX`, removed on disposal or when this process exits. */
export async function tempDir(name: string): Promise<TempDir> {
  const path = await mkdtemp(join(tmpdir(), `culvert-${name}-`));
  alive.add(path);
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      await rm(path, { recursive: true, force: true });
      alive.delete(path);
    },
  };
}
