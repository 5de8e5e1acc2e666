/** `make kind` where there is no Docker: each command that its script gives, with programs that only write them down. */
import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';
import { parse } from 'yaml';
import { must, run } from '../support/run.ts';
import type { RunResult } from '../support/run.ts';
import { tempDir } from '../support/tmp.ts';
import { BENCH, at, find, list, render, text } from './manifests.ts';
import type { Manifest } from './manifests.ts';

const ROOT = path.join(import.meta.dirname, '../..');
const SCRIPT = path.join(import.meta.dirname, 'kind.sh');
const TOOLS = ['docker', 'kind', 'kubectl'] as const;
/** Writes down how it is called, a word a line, and what it is given to read; fails where it is told to. */
const STUB = `#!/bin/bash
set -- "\${0##*/}" "$@"
printf '%s\\n' "$@" '' >>"$CALLS"
[[ "$*" != 'kind get clusters' ]] || printf '%s\\n' "\${CLUSTERS:-}"
[[ "$*" != *' get job/bench '* ]] || echo '[{"type":"Complete"}]'
[[ "$*" != *'--config -'* ]] || cat >"$CALLS.config"
[ "$PWD" = "$WANTED_PWD" ] || exit 9
[[ -z "\${FAILS:-}" || "$*" != *"$FAILS"* ]]
`;

interface Called extends RunResult {
  /** Each call: the program's name and its words. */
  readonly calls: readonly (readonly string[])[];
  /** What `kind create` was told. */
  readonly config: string;
}

/** The script, with stubs for `tools` in front of the PATH, or nothing but them when one is left out. */
async function kind(env: Record<string, string> = {}, tools: readonly string[] = TOOLS): Promise<Called> {
  await using dir = await tempDir('kind');
  const [bin, log] = [path.join(dir.path, 'bin'), path.join(dir.path, 'calls')];
  mkdirSync(bin);
  for (const tool of ['bash', 'dirname', 'cat']) symlinkSync(`/usr/bin/${tool}`, path.join(bin, tool));
  for (const tool of tools) {
    writeFileSync(path.join(bin, tool), STUB);
    chmodSync(path.join(bin, tool), 0o755);
  }
  const given = { PATH: bin, HOME: dir.path, CALLS: log, WANTED_PWD: ROOT, ...env };
  const result = await run([SCRIPT], { env: given, cwd: '/' });
  const read = (file: string): string => (existsSync(file) ? readFileSync(file, 'utf8') : '');
  const calls = read(log).split('\n\n').filter(Boolean);
  return { ...result, calls: calls.map((call) => call.split('\n')), config: read(`${log}.config`) };
}

const DELETE = ['kind', 'delete', 'cluster', '--name', 'culvert'];

describe('make kind', () => {
  it('has a script that shellcheck finds nothing in', async () => {
    await must(['shellcheck', SCRIPT]);
  });

  it('builds what the overlays run, makes a cluster of two workers, loads it there, and removes the cluster', async () => {
    const { code, stderr, calls, config } = await kind();
    assert.equal(code, 0, stderr);
    const built = calls.filter(([tool, verb]) => tool === 'docker' && verb === 'build');
    const stages = readFileSync(path.join(ROOT, 'Dockerfile'), 'utf8');
    for (const words of built) {
      assert.equal(words.at(-1), '.');
      const target = words[words.indexOf('--target') + 1];
      if (words.includes('--target')) assert.match(stages, new RegExp(`^FROM .* AS ${target ?? ''}$`, 'm'));
    }
    const images = built.map((words) => words[words.indexOf('--tag') + 1]);
    const loads = calls.filter((words) => words.slice(0, 3).join(' ') === 'kind load docker-image');
    assert.deepEqual(
      loads.map((words) => words.slice(5)),
      [images],
    );
    const needed = [...(await render('overlays/kind')), ...(await render(BENCH))].flatMap(imagesOf);
    assert.deepEqual([...new Set(needed)].sort(), images.toSorted());
    const nodes = list(parse(config), 'nodes').map((node) => text(node, 'role'));
    assert.deepEqual(nodes, ['control-plane', 'worker', 'worker']);
    assert.deepEqual(calls.at(-1), DELETE);
    for (const words of [...loads, ...calls.filter(([, verb]) => verb === 'create' || verb === 'delete')])
      if (words[0] === 'kind') assert.equal(words[words.indexOf('--name') + 1], 'culvert');
  });

  it('asks kubectl for folders that can be applied, and for objects that are in them', async () => {
    const { calls } = await kind();
    const kubectl = calls.filter(([tool]) => tool === 'kubectl');
    for (const words of kubectl) assert.deepEqual(words.slice(1, 3), ['--context', 'kind-culvert']);
    const words = kubectl.map((call) => call.slice(3));
    const applied = words.filter(([verb]) => verb === 'apply').map(([, , folder]) => folder);
    assert.deepEqual(applied, ['manifests/overlays/kind', `manifests/${BENCH}`]);
    const objects = [...(await render('overlays/kind')), ...(await render(BENCH))];
    const named = words.flat().filter((word) => /^(?:daemonset|deployment|job)\/[\w-]+$/.test(word));
    assert.deepEqual(new Set(named), new Set(['deployment/culvert-ca', 'daemonset/culvert', 'job/bench']));
    for (const word of named) {
      const [kindOf, name = ''] = word.split('/');
      const found = objects.find((one) => one.kind.toLowerCase() === kindOf && one.name === name);
      const call = words.find((one) => one.includes(word));
      assert.equal(at(found?.object, 'metadata', 'namespace'), call?.[1], word);
    }
    assert.ok(find(objects, 'Namespace', 'culvert-bench'));
  });

  it('ends the cluster also when something fails, unless it is to be kept', async () => {
    const failed = await kind({ FAILS: 'rollout status' });
    assert.notEqual(failed.code, 0);
    assert.deepEqual(failed.calls.at(-1), DELETE);
    const kept = await kind({ KEEP: '1' });
    assert.equal(kept.code, 0, kept.stderr);
    assert.ok(!kept.calls.some(([, verb]) => verb === 'delete'));
    assert.match(kept.stdout, /kind delete cluster --name culvert/);
  });

  it('leaves a cluster alone that somebody has kept', async () => {
    const { code, stderr, calls } = await kind({ CLUSTERS: 'other\nculvert' });
    assert.equal(code, 1);
    assert.match(stderr, /there is a cluster culvert already/);
    assert.deepEqual(calls, [['kind', 'get', 'clusters']]);
    assert.equal((await kind({ CLUSTERS: 'culvert-2' })).code, 0);
  });

  it('says which program is missing before it does anything', async () => {
    for (const tool of TOOLS) {
      const { code, stderr, calls } = await kind(
        {},
        TOOLS.filter((one) => one !== tool),
      );
      assert.deepEqual([code, calls], [1, []]);
      assert.match(stderr, new RegExp(`^kind: ${tool} is missing`));
    }
  });
});

/** Images of all containers of an object. */
function imagesOf({ object }: Manifest): readonly string[] {
  const spec = at(object, 'spec', 'template', 'spec') ?? at(object, 'spec');
  return list(spec, 'containers').map((container) => text(container, 'image'));
}
