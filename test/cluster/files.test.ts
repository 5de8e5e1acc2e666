import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFile, mkdtemp, open, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { FileSource } from '../../daemon/cluster/files.ts';
import { formatProblem } from '../../daemon/cluster/problems.ts';
import { PublishedStateWriter } from '../../daemon/cluster/published.ts';
import { MeshError } from '../../daemon/errors.ts';
import { parsePodUid } from '../../daemon/mesh/ids.ts';
import type { PublishedState } from '../../daemon/mesh/model.ts';
import { Folder } from './folder.ts';

const namespace = (name: string, label?: string): string =>
  `apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ${name}\n${label === undefined ? '' : `  labels: {culvert.dev/mesh: ${label}}\n`}`;
const pod = (name: string, node = 'node-a', address = '10.244.1.5'): string =>
  `apiVersion: v1\nkind: Pod\nmetadata:\n  name: ${name}\n  namespace: shop\n  uid: uid-${name}\nspec:\n  nodeName: ${node}\n  containers: [{name: app}]\nstatus:\n  phase: Running\n  podIPs: [{ip: ${address}}]\n`;

function published(name: string, state: PublishedState['state']): PublishedState {
  const uid = parsePodUid(`uid-${name}`);
  assert.ok(uid !== undefined);
  return { uid, state, sinceMs: Date.parse('2026-11-20T10:00:00Z') };
}

// A word that never comes would be waited for without end.
const patience = { timeout: 120_000 };

