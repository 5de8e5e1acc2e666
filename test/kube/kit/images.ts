/** Container images without a builder: a docker-archive is a layer, a config and a manifest in a tar file. */
import { createHash } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { must } from '../../support/run.ts';
import { REPOSITORY } from '../../lab/kit/tools.ts';
import { cached } from './cache.ts';
import { tar } from './tar.ts';
import type { TarEntry } from './tar.ts';

/** The lab's applications (`/labapp`, see test/lab/apps) and busybox (`/bin/sh` and what belongs to it). */
export const APPS_IMAGE = 'localhost/culvert-lab:1';
/** What holds a pod's namespaces. */
export const PAUSE_IMAGE = 'localhost/culvert-pause:1';

const APPS = join(REPOSITORY, 'test/lab/apps');
const SOURCES = ['labapp.c', 'serve.c', 'client.c', 'stream.c'].map((file) => join(APPS, file));
const HEADERS = ['labapp.h', 'stream.h'].map((file) => join(APPS, file));
const SHELL = [
  'sh',
  'cat',
  'date',
  'echo',
  'env',
  'false',
  'grep',
  'id',
  'ls',
  'nc',
  'ps',
  'sleep',
  'true',
  'wget',
];

/** Path of an archive with both images. `rootfs`: of a node, which has a busybox. */
export function testImages(rootfs: string): Promise<string> {
  return cached({
    name: 'images',
    files: [...SOURCES, ...HEADERS, import.meta.filename],
    words: [rootfs],
    make: async (target) => {
      const labapp = `${target}.labapp`;
      await must(['gcc', '-O2', '-static', '-o', labapp, ...SOURCES]);
      const program = readFileSync(labapp);
      rmSync(labapp);
      const busybox = readFileSync(join(rootfs, 'bin/busybox'));
      writeFileSync(target, archive([apps(program, busybox), pause(program)]));
    },
  });
}

interface Image {
  readonly name: string;
  readonly entrypoint: readonly string[];
  readonly files: readonly TarEntry[];
}

function apps(labapp: Uint8Array, busybox: Uint8Array): Image {
  const links = SHELL.map((name) => ({ path: `bin/${name}`, link: 'busybox' }));
  const folders = ['bin/', 'tmp/', 'etc/'].map((path) => ({ path }));
  return {
    name: APPS_IMAGE,
    entrypoint: ['/labapp'],
    files: [
      ...folders,
      { path: 'labapp', bytes: labapp, mode: 0o755 },
      { path: 'bin/busybox', bytes: busybox, mode: 0o755 },
      ...links,
    ],
  };
}

function pause(labapp: Uint8Array): Image {
  const files = [{ path: 'labapp', bytes: labapp, mode: 0o755 }];
  return { name: PAUSE_IMAGE, entrypoint: ['/labapp', 'pause'], files };
}

function archive(images: readonly Image[]): Buffer {
  const entries: TarEntry[] = [];
  const manifest: object[] = [];
  for (const { name, entrypoint, files } of images) {
    const layer = tar(files);
    const config = JSON.stringify({
      architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
      os: 'linux',
      config: { Env: ['PATH=/bin'], Entrypoint: entrypoint },
      rootfs: { type: 'layers', diff_ids: [`sha256:${sha256(layer)}`] },
    });
    const [layerPath, configPath] = [`${sha256(layer)}.tar`, `${sha256(config)}.json`];
    entries.push({ path: layerPath, bytes: layer }, { path: configPath, bytes: Buffer.from(config) });
    manifest.push({ Config: configPath, RepoTags: [name], Layers: [layerPath] });
  }
  return tar([...entries, { path: 'manifest.json', bytes: Buffer.from(JSON.stringify(manifest)) }]);
}

function sha256(content: string | Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}
