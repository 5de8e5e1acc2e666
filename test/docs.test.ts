import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { KNOB_NAMES, flagOf } from '../daemon/config.ts';
import { limitsMarkdown } from '../daemon/cli/limits.ts';
import { culvert } from './cli/terminal.ts';

const ROOT = join(import.meta.dirname, '..');

describe('pages made from tables', () => {
  it('LIMITS.md is what `culvert limits --markdown` prints', async () => {
    const { code, out } = await culvert(['limits', '--markdown']);
    assert.equal(code, 0);
    assert.equal(
      readFileSync(join(ROOT, 'LIMITS.md'), 'utf8'),
      out,
      'run: daemon/cli/culvert limits --markdown > LIMITS.md',
    );
  });

  it('LIMITS.md has every knob and the figures that people plan with', () => {
    const page = limitsMarkdown();
    for (const name of KNOB_NAMES) assert.ok(page.includes(`| \`${flagOf(name)}\` |`), name);
    for (const figure of ['2,640', '28,232', 'CAP_NET_RAW', 'k3s', 'getsockname', 'MPTCP'])
      assert.ok(page.includes(figure), figure);
  });

  it('the licence is the one that package.json names', () => {
    assert.match(readFileSync(join(ROOT, 'LICENSE'), 'utf8'), /Apache License\s+Version 2\.0/);
    assert.match(readFileSync(join(ROOT, 'package.json'), 'utf8'), /"license": "Apache-2\.0"/);
  });
});
