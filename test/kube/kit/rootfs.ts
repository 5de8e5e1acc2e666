/** The root file system of nodes: a minimal Debian with containerd, made once on a machine. */
import { chmodSync, copyFileSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { must } from '../../support/run.ts';
import { cached } from './cache.ts';
import { multi, runcWrapper } from './multi.ts';

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

/** How it is made: a change makes a new one. */
const REVISION = '1';

/**
 * Path of a folder that nodes take as their lower layer. debootstrap fetches it from the mirror that this machine's
 * apt uses. @throws Error with debootstrap's words.
 */
export async function rootfs(): Promise<string> {
  const [binary, wrapper] = await Promise.all([multi(), runcWrapper()]);
  return cached({
    name: 'rootfs',
    files: [wrapper],
    words: [REVISION, binary, ...PACKAGES],
    make: async (target) => make(target, binary, wrapper),
  });
}

async function make(target: string, binary: string, wrapper: string): Promise<void> {
  const { mirror, suite } = await debianMirror();
  const include = `--include=${PACKAGES.join(',')}`;
  try {
    await must(['debootstrap', '--variant=minbase', include, suite, target, mirror], { timeoutMs: 900_000 });
  } catch (error) {
    rmSync(target, { recursive: true, force: true });
    throw error;
  }
  const install = (from: string, to: string): void => {
    copyFileSync(from, join(target, to));
    chmodSync(join(target, to), 0o755);
  };
  install(binary, 'usr/local/bin/multi');
  for (const part of ['kubelet', 'kube-proxy', 'kubectl'])
    symlinkSync('multi', join(target, 'usr/local/bin', part));
  install(wrapper, 'usr/local/sbin/runc-wrapper');
  for (const waste of [
    'var/cache/apt',
    'var/lib/apt/lists',
    'usr/share/doc',
    'usr/share/man',
    'usr/share/locale',
  ])
    rmSync(join(target, waste), { recursive: true, force: true });
}

/** The first Debian archive among apt's sources, and the release's name. */
async function debianMirror(): Promise<{ mirror: string; suite: string }> {
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
