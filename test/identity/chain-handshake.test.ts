/**
 * `verifyChain` (what `culvert svid verify` says) held against real handshakes: what it takes both ends take, and what
 * a handshake refuses it refuses.
 */
import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { describe, it } from 'node:test';
import { connect, createSecureContext, createServer as createTlsServer } from 'node:tls';
import type { SecureContext } from 'node:tls';
import { verifyChain } from '../../daemon/identity/chain.ts';
import { IdentityStore } from '../../daemon/identity/contexts.ts';
import { toPem } from '../../daemon/identity/csr.ts';
import { TlsFronts } from '../../daemon/proxy/hbone/fronts.ts';
import { SERVER_POD, testConfig } from '../proxy/hbone.kit.ts';
import {
  CLIENT_AUTH,
  HONEST,
  OID,
  SERVER_AUTH,
  TRUST_DOMAIN,
  WEB,
  basicConstraints,
  commonName,
  dns,
  extKeyUsage,
  extension,
  forge,
  id,
  keyUsage,
  oid,
  tlv,
  uri,
} from './forge.ts';
import type { Forgery } from './forge.ts';

const DAY = 86_400_000;
const DATES = { notBeforeMs: Date.now() - DAY, notAfterMs: Date.now() + DAY };
const CA = [basicConstraints(true), keyUsage(1, 0x06)] as const;
const RSA_SHA256 = { identifier: tlv(0x30, oid('2a864886f70d01010b'), tlv(5)), digest: 'sha256' };
const RSA_SHA1 = { identifier: tlv(0x30, oid('2a864886f70d010105'), tlv(5)), digest: 'sha1' };
const ECDSA_SHA1 = { identifier: tlv(0x30, oid('2a8648ce3d0401')), digest: 'sha1' };
const ED25519 = { identifier: tlv(0x30, oid('2b6570')), digest: null };

const KEYS = {
  p256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  p224: () => generateKeyPairSync('ec', { namedCurve: 'P-224' }),
  p384: () => generateKeyPairSync('ec', { namedCurve: 'P-384' }),
  koblitz: () => generateKeyPairSync('ec', { namedCurve: 'secp256k1' }),
  explicit: () => generateKeyPairSync('ec', { namedCurve: 'P-256', paramEncoding: 'explicit' }),
  rsa1024: () => generateKeyPairSync('rsa', { modulusLength: 1024 }),
  rsa2048: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ed25519: () => generateKeyPairSync('ed25519'),
} as const;

interface Made {
  readonly name: string;
  readonly der: Buffer;
  readonly key: KeyObject;
}

interface Options extends Forgery {
  readonly kind?: keyof typeof KEYS;
}

/** A CA, a root when nobody signs it. */
function ca(name: string, by?: Made, { kind = 'p256', ...more }: Options = {}): Made {
  const { privateKey, publicKey } = KEYS[kind]();
  const der = forge({
    ...DATES,
    extensions: CA,
    issuer: commonName(by?.name ?? name),
    subject: commonName(name),
    spki: publicKey.export({ type: 'spki', format: 'der' }),
    key: by?.key ?? privateKey,
    ...more,
  });
  return { name, der, key: privateKey };
}

function leaf(by: Made, { kind = 'p256', ...more }: Options = {}): Made {
  const { privateKey, publicKey } = KEYS[kind]();
  const spki = publicKey.export({ type: 'spki', format: 'der' });
  const der = forge({ ...DATES, issuer: commonName(by.name), spki, key: by.key, ...more });
  return { name: WEB, der, key: privateKey };
}

const pem = (...all: readonly Made[]): string => all.map(({ der }) => toPem('CERTIFICATE', der)).join('');
const keyPem = ({ key }: Made): string => key.export({ type: 'pkcs8', format: 'pem' });

interface Chain {
  readonly leaf: Made;
  readonly above: readonly Made[];
  readonly roots: readonly Made[];
}

/** root → leaf, with the leaf as given. */
function straight(options: Options = {}, root: Made = ca('root')): Chain {
  return { leaf: leaf(root, options), above: [], roots: [root] };
}

/** root → middle → leaf. */
function through(options: Options, root: Made = ca('root')): Chain {
  const middle = ca('middle', root, options);
  return { leaf: leaf(middle), above: [middle], roots: [root] };
}

/** What our end of a mesh with these roots makes of the chain, as a server and as a client. */
async function shaken({ leaf: own, above, roots }: Chain): Promise<readonly boolean[]> {
  const ours = ca('ours');
  const store = new IdentityStore({ trustDomain: TRUST_DOMAIN });
  const mine = leaf(ours);
  store.set({
    id: id('web'),
    chainPem: pem(mine),
    keyPem: keyPem(mine),
    rootsPem: pem(...roots),
    notBeforeMs: DATES.notBeforeMs,
    notAfterMs: DATES.notAfterMs,
    serial: '1',
  });
  const found = store.get(id('web'));
  assert.ok(found.ok);
  let theirs: SecureContext;
  try {
    theirs = createSecureContext({ cert: pem(own, ...above), key: keyPem(own), ca: pem(ours) });
  } catch {
    // OpenSSL does not even present it.
    return [false, false];
  }
  return [
    await asServer(store, found.identity, theirs),
    await asClient(store, found.identity.context, theirs),
  ];
}

