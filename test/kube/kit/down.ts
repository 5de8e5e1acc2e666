/**
 * `node test/kube/kit/down.ts [--all]`: removes clusters that were left up (KEEP=1) and what killed ones left behind;
 * with --all, those of running tests too.
 */
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cgroup2Mount } from '../../lab/kit/cgroups.ts';
import { run } from '../../support/run.ts';
import { PREFIX, REAP } from './home.ts';

/** Names of all clusters with a cgroup or a folder. */
function clusters(): string[] {
  const names = [...readdirSync(cgroup2Mount()), ...readdirSync(tmpdir())];
  return [...new Set(names.filter((name) => /^culvert-kube-[0-9a-f]{8}$/.test(name)))];
}

/** A reaper holds a lock on the folder for as long as the cluster's owner lives. */
async function isOwned(name: string): Promise<boolean> {
  const lock = join(tmpdir(), name, 'lock');
  return existsSync(lock) && (await run(['flock', '-n', lock, 'true'])).code !== 0;
}

async function remove(name: string, all: boolean): Promise<string> {
  const cgroup = join(cgroup2Mount(), name);
  if (await isOwned(name)) {
    if (!all) return 'in use by a running test; left alone (make cluster-down ALL=1 ends it)';
    await run(['sh', '-c', 'echo 1 > "$0/cgroup.kill"', cgroup]);
    return 'its processes were ended; its owner removes the rest';
  }
  mkdirSync(join(tmpdir(), name), { recursive: true });
  const reaped = await run(['sh', REAP, cgroup, join(tmpdir(), name)]);
  return reaped.code === 0 ? 'removed' : reaped.stderr.trim();
}

const found = clusters();
for (const name of found) console.log(`${name}: ${await remove(name, process.argv.includes('--all'))}`);
if (found.length === 0) console.log(`no ${PREFIX}* is left`);
