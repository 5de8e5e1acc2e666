/** Peers that lie, at each end of the tunnel: refused, with a reason, and no byte reaches the app (issue 6, 'Liars'). */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { selfSigned } from '../support/pki.ts';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import { httpRequest } from './kit/apps.ts';
import type { LabDaemon, LogRecord } from './kit/daemon.ts';
import type { LabPod } from './kit/pod.ts';
import { Liar, issuedBy } from './liar.ts';
import type { LiarCertificate } from './liar.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const LIAR_ID = 'spiffe://cluster.local/ns/wild/sa/liar';
const CLIENT_ID = 'spiffe://cluster.local/ns/shop/sa/client';
const FLAGS = ['--default-mode', 'strict', '--handshake-timeout', '2s', '--request-timeout', '2s'];

describe('a liar dials an enrolled pod', { timeout: 300_000 }, () => {
  let shop: Shop;
  let sink: Server;
  let other: LabPod;
  let otherSink: Server;
  let pod: LabPod;
  let liar: Liar;
  let honest: Required<LiarCertificate>;

  before(async () => {
    shop = await openShop({ daemon: { flags: FLAGS } });
    const { lab, server, daemon2 } = shop;
    sink = await server.serve('sink', 8080);
    other = await lab.pod({ name: 'other', node: 2 });
    otherSink = await other.serve('sink', 8080);
    pod = await lab.pod({ name: 'liar', namespace: 'wild', node: 1 });
    liar = await Liar.start(pod);
    honest = await issuedBy(lab, LIAR_ID);
    await daemon2.waitState(other, 'enrolled');
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  /** Does `act`, and expects: a record with this reason, no payload in any app, and an honest client served. */
  async function isRefused(reason: string, act: () => Promise<unknown>): Promise<LogRecord> {
    const { daemon2 } = shop;
    const before = [(await sink.stats()).received, (await otherSink.stats()).received];
    const from = daemon2.process.lines.length;
    await act();
    const record = await refusalOf(daemon2, reason, from);
    assert.deepEqual([(await sink.stats()).received, (await otherSink.stats()).received], before);
    await isServed();
    return record;
  }

  async function isServed(): Promise<void> {
    const { client, server } = shop;
    const before = (await sink.stats()).received;
    assert.equal((await client.send(server.ip, 8080, { first: randomBytes(64) })).error, '');
    assert.equal((await sink.stats()).received, before + 64);
  }

  it('with a right certificate and a true CONNECT it would be served: the liar program works', async () => {
    const { server, daemon2 } = shop;
    const before = (await sink.stats()).received;
    const outcome = await liar.tunnel(server.ip, honest, {
      authority: `${server.ip}:8080`,
      payload: randomBytes(64),
    });
    assert.equal(outcome.status, 200, JSON.stringify(outcome));
    await sink.waitForClosed();
    assert.equal((await sink.stats()).received, before + 64);
    await daemon2.waitForAccess('its record', (record) => record['src.identity'] === LIAR_ID);
  });

  it('a self-signed certificate that carries the right SAN', async () => {
    const { server } = shop;
    const forged = selfSigned(CLIENT_ID);
    await isRefused('PEER_CERTIFICATE_INVALID', async () => {
      const outcome = await liar.tunnel(
        server.ip,
        { key: forged.keyPem, cert: forged.chainPem },
        { authority: `${server.ip}:8080`, payload: randomBytes(64) },
      );
      assert.equal(outcome.status, 0);
    });
  });

  it('no certificate at all', async () => {
    const { server } = shop;
    await isRefused('PEER_CERTIFICATE_INVALID', async () => {
      const outcome = await liar.tunnel(server.ip, {}, { authority: `${server.ip}:8080` });
      assert.equal(outcome.status, 0);
    });
  });

  it("a right certificate of another trust domain's identity", async () => {
    const { lab, server } = shop;
    const foreign = await issuedBy(lab, 'spiffe://other.example/ns/shop/sa/client');
    await isRefused('PEER_TRUST_DOMAIN', async () => {
      const outcome = await liar.tunnel(server.ip, foreign, {
        authority: `${server.ip}:8080`,
        payload: randomBytes(64),
      });
      assert.equal(outcome.status, 0);
    });
  });

  it('headers that name another client: the record names the certificate and the address that were proven', async () => {
    const { client, server, daemon2 } = shop;
    const from = daemon2.process.lines.length;
    const closed = sink.process.lines.length;
    const outcome = await liar.tunnel(server.ip, honest, {
      authority: `${server.ip}:8080`,
      headers: {
        forwarded: `for="${client.ip}:4242"`,
        baggage: 'k8s.namespace.name=shop,k8s.pod.name=client',
        'x-istio-source': 'waypoint',
      },
      payload: randomBytes(64),
    });
    assert.equal(outcome.status, 200);
    // An honest client's record of a moment ago may still come.
    const isItsOwn = (record: LogRecord): boolean => record['src.identity'] === LIAR_ID;
    const record = await daemon2.waitForAccess('the record', isItsOwn, { from });
    assert.equal(record['src.workload'], 'liar');
    assert.ok(String(record['src.addr']).startsWith(`${pod.ip}:`), `it names ${String(record['src.addr'])}`);
    const seen = await sink.waitForClosed(closed);
    assert.ok(seen.peer.startsWith(`${pod.ip}:`), `the app saw ${seen.peer}`);
  });

  it("a CONNECT for another pod's address, the node's, and loopback", async () => {
    const { server } = shop;
    const targets = [other.ip, `[${other.ip6}]`, server.node.addresses[0] ?? '', '127.0.0.1', '[::1]'];
    for (const target of targets) {
      const record = await isRefused('CONNECT_TARGET_MISMATCH', async () => {
        const outcome = await liar.tunnel(server.ip, honest, {
          authority: `${target}:8080`,
          payload: randomBytes(64),
        });
        assert.equal(outcome.status, 400, target);
      });
      assert.equal(record['dst.addr'], `${target}:8080`);
    }
  });

  it('a CONNECT whose target is no plain address and port', async () => {
    const { server } = shop;
    for (const authority of [
      'web.shop:8080',
      `${server.ip}:0`,
      `${server.ip}:8080x`,
      `[::ffff:${server.ip}]:8080`,
    ])
      await isRefused('CONNECT_MALFORMED', async () => {
        const outcome = await liar.tunnel(server.ip, honest, { authority, payload: randomBytes(64) });
        assert.equal(outcome.status, 400, authority);
      });
  });

  it('plaintext and garbage to port 15008', async () => {
    const { server } = shop;
    const hello = Buffer.from('160301020001000100fc0303', 'hex');
    const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    for (const first of [
      httpRequest('/'),
      preface,
      randomBytes(4_096),
      Buffer.concat([hello, randomBytes(600)]),
    ])
      for (const host of server.ips)
        await isRefused('TLS_HANDSHAKE_FAILED', async () => {
          const result = await pod.send(host, 15_008, { first });
          assert.ok(result.received < 64, `it was told ${result.received} bytes`);
        });
  });

  it('a TLS session is resumed without its certificate', async () => {
    const { server } = shop;
    const authority = `${server.ip}:8080`;
    const whole = await liar.tunnel(server.ip, honest, { authority, payload: randomBytes(64) });
    assert.equal(whole.status, 200);
    assert.ok(whole.sessions > 0, 'it got no session: nothing would be tried');
    // Only the worker that offered a session knows it, and the kernel deals connections out at random.
    for (let attempt = 0; attempt < 8; attempt++) {
      await isRefused('PEER_CERTIFICATE_INVALID', async () => {
        const lie = { authority, resume: true, payload: randomBytes(64) };
        const outcome = await liar.tunnel(server.ip, {}, lie);
        assert.equal(outcome.status, 0, JSON.stringify(outcome));
      });
      // With it: a full handshake, as if there had been no session.
      const again = await liar.tunnel(server.ip, honest, { authority, resume: true });
      assert.equal(again.status, 200, JSON.stringify(again));
      assert.equal(again.reused, false);
    }
  });

  it('it connects and says nothing, before the handshake and after it', async () => {
    const { server } = shop;
    await isRefused('TLS_HANDSHAKE_TIMEOUT', async () => {
      const result = await pod.send(server.ip, 15_008, { halfClose: false });
      assert.notEqual(result.end, 'timeout', 'it was left to hang');
    });
    const record = await isRefused('NOT_HBONE', async () => {
      const outcome = await liar.tunnel(server.ip, honest, { authority: '', silent: true });
      assert.notEqual(outcome.error, 'STILL_OPEN');
    });
    assert.equal(record['detail'], 'no CONNECT came');
  });

  it('plaintext to the app', async () => {
    const { server } = shop;
    for (const host of server.ips)
      await isRefused('PLAINTEXT_DENIED', async () => {
        const result = await pod.send(host, 8080, { first: randomBytes(64) });
        assert.equal(result.error, 'ECONNRESET');
      });
  });

  it('nothing of them is left open on port 15008', async () => {
    const { client, server } = shop;
    const peers = async (): Promise<string[]> => {
      const { lines } = await server.exec(['ss', '-Htn', 'sport', '=', ':15008']);
      return lines.map((line) => line.trim().split(/\s+/)[4] ?? '');
    };
    const isHonest = (peer: string): boolean => peer.startsWith(`[::ffff:${client.ip}]:`);
    let last: string[] = [];
    const onlyHonest = async (): Promise<boolean> => (last = await peers()).every(isHonest);
    await until('only honest tunnels', onlyHonest, { detail: () => last.join('\n') });
    assert.ok((await peers()).length > 0, 'no tunnel at all: the test proves nothing');
  });
});

/** An impostor's server stands on a node without a daemon, and somebody has written that it is enrolled. */
describe('an enrolled client is led to an impostor', { timeout: 300_000 }, () => {
  let shop: Shop;
  before(async () => {
    shop = await openShop({ lab: { nodes: 3 }, daemon: { flags: FLAGS } });
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  async function isTurnedAway(name: string, reason: string, certificate: LiarCertificate): Promise<void> {
    const { lab, client, daemon1 } = shop;
    const fake = await lab.pod({ name, node: 3, serviceAccount: 'fake' });
    const app = await fake.serve('sink', 8080);
    const impostor = await Liar.start(fake);
    await impostor.serve(certificate);
    publishAs(shop, fake);
    const from = daemon1.process.lines.length;
    const result = await client.send(fake.ip, 8080, { first: randomBytes(64) });
    assert.equal(result.error, 'ECONNRESET', JSON.stringify(result));
    const record = await refusalOf(daemon1, reason, from);
    assert.equal(record['dst.hbone_addr'], `${fake.ip}:15008`);
    const seen = await impostor.served();
    assert.ok(seen.connections > 0, 'it was never dialled: the test proves nothing');
    assert.deepEqual([seen.connects, seen.bytes, (await app.stats()).received], [0, 0, 0]);
    await fake.delete();
  }

  it('that shows a self-signed certificate with the right SAN', async () => {
    const forged = selfSigned('spiffe://cluster.local/ns/shop/sa/fake');
    await isTurnedAway('fake-a', 'PEER_CERTIFICATE_INVALID', { key: forged.keyPem, cert: forged.chainPem });
  });

  it('that shows a right certificate of another identity', async () => {
    await isTurnedAway('fake-b', 'PEER_IDENTITY_MISMATCH', await issuedBy(shop.lab, LIAR_ID));
  });

  it('that would be believed with the right certificate: the impostor program works', async () => {
    const { lab, client } = shop;
    const fake = await lab.pod({ name: 'true', node: 3, serviceAccount: 'fake' });
    const impostor = await Liar.start(fake);
    await impostor.serve(await issuedBy(lab, 'spiffe://cluster.local/ns/shop/sa/fake'));
    publishAs(shop, fake);
    assert.equal((await client.send(fake.ip, 8080, { first: randomBytes(64) })).error, '');
    assert.equal((await impostor.served()).bytes, 64);
  });
});

/** Writes what only a daemon of node 3 may say. */
function publishAs({ lab }: Shop, pod: LabPod): void {
  const state = `node: node-3\npods:\n  - uid: ${pod.uid}\n    state: enrolled\n    since: ${new Date().toISOString()}\n`;
  writeFileSync(join(lab.cluster.statusFolder, 'node-3.yaml'), state);
}

function refusalOf(daemon: LabDaemon, reason: string, from: number): Promise<LogRecord> {
  return daemon.waitForAccess(`a record ${reason}`, (record) => record['reason'] === reason, { from });
}
