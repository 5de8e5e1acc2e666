/**
 * Nodes that Culvert has never been on, on a real Kubernetes: registered with the startup taint, without a BPF file
 * system. And what a person is told of pods that can't be enrolled.
 */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { STARTUP_TAINT } from '../../daemon/cluster/startup-taint.ts';
import { REPOSITORY } from '../lab/kit/tools.ts';
import { until } from '../support/wait.ts';
import { MeshCluster, SHOP, SYSTEM } from './kit/mesh.ts';
import { pod } from './kit/objects.ts';
import { at, list, text } from './manifests.ts';

const LIMITS = { timeout: 900_000 };

describe('a node that Culvert has never been on', LIMITS, () => {
  let mesh: MeshCluster;
  before(async () => {
    mesh = await MeshCluster.start({ labelled: false });
  }, LIMITS);
  after(() => mesh[Symbol.asyncDispose]());

  /** The overlay of the cluster, with the component of the startup taint. */
  function tainted(): string {
    const folder = join(mesh.controlPlane.home.dir, 'tainted');
    mkdirSync(folder, { recursive: true });
    const kustomization = {
      apiVersion: 'kustomize.config.k8s.io/v1beta1',
      kind: 'Kustomization',
      resources: [relative(folder, mesh.overlay)],
      components: [relative(folder, join(REPOSITORY, 'manifests/startup-taint'))],
    };
    writeFileSync(join(folder, 'kustomization.yaml'), JSON.stringify(kustomization));
    return folder;
  }

  it(
    'takes no pod until a daemon guards it, and gets the BPF file system that it lacks',
    LIMITS,
    async () => {
      await mesh.kubectl('delete', '-k', mesh.overlay, '--timeout=90s');
      for (const node of mesh.cluster.nodes) {
        await until('no daemon to be left', async () => (await mesh.daemons()).length === 0, {
          timeoutMs: 60_000,
        });
        await node.exec(['umount', '/sys/fs/bpf']);
        await mesh.kubectl(
          'taint',
          'node',
          node.name,
          `${STARTUP_TAINT}=:NoSchedule`,
          'example.com/other=:PreferNoSchedule',
        );
      }
      await mesh.kubectl('label', 'namespace', SHOP, 'culvert.dev/mesh=enabled');
      // By the scheduler, unlike the others: it is the one that heeds taints.
      await mesh.controlPlane.apply(pod({ name: 'early', namespace: SHOP, node: 'node-1' }));
      const scheduled = async (): Promise<string> => {
        const found = await mesh.controlPlane.api.must('GET', `/api/v1/namespaces/${SHOP}/pods/early`);
        return JSON.stringify(list(found, 'status', 'conditions'));
      };
      await until('it to be kept away', async () => (await scheduled()).includes('untolerated taint'), {
        timeoutMs: 30_000,
      });
      await mesh.kubectl('apply', '-k', tainted());
      await mesh.waitInstalled();
      await mesh.waitState('enrolled', ['early', 'client', 'server']);
      for (const node of mesh.cluster.nodes) {
        const found = await mesh.controlPlane.api.must('GET', `/api/v1/nodes/${node.name}`);
        assert.deepEqual(
          list(found, 'spec', 'taints').map((taint) => text(taint, 'key')),
          ['example.com/other'],
        );
        assert.equal((await node.exec(['stat', '-f', '-c', '%T', '/sys/fs/bpf'])).trim(), 'bpf_fs');
        assert.ok((await mesh.pins(node)).some((pin) => pin.includes('/culvert/')));
        assert.equal((await mesh.daemonOn(node)).restarts, 0);
      }
      const logs = await mesh.logs();
      for (const said of [
        'mounted on the node, which had none',
        'this node takes pods now: its startup taint is removed',
      ])
        assert.equal(logs.filter(({ msg }) => msg === said).length, mesh.cluster.nodes.length, said);
      // It came when its node was guarded: nothing of it went unguarded.
      const isUnguarded = logs.some(
        ({ msg, pod: of }) => String(of).endsWith('/early') && /unguarded/.test(String(msg)),
      );
      assert.equal(isUnguarded, false);
      const request = await mesh.shop.request(
        'early',
        await mesh.shop.serviceIp('web'),
        80,
        Buffer.from('x'),
      );
      assert.equal(request.status, 200);
    },
  );

  it('its pins outlive its daemon', LIMITS, async () => {
    const node = mesh.cluster.node(1);
    const pins = await mesh.pins(node);
    const daemon = await mesh.daemonOn(node);
    await mesh.kubectl('delete', 'pod', '-n', SYSTEM, daemon.name, '--force', '--grace-period=0');
    await until(
      'the next daemon',
      async () => {
        const next = (await mesh.daemons()).find((one) => one.node === node.name && one.name !== daemon.name);
        return next?.isReady;
      },
      { timeoutMs: 60_000, everyMs: 250 },
    );
    const after = await mesh.pins(node);
    assert.deepEqual(
      pins.filter((pin) => !after.includes(pin)),
      [],
    );
    const mounts = await node.exec(['cat', '/proc/self/mounts']);
    assert.equal(mounts.split('\n').filter((line) => line.split(' ')[1] === '/sys/fs/bpf').length, 1, mounts);
  });

  it('culvert status says why a pod can’t be enrolled, and why another one is not yet', LIMITS, async () => {
    const place = { namespace: SHOP, nodeName: 'node-2' };
    const containers = [
      {
        name: 'main',
        image: 'localhost/culvert-lab:1',
        imagePullPolicy: 'Never',
        command: ['/labapp', 'pause'],
      },
    ];
    await mesh.controlPlane.apply({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'hosted', namespace: SHOP },
      spec: { hostNetwork: true, nodeName: place.nodeName, containers },
    });
    await mesh.waitState('unenrollable', ['hosted']);
    const found = await mesh.controlPlane.api.must('GET', `/api/v1/namespaces/${SHOP}/pods/hosted`);
    assert.match(
      String(at(found, 'metadata', 'annotations', 'culvert.dev/state')),
      /"reason":"HOST_NETWORK: /,
    );
    // No certificate for a new identity without a CA.
    await mesh.kubectl('scale', '-n', SYSTEM, 'deployment/culvert-ca', '--replicas=0');
    await until(
      'no CA',
      async () => (await mesh.pods(SYSTEM, 'app.kubernetes.io/component=ca')).length === 0,
      {
        timeoutMs: 90_000,
        everyMs: 250,
      },
    );
    await mesh.controlPlane.apply(
      { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'waits', namespace: SHOP } },
      pod({ name: 'waits', namespace: SHOP, node: 'node-2', serviceAccount: 'waits' }),
    );
    await mesh.waitState('opening', ['waits']);
    const { code, stdout } = await mesh.culvert(['status', '-n', SHOP]);
    assert.equal(code, 1);
    assert.match(stdout, /^shop +hosted +node-2 +unenrollable +\S+ +HOST_NETWORK$/m);
    assert.match(stdout, /^shop\/hosted: HOST_NETWORK: the pod uses its node's network/m);
    assert.match(stdout, /^shop\/waits: OPENING_NO_CERTIFICATE: /m);
    await mesh.kubectl('scale', '-n', SYSTEM, 'deployment/culvert-ca', '--replicas=2');
    await mesh.waitState('enrolled', ['waits']);
    const now = await mesh.controlPlane.api.must('GET', `/api/v1/namespaces/${SHOP}/pods/waits`);
    assert.doesNotMatch(String(at(now, 'metadata', 'annotations', 'culvert.dev/state')), /reason/);
  });
});
