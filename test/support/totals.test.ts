/** What `make test` says at its end, and what it reads for that. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { run } from './run.ts';
import { tempDir } from './tmp.ts';
import { totals } from './totals.ts';

const LAB = 'figure test/lab/a.test.ts: 12 ms\ntotal 100 passed, 0 failed, 2 skipped, 61 s\n';

describe('the end of make test', () => {
  it('counts all runs', () => {
    const table = totals(
      new Map([
        ['lab', LAB],
        ['kube', 'total 20 passed, 0 failed, 0 skipped, 600 s\n'],
      ]),
    );
    assert.deepEqual(table.split('\n'), [
      '  lab          100 passed, 0 failed, 2 skipped in 1 min 1 s',
      '  kube         20 passed, 0 failed, 0 skipped in 10 min 0 s',
      '  all          120 passed, 0 failed, 2 skipped in 11 min 1 s',
    ]);
  });

  it('says what passed the second time only', () => {
    const first = 'failed test/kube/a.test.ts\ntotal 17 passed, 3 failed, 0 skipped, 60 s\n';
    const again = (failed: number): string =>
      totals(
        new Map([
          ['kube', first],
          ['kube-again', `total 5 passed, ${failed} failed, 0 skipped, 10 s\n`],
        ]),
      );
    assert.match(again(0), /all +20 passed, 0 failed, .*; 3 failed at first, and passed alone$/);
    assert.match(again(1), /all +19 passed, 1 failed, .*; 2 failed at first, and passed alone$/);
  });

  it('says of a run that was killed that it did not end', () => {
    assert.match(
      totals(new Map([['kube', 'failed test/kube/a.test.ts\n']])),
      /^ {2}kube +did not come to its end$/m,
    );
  });
});

describe('the record of a run', () => {
  it('has each failed test’s file, what tests say of themselves, and one total', async () => {
    await using dir = await tempDir('record');
    const file = join(dir.path, 'some.test.mjs');
    writeFileSync(
      file,
      `import { describe, it } from 'node:test';
      describe('some', () => {
        it('says', (context) => { context.diagnostic('7 ms'); });
        it('fails', () => { throw new Error('on purpose'); });
        it.skip('is not there');
      });`,
    );
    // With it node would take the new run for a part of this one.
    const env = { ...process.env };
    delete env['NODE_TEST_CONTEXT'];
    const reporter = join(import.meta.dirname, 'record.ts');
    const words = ['--test', `--test-reporter=${reporter}`, '--test-reporter-destination=stdout', file];
    const { stdout } = await run([process.execPath, ...words], { env, cwd: dir.path });
    const lines = stdout.trim().split('\n');
    assert.ok(lines.includes('failed some.test.mjs'), stdout);
    assert.ok(lines.includes('figure some.test.mjs: 7 ms'), stdout);
    const found = lines.filter((line) => line.startsWith('total '));
    assert.equal(found.length, 1, stdout);
    assert.match(found[0] ?? '', /^total 1 passed, 1 failed, 1 skipped, \d+ s$/);
  });
});