describe('FileSource', patience, () => {
  it('reads a file that was named at once, though a look at everything is due: a pod may be starting', async (t) => {
    const many = Array.from({ length: 400 }, (_, i): [string, string] => [`n${i}.yaml`, namespace(`n${i}`)]);
    const folder = await Folder.with(t, Object.fromEntries(many), { intervalMs: 60_000 });
    const everythingSeenAt = (): number =>
      performance.now() - (folder.source.stalenessMs().get('folder') ?? 0);
    // The folder's first watcher has just been made, so that everything is due once more.
    const startMs = performance.now();
    await folder.replace('late.yaml', pod('late'));
    await folder.until(() => folder.last('workload', 'uid-late') !== undefined);
    assert.ok(everythingSeenAt() <= startMs, 'it was found by looking at everything');
  });

  it('tells all there is before it is synced, namespaces before pods, in subfolders too', async (t) => {
    const folder = await Folder.with(t, {
      'a-pods.yaml': `${pod('one')}---\n${pod('two', 'node-b')}`,
      'z/ns.yml': namespace('shop', 'enabled'),
      'svc.json': JSON.stringify({
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'web', namespace: 'shop' },
        spec: {},
      }),
      'README.md': 'not ours: {',
      '.hidden.yaml': namespace('hidden'),
    });
    assert.deepEqual(
      folder.said.map(({ kind, key }) => `${kind} ${key}`),
      ['namespace shop', 'workload uid-one', 'workload uid-two', 'service shop/web'],
    );
    assert.deepEqual(folder.problems(), []);
  });

  it('tells only what has changed', async (t) => {
    const folder = await Folder.with(t, {
      'ns.yaml': namespace('shop'),
      'pods.yaml': `${pod('one')}---\n${pod('two')}`,
    });
    const before = folder.said.length;
    await folder.replace('pods.yaml', `# moved\n${pod('one')}---\n${pod('two', 'node-b')}`);
    await folder.until(() => folder.said.length > before);
    assert.deepEqual(
      folder.said.slice(before).map(({ key }) => key),
      ['uid-two'],
    );
  });

  it('sees new files, new folders and deletions', async (t) => {
    const folder = await Folder.with(t, { 'ns.yaml': namespace('shop') });
    await folder.replace('deep/er/pod.yaml', pod('one'));
    await folder.until(() => folder.now().length === 2);
    await folder.replace('deep/er/two.yaml', pod('two'));
    await folder.until(() => folder.now().length === 3);
    await unlink(join(folder.path, 'deep/er/pod.yaml'));
    await folder.until(() => folder.now().length === 2);
    await rm(join(folder.path, 'deep'), { recursive: true });
    await folder.until(() => folder.now().length === 1);
  });

  it('sees changes without any notice from the kernel: a second write of one size in one instant', async (t) => {
    const folder = await Folder.with(t, { 'ns.yaml': namespace('shop', 'enabled ') });
    for (const label of ['disabled', 'enabled ', 'disabled'])
      await writeFile(join(folder.path, 'ns.yaml'), namespace('shop', label));
    await folder.until(() =>
      JSON.stringify(folder.last('namespace', 'shop')).includes('"meshLabel":"disabled"'),
    );
  });

  it('keeps the last good objects of a broken file, says where it is broken, and heals', async (t) => {
    const folder = await Folder.with(t, { 'ns.yaml': namespace('shop', 'enabled'), 'pods.yaml': pod('one') });
    const before = folder.said.length;
    await folder.replace('pods.yaml', 'kind: Pod\nmetadata: {\n');
    await folder.until(() => folder.problems().length > 0);
    assert.match(folder.problems()[0] ?? '', /^pods\.yaml:3: /);
    assert.equal(folder.said.length, before);
    await folder.replace('pods.yaml', pod('one', 'node-b'));
    await folder.until(() => folder.said.length > before);
    assert.deepEqual(folder.problems(), []);
  });

  it('keeps the last good one of a wrong object, and takes the others of its file', async (t) => {
    const folder = await Folder.with(t, { 'pods.yaml': `${pod('one')}---\n${pod('two')}` });
    const wrong = pod('one').replace('nodeName: node-a', 'nodeName: 7');
    await folder.replace('pods.yaml', `${wrong}---\n${pod('two', 'node-b')}`);
    await folder.until(() => folder.problems().length > 0);
    assert.match(folder.problems()[0] ?? '', /^pods\.yaml:8: Pod shop\/one: spec\.nodeName: /);
    assert.deepEqual(folder.now(), ['workload uid-one', 'workload uid-two']);
    assert.match(JSON.stringify(folder.last('workload', 'uid-two')), /node-b/);
    const nameless = pod('one').replace('  uid: uid-one\n', '');
    await folder.replace('pods.yaml', `${nameless}---\n${pod('two', 'node-c')}`);
    await folder.until(() => JSON.stringify(folder.last('workload', 'uid-two')).includes('node-c'));
    assert.deepEqual(folder.now(), ['workload uid-one', 'workload uid-two']);
  });

  it('does not take half a file for the whole: what is written in place counts when it is still', async (t) => {
    const folder = await Folder.with(
      t,
      { 'pods.yaml': `${pod('one')}---\n${pod('two')}---\n${pod('three')}` },
      { settleMs: 200 },
    );
    await using file = await open(join(folder.path, 'pods.yaml'), 'w');
    for (const [i, name] of ['one', 'two', 'three', 'four'].entries()) {
      await file.writeFile(`${i > 0 ? '---\n' : ''}${pod(name)}`);
      await file.sync();
      // The writer pauses, and the source looks meanwhile.
      const looked = performance.now() + 60;
      await folder.until(() => performance.now() > looked);
    }
    await folder.until(() => folder.now().length === 4);
    assert.ok(
      folder.said.every(({ value }) => value !== undefined),
      'no pod went away meanwhile',
    );
  });

  it('tells of one object in two files: the first by name counts, until it goes', async (t) => {
    const folder = await Folder.with(t, {
      'a.yaml': namespace('shop', 'enabled'),
      'b.yaml': `# b\n${namespace('shop', 'disabled')}`,
    });
    assert.match(JSON.stringify(folder.last('namespace', 'shop')), /"meshLabel":"enabled"/);
    assert.deepEqual(folder.problems(), [
      'b.yaml:2: Namespace shop is also in a.yaml:1, and that one is used',
    ]);
    await unlink(join(folder.path, 'a.yaml'));
    await folder.until(() =>
      JSON.stringify(folder.last('namespace', 'shop')).includes('"meshLabel":"disabled"'),
    );
    assert.deepEqual(folder.problems(), []);
  });

  it('tells nothing when an object moves to another file', async (t) => {
    const folder = await Folder.with(t, { 'a.yaml': namespace('shop', 'enabled') });
    await rename(join(folder.path, 'a.yaml'), join(folder.path, 'b.yaml'));
    await folder.replace('c.yaml', namespace('bank'));
    await folder.until(() => folder.now().length === 2);
    assert.deepEqual(
      folder.said.map(({ key }) => key),
      ['shop', 'bank'],
    );
  });

  it('leaves a file too large, no UTF-8 or no file as it was, and says so', async (t) => {
    const folder = await Folder.with(t, {
      'a.yaml': namespace('shop', 'enabled'),
      'b.yaml': namespace('bank'),
    });
    await appendFile(join(folder.path, 'a.yaml'), `#${'x'.repeat(16 * 1024 * 1024)}\n`);
    await writeFile(join(folder.path, '.draft'), Buffer.from([0x61, 0xff, 0xfe]));
    await rename(join(folder.path, '.draft'), join(folder.path, 'b.yaml'));
    execFileSync('mkfifo', [join(folder.path, 'pipe.yaml')]);
    await folder.until(() => folder.problems().length === 2);
    assert.match(folder.problems().sort().join('\n'), /^a\.yaml: is larger than .*\nb\.yaml: is not UTF-8$/);
    assert.deepEqual(folder.now(), ['namespace bank', 'namespace shop']);
  });

  it('keeps all when the whole folder goes away, and takes it up again', async (t) => {
    const folder = await Folder.with(t, { 'a.yaml': namespace('shop', 'enabled') });
    await rename(folder.path, `${folder.path}-away`);
    t.after(() => rm(`${folder.path}-away`, { recursive: true, force: true }));
    await folder.until(() => folder.problems().length > 0);
    assert.deepEqual(folder.now(), ['namespace shop']);
    await rename(`${folder.path}-away`, folder.path);
    await folder.replace('b.yaml', namespace('bank'));
    await folder.until(() => folder.now().length === 2);
    assert.deepEqual(folder.problems(), []);
  });

  it('keeps all when everything in the folder goes at once, says so, and takes up what comes back', async (t) => {
    const files = { 'a.yaml': namespace('shop', 'enabled'), 'b.yaml': pod('one'), 'c.yaml': pod('two') };
    const folder = await Folder.with(t, files, { settleMs: 100 });
    const all = folder.now();
    // One after the other, as rm does it, with the source looking in between.
    for (const name of Object.keys(files)) {
      await unlink(join(folder.path, name));
      const looked = performance.now() + 30;
      await folder.until(() => performance.now() > looked);
    }
    await folder.until(() => folder.problems().length > 0);
    const later = performance.now() + 400;
    await folder.until(() => performance.now() > later);
    assert.deepEqual(folder.now(), all);
    assert.match(folder.problems().join(), /has lost all of its objects at once/);
    for (const [name, text] of Object.entries(files)) {
      await folder.replace(name, name === 'c.yaml' ? pod('two', 'node-b') : text);
      const looked = performance.now() + 30;
      await folder.until(() => performance.now() > looked);
    }
    await folder.until(() => JSON.stringify(folder.last('workload', 'uid-two')).includes('node-b'));
    assert.deepEqual(folder.problems(), []);
    assert.ok(
      folder.said.every(({ value }) => value !== undefined),
      'something was told as gone',
    );
    await unlink(join(folder.path, 'b.yaml'));
    await folder.until(() => folder.now().length === 2);
  });

  it('tells what is gone also from a folder in which files never stop to come and go', async (t) => {
    const folder = await Folder.with(t, { 'a.yaml': namespace('shop'), 'b.yaml': pod('one') });
    await unlink(join(folder.path, 'b.yaml'));
    for (let i = 0; folder.now().includes('workload uid-one'); i++) {
      await folder.replace(`n-${i}.yaml`, namespace(`n-${i}`));
      await folder.until(() => folder.now().includes(`namespace n-${i}`));
    }
  });

  it('keeps what a file said whose place can not be looked at', async (t) => {
    const folder = await Folder.with(t, { 'a.yaml': namespace('shop', 'enabled'), 'b.yaml': pod('one') });
    await symlink('loop.yaml', join(folder.path, '.loop'));
    await rename(join(folder.path, '.loop'), join(folder.path, 'loop.yaml'));
    await symlink('loop.yaml', join(folder.path, '.a'));
    await rename(join(folder.path, '.a'), join(folder.path, 'a.yaml'));
    await folder.until(() =>
      folder.problems().some((problem) => /^a\.yaml: can't be read: ELOOP/.test(problem)),
    );
    const later = performance.now() + 300;
    await folder.until(() => performance.now() > later);
    assert.deepEqual(folder.now(), ['namespace shop', 'workload uid-one']);
    await folder.replace('a.yaml', namespace('shop', 'disabled'));
    await folder.until(() => JSON.stringify(folder.last('namespace', 'shop')).includes('"disabled"'));
  });

  it('says of a folder that holds nothing that it does', async (t) => {
    const folder = await Folder.with(t, {});
    assert.match(folder.problems().join(), /holds no object/);
    await folder.replace('a.yaml', namespace('shop'));
    await folder.until(() => folder.problems().length === 0);
  });

  it('says what to do when there is no such folder', async () => {
    await using source = new FileSource('/nowhere/at/all');
    source.start(() => undefined);
    await assert.rejects(
      source.synced,
      (error) => error instanceof MeshError && error.code === 'CLUSTER_DIR_INVALID',
    );
    assert.match(source.problems().map(formatProblem).join(), /\/nowhere\/at\/all.*ENOENT/);
  });

  it("gives one node's pods only, with namespaces and nodes, when asked so", async (t) => {
    const folder = await Folder.with(
      t,
      {
        'ns.yaml': namespace('shop', 'enabled'),
        'one.yaml': pod('one'),
        'two.yaml': pod('two', 'node-b'),
        'both.yaml': `${pod('three', 'node-b')}---\n${pod('four')}`,
        'escaped.yaml': pod('five', '"node\\x2da"'),
        'svc.yaml': 'apiVersion: v1\nkind: Service\nmetadata: {name: node-a}\nspec: {}\n',
        'broken-elsewhere.yaml': 'kind: Pod\nmetadata: {',
      },
      { filter: { kinds: ['namespace', 'node', 'workload'], node: 'node-a' } },
    );
    assert.deepEqual(folder.now(), [
      'namespace shop',
      'workload uid-five',
      'workload uid-four',
      'workload uid-one',
    ]);
    await folder.replace('one.yaml', 'kind: Pod\nmetadata: {');
    await folder.until(() => folder.problems().length > 0);
    assert.equal(folder.now().length, 4, 'a broken file keeps its pod, though it names the node no more');
    await folder.replace('one.yaml', pod('one', 'node-b'));
    await folder.until(() => folder.now().length === 3);
  });
});

