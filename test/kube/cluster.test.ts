import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { abandoned } from './abandoned.ts';
import { KubeCluster } from './kit/cluster.ts';
import { APPS_IMAGE } from './kit/images.ts';
import { pod, service } from './kit/objects.ts';
import { Shell } from './kit/shell.ts';

const SERVE = ['/labapp', 'serve', 'http', '::', '8080'];

/** Each kind of probe that needs nothing of the app. */
const PROBED = {
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name: 'probed', namespace: 'shop' },
  spec: {
    replicas: 2,
    selector: { matchLabels: { app: 'probed' } },
    template: {
      metadata: { labels: { app: 'probed' } },
      spec: {
        terminationGracePeriodSeconds: 0,
        containers: [
          {
            name: 'app',
            image: APPS_IMAGE,
            imagePullPolicy: 'Never',
            command: SERVE,
            startupProbe: { exec: { command: ['/bin/true'] }, periodSeconds: 1 },
            readinessProbe: { httpGet: { port: 8080, path: '/' }, periodSeconds: 1 },
            livenessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 },
          },
        ],
      },
    },
  },
};

describe('a cluster of two nodes', () => {
  let cluster: KubeCluster;
  let shell: Shell;

  before(async () => {
    cluster = await KubeCluster.start();
    shell = new Shell(cluster.controlPlane, 'shop');
    await cluster.controlPlane.apply(
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } },
      pod({ name: 'client', namespace: 'shop', node: 'node-1' }),
      pod({
        name: 'server',
        namespace: 'shop',
        node: 'node-2',
        command: SERVE,
      }),
      pod({
        name: 'near',
        namespace: 'shop',
        node: 'node-1',
        command: SERVE,
      }),
      service({ name: 'web', namespace: 'shop', pods: 'server', port: 80, targetPort: 8080 }),
      service({ name: 'close-by', namespace: 'shop', pods: 'near', port: 80, targetPort: 8080 }),
    );
    await shell.waitReady('client', 'server', 'near');
  });

  after(async () => {
    await cluster[Symbol.asyncDispose]();
    const { home } = cluster.controlPlane;
    // A cgroup can't be removed while a process is in it; namespaces, links and pins have no other holder.
    assert.ok(!existsSync(home.dir) && !existsSync(home.cgroup));
    assert.ok(!readFileSync('/proc/mounts', 'utf8').includes(home.name));
  });

  it('has both nodes Ready, of this version, with their own address ranges', async () => {
    const nodes = await cluster.controlPlane.kubectl([
      'get',
      'nodes',
      '-o',
      'jsonpath={range .items[*]}{.metadata.name} {.spec.podCIDR} {.status.nodeInfo.kubeletVersion}{"\\n"}{end}',
    ]);
    assert.match(nodes, /^node-1 10\.244\.1\.0\/24 v1\.34\.\d+\nnode-2 10\.244\.2\.0\/24 v1\.34/);
  });

  it('carries a request between pods on two nodes, seen on the bridge, from the pod’s own address', async () => {
    const inPod = cluster.node(1).podCapturePoint('client', await shell.uid('client'));
    await using wire = await cluster.capture([cluster.bridge, inPod], 'tcp');
    const marker = randomBytes(32);
    const [from, to] = [await shell.ip('client'), await shell.ip('server')];
    const reply = await shell.request('client', to, 8080, marker);
    assert.equal(reply.status, 200);
    assert.ok(reply.peer.includes(from), reply.peer);
    assert.deepEqual(await wire.seenAt(marker), ['bridge', 'pod client']);
  });

  it('translates Service addresses, to another node and to the same', async () => {
    for (const name of ['web', 'close-by']) {
      const reply = await shell.request('client', await shell.serviceIp(name), 80);
      assert.equal(reply.status, 200, name);
    }
  });

  it('gives pods the API’s own address', async () => {
    const asked = await shell.exec('client', [
      '/bin/sh',
      '-c',
      'nc -w 5 $KUBERNETES_SERVICE_HOST 443 </dev/null && echo reached',
    ]);
    assert.match(asked.stdout, /reached/, asked.stderr);
  });

  it('forwards ports, probes pods and rolls a Deployment out', async () => {
    const { controlPlane } = cluster;
    await controlPlane.apply(PROBED);
    await controlPlane.kubectl(['rollout', 'status', '-n', 'shop', 'deployment/probed', '--timeout=60s']);
    const forward = await controlPlane.startKubectl(['port-forward', '-n', 'shop', 'pod/server', ':8080']);
    const [, port] = await forward.waitForOutput(/Forwarding from 127\.0\.0\.1:(\d+)/);
    const answer = await fetch(`http://127.0.0.1:${port ?? ''}/`);
    assert.match(await answer.text(), /^name=/);
    await forward.kill();
  });

  it('shows a pod with hostPID its node: processes, the kubelet’s cgroups, a bpffs of its own', async () => {
    await cluster.controlPlane.apply(
      pod({
        name: 'host',
        namespace: 'shop',
        node: 'node-1',
        hostPID: true,
        hostPaths: ['/sys/fs/cgroup', '/sys/fs/bpf'],
      }),
    );
    await shell.waitReady('host');
    const script =
      'cat /proc/1/comm; grep -l kubelet /proc/[0-9]*/comm; ls /sys/fs/cgroup/kubepods; grep " /sys/fs/bpf " /proc/mounts';
    const { stdout } = await shell.exec('host', ['/bin/sh', '-c', script]);
    assert.match(stdout, /^bash\n/);
    assert.match(stdout, /\/proc\/\d+\/comm/);
    assert.match(stdout, /^besteffort$/m);
    assert.match(stdout, /\/sys\/fs\/bpf bpf/);
    const uid = await shell.uid('near');
    const own = await shell.exec('host', [
      '/bin/sh',
      '-c',
      `ls -d /sys/fs/cgroup/kubepods/besteffort/pod${uid}`,
    ]);
    assert.equal(own.code, 0, own.stderr);
  });

  it('answers logs, exec and a Job’s end', async () => {
    const { controlPlane } = cluster;
    assert.match(await controlPlane.kubectl(['logs', '-n', 'shop', 'server']), /"listening"/);
    const done = pod({
      name: 'once',
      namespace: 'shop',
      node: 'node-2',
      command: ['/bin/true'],
      restartPolicy: 'Never',
    });
    await controlPlane.apply(done);
    await controlPlane.kubectl([
      'wait',
      '-n',
      'shop',
      'pod/once',
      '--for=jsonpath={.status.phase}=Succeeded',
      '--timeout=60s',
    ]);
  });

  it('keeps pods while a kubelet is dead, tells so, and has it back', async () => {
    const node = cluster.node(2);
    await node.stop('kubelet');
    await cluster.waitReady(node, false);
    assert.equal((await shell.request('client', await shell.ip('server'), 8080)).status, 200);
    await node.start('kubelet');
    await cluster.waitReady(node);
  });

  it('goes on when the API server was killed and is back', async () => {
    const { controlPlane } = cluster;
    const to = await shell.ip('server');
    await controlPlane.apiServer.kill();
    await controlPlane.apiServer.start();
    await controlPlane.apply(pod({ name: 'later', namespace: 'shop', node: 'node-1' }));
    await shell.waitReady('later');
    assert.equal((await shell.request('later', to, 8080)).status, 200);
  });
});

describe('a cluster whose owner', () => {
  for (const [how, signal] of [
    ['is killed', 'SIGKILL'],
    ['hears Ctrl-C', 'SIGINT'],
  ] as const)
    it(`${how} goes: nodes, pods, mounts, pins`, async () => {
      const left = await abandoned('KubeCluster', signal);
      await until('everything to be gone', () => left.every((path) => !existsSync(path)), {
        timeoutMs: 120_000,
      });
    });
});
