import assert from 'node:assert/strict';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { stringify } from 'yaml';
import { openAccess, openKubeconfig } from '../../daemon/kube/config.ts';
import { MeshError } from '../../daemon/errors.ts';
import { tempDir } from '../support/tmp.ts';

async function folder(t: TestContext): Promise<string> {
  const dir = await tempDir('kubeconfig');
  t.after(() => dir[Symbol.asyncDispose]());
  return dir.path;
}

/** A kubeconfig with this cluster and this user, in a folder that has a ca.crt. */
async function kubeconfig(t: TestContext, cluster: object, user: object): Promise<string> {
  const dir = await folder(t);
  await writeFile(join(dir, 'ca.crt'), 'the roots');
  const path = join(dir, 'config');
  await writeFile(
    path,
    stringify({
      'current-context': 'here',
      contexts: [{ name: 'here', context: { cluster: 'c', user: 'u' } }],
      clusters: [
        {
          name: 'c',
          cluster: { server: 'https://10.0.0.1:6443', 'certificate-authority': 'ca.crt', ...cluster },
        },
      ],
      users: [{ name: 'u', user }],
    }),
  );
  return path;
}

describe('a kubeconfig', () => {
  it('gives roots, certificate and key from data and from files beside it', async (t) => {
    const path = await kubeconfig(
      t,
      { 'tls-server-name': 'kubernetes' },
      { 'client-certificate-data': Buffer.from('my cert').toString('base64'), 'client-key': 'my.key' },
    );
    await writeFile(join(path, '../my.key'), 'my key');
    const access = openAccess(path, {});
    assert.equal(access.server, 'https://10.0.0.1:6443');
    assert.equal(access.serverName, 'kubernetes');
    assert.deepEqual(await access.credentials(), {
      ca: 'the roots',
      cert: 'my cert',
      key: 'my key',
      authorization: undefined,
      impersonate: undefined,
    });
  });

  it('gives a token, from a file too, and a user to be', async (t) => {
    const plain = openAccess(await kubeconfig(t, {}, { token: 'abc\n', as: 'jane' }), {});
    const { authorization, impersonate } = await plain.credentials();
    assert.deepEqual([authorization, impersonate], ['Bearer abc', 'jane']);
    const path = await kubeconfig(t, {}, { tokenFile: 'token' });
    await writeFile(join(path, '../token'), 'one\n');
    const access = openAccess(path, {});
    assert.equal((await access.credentials()).authorization, 'Bearer one');
    await writeFile(join(path, '../token'), 'two');
    access.renew();
    assert.equal((await access.credentials()).authorization, 'Bearer two');
  });

  it('keeps user and certificate beside a token from a file', async (t) => {
    const path = await kubeconfig(
      t,
      {},
      { tokenFile: 'token', as: 'jane', 'client-certificate': 'my.crt', 'client-key': 'my.key' },
    );
    for (const name of ['token', 'my.crt', 'my.key']) await writeFile(join(path, '..', name), name);
    assert.deepEqual(await openAccess(path, {}).credentials(), {
      ca: 'the roots',
      cert: 'my.crt',
      key: 'my.key',
      authorization: 'Bearer token',
      impersonate: 'jane',
    });
  });

  it('runs an exec plugin once for all who ask at the same time, and tells it the cluster', async (t) => {
    const path = await kubeconfig(
      t,
      {
        'tls-server-name': 'kubernetes',
        extensions: [{ name: 'client.authentication.k8s.io/exec', extension: { audience: 'us' } }],
      },
      { exec: { command: './plugin', provideClusterInfo: true } },
    );
    const dir = join(path, '..');
    const plugin = `#!/bin/sh\ncd ${dir}\necho "$KUBERNETES_EXEC_INFO" >>runs\necho '{"status":{"token":"t"}}'\n`;
    await writeFile(join(dir, 'plugin'), plugin, { mode: 0o755 });
    const access = openAccess(path, {});
    const four = await Promise.all([1, 2, 3, 4].map(() => access.credentials()));
    assert.ok(four.every(({ authorization }) => authorization === 'Bearer t'));
    const { spec } = JSON.parse(await readFile(join(dir, 'runs'), 'utf8')) as { spec: unknown };
    assert.deepEqual(spec, {
      interactive: false,
      cluster: {
        server: 'https://10.0.0.1:6443',
        'tls-server-name': 'kubernetes',
        'certificate-authority-data': Buffer.from('the roots').toString('base64'),
        config: { audience: 'us' },
      },
    });
  });

  it('runs an exec plugin', async (t) => {
    const dir = await folder(t);
    const plugin = join(dir, 'plugin');
    await writeFile(plugin, '#!/bin/sh\necho \'{"status":{"token":"from-plugin"}}\'\n');
    await chmod(plugin, 0o755);
    const access = openAccess(await kubeconfig(t, {}, { exec: { command: plugin } }), {});
    assert.equal((await access.credentials()).authorization, 'Bearer from-plugin');
    const missing = openAccess(await kubeconfig(t, {}, { exec: { command: '/no/such/plugin' } }), {});
    await assert.rejects(
      missing.credentials(),
      /the credentials for https:\/\/10\.0\.0\.1:6443 can't be had/,
    );
  });

  for (const [what, cluster, user, message] of [
    [
      'does not verify the server',
      { 'insecure-skip-tls-verify': true },
      {},
      /anyone could pose as the API server/,
    ],
    ['is not https', { server: 'http://10.0.0.1' }, {}, /is not https/],
    ['needs a proxy', { 'proxy-url': 'http://proxy' }, {}, /proxy-url/],
    ['asks as groups', {}, { token: 't', as: 'jane', 'as-groups': ['admins'] }, /as-groups is not supported/],
    ['asks as a uid', {}, { token: 't', as: 'jane', 'as-uid': 'u' }, /as-uid is not supported/],
    ['asks with more', {}, { as: 'jane', 'as-user-extra': { a: ['b'] } }, /as-user-extra is not supported/],
    [
      'has a plugin for a terminal',
      {},
      { exec: { command: 'x', interactiveMode: 'Always' } },
      /wants a terminal/,
    ],
    ['has a plugin without a command', {}, { exec: {} }, /exec plugin of user "u" can't be used: command: /],
    ['has an old auth-provider', {}, { 'auth-provider': { name: 'oidc' } }, /use an exec plugin/],
  ] as const)
    it(`that ${what} is refused, and says so`, async (t) => {
      const path = await kubeconfig(t, cluster, user);
      assert.throws(
        () => openAccess(path, {}),
        (error) => error instanceof MeshError && message.test(error.message),
      );
    });

  it('that is missing, broken or without its context is refused by name', async (t) => {
    const dir = await folder(t);
    const path = join(dir, 'config');
    assert.throws(() => openAccess(path, {}), /there is no kubeconfig at .*config$/);
    await writeFile(path, '{"clusters": [');
    assert.throws(() => openAccess(path, {}), /config can't be used/);
    await writeFile(path, 'current-context: there\n');
    assert.throws(() => openAccess(path, {}), /there is no context "there"; there is none/);
    await writeFile(
      path,
      'current-context: there\ncontexts: [{name: there, context: {cluster: c, user: u}}]\n',
    );
    assert.throws(() => openAccess(path, {}), /config: there is no cluster "c"/);
  });

  it('whose context names a user that is not there is refused: it would be asked as nobody', async (t) => {
    const dir = await folder(t);
    const contexts = { 'current-context': 'here', contexts: [context('here', 'c', 'jane')] };
    const one = await write(dir, 'one', { ...contexts, clusters: [cluster('c', '10.0.0.1')] });
    assert.throws(() => openAccess(one, {}), /there is no user "jane"/);
  });
});

/** Writes `content` as DIR/NAME/config, a folder of its own; gives its path. */
async function write(dir: string, name: string, content: object): Promise<string> {
  await mkdir(join(dir, name), { recursive: true });
  const path = join(dir, name, 'config');
  await writeFile(path, stringify(content));
  return path;
}

const context = (name: string, inCluster: string, user: string): object => ({
  name,
  context: { cluster: inCluster, user },
});
const cluster = (name: string, host: string, more: object = {}): object => ({
  name,
  cluster: { server: `https://${host}`, ...more },
});
const user = (name: string, more: object): object => ({ name, user: more });

describe('several kubeconfigs', () => {
  it('are one: of each name the first holds, as a whole, and the first current context', async (t) => {
    const dir = await folder(t);
    // The first names no context as current, the second has the cluster of its context, the third comes too late.
    const files = [
      await write(dir, '1', { 'current-context': '', users: [user('u', { token: 'first' })] }),
      await write(dir, '2', {
        'current-context': 'here',
        contexts: [context('here', 'c', 'u')],
        clusters: [cluster('c', 'second')],
        users: [user('u', { token: 'second', as: 'jane' })],
      }),
      await write(dir, '3', {
        'current-context': 'there',
        contexts: [context('here', 'd', 'u'), context('there', 'd', 'u')],
        clusters: [cluster('c', 'third'), cluster('d', 'third')],
        users: [],
      }),
    ];
    const access = openKubeconfig({ files, context: undefined });
    assert.equal(access.server, 'https://second');
    const { authorization, impersonate } = await access.credentials();
    assert.deepEqual([authorization, impersonate], ['Bearer first', undefined]);
    assert.equal(openKubeconfig({ files, context: 'there' }).server, 'https://third');
    assert.equal(openKubeconfig({ files: files.toReversed(), context: 'here' }).server, 'https://third');
  });

  it('have files beside themselves, each its own', async (t) => {
    const dir = await folder(t);
    const clusters = [cluster('c', 'c', { 'certificate-authority': 'ca.crt' })];
    const certificate = user('certificate', { 'client-certificate': 'my.crt', 'client-key': 'my.key' });
    const files = [
      await write(dir, '1', { contexts: [context('a', 'c', 'certificate'), context('b', 'c', 'token')] }),
      await write(dir, '2', { clusters }),
      await write(dir, '3', { users: [certificate, user('token', { tokenFile: 'token' })] }),
    ];
    await writeFile(join(dir, '2/ca.crt'), 'roots of 2');
    for (const name of ['my.crt', 'my.key', 'token']) await writeFile(join(dir, '3', name), `${name} of 3`);
    assert.deepEqual(await openKubeconfig({ files, context: 'a' }).credentials(), {
      ca: 'roots of 2',
      cert: 'my.crt of 3',
      key: 'my.key of 3',
      authorization: undefined,
      impersonate: undefined,
    });
    const { authorization } = await openKubeconfig({ files, context: 'b' }).credentials();
    assert.equal(authorization, 'Bearer token of 3');
  });

  it('may be missing or empty, but not all of them missing, and none broken', async (t) => {
    const dir = await folder(t);
    const there = await kubeconfig(t, {}, {});
    const [away, gone, broken] = [join(dir, 'away'), join(dir, 'gone'), join(dir, 'broken')];
    await writeFile(broken, '{"clusters": [');
    const { server } = openKubeconfig({ files: [away, '/dev/null', there, gone], context: undefined });
    assert.equal(server, 'https://10.0.0.1:6443');
    for (const [files, message] of [
      [[away, gone], `there is no kubeconfig at ${away} or ${gone}`],
      [[there, broken], `the kubeconfig ${broken} can't be used: `],
      [[dir, there], `the kubeconfig ${dir} can't be used: EISDIR`],
    ] as const)
      assert.throws(
        () => openKubeconfig({ files, context: undefined }),
        (error) => error instanceof MeshError && error.message.startsWith(message),
      );
  });

  it('that lack a context name those that there are, ten at most', async (t) => {
    const dir = await folder(t);
    const contexts = (from: number, to: number): object => ({
      contexts: Array.from({ length: to - from }, (_, at) => context(`n${from + at}`, 'c', 'u')),
    });
    const [one, two] = [await write(dir, '1', contexts(0, 7)), await write(dir, '2', contexts(5, 12))];
    const files = [one, join(dir, 'away'), two];
    const all = 'n0, n1, n2, n3, n4, n5, n6, n7, n8, n9 and 2 more';
    assert.throws(
      () => openKubeconfig({ files, context: 'prod' }),
      new MeshError('CONFIG_INVALID', `${one}, ${two}: there is no context "prod"; there are: ${all}`),
    );
    assert.throws(() => openKubeconfig({ files: [two], context: '' }), /there are: n5, n6,.* n11$/);
  });
});

describe('a pod', () => {
  it('uses its service account, and reads token and roots again', async (t) => {
    const dir = join(await folder(t), 'account');
    await mkdir(dir);
    await writeFile(join(dir, 'ca.crt'), 'roots');
    await writeFile(join(dir, 'token'), 'first');
    const env = { KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT: '443' };
    const access = openAccess('', env, dir);
    assert.equal(access.server, 'https://[fd00::1]:443');
    const before = await access.credentials();
    assert.deepEqual([before.ca, before.authorization], ['roots', 'Bearer first']);
    await writeFile(join(dir, 'ca.crt'), 'new roots');
    await writeFile(join(dir, 'token'), 'second');
    assert.equal((await access.credentials()).authorization, 'Bearer first', 'within the minute');
    access.renew();
    const after = await access.credentials();
    assert.deepEqual([after.ca, after.authorization], ['new roots', 'Bearer second']);
  });

  it('that is none says so', () => {
    assert.throws(() => openAccess('', {}), /this is no pod/);
  });
});