describe('the published state', patience, () => {
  it('goes from the writer to every reader, and is withdrawn', async (t) => {
    const folder = await Folder.with(t, { 'pods.yaml': `${pod('one')}---\n${pod('two')}` });
    const writer = new PublishedStateWriter(folder.path, 'node-a');
    await writer.publish([published('one', 'enrolled'), published('two', 'joining')]);
    await folder.until(() => folder.now().length === 4);
    assert.deepEqual(folder.last('published', 'uid-one'), published('one', 'enrolled'));
    await writer.publish([published('two', 'enrolled')]);
    await folder.until(() => folder.last('published', 'uid-one') === undefined);
    assert.deepEqual(folder.last('published', 'uid-two'), published('two', 'enrolled'));
    assert.deepEqual(folder.problems(), []);
  });

  it('writes the last of many calls, and leaves no draft', async (t) => {
    const folder = await Folder.with(t, { 'pods.yaml': pod('one') });
    const writer = new PublishedStateWriter(folder.path, 'node-a');
    const states = ['joining', 'enrolled', 'leaving', 'enrolled'] as const;
    await Promise.all(states.map((state) => writer.publish([published('one', state)])));
    await folder.until(() => folder.last('published', 'uid-one') !== undefined);
    assert.deepEqual(folder.last('published', 'uid-one'), published('one', 'enrolled'));
    assert.equal(execFileSync('ls', ['-A', join(folder.path, 'status')]).toString(), 'node-a.yaml\n');
  });

  it("is ignored and told when a node speaks for another node's pod", async (t) => {
    const folder = await Folder.with(t, { 'pods.yaml': pod('one', 'node-b') });
    await new PublishedStateWriter(folder.path, 'node-a').publish([published('one', 'enrolled')]);
    await folder.until(() => folder.problems().length > 0);
    assert.match(
      folder.problems()[0] ?? '',
      /^status\/node-a\.yaml: speaks for pod shop\/one, which is on node node-b/,
    );
    assert.equal(folder.last('published', 'uid-one'), undefined);
    await new PublishedStateWriter(folder.path, 'node-b').publish([published('one', 'enrolled')]);
    await folder.until(() => folder.last('published', 'uid-one') !== undefined);
  });

  it('is ignored in a file that bears another node’s name, and follows a pod that comes later', async (t) => {
    const folder = await Folder.with(t, { 'ns.yaml': namespace('shop') });
    await folder.replace('status/node-b.yaml', 'node: node-a\npods: []\n');
    await folder.until(() => folder.problems().length === 1);
    assert.match(folder.problems()[0] ?? '', /^status\/node-b\.yaml:1: is of node node-a/);
    await new PublishedStateWriter(folder.path, 'node-a').publish([published('one', 'enrolled')]);
    await folder.replace('pods.yaml', pod('one'));
    await folder.until(() => folder.last('published', 'uid-one') !== undefined);
    const kinds = folder.said.filter(({ key }) => key === 'uid-one').map(({ kind }) => kind);
    assert.deepEqual(kinds, ['workload', 'published']);
    await unlink(join(folder.path, 'pods.yaml'));
    await folder.until(() => folder.now().length === 1);
  });

  it('is shared by folders that link to one status folder', async (t) => {
    const folder = await Folder.with(t, { 'pods.yaml': pod('one') });
    const shared = await mkdtemp(join(tmpdir(), 'culvert-status-'));
    t.after(() => rm(shared, { recursive: true, force: true }));
    await symlink(shared, join(folder.path, 'status'));
    await symlink('..', join(folder.path, 'loop'));
    await new PublishedStateWriter(folder.path, 'node-a').publish([published('one', 'enrolled')]);
    await folder.until(() => folder.last('published', 'uid-one') !== undefined);
    await rename(join(shared, 'node-a.yaml'), join(shared, '.away'));
    await folder.until(() => folder.last('published', 'uid-one') === undefined);
  });

  it('keeps its last good content when the file is broken', async (t) => {
    const folder = await Folder.with(t, { 'pods.yaml': pod('one') });
    await new PublishedStateWriter(folder.path, 'node-a').publish([published('one', 'enrolled')]);
    await folder.until(() => folder.last('published', 'uid-one') !== undefined);
    await folder.replace('status/node-a.yaml', 'node: node-a\npods: [{uid: uid-one, state: maybe}]\n');
    await folder.until(() => folder.problems().length > 0);
    assert.deepEqual(folder.last('published', 'uid-one'), published('one', 'enrolled'));
  });
});

describe('formatProblem', () => {
  it('is one printable line', () => {
    assert.equal(formatProblem({ where: 'a.yaml', line: 3, reason: 'is wrong' }), 'a.yaml:3: is wrong');
    assert.equal(
      formatProblem({ where: 'Pod shop/a', line: undefined, reason: 'x\n\u001b[31mred\u2028' }),
      'Pod shop/a: x??[31mred?',
    );
  });
});
