import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { cycles, forbiddenImports } from './rules.ts';
import { parseSource, readSources } from './sources.ts';

const sources = readSources('daemon');

const MAX_LINES = 400;
/** Tables: one entry is several lines, and splitting them would hide what they are for. */
const LONGER: Readonly<Record<string, number>> = { 'daemon/config.ts': 480 };

/** All violations at once, each on a line of its own. */
function assertNone(violations: readonly string[], rule: string): void {
  assert.equal(violations.length, 0, `${rule}\n  ${violations.join('\n  ')}`);
}

describe('the house (DESIGN section 2)', () => {
  it('has its rooms where the rule looks for them', () => {
    assert.ok(sources.some(({ path }) => path === 'daemon/mesh/ids.ts'));
    assert.ok(sources.length > 20);
  });

  it('imports only what the table of rooms allows', () => {
    assertNone(sources.flatMap(forbiddenImports), 'forbidden imports:');
  });

  it('has no cycle', () => {
    assertNone(
      cycles(sources).map((cycle) => cycle.join(' → ')),
      'cycles:',
    );
  });

  it('has no any, no non-null !, no enum, no namespace, no default export', () => {
    assertNone(
      sources.flatMap(({ oddities }) => oddities),
      'not our style:',
    );
  });

  it('has files that one can read in a sitting', () => {
    const long = sources.filter(({ path, lines }) => lines > (LONGER[path] ?? MAX_LINES));
    assertNone(
      long.map(({ path, lines }) => `${path} has ${lines} lines`),
      `longer than ${MAX_LINES} lines:`,
    );
  });
});

describe('the rule itself', () => {
  const problems = (path: string, text: string): string =>
    forbiddenImports(parseSource(path, text)).join('\n');

  it('keeps the rooms apart', () => {
    assert.match(
      problems('daemon/proxy/x.ts', "import { a } from '../capture/b.ts';"),
      /^daemon\/proxy\/x\.ts:1: imports \.\.\/capture\/b\.ts: proxy may import/,
    );
    assert.match(problems('daemon/mesh/x.ts', "import { a } from '../observe/log.ts';"), /mesh may import/);
    assert.match(
      problems('daemon/cli/x.ts', "import type { a } from '../admin/backend.ts';"),
      /cli may import/,
    );
    assert.equal(problems('daemon/proxy/hbone/x.ts', "import { a } from '../../mesh/ids.ts';"), '');
    assert.equal(problems('daemon/main.ts', "import { a } from './capture/b.ts';"), '');
  });

  it('lets most rooms see the types of config only', () => {
    assert.equal(problems('daemon/proxy/x.ts', "import type { Config } from '../config.ts';"), '');
    assert.match(problems('daemon/proxy/x.ts', "import { KNOBS } from '../config.ts';"), /proxy may import/);
  });

  it('sees re-exports, import() and joiners', () => {
    assert.match(problems('daemon/proxy/x.ts', "export { a } from '../cluster/b.ts';"), /proxy may import/);
    assert.match(problems('daemon/proxy/x.ts', "await import('../cluster/b.ts');"), /import\(\) is for/);
    assert.match(problems('daemon/proxy/x.ts', 'await import(where);'), /import\(\) is for/);
    assert.match(problems('daemon/cluster/x.ts', "import { a } from '../main.ts';"), /joins the rooms/);
    assert.equal(problems('daemon/cli/entry-points.ts', "await import('../main.ts');"), '');
    assert.match(
      problems('daemon/cli/entry-points.ts', "import { a } from '../main.ts';"),
      /joins the rooms/,
    );
  });

  it('keeps packages in their homes', () => {
    assert.match(
      problems('daemon/capture/maps.ts', "import f from 'ffi-napi';"),
      /only daemon\/capture\/libbpf\.ts/,
    );
    assert.equal(problems('daemon/capture/libbpf.ts', "import f from 'ffi-napi';"), '');
  });

  it('finds a cycle', () => {
    const a = parseSource('daemon/mesh/a.ts', "import { b } from './b.ts';");
    const b = parseSource('daemon/mesh/b.ts', "import { a } from './a.ts';");
    assert.deepEqual(cycles([a, b]), [['daemon/mesh/a.ts', 'daemon/mesh/b.ts', 'daemon/mesh/a.ts']]);
  });

  it('finds what is not our style', () => {
    const text =
      'const a: any = b!;\nenum C { D }\nnamespace E { }\nexport default a;\nexport default class {}';
    assert.deepEqual(
      parseSource('x.ts', text).oddities.map((odd) => odd.split(' ').slice(0, 2).join(' ')),
      [
        'x.ts:1: `any`:',
        'x.ts:1: non-null',
        'x.ts:2: enum:',
        'x.ts:3: namespace:',
        'x.ts:4: default',
        'x.ts:5: default',
      ],
    );
  });
});
