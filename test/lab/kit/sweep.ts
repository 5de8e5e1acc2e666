/** `node test/lab/kit/sweep.ts [--all]`: removes leftovers of labs whose owner is gone; with --all, living labs too. */
import { existsSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from '../../support/run.ts';
import { cgroup2Mount } from './cgroups.ts';
import { PREFIX } from './lab.ts';

/** Names of all labs with a cgroup or a folder. */
function labs(): string[] {
  const names = [...readdirSync(cgroup2Mount()), ...readdirSync(tmpdir())];
  return [...new Set(names.filter((name) => /^culvert-lab-[0-9a-f]{8}$/.test(name)))];
}

async function isAlive(name: string): Promise<boolean> {
  const lock = join(tmpdir(), name, 'lock');
  return existsSync(lock) && (await run(['flock', '-n', lock, 'true'])).code !== 0;
}

async function sweep(name: string, all: boolean): Promise<string> {
  const cgroup = join(cgroup2Mount(), name);
  if (await isAlive(name)) {
    if (!all) return 'in use; left alone (make lab-down ALL=1 ends it)';
    await run(['sh', '-c', `echo 1 > ${cgroup}/cgroup.kill`]);
    return 'its processes were ended; its owner removes the rest';
  }
  const script = join(import.meta.dirname, 'reap.sh');
  await run(['mkdir', '-p', join(tmpdir(), name)]);
  const reaped = await run(['sh', script, cgroup, join(tmpdir(), name)]);
  return reaped.code === 0 ? 'removed' : reaped.stderr.trim();
}

const found = labs();
for (const name of found) console.log(`${name}: ${await sweep(name, process.argv.includes('--all'))}`);
if (found.length === 0) console.log(`no ${PREFIX}* is left`);
