/** What the YAML means to Istio's users, case by case: through the evaluator, and through the command. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { z } from 'zod';
import { answerLine } from '../../../daemon/cli/policy/batch.ts';
import { TABLES } from './cases/all.ts';
import { lineOf } from './kit.ts';
import type { Case } from './kit.ts';

const COMMAND = join(import.meta.dirname, '../../../daemon/cli/culvert');

interface Ref {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly rule?: number | null | undefined;
}

interface Answer {
  readonly name: string;
  readonly verdict: string;
  readonly by: Ref | null;
  readonly why: string;
}

function written(by: Ref | null): string | null {
  return by && `${by.kind} ${by.namespace}/${by.name}${typeof by.rule === 'number' ? ` ${by.rule}` : ''}`;
}

function check(one: Case, answer: Answer): void {
  assert.equal(answer.name, one.name);
  assert.equal(answer.verdict, one.verdict, answer.why);
  if (one.by !== undefined) assert.equal(written(answer.by), one.by, answer.why);
  assert.notEqual(answer.why, '');
}

for (const [what, cases] of Object.entries(TABLES))
  describe(`${what} (${cases.length} cases)`, () => {
    for (const one of cases)
      it(one.name, () => {
        const answer = answerLine(lineOf(one));
        if ('problem' in answer) assert.fail(answer.problem);
        check(one, answer);
      });
  });

describe('culvert why --batch', () => {
  let folder = '';
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'culvert-why-'));
  });
  after(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  it('answers all of them in their order, one JSON line each', () => {
    const cases = Object.values(TABLES).flat();
    const file = join(folder, 'cases.jsonl');
    writeFileSync(file, `${cases.map(lineOf).join('\n')}\n`);
    const ran = spawnSync(COMMAND, ['why', '--batch', file], { encoding: 'utf8', maxBuffer: 64 * 1_048_576 });
    assert.equal(ran.stderr, '');
    assert.equal(ran.status, 0);
    const lines = ran.stdout.trimEnd().split('\n');
    assert.equal(lines.length, cases.length);
    for (const [i, one] of cases.entries()) check(one, readAnswer(lines[i] ?? ''));
  });

  it('has names that tell the cases apart', () => {
    for (const [what, cases] of Object.entries(TABLES)) {
      const names = cases.map(({ name }) => name);
      assert.deepEqual(
        names.filter((name, i) => names.indexOf(name) !== i),
        [],
        what,
      );
    }
  });
});

const answerSchema = z.strictObject({
  name: z.string(),
  verdict: z.string(),
  by: z
    .strictObject({ kind: z.string(), namespace: z.string(), name: z.string(), rule: z.number().nullable() })
    .nullable(),
  why: z.string(),
});

function readAnswer(line: string): Answer {
  return answerSchema.parse(JSON.parse(line));
}
