import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { Qos } from './kit/cgroups.ts';
import type { PodSpec } from './kit/pod.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { recordTo, statusOf } from './watch.ts';

const TIMEOUT = { timeout: 300_000 };

for (const cgroupDriver of ['systemd', 'cgroupfs'] as const)
  describe(`capture with the ${cgroupDriver} cgroup driver`, TIMEOUT, () => {
    let shop: Shop;
    before(async () => {
      shop = await openShop({ lab: { cgroupDriver } });
      await shop.server.serve('http', 8080);
    });
    after(() => shop.lab[Symbol.asyncDispose]());

    for (const qos of ['guaranteed', 'burstable', 'besteffort'] satisfies Qos[])
      it(`a ${qos} pod, whenever it started: tunnelled both ways`, async () => {
        const { lab, client, server, daemon1 } = shop;
        const before = await lab.pod({ name: `old-${qos}`, node: 1, namespace: `old-${qos}`, qos });
        await before.serve('http', 8080);
        await lab.cluster.label(`old-${qos}`, 'enabled');
        const late = await lab.pod({ name: `new-${qos}`, node: 1, namespace: `old-${qos}`, qos });
        await late.serve('http', 8080);
        for (const pod of [before, late]) {
          await daemon1.waitState(pod, 'enrolled');
          assert.equal((await pod.request(server.ip, 8080)).status, 200);
          const out = await daemon1.waitForAccess('its record', (one) => one['src.workload'] === pod.name);
          assert.deepEqual([out['reason'], out['security']], ['OK', 'mutual_tls']);
          assert.equal((await client.request(pod.ip, 8080)).status, 200);
          assert.equal((await recordTo(daemon1, 'inbound', `${pod.ip}:8080`))['security'], 'mutual_tls');
        }
      });
  });

