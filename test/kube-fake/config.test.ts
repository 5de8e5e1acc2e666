import assert from 'node:assert/strict';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { stringify } from 'yaml';
import { openAccess } from '../../daemon/kube/config.ts';
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
    assert.throws(() => openAccess(path, {}), /config can't be used: ENOENT/);
    await writeFile(path, '{"clusters": [');
    assert.throws(() => openAccess(path, {}), /config can't be used/);
    await writeFile(path, 'current-context: there\n');
    assert.throws(() => openAccess(path, {}), /there is no context "there"/);
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
