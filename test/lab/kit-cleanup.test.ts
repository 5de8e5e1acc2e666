/** A lab leaves nothing, however it ends, and two don't see each other. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, it } from 'node:test';
import { run } from '../support/run.ts';
import { until, within } from '../support/wait.ts';
import { cgroup2Mount } from './kit/cgroups.ts';
import { Lab } from './kit/lab.ts';

/** What is left of a lab: cgroups, folders, processes, mounts; named namespaces, which no lab ever makes. */
async function leftOf(id: string): Promise<string[]> {
  const name = `culvert-lab-${id}`;
  const found: string[] = [];
  if (existsSync(join(cgroup2Mount(), name))) found.push('cgroup');
  if (existsSync(join(tmpdir(), name))) found.push('folder');
  if (readFileSync('/proc/mounts', 'utf8').includes(id)) found.push('mount');
  if ((await run(['ip', 'netns', 'list'])).stdout.includes(id)) found.push('named namespace');
  for (const pid of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry)))
    if (mentions(pid, id)) found.push(`process ${pid}`);
  return found;
}

/** By its cgroup or its command line. A dead one that this machine's pid 1 has yet to bury is none. */
function mentions(pid: string, id: string): boolean {
  try {
    const [stat = '', ...rest] = ['stat', 'cgroup', 'cmdline'].map((file) =>
      readFileSync(`/proc/${pid}/${file}`, 'utf8'),
    );
    return !stat.includes(') Z ') && rest.some((text) => text.includes(id));
  } catch {
    return false;
  }
}

describe('the end of a lab', () => {
  it('leaves nothing when it is disposed of, with pods and servers running', async () => {
    const lab = await Lab.create();
    const pod = await lab.pod({ name: 'web', node: 1 });
    await pod.serve('http', 80);
    await lab.capture();
    assert.notDeepEqual(await leftOf(lab.id), []);
    await lab[Symbol.asyncDispose]();
    assert.deepEqual(await leftOf(lab.id), []);
  });

  for (const signal of ['SIGKILL', 'SIGINT'] as const)
    it(`leaves nothing when its owner gets ${signal}`, async () => {
      const script = `
        const { Lab } = await import(${JSON.stringify(join(import.meta.dirname, 'kit/lab.ts'))});
        const lab = await Lab.create({ nodes: 1 });
        await (await lab.pod({ name: 'web', node: 1 })).serve('http', 80);
        console.log(lab.id);`;
      const owner = spawn(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const { promise, resolve } = Promise.withResolvers<string>();
      createInterface({ input: owner.stdout }).once('line', resolve);
      const id = await within('a lab of another process', promise);
      assert.notDeepEqual(await leftOf(id), []);
      owner.kill(signal);
      await until('nothing to be left', async () => (await leftOf(id)).length === 0);
    });

  it('is no other lab’s: two at once have the same addresses and do not meet', async () => {
    await using one = await Lab.create({ nodes: 1 });
    const web = await one.pod({ name: 'of-one', node: 1 });
    await web.serve('http', 80);
    {
      await using two = await Lab.create({ nodes: 1 });
      const other = await two.pod({ name: 'of-two', node: 1 });
      assert.equal(other.ip, web.ip);
      await other.serve('http', 80);
      assert.equal((await other.request(web.ip, 80)).name, 'of-two');
    }
    assert.equal((await web.request(web.ip, 80)).name, 'of-one');
  });
});
