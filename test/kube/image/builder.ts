/**
 * Builds the image of the Dockerfile on a Debian machine without Docker: buildah, in a chroot. Where the Dockerfile's
 * base can't be pulled, debootstrap makes a stand-in of the same name. Made once for the same inputs; kept in
 * `~/.cache/culvert/image`.
 */
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { must, run } from '../../support/run.ts';
import { CACHE_ROOT } from '../kit/cache.ts';
import { lock } from '../kit/lock.ts';
import { debianMirror } from '../kit/rootfs.ts';

const ROOT = path.join(import.meta.dirname, '../../..');
const CACHE = path.join(CACHE_ROOT, 'image');
/** What the Dockerfile copies; a change of any of it is another image. */
const INPUTS = [
  'Dockerfile',
  '.npmrc',
  'LICENSE',
  'package.json',
  'package-lock.json',
  'daemon',
  'native',
  'test/bench/load.c',
  'test/kube/bench',
];
const NOT_INPUTS = /^native\/hot\/build(?:\/|$)/;
const SUITE = 'bookworm';
/** Layers kept for the next build; above it all but the base go, and the next build is a cold one. */
const MAX_LAYERS = 150;
/** A registry that answers does so at once; one that is not reachable may never. */
const PULL_TIMEOUT_MS = 60_000;
const BUILD_TIMEOUT_MS = 30 * 60_000;
const KEEP_MS = 60 * 60_000;
/** Of a failed build, what is shown. */
const LAST_LINES = 60;
const STORAGE = ['--root', path.join(CACHE, 'storage'), '--runroot', path.join(CACHE, 'run')];

/** How buildah is called: layers by overlay; by copies where the file system below is one itself. */
async function buildah(): Promise<readonly string[]> {
  const overlay = ['buildah', '--storage-driver', 'overlay', ...STORAGE];
  const { code } = await run([...overlay, 'info']);
  return code === 0 ? overlay : ['buildah', '--storage-driver', 'vfs', ...STORAGE];
}

/** Stages of the Dockerfile that are images. */
export const TARGETS = ['culvert', 'bench'] as const;
export type Target = (typeof TARGETS)[number];

export interface Image {
  /** As a pod names it: `localhost/culvert:dev`. */
  readonly reference: string;
  /** An OCI archive, which `ctr images import` and `docker load` take; layers are compressed. */
  readonly archive: string;
  /** Of the manifest, `sha256:…`: what a node reports as the image's digest. */
  readonly digest: string;
  /** Of its configuration, `sha256:…`: the imageID that a kubelet reports of an image that no registry gave it. */
  readonly id: string;
  readonly archiveBytes: number;
}

/** Told what is done, in a few words, before it takes long. */
export type Say = (doing: string) => void;

/** The image, built now unless it is there already. @throws Error with buildah's last words. */
export async function builtImage(target: Target = 'culvert', say: Say = () => undefined): Promise<Image> {
  mkdirSync(CACHE, { recursive: true });
  const turn = await lock(path.join(CACHE, 'lock'));
  try {
    return await provide(target, say);
  } finally {
    await turn[Symbol.asyncDispose]();
  }
}

async function provide(target: Target, say: Say): Promise<Image> {
  const reference = target === 'culvert' ? 'localhost/culvert:dev' : 'localhost/culvert-bench:dev';
  // A copy, because people go on editing while it is built.
  const context = takeInputs();
  const archive = path.join(CACHE, `${target}-${hashOf(context)}.tar`);
  if (!existsSync(archive)) {
    const base = baseName(context);
    const command = await buildah();
    await provideBase(command, base, say);
    say(`buildah build --target ${target}`);
    await build(command, context, { target, reference, base });
    say('writing the archive');
    await push(command, reference, archive);
    removeOthers(target, archive);
    await prune(command, say);
  }
  return { reference, archive, ...(await digests(archive)), archiveBytes: statSync(archive).size };
}

/** Copies everything that the Dockerfile can see; gives the copy's path. */
function takeInputs(): string {
  const context = path.join(CACHE, 'context');
  rmSync(context, { recursive: true, force: true });
  const isInput = (file: string): boolean => !NOT_INPUTS.test(path.relative(ROOT, file));
  for (const input of INPUTS)
    cpSync(path.join(ROOT, input), path.join(context, input), { recursive: true, filter: isInput });
  return context;
}

function hashOf(context: string): string {
  const hash = createHash('sha256');
  for (const file of readdirSync(context, { recursive: true, encoding: 'utf8' }).sort()) {
    const { mode } = statSync(path.join(context, file));
    if (!statSync(path.join(context, file)).isFile()) continue;
    hash.update(`${file}\0${(mode & 0o111).toString(8)}\0`);
    hash.update(readFileSync(path.join(context, file))).update('\0');
  }
  return hash.digest('hex').slice(0, 16);
}

