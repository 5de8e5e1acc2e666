import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { connect as connectTcp } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TLSSocket, connect } from 'node:tls';
import type { SecureContext } from 'node:tls';
import { beforeEach, describe, it } from 'node:test';
import { acceptIssued } from '../../daemon/identity/accept.ts';
import { Certificates } from '../../daemon/identity/certificates.ts';
import { systemClock } from '../../daemon/identity/clock.ts';
import { IdentityStore } from '../../daemon/identity/contexts.ts';
import { LocalCa } from '../../daemon/identity/sources/local.ts';
import type { Identities } from '../../daemon/proxy/seams.ts';
import type { CertificateMessage } from '../../daemon/mesh/wiring.ts';
import { issue, makeCa } from '../support/pki.ts';
import type { IssueOptions, TestCa } from '../support/pki.ts';
import { TRUST_DOMAIN, id } from './forge.ts';

const web = id('web');
const api = id('api');
const HOUR = 3_600_000;
const root = makeCa();

function message(
  of = web,
  ca: TestCa = root,
  rootsPem = ca.certPem,
  options: IssueOptions = {},
): CertificateMessage {
  const issued = { ...issue(ca, of, options), rootsPem };
  const accepted = acceptIssued(issued, of, { trustDomain: TRUST_DOMAIN, nowMs: Date.now() });
  assert.ok(accepted.ok);
  return accepted.certificate;
}

let nowMs: number;
let store: IdentityStore;
beforeEach(() => {
  nowMs = Date.now();
  store = new IdentityStore({ trustDomain: TRUST_DOMAIN, clock: { nowMs: () => nowMs }, maxIdentities: 3 });
});

function identityOf(from: IdentityStore, of = web) {
  const found = from.get(of);
  assert.ok(found.ok, 'no identity');
  return found.identity;
}

interface Ends {
  readonly client: TLSSocket;
  readonly server: TLSSocket;
}

/** A handshake over loopback; rejects as the client does. */
async function handshake(clientContext: SecureContext, serverContext: SecureContext): Promise<Ends> {
  const listener = createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const { port } = listener.address() as AddressInfo;
  const raw = connectTcp(port, '127.0.0.1');
  const [accepted] = (await once(listener, 'connection')) as [Socket];
  listener.close();
  const server = new TLSSocket(accepted, {
    isServer: true,
    requestCert: true,
    rejectUnauthorized: true,
    secureContext: serverContext,
  });
  server.on('error', () => undefined);
  const serverSecure = once(server, 'secure');
  serverSecure.catch(() => undefined);
  const client = connect({
    socket: raw,
    secureContext: clientContext,
    servername: '',
    checkServerIdentity: () => undefined,
  });
  try {
    await once(client, 'secureConnect');
  } catch (error) {
    server.destroy();
    throw error;
  }
  await serverSecure;
  return { client, server };
}

function close({ client, server }: Ends): void {
  client.destroy();
  server.destroy();
}

describe('the identities of a worker', () => {
  it('are what the proxy expects', () => {
    const seam: Identities = store;
    assert.deepEqual(seam.get(web), { ok: false, reason: 'CERTIFICATE_NOT_READY', detail: undefined });
  });

  it('are ready with their certificate, one context a generation', () => {
    store.set(message());
    const first = identityOf(store);
    assert.equal(identityOf(store), first);
    assert.equal(first.id, web);
    const again = message();
    store.set(again);
    const second = identityOf(store);
    assert.ok(second.generation > first.generation);
    assert.notEqual(second.context, first.context);
    store.set(again);
    assert.equal(identityOf(store), second, 'the same certificate again changes nothing');
  });

  it('are told as they change', () => {
    const told: string[] = [];
    const stop = store.onChange((changed) => told.push(changed));
    store.set(message());
    store.fail(api, 'down');
    store.remove(web);
    store.remove(web);
    assert.deepEqual(told, [web, api, web]);
    stop();
    store.set(message());
    assert.equal(told.length, 3);
  });

  it('expire by the wall clock at use, and say why they were not renewed', () => {
    const certificate = message();
    store.set(certificate);
    store.fail(web, 'the CA is down');
    assert.ok(store.get(web).ok, 'a failure leaves the old one in use');
    nowMs = certificate.notAfterMs;
    assert.ok(store.get(web).ok);
    nowMs += 1;
    const verdict = store.get(web);
    assert.ok(!verdict.ok);
    assert.equal(verdict.reason, 'CERTIFICATE_EXPIRED');
    assert.match(verdict.detail ?? '', /expired 20.*the CA is down/);
    nowMs -= HOUR;
    assert.ok(store.get(web).ok, 'a clock set right again heals it');
  });

  it('that main could not get say why', () => {
    store.fail(web, 'the CA is down');
    assert.deepEqual(store.get(web), {
      ok: false,
      reason: 'CERTIFICATE_NOT_READY',
      detail: 'the CA is down',
    });
  });

  it('are bounded', () => {
    for (const account of ['a', 'b', 'c', 'd']) store.set(message(id(account)));
    assert.equal(store.size, 3);
    const verdict = store.get(id('d'));
    assert.ok(!verdict.ok);
    assert.match(verdict.detail ?? '', /3 identities/);
    store.remove(id('a'));
    store.set(message(id('d')));
    assert.ok(store.get(id('d')).ok);
  });

  it('that OpenSSL does not take leave the old one in use, and no key in the reason', () => {
    store.set(message());
    const first = identityOf(store);
    store.set({ ...message(), keyPem: message().keyPem });
    assert.equal(identityOf(store), first);
    store.set({ ...message(api), keyPem: 'garbage' });
    const verdict = store.get(api);
    assert.ok(!verdict.ok);
    assert.match(verdict.detail ?? '', /OpenSSL does not take/);
  });
});

