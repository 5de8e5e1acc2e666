/** The root file system of nodes: a minimal Debian with containerd, made once on a machine. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { must } from '../../support/run.ts';
import { cached } from './cache.ts';
import type { Recipe } from './cache.ts';

/** What a node needs beside the base, and why. */
const PACKAGES = [
  'containerd',
  'runc',
  'containernetworking-plugins',
  // kubelet: mount, nsenter, and what port-forward and exec use.
  'mount',
  'util-linux',
  'iproute2',
  'procps',
  'ca-certificates',
  // kube-proxy.
  'nftables',
  'conntrack',
  'iptables',
  'kmod',
  // Goes into the image of the test's applications.
  'busybox-static',
] as const;

const WASTE = ['var/cache/apt', 'var/lib/apt/lists', 'usr/share/doc', 'usr/share/man', 'usr/share/locale'];

export const rootfsRecipe: Recipe = {
  name: 'rootfs',
  files: [],
  words: [process.arch, ...PACKAGES],
  make,
};

/**
 * Path of a folder that nodes take as their lower layer. debootstrap fetches it from the mirror that this machine's
 * apt uses. @throws Error with debootstrap's words.
 */
export async function rootfs(): Promise<string> {
  return cached(rootfsRecipe);
}

async function make(target: string): Promise<void> {
  const { mirror, suite } = await debianMirror();
  const include = `--include=${PACKAGES.join(',')}`;
  await must(['debootstrap', '--variant=minbase', include, suite, target, mirror], { timeoutMs: 900_000 });
  for (const waste of WASTE) rmSync(join(target, waste), { recursive: true, force: true });
}

/** The first Debian archive among apt's sources, and the release's name. */
export async function debianMirror(): Promise<{ mirror: string; suite: string }> {
  const format = '$(REPO_URI) $(RELEASE) $(ORIGIN) $(COMPONENT)';
  const lines = await must(['apt-get', 'indextargets', '--format', format, 'Created-By: Packages']);
  for (const line of lines.split('\n')) {
    const [mirror, suite, origin, component] = line.split(' ');
    const isMain =
      origin === 'Debian' && component === 'main' && suite !== undefined && /^[a-z]+$/.test(suite);
    if (mirror !== undefined && isMain) return { mirror, suite };
  }
  throw new Error('apt knows no Debian archive: apt-get update, or look at its sources');
}
