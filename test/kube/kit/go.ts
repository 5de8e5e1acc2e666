/**
 * Go, as new as Kubernetes needs it. Debian's is too old, but any Go can fetch a newer one as a module, checked against
 * Go's checksum database like every other: a package registry is all it takes.
 */
import { chmodSync, readdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { z } from 'zod';
import { must, run } from '../../support/run.ts';

/** What go.mod of test/kube/multi asks for, and the release that is fetched where there is none. */
const NEEDED = [1, 24] as const;
const FETCHED = '1.24.13';
/** Where Go's own archive puts it. */
export const USUAL_GO = '/usr/local/go/bin';

const Downloaded = z.object({ Dir: z.string() });

/** An environment whose `go` can build Kubernetes. @throws Error that says what to install when there is no Go at all. */
export async function goEnvironment(): Promise<NodeJS.ProcessEnv> {
  const path = `${process.env['PATH'] ?? ''}${delimiter}${USUAL_GO}`;
  const env = { ...process.env, PATH: path };
  const version = await run(['go', 'env', 'GOVERSION'], { env }).catch(() => undefined);
  if (version?.code !== 0) throw new Error('there is no go: apt-get install golang-go');
  if (isNewEnough(version.stdout.trim())) return env;
  const root = await fetchToolchain(env);
  return { ...env, PATH: `${join(root, 'bin')}${delimiter}${path}`, GOROOT: root, GOTOOLCHAIN: 'local' };
}

/** `go1.26.8` */
function isNewEnough(version: string): boolean {
  const [, major, minor] = /^go(\d+)\.(\d+)/.exec(version)?.map(Number) ?? [];
  if (major === undefined || minor === undefined) return false;
  return major > NEEDED[0] || (major === NEEDED[0] && minor >= NEEDED[1]);
}

async function fetchToolchain(env: NodeJS.ProcessEnv): Promise<string> {
  const arch = process.arch === 'arm64' ? 'arm64' : 'amd64';
  const module = `golang.org/toolchain@v0.0.1-go${FETCHED}.linux-${arch}`;
  const answer = await must(['go', 'mod', 'download', '-json', module], {
    env,
    cwd: '/',
    timeoutMs: 600_000,
  });
  const { Dir: root } = Downloaded.parse(JSON.parse(answer));
  makeExecutable(root);
  return root;
}

/** Modules carry no file modes. */
function makeExecutable(root: string): void {
  for (const folder of ['bin', 'pkg/tool'])
    for (const entry of readdirSync(join(root, folder), { recursive: true, withFileTypes: true }))
      if (entry.isFile()) chmodSync(join(entry.parentPath, entry.name), 0o755);
}