describe('a handshake with them', () => {
  it('is TLS 1.3 with AES-128 and proves both', async () => {
    const other = new IdentityStore({ trustDomain: TRUST_DOMAIN });
    store.set(message(web));
    other.set(message(api));
    const ends = await handshake(identityOf(store).context, identityOf(other, api).context);
    const { client, server } = ends;
    try {
      assert.equal(client.getProtocol(), 'TLSv1.3');
      assert.equal(client.getCipher().standardName, 'TLS_AES_128_GCM_SHA256');
      assert.ok(client.authorized);
      const fromServer = client.getPeerX509Certificate();
      const fromClient = server.getPeerX509Certificate();
      assert.ok(fromServer !== undefined && fromClient !== undefined);
      assert.deepEqual(store.verifyPeer(fromServer.raw), { ok: true, id: api });
      assert.deepEqual(other.verifyPeer(fromClient.raw), { ok: true, id: web });
    } finally {
      close(ends);
    }
  });

  it('fails when the other end is of another root', async () => {
    const liar = new IdentityStore({ trustDomain: TRUST_DOMAIN });
    store.set(message(web));
    liar.set(message(api, makeCa()));
    await assert.rejects(
      handshake(identityOf(store).context, identityOf(liar, api).context),
      /self.signed|issuer/,
    );
  });

  it('works while roots overlap, in any order, also twice', async () => {
    const next = makeCa();
    const other = new IdentityStore({ trustDomain: TRUST_DOMAIN });
    store.set(message(web, root, next.certPem + root.certPem));
    other.set(message(api, next, root.certPem + next.certPem + root.certPem));
    const ends = await handshake(identityOf(store).context, identityOf(other, api).context);
    assert.ok(ends.client.authorized);
    close(ends);
  });
});

describe('certificates of two seconds, by the real clock', () => {
  it('are renewed while a connection under the first stays up', async () => {
    const base = mkdtempSync(join(tmpdir(), 'culvert-ca-'));
    const ca = await LocalCa.open({
      folder: join(base, 'ca'),
      trustDomain: TRUST_DOMAIN,
      clock: systemClock,
    });
    using certificates = new Certificates({
      source: ca,
      trustDomain: TRUST_DOMAIN,
      lifetimeMs: 2_000,
      clock: systemClock,
    });
    const live = new IdentityStore({ trustDomain: TRUST_DOMAIN });
    certificates.onEvent((event) => event.type === 'certificate' && live.set(event.certificate));
    const rotated = new Promise<void>((resolve) => {
      live.onChange(() => {
        if (certificates.list().every(({ serial }) => serial !== undefined)) generations++;
        if (generations >= 5) resolve();
      });
    });
    let generations = 0;
    try {
      const firstTwo = Promise.all([arrival(live, web), arrival(live, api)]);
      certificates.want(web, true);
      certificates.want(api, true);
      await firstTwo;
      const first = identityOf(live);
      const ends = await handshake(first.context, identityOf(live, api).context);
      await rotated;
      assert.ok(Date.now() > first.notAfterMs - 2_000);
      const newer = identityOf(live);
      assert.ok(newer.generation > first.generation);
      ends.client.write('still here');
      const [data] = (await once(ends.server, 'data')) as [Buffer];
      assert.equal(data.toString(), 'still here');
      close(ends);
      close(await handshake(newer.context, identityOf(live, api).context));
    } finally {
      rmSync(base, { recursive: true, force: true });
    }
  });
});

function arrival(of: IdentityStore, wanted: typeof web): Promise<void> {
  return new Promise((resolve) => {
    const stop = of.onChange((changed) => {
      if (changed !== wanted) return;
      stop();
      resolve();
    });
  });
}