/** The base that the Dockerfile names. */
function baseName(context: string): string {
  const base = /^ARG BASE=(\S+)$/m.exec(readFileSync(path.join(context, 'Dockerfile'), 'utf8'))?.[1];
  if (base === undefined) throw new Error('the Dockerfile has no line ARG BASE=');
  return base;
}

async function provideBase(command: readonly string[], base: string, say: Say): Promise<void> {
  const inspected = await run([...command, 'inspect', '--type', 'image', base]);
  if (inspected.code === 0) return;
  say(`pulling ${base}`);
  const pulled = await run([...command, 'pull', '--retry', '0', base], { timeoutMs: PULL_TIMEOUT_MS });
  if (pulled.code === 0) return;
  say(`no registry has answered: debootstrap ${SUITE} stands in for ${base}`);
  const container = (await must([...command, 'from', 'scratch'])).trim();
  try {
    const folder = (await must([...command, 'mount', container])).trim();
    const { mirror } = await debianMirror();
    await must(['debootstrap', '--variant=minbase', SUITE, folder, mirror], { timeoutMs: BUILD_TIMEOUT_MS });
    writeFileSync(path.join(folder, 'etc/apt/sources.list'), sourcesList(mirror));
    await must([...command, 'commit', '--quiet', container, base], { timeoutMs: BUILD_TIMEOUT_MS });
  } finally {
    await run([...command, 'rm', container]);
  }
}

function sourcesList(mirror: string): string {
  const main = mirror.replace(/\/$/, '');
  return [`${main} ${SUITE}`, `${main} ${SUITE}-updates`, `${main}-security ${SUITE}-security`]
    .map((archive) => `deb ${archive} main\n`)
    .join('');
}

async function build(
  command: readonly string[],
  context: string,
  { target, reference, base }: { target: Target; reference: string; base: string },
): Promise<void> {
  const version = /"version": "([^"]+)"/.exec(readFileSync(path.join(context, 'package.json'), 'utf8'))?.[1];
  const { code, stderr, stdout } = await run(
    [
      ...command,
      'build',
      '--isolation=chroot',
      '--pull-never',
      '--layers',
      // The same files make the same digest, whenever and wherever.
      '--timestamp=0',
      `--target=${target}`,
      `--build-arg=BASE=${base}`,
      `--build-arg=VERSION=${version ?? ''}`,
      ...trustOfThisMachine(),
      `--tag=${reference}`,
      context,
    ],
    { timeoutMs: BUILD_TIMEOUT_MS },
  );
  if (code === 0) return;
  const last = `${stdout}\n${stderr}`.split('\n').slice(-LAST_LINES).join('\n');
  throw new Error(`buildah build: exit ${code ?? '?'}\n${last}`);
}

/** Certificate authorities that this machine trusts besides Debian's (a proxy's, say): the build asks through it too. */
function trustOfThisMachine(): readonly string[] {
  const folder = '/usr/local/share/ca-certificates';
  return existsSync(folder) ? [`--volume=${folder}:${folder}:ro`] : [];
}

async function push(command: readonly string[], reference: string, archive: string): Promise<void> {
  const part = `${archive}.part`;
  rmSync(part, { force: true });
  await must([...command, 'push', '--quiet', reference, `oci-archive:${part}:${reference}`], {
    timeoutMs: BUILD_TIMEOUT_MS,
  });
  renameSync(part, archive);
}

/** Archives of other inputs, once nobody can be reading them any more. */
function removeOthers(target: Target, archive: string): void {
  for (const name of readdirSync(CACHE)) {
    const file = path.join(CACHE, name);
    if (!name.startsWith(`${target}-`) || !name.endsWith('.tar') || file === archive) continue;
    if (Date.now() - statSync(file).mtimeMs > KEEP_MS) rmSync(file, { force: true });
  }
}

async function prune(command: readonly string[], say: Say): Promise<void> {
  const layers = await must([...command, 'images', '--all', '--quiet']);
  if (layers.split('\n').length <= MAX_LAYERS) return;
  say('removing layers of old builds');
  // Minutes on a busy machine; killed half way it leaves broken ones.
  await must([...command, 'rmi', '--prune', '--force'], { timeoutMs: BUILD_TIMEOUT_MS });
}

/** Digests of the one manifest in an OCI archive, and of its configuration. */
async function digests(archive: string): Promise<Pick<Image, 'digest' | 'id'>> {
  const digest = firstDigest(await must(['tar', '-xOf', archive, 'index.json']));
  const manifest = await must(['tar', '-xOf', archive, `blobs/${digest.replace(':', '/')}`]);
  return { digest, id: firstDigest(manifest.slice(manifest.indexOf('"config"'))) };
}

function firstDigest(json: string): string {
  const digest = /"digest":\s*"(sha256:[0-9a-f]{64})"/.exec(json)?.[1];
  if (digest === undefined) throw new Error(`no digest in ${json}`);
  return digest;
}