async function asServer(
  store: IdentityStore,
  identity: Parameters<TlsFronts['handshake']>[1]['identity'],
  theirs: SecureContext,
): Promise<boolean> {
  const fronts = new TlsFronts(testConfig(), store);
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const server = createServer((raw: Socket) => {
    raw.on('error', () => undefined);
    fronts.handshake(raw, { podUid: SERVER_POD, identity }, (outcome) => {
      resolve(outcome.ok);
      raw.destroy();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const socket = connect({
    port: portOf(server.address()),
    host: '127.0.0.1',
    secureContext: theirs,
    ALPNProtocols: ['h2'],
    rejectUnauthorized: false,
  });
  socket.on('error', () => undefined);
  const taken = await promise;
  socket.destroy();
  server.close();
  return taken;
}

/** As daemon/proxy/hbone/tunnel.ts dials. */
async function asClient(store: IdentityStore, ours: SecureContext, theirs: SecureContext): Promise<boolean> {
  const server = createTlsServer({ ALPNProtocols: ['h2'] });
  Reflect.set(server, '_sharedCreds', theirs);
  server.on('tlsClientError', () => undefined);
  server.on('secureConnection', (socket) => socket.on('error', () => undefined));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect({
    port: portOf(server.address()),
    host: '127.0.0.1',
    secureContext: ours,
    ALPNProtocols: ['h2'],
    rejectUnauthorized: true,
    checkServerIdentity: () => undefined,
  });
  socket.on('error', () => resolve(false));
  socket.on('secureConnect', () => {
    const der = socket.getPeerX509Certificate()?.raw;
    resolve(der !== undefined && store.verifyPeer(der).ok);
  });
  const taken = await promise;
  socket.destroy();
  server.close();
  return taken;
}

function portOf(address: AddressInfo | string | null): number {
  assert.ok(address !== null && typeof address !== 'string');
  return address.port;
}

const names = (critical: boolean, ...subtrees: readonly Buffer[]): Buffer =>
  extension(OID.nameConstraints, critical, tlv(0x30, ...subtrees));
const permitted = (name: Buffer): Buffer => tlv(0xa0, tlv(0x30, name));
const excluded = (name: Buffer): Buffer => tlv(0xa1, tlv(0x30, name));

const TAKEN: Readonly<Record<string, () => Chain>> = {
  'straight to a root': () => straight(),
  'through an intermediate': () => through({}),
  'through an intermediate that is among the roots only': () => {
    const { leaf: own, above, roots } = through({});
    return { leaf: own, above: [], roots: [...roots, ...above] };
  },
  'with certificates between that do not belong to it': () => {
    const { leaf: own, above, roots } = through({});
    return { leaf: own, above: [ca('stranger'), ...roots, ...above], roots };
  },
  'through an intermediate for both purposes': () =>
    through({ extensions: [...CA, extKeyUsage(SERVER_AUTH, CLIENT_AUTH)] }),
  'through one that is critically so': () =>
    through({ extensions: [...CA, extension(OID.eku, true, tlv(0x30, SERVER_AUTH, CLIENT_AUTH))] }),
  'through one that may name this host': () =>
    through({ extensions: [...CA, names(true, permitted(uri('cluster.local')))] }),
  'through one that may name hosts below a domain': () =>
    through({ extensions: [...CA, names(false, permitted(uri('.local')))] }),
  'through one whose constraints are about other kinds of names': () =>
    through({ extensions: [...CA, names(true, permitted(dns('example.com')))] }),
  'through one with critical policies': () =>
    through({ extensions: [...CA, extension('551d20', true, tlv(0x30, tlv(0x30, oid('551d2000'))))] }),
  'with a key on P-384': () => straight({ kind: 'p384' }),
  'with an Ed25519 key': () => straight({ kind: 'ed25519' }),
  'with an RSA key of 2,048 bits': () => straight({ kind: 'rsa2048' }),
  'of an RSA root that signed itself with SHA-1': () =>
    straight({ algorithm: RSA_SHA256 }, ca('root', undefined, { kind: 'rsa2048', algorithm: RSA_SHA1 })),
  'of an Ed25519 root': () =>
    straight({ algorithm: ED25519 }, ca('root', undefined, { kind: 'ed25519', algorithm: ED25519 })),
  'of a root without key usage': () =>
    straight({}, ca('root', undefined, { extensions: [basicConstraints(true)] })),
};

const REFUSED: Readonly<Record<string, () => Chain>> = {
  'without its intermediate': () => ({ ...through({}), above: [] }),
  'of another root': () => ({ ...straight(), roots: [ca('root')] }),
  'through an intermediate that is no CA': () => through({ extensions: [keyUsage(1, 0x06)] }),
  'through one without keyCertSign': () =>
    through({ extensions: [basicConstraints(true), keyUsage(7, 0x80)] }),
  'through one that has expired': () => through({ notAfterMs: Date.now() - 1_000 }),
  'through one that is not valid yet': () => through({ notBeforeMs: Date.now() + 3_600_000 }),
  'of a root that has expired': () => straight({}, ca('root', undefined, { notAfterMs: Date.now() - 1_000 })),
  'through one for servers only': () => through({ extensions: [...CA, extKeyUsage(SERVER_AUTH)] }),
  'through one for clients only': () => through({ extensions: [...CA, extKeyUsage(CLIENT_AUTH)] }),
  'through one for any purpose, which OpenSSL does not take for TLS': () =>
    through({ extensions: [...CA, extKeyUsage(oid('551d2500'))] }),
  'of a root for other purposes': () =>
    straight({}, ca('root', undefined, { extensions: [...CA, extKeyUsage(oid('2b06010505070303'))] })),
  'through one that may name another host only': () =>
    through({ extensions: [...CA, names(false, permitted(uri('other.local')))] }),
  'through one that must not name this host': () =>
    through({ extensions: [...CA, names(false, excluded(uri('cluster.local')))] }),
  'of a root that must not name this host': () =>
    straight({}, ca('root', undefined, { extensions: [...CA, names(true, excluded(uri('.local')))] })),
  'longer than its root allows': () =>
    through({}, ca('root', undefined, { extensions: [basicConstraints(true, tlv(2, Buffer.of(0))), CA[1]] })),
  'through one with an unknown critical extension': () =>
    through({ extensions: [...CA, extension('2a0304', true, tlv(5))] }),
  'with a key on P-224': () => straight({ kind: 'p224' }),
  'with a key on secp256k1': () => straight({ kind: 'koblitz' }),
  'with a curve that is written out': () => straight({ kind: 'explicit' }),
  'with an RSA key of 1,024 bits': () => straight({ kind: 'rsa1024' }),
  'of an RSA root of 1,024 bits': () =>
    straight({ algorithm: RSA_SHA256 }, ca('root', undefined, { kind: 'rsa1024', algorithm: RSA_SHA256 })),
  'signed with SHA-1': () => straight({ algorithm: ECDSA_SHA1 }),
  'through one that is signed with SHA-1': () => through({ algorithm: ECDSA_SHA1 }),
  'with an extended key usage of servers only': () =>
    straight({ extensions: [HONEST[0], extKeyUsage(SERVER_AUTH), HONEST[2], HONEST[3]] }),
};

/** Stricter than OpenSSL, as SPIFFE demands of signing certificates. */
const STRICTER: Readonly<Record<string, () => Chain>> = {
  'through an intermediate without key usage': () => through({ extensions: [basicConstraints(true)] }),
  'of a root without basic constraints': () =>
    straight({}, ca('root', undefined, { extensions: [keyUsage(1, 0x06)] })),
};

function verdictOf({ leaf: own, above, roots }: Chain): ReturnType<typeof verifyChain> {
  return verifyChain(pem(own, ...above), pem(...roots), { trustDomain: TRUST_DOMAIN, nowMs: Date.now() });
}

describe('a chain that is taken, by handshakes and by verifyChain', () => {
  for (const [name, make] of Object.entries(TAKEN))
    it(name, async () => {
      const chain = make();
      assert.deepEqual(await shaken(chain), [true, true]);
      const verdict = verdictOf(chain);
      assert.ok(verdict.ok, verdict.ok ? '' : verdict.detail);
    });
});

describe('a chain that is refused, by handshakes and by verifyChain', () => {
  for (const [name, make] of Object.entries(REFUSED))
    it(name, async () => {
      const chain = make();
      assert.ok((await shaken(chain)).includes(false));
      assert.ok(!verdictOf(chain).ok);
    });
});

describe('a chain that verifyChain alone refuses', () => {
  for (const [name, make] of Object.entries(STRICTER)) it(name, () => assert.ok(!verdictOf(make()).ok));
  it('of a root on a curve that node can not show', () => {
    const verdict = verdictOf(straight({}, ca('root', undefined, { kind: 'koblitz' })));
    assert.ok(!verdict.ok);
    assert.match(verdict.detail, /curve secp256k1/);
  });
  it('with a PEM block that is cut off, in the chain or among the roots', () => {
    const { leaf: own, roots } = straight();
    const cut = pem(own).slice(0, -30);
    for (const [chain, trusted] of [
      [pem(own) + cut, pem(...roots)],
      [pem(own), pem(...roots) + cut],
    ] as const) {
      const verdict = verifyChain(chain, trusted, { trustDomain: TRUST_DOMAIN, nowMs: Date.now() });
      assert.ok(!verdict.ok);
      assert.match(verdict.detail, /a block CERTIFICATE has no end/);
    }
  });
});
