/**
 * The mesh as a user has it, on a real Kubernetes of two nodes: our image, our manifests by kubectl, mode STRICT. What
 * belongs to its end, a daemon that is dead or uninstalled, is in mesh-end.test.ts.
 */
import assert from 'node:assert/strict';
import { X509Certificate, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { connect } from 'node:tls';
import type { Counts } from '../lab/kit/apps.ts';
import { connectIn } from '../lab/kit/connect.ts';
import { until } from '../support/wait.ts';
import { APP_PORT, HBONE_PORT, MeshCluster, POD_TRAFFIC, SHOP, SYSTEM } from './kit/mesh.ts';
import type { LogRecord } from './kit/mesh.ts';
import { pod } from './kit/objects.ts';
import { Shell } from './kit/shell.ts';
import { at, find, list, render, text } from './manifests.ts';
import {
  PROBED,
  askingJob,
  initPod,
  livenessProbes,
  livesOf,
  probedPods,
  rolledDeployment,
} from './mesh-objects.ts';
import { requestCertificate, tokenOf } from './token-request.ts';

const SETTINGS = {
  CULVERT_DEFAULT_MODE: 'strict',
  CULVERT_DRAIN_SECONDS: '5s',
  CULVERT_LEAVE_WAIT: '2s',
  CULVERT_LEAVE_GRACE: '2s',
};
const ROLLS = 20;
/** Probes of each pod that are waited for. */
const PROBES = 5;
const DEMO = ['client', 'server', ...PROBED];
const LIMITS = { timeout: 240_000 };

const idOf = (account: string): string => `spiffe://cluster.local/ns/${SHOP}/sa/${account}`;

describe('the mesh on a Kubernetes of two nodes', () => {
  let mesh: MeshCluster;
  let serverIp = '';
  let webIp = '';

  before(async () => {
    mesh = await MeshCluster.start({ settings: SETTINGS, labelled: false });
    await mesh.controlPlane.apply(
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'elsewhere' } },
      pod({ name: 'stranger', namespace: 'elsewhere', node: 'node-1' }),
      ...probedPods(mesh.image.reference),
    );
    await mesh.shop.waitReady(...DEMO);
    await new Shell(mesh.controlPlane, 'elsewhere').waitReady('stranger');
    serverIp = await mesh.shop.ip('server');
    webIp = await mesh.shop.serviceIp('web');
  }, LIMITS);
  after(() => mesh[Symbol.asyncDispose]());

  /** One request with a marker from client to server by its Service: where on the wire the marker was seen. */
  async function request(): Promise<{ seenAt: readonly string[]; tlsRecords: number; received: number }> {
    const marker = randomBytes(64);
    await using wire = await mesh.cluster.capture([mesh.cluster.bridge], POD_TRAFFIC);
    const reply = await mesh.shop.request('client', webIp, 80, marker);
    assert.equal(reply.status, 200, JSON.stringify(reply.result));
    assert.ok(reply.peer.includes(await mesh.shop.ip('client')), `the app saw ${reply.peer}`);
    const closed = await until('the server to have seen its end', async () => {
      const lines = (await mesh.kubectl('logs', '-n', SHOP, 'server')).split('\n');
      return lines.findLast((line) => line.includes(`"peer":"${reply.peer}"`));
    });
    return {
      seenAt: await wire.seenAt(marker),
      tlsRecords: (await wire.tls(HBONE_PORT)).get('bridge')?.applicationData ?? 0,
      received: Number(/"received":(\d+)/.exec(closed)?.[1]),
    };
  }

  it('runs the image of the archive, in the containers of the manifests: nothing more is allowed to it', async () => {
    const rendered = find(await render('base'), 'DaemonSet', 'culvert');
    const applied = await mesh.controlPlane.api.must(
      'GET',
      `/apis/apps/v1/namespaces/${SYSTEM}/daemonsets/culvert`,
    );
    const [template, live] = [
      at(rendered, 'spec', 'template', 'spec'),
      at(applied, 'spec', 'template', 'spec'),
    ];
    for (const path of [
      ['securityContext'],
      ['containers', 0, 'securityContext'],
      ['containers', 0, 'volumeMounts'],
    ])
      assert.deepEqual(at(live, ...path), at(template, ...path), path.join('.'));
    assert.equal(at(live, 'hostNetwork'), undefined);
    assert.deepEqual([list(live, 'containers').length, at(live, 'initContainers')], [1, undefined]);
    for (const node of mesh.cluster.nodes) {
      const images = await node.exec([
        'ctr',
        '-n',
        'k8s.io',
        'images',
        'ls',
        `name==${mesh.image.reference}`,
      ]);
      assert.ok(images.includes(mesh.image.digest), images);
      const daemon = await mesh.daemonOn(node);
      assert.deepEqual(daemon.imageIds, [mesh.image.id]);
      const pid = node.podPids(daemon.uid).find((one) => commandOf(one).includes('culvert'));
      const status = readFileSync(`/proc/${pid ?? 0}/status`, 'utf8');
      // CAP_NET_ADMIN 12, CAP_SYS_CHROOT 18, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21, CAP_BPF 39.
      const wanted = [12n, 18n, 19n, 21n, 39n].reduce((mask, bit) => mask | (1n << bit), 0n);
      for (const set of ['CapPrm', 'CapEff', 'CapBnd'])
        assert.equal(BigInt(`0x${field(status, set)}`), wanted, `${set}: ${field(status, set)}`);
      assert.deepEqual([field(status, 'NoNewPrivs'), field(status, 'Seccomp')], ['1', '2']);
      const mounts = readFileSync(`/proc/${pid ?? 0}/mountinfo`, 'utf8').split('\n');
      const optionsOf = (path: string): string =>
        mounts.find((line) => line.split(' ')[4] === path)?.split(' ')[5] ?? '';
      for (const path of ['/', '/sys/fs/cgroup']) assert.match(optionsOf(path), /^ro,/, path);
    }
  });

  it('before the label a request crosses in clear text, seen on the bridge', async () => {
    const { seenAt, tlsRecords } = await request();
    assert.deepEqual([seenAt, tlsRecords], [['bridge'], 0]);
  });

  it(
    'kubectl label: running pods join without a restart, and a request crosses in TLS only',
    LIMITS,
    async () => {
      const before = livesOf(await mesh.pods(), DEMO);
      await mesh.label(true, DEMO);
      const { seenAt, tlsRecords, received } = await request();
      assert.deepEqual(seenAt, []);
      assert.ok(tlsRecords > 0, 'nothing crossed on port 15008');
      assert.ok(received > 64, `the server's app received ${received} bytes`);
      for (const direction of ['outbound', 'inbound'] as const) {
        const isIt = (record: LogRecord): boolean =>
          record['direction'] === direction && record['dst.identity'] === idOf('server');
        const record = await mesh.accessRecord(`the request, ${direction}`, isIt);
        assert.deepEqual(
          [record['src.identity'], record['security'], record['reason']],
          [idOf('client'), 'mutual_tls', 'OK'],
        );
      }
      assert.deepEqual(livesOf(await mesh.pods(), DEMO), before);
    },
  );

  it('what the server shows on 15008 is its identity, signed by culvert-ca with the key of its Secret', async () => {
    const stranger = await mesh.inPod('stranger', 'elsewhere');
    const socket = connect({
      socket: await connectIn(stranger.place(), serverIp, HBONE_PORT),
      ALPNProtocols: ['h2'],
      rejectUnauthorized: false,
    });
    socket.on('error', () => undefined);
    const shown = await until('its certificate', () => socket.getPeerX509Certificate());
    socket.destroy();
    assert.equal(shown.subjectAltName, `URI:${idOf('server')}`);
    const root = new X509Certificate(await systemObject('secrets/culvert-ca', 'tls.crt', 'base64'));
    assert.ok(shown.checkIssued(root) && shown.verify(root.publicKey));
    const published = await systemObject('configmaps/culvert-trust-bundle', 'ca.crt', 'utf8');
    assert.equal(new X509Certificate(published).fingerprint256, root.fingerprint256);
  });

  async function systemObject(path: string, key: string, encoding: BufferEncoding): Promise<string> {
    const object = await mesh.controlPlane.api.must('GET', `/api/v1/namespaces/${SYSTEM}/${path}`);
    return Buffer.from(text(object, 'data', key), encoding).toString();
  }

  it('plaintext from outside the mesh is refused, and kubectl describe says so of the pod', async () => {
    const stranger = await mesh.inPod('stranger', 'elsewhere');
    // A pod that was running takes plaintext until its peers know of it: joinWait, 5 s.
    const isRefused = async (): Promise<boolean> => (await stranger.request(serverIp, APP_PORT)).status === 0;
    await until('a refusal', isRefused, { timeoutMs: 20_000, everyMs: 500 });
    assert.ok(await isRefused());
    await until('the Event', async () => {
      const page = await mesh.kubectl('describe', 'pod', '-n', SHOP, 'server');
      return /Warning\s+PlaintextDenied\s.*elsewhere\/stranger/.test(page);
    });
  });

  it('the kubelets’ HTTP, TCP, gRPC and exec probes pass', LIMITS, async () => {
    const before = await livenessProbes(mesh);
    await until(
      `${PROBES} probes of each`,
      async () => {
        const now = await livenessProbes(mesh);
        for (const name of PROBED)
          assert.equal(
            now.get(name)?.failed ?? 0,
            before.get(name)?.failed ?? 0,
            `a probe of ${name} failed`,
          );
        return PROBED.every(
          (name) => (now.get(name)?.successful ?? 0) >= (before.get(name)?.successful ?? 0) + PROBES,
        );
      },
      { timeoutMs: 90_000, everyMs: 500 },
    );
    const pods = (await mesh.pods()).filter(({ name }) => PROBED.includes(name));
    assert.ok(pods.length === 4 && pods.every(({ isReady, state }) => isReady && state === 'enrolled'));
  });

  it(
    'a Job whose first action is a connect, and an init container’s, arrive at a STRICT server',
    LIMITS,
    async () => {
      await mesh.controlPlane.apply(askingJob('once', webIp), initPod('initial', webIp));
      await mesh.kubectl('wait', '-n', SHOP, 'job/once', '--for=condition=Complete', '--timeout=60s');
      await mesh.shop.waitReady('initial');
      for (const workload of ['once', 'initial']) {
        const isIt = (record: LogRecord): boolean =>
          record['direction'] === 'outbound' && String(record['src.workload']).startsWith(workload);
        const record = await mesh.accessRecord(`the request of ${workload}`, isIt);
        assert.deepEqual(
          [record['src.identity'], record['dst.identity'], record['reason']],
          [idOf('client'), idOf('server'), 'OK'],
        );
      }
    },
  );

  it('kubectl exec, logs and port-forward work on an enrolled pod', async () => {
    const { stdout } = await mesh.shop.exec('server', ['/bin/echo', 'from within']);
    assert.equal(stdout, 'from within\n');
    assert.match(await mesh.kubectl('logs', '-n', SHOP, 'server'), /"listening"/);
    const words = ['port-forward', '-n', SHOP, 'pod/server', `:${APP_PORT}`];
    const forward = await mesh.controlPlane.startKubectl(words);
    const [, port] = await forward.waitForOutput(/Forwarding from 127\.0\.0\.1:(\d+)/);
    const answer = await fetch(`http://127.0.0.1:${port ?? ''}/`);
    assert.match(await answer.text(), /^name=web/);
    await forward.kill();
  });

  it(`a Deployment is rolled over ${ROLLS} times under load: no request is lost`, {
    timeout: 900_000,
  }, async () => {
    await mesh.controlPlane.apply(...rolledDeployment());
    const status = ['rollout', 'status', '-n', SHOP, 'deployment/rolled', '--timeout=90s'];
    await mesh.kubectl(...status);
    const client = await mesh.inPod('client');
    await using loop = await client.loop(await mesh.shop.serviceIp('rolled'), 80, { everyMs: 30 });
    for (let roll = 0; roll < ROLLS; roll++) {
      // As 'rollout restart' does, which refuses a second one within a second.
      const template = { metadata: { annotations: { 'example.com/roll': String(roll) } } };
      const patch = JSON.stringify({ spec: { template } });
      await mesh.kubectl('patch', '-n', SHOP, 'deployment/rolled', '-p', patch);
      await mesh.kubectl(...status);
      noneFailed(await loop.stats());
    }
    // The load goes on until the last old pod is dead, not only told to go.
    const isOver = async (): Promise<boolean> => (await mesh.pods(SHOP, 'app=rolled')).length === 2;
    await until('the old pods to be gone', isOver, { timeoutMs: 60_000, everyMs: 500 });
    const counts = await loop.stop();
    noneFailed(counts);
    assert.ok(counts.ok > ROLLS * 10, JSON.stringify(counts));
    await mesh.kubectl('delete', '-n', SHOP, 'deployment/rolled', 'service/rolled');
  });

  it(
    'culvert status, check and certs tell of it; --renew brings new certificates and loses no request',
    LIMITS,
    async () => {
      const client = await mesh.inPod('client');
      await using loop = await client.loop(webIp, 80, { everyMs: 30 });
      const status = await mesh.culvert(['status', '-n', SHOP]);
      assert.equal(status.code, 0, status.stdout + status.stderr);
      for (const name of DEMO)
        assert.match(status.stdout, new RegExp(`^shop +${name} +node-[12] +enrolled`, 'm'));
      const check = await mesh.culvert(['check']);
      assert.deepEqual(
        [check.code, /(\d+) failed/.exec(check.stdout)?.[1]],
        [0, '0'],
        check.stdout + check.stderr,
      );
      const serials = (page: string): Map<string, string> =>
        new Map(
          page.split('\n').flatMap((line) => {
            const [node = '', id = '', state, serial = ''] = line.split(/ {2,}/);
            return state === 'ready' ? [[`${node} ${id}`, serial]] : [];
          }),
        );
      const old = serials((await mesh.culvert(['certs'])).stdout);
      const renewed = `node-1 ${idOf('client')}`;
      assert.ok(old.has(renewed) && old.has(`node-2 ${idOf('server')}`), JSON.stringify([...old]));
      const renewal = await mesh.culvert(['certs', '--renew', idOf('client')]);
      assert.equal(renewal.code, 0, renewal.stderr);
      const now = serials(renewal.stdout);
      for (const [key, serial] of now) assert.equal(serial !== old.get(key), key === renewed, key);
      noneFailed(await loop.stop());
    },
  );

  it('a daemon gets no identity of another node, with its own token taken out of its pod', async () => {
    const daemon = await mesh.daemonOn(mesh.cluster.node(2));
    const token = tokenOf(mesh.cluster.node(2).podPids(daemon.uid));
    const own = await requestCertificate(mesh.controlPlane, token, idOf('server'));
    assert.equal(own.verdict, 'Issued', own.message);
    const other = await requestCertificate(mesh.controlPlane, token, idOf('client'));
    assert.deepEqual([other.verdict, other.reason], ['Denied', 'NoSuchWorkload'], other.message);
  });

  it('an application with all of the daemon’s rights gets none, not its own either', async () => {
    await mesh.kubectl(
      'create',
      'clusterrolebinding',
      'thief',
      '--clusterrole=culvert',
      `--serviceaccount=${SHOP}:client`,
    );
    const client = await mesh.inPod('client');
    const answer = await requestCertificate(
      mesh.controlPlane,
      tokenOf(client.node.podPids(client.uid)),
      idOf('client'),
    );
    assert.deepEqual([answer.verdict, answer.reason], ['Denied', 'NotTheDaemon'], answer.message);
  });

  it(
    'unlabelled, pods are left alone, not restarted, and a request crosses in clear text again',
    LIMITS,
    async () => {
      const before = livesOf(await mesh.pods(), DEMO);
      await mesh.label(false, DEMO);
      const { seenAt } = await request();
      assert.deepEqual(seenAt, ['bridge']);
      assert.deepEqual(livesOf(await mesh.pods(), DEMO), before);
    },
  );
});

function noneFailed(counts: Counts): void {
  assert.equal(counts.failed, 0, JSON.stringify(counts));
}

function field(status: string, name: string): string {
  return new RegExp(`^${name}:\\s+(\\S+)`, 'm').exec(status)?.[1] ?? '';
}

function commandOf(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
}
