/** The benchmark job on a real cluster, in short: it ends, measures through the mesh and beside it, and loses nothing. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { z } from 'zod';
import { builtImage } from './image/builder.ts';
import { KubeCluster } from './kit/cluster.ts';
import { BENCH, at, pathOf, render } from './manifests.ts';

const SHORT = [
  { name: 'ROUNDS', value: '1' },
  { name: 'MILLISECONDS', value: '1000' },
];
const WAIT_MS = 5 * 60_000;

const Figures = z.object({
  rate: z.number().positive(),
  p50: z.number(),
  p99: z.number(),
  failed: z.literal(0),
});
const Rows = z.array(z.object({ load: z.string(), unit: z.string(), plain: Figures, mesh: Figures }));

describe('the benchmark job', () => {
  let cluster: KubeCluster;
  before(async () => {
    const archives = [(await builtImage('culvert')).archive, (await builtImage('bench')).archive];
    cluster = await KubeCluster.start({ images: archives });
    await cluster.controlPlane.kubectl(['apply', '-k', pathOf('overlays/dev')]);
    const rollout = ['-n', 'culvert-system', 'rollout', 'status', 'daemonset/culvert', '--timeout=120s'];
    await cluster.controlPlane.kubectl(rollout, { timeoutMs: WAIT_MS });
  });
  after(() => cluster[Symbol.asyncDispose]());

  it('prints a table and JSON of figures without the mesh and with it, and nothing failed', async () => {
    const { controlPlane } = cluster;
    const objects = (await render(BENCH)).map(({ kind, object }) =>
      kind === 'Job' ? shortened(object) : object,
    );
    await controlPlane.apply(...objects);
    const wait = ['-n', 'culvert-bench', 'wait', '--for=condition=complete', 'job/bench', '--timeout=4m'];
    const { code, stderr } = await controlPlane.tryKubectl(wait, { timeoutMs: WAIT_MS });
    const log = await controlPlane.kubectl(['-n', 'culvert-bench', 'logs', 'job/bench']);
    assert.equal(code, 0, `${stderr}\n${log}`);
    const lines = log.trim().split('\n');
    const rows = Rows.parse(JSON.parse(lines.at(-1) ?? ''));
    assert.equal(rows.length, 5);
    for (const { load } of rows)
      assert.ok(
        lines.some((line) => line.startsWith(`| ${load} |`)),
        load,
      );
    process.stdout.write(`${lines.filter((line) => line.startsWith('|')).join('\n')}\n`);
  });
});

/** The job with a second for each load instead of three times three. */
function shortened(job: unknown): unknown {
  const copy = structuredClone(job);
  const container = at(copy, 'spec', 'template', 'spec', 'containers', 0);
  Reflect.set(Object(container), 'env', SHORT);
  return copy;
}
