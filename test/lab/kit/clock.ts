/** A wall clock that a test sets for one process (apps/shifted-clock.c); monotonic time goes on as it is. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { must } from '../../support/run.ts';
import { REPOSITORY } from './tools.ts';

export class ShiftedClock implements AsyncDisposable {
  /** For the process whose clock it is. */
  readonly env: NodeJS.ProcessEnv;
  readonly #folder: string;
  readonly #file: string;

  /** A clock that is off by `shiftMs` from the start. */
  static async create(shiftMs: number): Promise<ShiftedClock> {
    const folder = mkdtempSync(join(tmpdir(), 'culvert-clock-'));
    const library = join(folder, 'shifted-clock.so');
    const source = join(REPOSITORY, 'test/lab/apps/shifted-clock.c');
    await must(['gcc', '-O2', '-Wall', '-Wextra', '-shared', '-fPIC', '-o', library, source]);
    return new ShiftedClock(folder, library, shiftMs);
  }

  private constructor(folder: string, library: string, shiftMs: number) {
    this.#folder = folder;
    this.#file = join(folder, 'shift');
    this.env = { LD_PRELOAD: library, SHIFTED_CLOCK_FILE: this.#file };
    this.set(shiftMs);
  }

  /** Sets it, for the running process too. Whole seconds. */
  set(shiftMs: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(shiftMs));
    // In place: the process has the file mapped.
    writeFileSync(this.#file, bytes, { flag: existsSync(this.#file) ? 'r+' : 'w' });
  }

  [Symbol.asyncDispose](): Promise<void> {
    rmSync(this.#folder, { recursive: true, force: true });
    return Promise.resolve();
  }
}