describe('what is captured', TIMEOUT, () => {
  let shop: Shop;
  let sink: Server;
  before(async () => {
    shop = await openShop();
    await shop.server.serve('http', 8080);
    sink = await shop.server.serve('sink', 8081);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  it('not a pod that opts out; it is again when its label goes', async () => {
    const { lab, client, daemon2 } = shop;
    const labels = { 'culvert.dev/mesh': 'disabled' };
    const pod = await lab.pod({ name: 'opted-out', node: 2, labels });
    await pod.serve('http', 8080);
    assert.equal((await client.request(pod.ip, 8080)).status, 200);
    const record = await recordTo(shop.daemon1, 'outbound', `${pod.ip}:8080`);
    assert.deepEqual([record['reason'], record['security']], ['PASSTHROUGH_NOT_ENROLLED', 'none']);
    assert.equal(await statusOf(daemon2, pod), undefined);
    await lab.cluster.relabel(pod.object(), { 'culvert.dev/mesh': undefined });
    await daemon2.waitState(pod, 'enrolled');
    await lab.cluster.apply(pod.object());
    await daemon2.waitState(pod, 'none');
    assert.equal((await client.request(pod.ip, 8080)).status, 200);
    await pod.delete();
  });

  const unenrollable: readonly (Omit<PodSpec, 'name' | 'node'> & { readonly code: string })[] = [
    { code: 'HOST_NETWORK', hostNetwork: true },
    { code: 'OTHER_MESH', labels: { 'istio.io/dataplane-mode': 'ambient' } },
    { code: 'OTHER_MESH', annotations: { 'sidecar.istio.io/status': '{}' } },
    { code: 'OTHER_MESH', spec: { initContainers: [{ name: 'linkerd-proxy', image: 'x' }] } },
    { code: 'FOREIGN_RUNTIME', spec: { runtimeClassName: 'gvisor' } },
    { code: 'FOREIGN_RUNTIME', spec: { runtimeClassName: 'kata-qemu' } },
    { code: 'SECONDARY_NETWORKS', annotations: { 'k8s.v1.cni.cncf.io/networks': 'macvlan' } },
    { code: 'WINDOWS', spec: { os: { name: 'windows' } } },
  ];
  for (const [index, { code, ...spec }] of unenrollable.entries())
    it(`not a pod that can't be: ${code} (${JSON.stringify(spec)}), reported as such`, async () => {
      const { lab, server, daemon1 } = shop;
      const pod = await lab.pod({ ...spec, name: `odd-${index}`, node: 1 });
      await daemon1.waitState(pod, 'unenrollable');
      assert.match((await statusOf(daemon1, pod))?.reason ?? '', new RegExp(`^${code}: `));
      const { code: exit, output } = await daemon1.cli(['status']);
      assert.equal(exit, 1);
      assert.match(output, new RegExp(`odd-${index} +unenrollable +${code}`));
      assert.equal(lab.cluster.publishedState(pod.uid), undefined);
      const reply = await pod.request(server.ip, 8080);
      assert.equal(reply.status, 200);
      assert.equal(reply.result.local, reply.peer, 'it was redirected');
      await pod.delete();
      await daemon1.waitState(pod, 'none');
    });

  it('not what the exclusions annotation names', async () => {
    const { lab, server, daemon1 } = shop;
    const annotations = { 'culvert.dev/exclude-outbound-cidrs': `${server.ip}/32` };
    const pod = await lab.pod({ name: 'excludes', node: 1, annotations });
    await daemon1.waitState(pod, 'enrolled');
    const direct = await pod.request(server.ip, 8080);
    assert.deepEqual([direct.status, direct.result.local], [200, direct.peer]);
    const captured = await pod.request(shop.web.ip, 80);
    assert.equal(captured.status, 200);
    assert.notEqual(captured.result.local, captured.peer);
    await pod.delete();
  });

  for (const allowed of [false, true])
    it(`a nested network namespace: ${allowed ? 'let out when the pod allows it' : 'refused NESTED_NETNS'}`, async () => {
      const { lab, daemon1, server } = shop;
      const annotations: Record<string, string> = allowed ? { 'culvert.dev/nested-netns': 'allow' } : {};
      const pod = await lab.pod({ name: `docker-${allowed ? 'may' : 'not'}`, node: 1, annotations });
      await daemon1.waitState(pod, 'enrolled');
      // No route leads out of it: ENETUNREACH says that the kernel was asked, EPERM that our hook said no.
      const connect = `(exec 3<>/dev/tcp/${server.ip}/8081) 2>&1`;
      const { lines } = await pod.exec(['unshare', '--net', 'bash', '-c', connect]);
      const text = lines.join('\n');
      assert.match(text, allowed ? /unreachable/ : /not permitted/);
      const status = (): Promise<string> => daemon1.metrics();
      if (!allowed)
        await until('it to be counted', async () => /NESTED_NETNS[^\n]* [1-9]/.test(await status()));
      await pod.delete();
    });

  it('a pod that restarts in place: again, and nothing of the old namespace stays', async () => {
    const { lab, client, server, daemon2 } = shop;
    const pod = await lab.pod({ name: 'restarts', node: 2 });
    await daemon2.waitState(pod, 'enrolled');
    await pod.replaceSandbox();
    const app = await pod.serve('http', 8080);
    const marker = randomBytes(64);
    await using wire = await lab.capture([lab.fabricPoint, pod.capturePoint]);
    await until('its tunnels to be made again', async () => {
      const reply = await client.request(pod.ip, 8080, { body: marker, timeoutMs: 2_000 });
      return reply.status === 200;
    });
    assert.deepEqual(await wire.seenAt(marker), []);
    assert.equal((await pod.request(server.ip, 8080)).status, 200);
    await daemon2.waitState(pod, 'enrolled');
    assert.ok((await app.stats()).received > 0);
    await pod.delete();
    await daemon2.waitState(pod, 'none');
    // The daemon holds no descriptor of a namespace that has gone.
    const fds = await server.node.must([
      'sh',
      '-c',
      `ls -l /proc/*/fd 2>/dev/null | grep -o 'net:\\[[0-9]*\\]' | sort -u`,
    ]);
    const living = await server.node.must(['sh', '-c', 'readlink /proc/[0-9]*/ns/net | sort -u']);
    for (const name of fds.split('\n').filter(Boolean)) assert.ok(living.includes(name), `${name} is held`);
  });

  it('the first connect of a pod that starts: a Job whose first action is a connect', async () => {
    const { lab, daemon1, server } = shop;
    let first: { error: string; end: string } | undefined;
    const job = await lab.pod({
      name: 'job',
      node: 1,
      onSandbox: async (pod) => void (first = await pod.send(server.ip, 8081, { first: randomBytes(64) })),
    });
    assert.deepEqual([first?.error, first?.end], ['', 'eof']);
    const record = await daemon1.waitForAccess('its record', (one) => one['src.workload'] === 'job');
    assert.deepEqual([record['reason'], record['security']], ['OK', 'mutual_tls']);
    assert.ok((await sink.stats()).received > 0);
    await job.delete();
  });
});
