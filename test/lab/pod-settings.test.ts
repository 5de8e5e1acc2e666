/** Pods whose own settings or neighbours are unlike others' (DESIGN.md section 9, CAPTURE.md): what their users see. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { must } from '../support/run.ts';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { LabPod } from './kit/pod.ts';
import { REPOSITORY } from './kit/tools.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';
import { recordTo, statusOf, withoutPayload } from './watch.ts';

const CONNECT_TIMEOUT_MS = 2_000;
/** Ephemeral ports of the pod that has few. */
const FEW = 60;
const WORKERS = 2;

describe('a pod that is unlike others', { timeout: 300_000 }, () => {
  let shop: Shop;
  let sink: Server;
  before(async () => {
    const flags = ['--connect-timeout', `${CONNECT_TIMEOUT_MS}ms`, '--workers', String(WORKERS)];
    shop = await openShop({ daemon: { flags } });
    sink = await shop.server.serve('sink', 8081);
    await Promise.all([shop.server.serve('http', 8080), shop.server.serve('echo', 8082, { quiet: true })]);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  async function sysctl(pod: LabPod, ...settings: readonly string[]): Promise<void> {
    await must(['nsenter', `--net=${pod.netns}`, 'sysctl', '-qw', ...settings]);
  }

  it('has an app on port 15008: reported at enrolment; inside the pod it is there, outside it is ours', async () => {
    const { lab, client, daemon2 } = shop;
    const pod = await lab.pod({ name: 'on-15008', node: 2, ports: [15_008] });
    const app = await pod.serve('sink', 15_008);
    await pod.serve('http', 8080);
    await daemon2.waitState(pod, 'enrolled');
    assert.match((await statusOf(daemon2, pod))?.reason ?? '', /^APP_USES_15008: /);
    const { output } = await daemon2.cli(['status']);
    assert.match(output, /on-15008 +enrolled +APP_USES_15008/);
    const first = randomBytes(64);
    const out = await withoutPayload(app, () => client.send(pod.ip, 15_008, { first }));
    assert.equal(out.end, 'error');
    assert.equal((await recordTo(shop.daemon1, 'outbound', `${pod.ip}:15008`))['reason'], 'OWN_LISTENER');
    assert.equal((await client.request(pod.ip, 8080)).name, 'on-15008');
    for (const own of ['127.0.0.1', pod.ip]) assert.equal((await pod.send(own, 15_008, { first })).error, '');
    await until('both', async () => (await app.stats()).received === 128);
  });

  it('has few ephemeral ports: IPv4 goes beyond them, IPv6 says EADDRNOTAVAIL at once', async () => {
    const { lab, server, daemon1 } = shop;
    const pod = await lab.pod({ name: 'few-ports', node: 1 });
    await daemon1.waitState(pod, 'enrolled');
    await sysctl(pod, `net.ipv4.ip_local_port_range=40000 ${40_000 + FEW - 1}`);
    const many = 5 * FEW;
    await using over4 = await pod.idle(server.ip, 8082, many);
    const opened4 = await over4.opened();
    assert.deepEqual([opened4.ok, opened4.failed], [many, 0], JSON.stringify(opened4));
    assert.equal((await over4.ping()).ok, many);
    // One address, ::1, and a listener for each worker.
    await using over6 = await pod.idle(server.ip6, 8082, many);
    const opened6 = await over6.opened();
    assert.ok(opened6.ok > FEW, `${opened6.ok}: not spread over the listeners`);
    assert.ok(opened6.ok <= FEW * WORKERS, `${opened6.ok} of one address`);
    assert.deepEqual(opened6.errors, { EADDRNOTAVAIL: many - opened6.ok });
    assert.equal((await over6.ping()).ok, opened6.ok);
  });

  it('answers every SYN with a cookie, as under a flood: nothing is lost either way', async () => {
    const { client, server, web } = shop;
    await sysctl(client, 'net.ipv4.tcp_syncookies=2');
    await sysctl(server, 'net.ipv4.tcp_syncookies=2');
    for (let index = 0; index < 20; index++) {
      const ip = index % 2 === 0 ? web.ip : web.ip6;
      const reply = await client.request(ip, 80);
      assert.equal(reply.status, 200, JSON.stringify(reply.result));
      const own = index % 2 === 0 ? client.ip : `[${client.ip6}]`;
      assert.equal(reply.peer, `${own}:${reply.result.local.split(':').at(-1)}`);
    }
    const stranger = await shop.lab.outsider('stranger');
    assert.equal((await stranger.request(server.ip, 8080)).status, 200);
    await sysctl(client, 'net.ipv4.tcp_syncookies=1');
    await sysctl(server, 'net.ipv4.tcp_syncookies=1');
  });

  it('has IPv6 switched off: IPv4 is carried both ways, IPv6 fails at once as without a mesh', async () => {
    const { lab, client, server, daemon1 } = shop;
    const pod = await lab.pod({
      name: 'no-ipv6',
      node: 1,
      ips: ['10.244.1.98'],
      onSandbox: (made) => sysctl(made, 'net.ipv6.conf.all.disable_ipv6=1'),
    });
    await pod.serve('http', 8080, { address: '0.0.0.0' });
    await daemon1.waitState(pod, 'enrolled');
    assert.equal((await pod.request(server.ip, 8080)).status, 200);
    const record = await daemon1.waitForAccess('its record', (one) => one['src.workload'] === 'no-ipv6');
    assert.deepEqual([record['reason'], record['security']], ['OK', 'mutual_tls']);
    assert.equal((await client.request(pod.ip, 8080)).name, 'no-ipv6');
    const out = await pod.send(server.ip6, 8080);
    assert.deepEqual([out.connected, out.error], [false, 'EADDRNOTAVAIL']);
  });

  for (const verb of ['drop', 'reject'] as const)
    it(`is behind a NetworkPolicy that ${verb}s port 15008: enrolled all the same; the record says what to look at`, async () => {
      const { lab, client, server, daemon1, daemon2 } = shop;
      const pod = await lab.pod({ name: `behind-${verb}`, node: 2 });
      const app = await pod.serve('sink', 8081);
      const table = `table ip policy-${verb} {
        chain forward { type filter hook forward priority 0; ip daddr ${pod.ip} tcp dport 15008 ${verb}; }
      }`;
      await server.node.must(['nft', '-f', '-'], table);
      await daemon2.waitState(pod, 'enrolled');
      await daemon1.waitHeard(pod);
      const first = randomBytes(64);
      const out = await withoutPayload(app, () => client.send(pod.ip, 8081, { first }));
      assert.equal(out.end, 'error');
      const record = await recordTo(daemon1, 'outbound', `${pod.ip}:8081`);
      assert.equal(record['reason'], 'TUNNEL_CONNECT_FAILED');
      assert.match(JSON.stringify(record), /NetworkPolicy/);
      // The port itself is open: that is what a policy written before the mesh allows.
      const stranger = await lab.outsider(`asks-${verb}`);
      assert.equal((await stranger.send(pod.ip, 8081, { first })).error, '');
    });

  it('waits with `until nc -z`: the connect succeeds where nobody listens, and the README says so', async () => {
    const { client, server, web } = shop;
    for (const [ip, port] of [
      [server.ip, 8099],
      [web.ip, 89],
    ] as const) {
      const { code } = await client.exec(['bash', '-c', `exec 3<>/dev/tcp/${ip}/${port}`]);
      assert.equal(code, 0, 'connect() failed');
      const out = await withoutPayload(sink, () => client.send(ip, port, { first: randomBytes(64) }));
      assert.equal(out.end, 'error');
    }
    const readme = readFileSync(join(REPOSITORY, 'README.md'), 'utf8');
    assert.match(readme, /What changes for your app[^]*`until nc -z[^]*wait for an answer/);
  });
});
