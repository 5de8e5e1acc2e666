import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { ExecPlugin } from '../../daemon/kube/exec-plugin.ts';
import { must } from '../support/run.ts';
import { tempDir } from '../support/tmp.ts';
import { until } from '../support/wait.ts';

const HOUR = 3_600_000;
const CLUSTER = { server: 'https://10.0.0.1:6443' };

/** A plugin that is a shell script, in a folder of its own. */
async function script(t: TestContext, text: string): Promise<{ command: string; dir: string }> {
  const dir = await tempDir('plugin');
  t.after(() => dir[Symbol.asyncDispose]());
  const command = join(dir.path, 'plugin');
  await writeFile(command, `#!/bin/sh\ncd ${dir.path}\n${text}\n`, { mode: 0o755 });
  return { command, dir: dir.path };
}

/** Answers with the number of its run as the token, and with this in its status besides. */
const counting = (status = ''): string =>
  `echo run >>runs; echo '{"status":{"token":"'$(wc -l <runs)'"${status}}}'`;

/** A duration in seconds that no other process sleeps for. */
const uniqueSleep = (): string => `6${process.pid}.${Math.floor(Math.random() * 1e9)}`;

/** Processes that have this among their arguments. */
function pidsWith(argument: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(argument);
      } catch {
        return false;
      }
    })
    .map(Number);
}

describe('an exec plugin', () => {
  it('runs once for all who ask meanwhile, and not again before its answer ends', async (t) => {
    let nowMs = Date.now();
    const until = new Date(nowMs + HOUR).toISOString();
    const { command, dir } = await script(t, counting(`,"expirationTimestamp":"${until}"`));
    const plugin = new ExecPlugin({ command }, () => CLUSTER, { nowMs: () => nowMs });
    const four = await Promise.all([1, 2, 3, 4].map(() => plugin.credentials()));
    assert.deepEqual(
      four.map(({ token }) => token),
      ['1', '1', '1', '1'],
    );
    nowMs += HOUR - 1;
    assert.equal((await plugin.credentials()).token, '1');
    nowMs += 1;
    assert.equal((await plugin.credentials()).token, '2');
    assert.equal(await readFile(join(dir, 'runs'), 'utf8'), 'run\nrun\n');
  });

  it('runs again when its answer is refused, once for all who were refused at the same time', async (t) => {
    let nowMs = Date.now();
    const { command } = await script(t, counting());
    const plugin = new ExecPlugin({ command }, () => CLUSTER, { nowMs: () => nowMs });
    const refused = async (): Promise<string | undefined> => {
      plugin.renew();
      return (await plugin.credentials()).token;
    };
    assert.equal((await plugin.credentials()).token, '1');
    nowMs += HOUR;
    assert.deepEqual(await Promise.all([refused(), refused()]), ['2', '2']);
    assert.equal(await refused(), '2', 'its refusal came a moment later');
    nowMs += HOUR;
    assert.equal(await refused(), '3');
  });

  it('is told for which cluster, where the kubeconfig says so, and that nobody types', async (t) => {
    const { command, dir } = await script(
      t,
      `cat >stdin; echo "$KUBERNETES_EXEC_INFO" >info; echo "$EXTRA" >>info\n${counting()}`,
    );
    const apiVersion = 'client.authentication.k8s.io/v1beta1';
    const exec = { command, apiVersion, env: [{ name: 'EXTRA', value: 'more' }] };
    const info = async (): Promise<unknown> => {
      const [json = '', extra] = (await readFile(join(dir, 'info'), 'utf8')).split('\n');
      assert.equal(extra, 'more');
      return JSON.parse(json);
    };
    await new ExecPlugin(exec, () => CLUSTER).credentials();
    assert.deepEqual(await info(), { apiVersion, kind: 'ExecCredential', spec: { interactive: false } });
    await new ExecPlugin({ ...exec, provideClusterInfo: true }, () => CLUSTER).credentials();
    assert.deepEqual(await info(), {
      apiVersion,
      kind: 'ExecCredential',
      spec: { interactive: false, cluster: CLUSTER },
    });
    assert.equal(await readFile(join(dir, 'stdin'), 'utf8'), '');
  });

  it('that hangs is ended, and what it had to say is told', async (t) => {
    const seconds = uniqueSleep();
    t.after(() => pidsWith(seconds).forEach((pid) => process.kill(pid, 'SIGKILL')));
    const plugin = new ExecPlugin({ command: 'sleep', args: [seconds] }, () => CLUSTER, { limitMs: 50 });
    await assert.rejects(plugin.credentials(), /^Error: the plugin sleep gave no answer within 50 ms$/);
    await until('its end', () => pidsWith(seconds).length === 0);
  });

  it('that leaves a program behind that hangs does not hold the command', async (t) => {
    const seconds = uniqueSleep();
    t.after(() => pidsWith(seconds).forEach((pid) => process.kill(pid, 'SIGKILL')));
    const { command } = await script(t, `echo 'visit example.com' >&2; sleep ${seconds} & wait`);
    const module = new URL('../../daemon/kube/exec-plugin.ts', import.meta.url).href;
    const program = `import { ExecPlugin } from '${module}';
      const plugin = new ExecPlugin({ command: '${command}' }, () => ({}), { limitMs: 2000 });
      await plugin.credentials().catch(({ message }) => console.log(message));`;
    const out = await must([process.execPath, '--input-type=module', '-e', program], { timeoutMs: 30_000 });
    assert.equal(out, `the plugin ${command} gave no answer within 2000 ms: visit example.com\n`);
  });

  it('that fails says why: its own words, or how to get it', async (t) => {
    const fails = async (text: string, why: RegExp): Promise<void> => {
      const { command } = await script(t, text);
      await assert.rejects(new ExecPlugin({ command }, () => CLUSTER).credentials(), why);
    };
    await fails('echo "log in first" >&2; exit 3', /plugin \S+ ended with 3: log in first$/);
    await fails('echo nonsense', /the answer of the plugin \S+ is of no use/);
    await fails(`echo '{"status":{}}'`, /neither a token nor a certificate with its key/);
    await fails('head -c 2000000 /dev/zero', /more than \d+ bytes/);
    const missing = new ExecPlugin({ command: '/no/plugin', installHint: 'get it' }, () => CLUSTER);
    await assert.rejects(missing.credentials(), /ENOENT.*get it/);
  });

  it('that wants a terminal is refused at once, as is nonsense', () => {
    assert.throws(
      () => new ExecPlugin({ command: 'x', interactiveMode: 'Always' }, () => CLUSTER),
      /wants a terminal/,
    );
    assert.throws(() => new ExecPlugin({}, () => CLUSTER), /command/);
  });
});
