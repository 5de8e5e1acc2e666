import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { beforeEach, describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { stringify } from 'yaml';
import { entryPoints } from '../../daemon/cli/entry-points.ts';
import type { KubeconfigChoice } from '../../daemon/kube/config.ts';
import { tempDir } from '../support/tmp.ts';
import { ClusterApi } from './cluster-api.ts';
import { culvert } from './terminal.ts';
import type { Ran } from './terminal.ts';

/** Every command that asks the cluster; none finds anything of ours in it. */
const COMMANDS = ['check', 'status', 'certs', 'uninstall --dry-run', 'ca status', 'ca rotate'];
/** Those of them that may ask a daemon instead. */
const OF_A_NODE = ['status', 'certs', 'uninstall --dry-run'];
/** Port 1 of loopback: nobody listens there. */
const NOBODY = '127.0.0.1:1';

let given: KubeconfigChoice[];
beforeEach(() => (given = []));

/** Notes which kubeconfig a command connects with. */
function run(words: string, env: Readonly<Record<string, string>> = {}): Promise<Ran> {
  const connectCluster = (choice: KubeconfigChoice): Promise<ClusterApi> => {
    given.push(choice);
    return Promise.resolve(new ClusterApi());
  };
  return culvert(words.split(' '), { env }, { connectCluster });
}

/** With the kubeconfigs that there are. */
function runReal(words: string, env: Readonly<Record<string, string>>): Promise<Ran> {
  return culvert(
    words.split(' '),
    { env },
    { connectCluster: (choice) => entryPoints.connectCluster(choice) },
  );
}

async function folder(t: TestContext): Promise<string> {
  const dir = await tempDir('reach');
  t.after(() => dir[Symbol.asyncDispose]());
  return dir.path;
}

describe('a command asks the cluster of', () => {
  it('--kubeconfig, one file whatever its name, before $KUBECONFIG', async () => {
    const file = `a${delimiter}b`;
    for (const command of COMMANDS) {
      given = [];
      await run(`${command} --kubeconfig ${file} --context prod`, { KUBECONFIG: '/c' });
      assert.deepEqual([command, given], [command, [{ files: [file], context: 'prod' }]]);
    }
  });

  it('$KUBECONFIG, a list whose empty parts mean nothing', async () => {
    await run('status', { KUBECONFIG: ['', '/a', '', 'b', ''].join(delimiter), HOME: '/nowhere' });
    assert.deepEqual(given, [{ files: ['/a', 'b'], context: undefined }]);
  });

  it('~/.kube/config where $KUBECONFIG names none, and none where that is not there', async (t) => {
    const home = await folder(t);
    const env = { HOME: home, KUBECONFIG: delimiter };
    const away = await run('ca status', env);
    assert.deepEqual([away.code, given], [2, []]);
    assert.match(away.err, /no kubeconfig: give --kubeconfig PATH/);
    await mkdir(join(home, '.kube'));
    await writeFile(join(home, '.kube/config'), '');
    await run('status --context prod', env);
    assert.deepEqual(given, [{ files: [join(home, '.kube/config')], context: 'prod' }]);
  });

  it('the context that is named, of whichever file has it', async (t) => {
    const dir = await folder(t);
    const file = (at: number): string => join(dir, `${at}`);
    for (const at of [1, 2])
      await writeFile(
        file(at),
        stringify({
          'current-context': `here${at}`,
          contexts: [{ name: `here${at}`, context: { cluster: `c${at}` } }],
          // Loopback port 1 and 2: nobody listens there.
          clusters: [{ name: `c${at}`, cluster: { server: `https://127.0.0.1:${at}` } }],
        }),
      );
    const env = { KUBECONFIG: [join(dir, 'away'), file(1), file(2)].join(delimiter) };
    const first = await runReal('status', env);
    assert.deepEqual([first.code, first.out], [2, '']);
    assert.match(first.err, /ECONNREFUSED 127\.0\.0\.1:1\b/);
    assert.match((await runReal('status --context here2', env)).err, /ECONNREFUSED 127\.0\.0\.1:2\b/);
    const unknown = await runReal('status --context prod', env);
    const where = `${file(1)}, ${file(2)}`;
    const says = `culvert status: ${where}: there is no context "prod"; there are: here1, here2\n`;
    assert.deepEqual(unknown, { code: 2, out: '', err: says });
  });
});

describe('a command refuses', () => {
  it('--admin with what means a cluster', async () => {
    for (const command of OF_A_NODE)
      for (const flag of ['--kubeconfig', '--context']) {
        const { code, out, err } = await run(`${command} --admin ${NOBODY} ${flag} x`, { KUBECONFIG: '/a' });
        assert.deepEqual([command, code, out, given], [command, 2, '', []]);
        assert.match(err, new RegExp(`--admin and ${flag}: give one of them`));
      }
  });

  it('--context without a kubeconfig: no daemon is asked instead', async () => {
    for (const command of COMMANDS) {
      const { code, out, err } = await run(`${command} --context prod`);
      assert.deepEqual([command, code, out], [command, 2, '']);
      assert.match(err, /no kubeconfig: give --kubeconfig PATH/);
    }
  });

  it('files of $KUBECONFIG that are all missing, by name', async (t) => {
    const dir = await folder(t);
    const files = [join(dir, 'a'), join(dir, 'b')];
    const { code, err } = await runReal('status', { KUBECONFIG: files.join(delimiter) });
    assert.deepEqual([code, err], [2, `culvert status: there is no kubeconfig at ${files.join(' or ')}\n`]);
  });
});
