/** The binary with all of Kubernetes in it (test/kube/multi), built once per version on a machine. */
import { existsSync, mkdirSync, readFileSync, readlinkSync, renameSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../support/run.ts';
import { tempDir } from '../../support/tmp.ts';
import { CACHE, cached } from './cache.ts';
import type { Recipe } from './cache.ts';
import { goEnvironment } from './go.ts';
import { CHANGE, changedModfile } from './change.ts';

const MODULE = join(import.meta.dirname, '../multi');
const GO_MOD = join(MODULE, 'go.mod');
/** A cold build takes 6 minutes on two idle cores. */
const BUILD_TIMEOUT_MS = 60 * 60_000;

/** `v1.34.4`, as go.mod has it. */
export function kubernetesVersion(): string {
  const found = /^\tk8s\.io\/kubernetes (v\S+)$/m.exec(readFileSync(GO_MOD, 'utf8'))?.[1];
  if (found === undefined) throw new Error(`${GO_MOD} does not require k8s.io/kubernetes`);
  return found;
}

/** The build, for whoever asks whether it is done already. */
export const multiRecipe: Recipe = {
  name: 'multi',
  files: ['go.mod', 'go.sum', 'main.go'].map((file) => join(MODULE, file)),
  words: [process.arch, CHANGE],
  make: buildMulti,
};

/** Its path. Builds it when it is not there: minutes; `make cluster` and `make test-kube` say so. */
export async function multi(): Promise<string> {
  const path = await cached(multiRecipe);
  linkVersion(path);
  return path;
}

/** The wrapper in front of runc (test/kube/multi/runc), for a node's root file system. */
export function runcWrapper(): Promise<string> {
  return cached({
    name: 'runc-wrapper',
    files: [join(MODULE, 'runc/main.go')],
    words: [process.arch],
    make: async (target) => build('./runc', target, '-s -w'),
  });
}

async function buildMulti(target: string): Promise<void> {
  await using folder = await tempDir('kube-build');
  const env = await goEnvironment();
  await build('.', target, ldflags(), ['-modfile', await changedModfile(folder.path, MODULE, env)]);
}

async function build(
  what: string,
  target: string,
  ldflags: string,
  more: readonly string[] = [],
): Promise<void> {
  const argv = [
    'go',
    'build',
    '-trimpath',
    '-buildvcs=false',
    ...more,
    '-ldflags',
    ldflags,
    '-o',
    target,
    what,
  ];
  const env = { ...(await goEnvironment()), CGO_ENABLED: '0' };
  const { code, stderr } = await run(argv, { cwd: MODULE, env, timeoutMs: BUILD_TIMEOUT_MS });
  if (code !== 0) throw new Error(`go build ${what}: exit ${code ?? '?'}\n${stderr}`);
}

/** What kubectl version and /version say. */
function ldflags(): string {
  const version = kubernetesVersion();
  const [major = '', minor = ''] = version.slice(1).split('.');
  const set = { gitVersion: version, gitMajor: major, gitMinor: minor };
  const words = Object.entries(set).map(
    ([name, value]) => `-X k8s.io/component-base/version.${name}=${value}`,
  );
  return ['-s -w', ...words].join(' ');
}

/** `v1.34.4/multi` → the newest build, for people. */
function linkVersion(path: string): void {
  const link = join(CACHE, kubernetesVersion(), 'multi');
  if (existsSync(link) && readlinkSync(link) === path) return;
  mkdirSync(join(CACHE, kubernetesVersion()), { recursive: true });
  const next = `${link}.${process.pid}`;
  symlinkSync(path, next);
  renameSync(next, link);
}
