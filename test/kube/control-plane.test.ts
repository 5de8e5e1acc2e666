import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { abandoned } from './abandoned.ts';
import { ControlPlane } from './kit/control-plane.ts';
import { fakeNodes, namespace } from './kit/fakes.ts';
import { kubernetesVersion } from './kit/multi.ts';

describe('an API server alone', () => {
  it('is a real one, of the version in go.mod, with trust bundles', async () => {
    await using plane = await ControlPlane.start();
    const version = await plane.api.must('GET', '/version');
    assert.equal(Reflect.get(Object(version), 'gitVersion'), kubernetesVersion());
    const bundles = await plane.api.ask('GET', '/apis/certificates.k8s.io/v1beta1/clustertrustbundles');
    assert.equal(bundles.status, 200);
  });

  it('takes objects from kubectl, and gives others what RBAC allows them', async () => {
    await using plane = await ControlPlane.start();
    await namespace(plane, 'shop', { 'culvert.dev/mesh': 'enabled' });
    assert.match(
      await plane.kubectl(['get', 'namespace', 'shop', '--show-labels']),
      /culvert\.dev\/mesh=enabled/,
    );
    const jane = plane.kubeconfigOf({ name: 'jane', groups: ['devs'] });
    const asked = await plane.tryKubectl(['--kubeconfig', jane, 'get', 'pods', '-n', 'shop']);
    assert.equal(asked.code, 1);
    assert.match(asked.stderr, /User "jane" cannot list resource "pods"/);
    const token = await plane.kubectl(['create', 'token', 'default', '-n', 'shop']);
    const stolen = plane.tokenKubeconfig('stolen', token.trim());
    const who = await plane.kubectl([
      '--kubeconfig',
      stolen,
      'auth',
      'whoami',
      '-o',
      'jsonpath={.status.userInfo.username}',
    ]);
    assert.equal(who, 'system:serviceaccount:shop:default');
  });

  it('comes back from SIGKILL with what it knew, at the same address', async () => {
    await using plane = await ControlPlane.start();
    await fakeNodes(plane, 3);
    await plane.apiServer.kill();
    assert.equal((await plane.api.ask('GET', '/readyz')).status, 0);
    await plane.etcd.kill();
    await Promise.all([plane.etcd.start(), plane.apiServer.start()]);
    assert.match(await plane.kubectl(['get', 'nodes']), /fake-3\s+Ready/);
  });

  it('goes without a trace, also when its owner is killed', async () => {
    const plane = await ControlPlane.start();
    const { home } = plane;
    await plane[Symbol.asyncDispose]();
    assert.ok(!existsSync(home.dir) && !existsSync(home.cgroup));

    const left = await abandoned('ControlPlane', 'SIGKILL');
    await until('everything to be gone', () => left.every((path) => !existsSync(path)), {
      timeoutMs: 60_000,
    });
  });
});
