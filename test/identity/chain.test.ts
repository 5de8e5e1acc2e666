import assert from 'node:assert/strict';
import { X509Certificate, createPrivateKey, generateKeyPairSync } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { describe, it } from 'node:test';
import { acceptIssued } from '../../daemon/identity/accept.ts';
import { rootHash, rootHashes } from '../../daemon/identity/bundle.ts';
import { readPem, verifyChain } from '../../daemon/identity/chain.ts';
import { issue, makeCa, makeIntermediate, selfSigned } from '../support/pki.ts';
import { toPem } from '../../daemon/identity/csr.ts';
import {
  TRUST_DOMAIN,
  WEB,
  basicConstraints,
  commonName,
  forge,
  id,
  keyUsage,
  renewedRoot,
  tlv,
} from './forge.ts';
import type { Forgery } from './forge.ts';

const root = makeCa();
const middle = makeIntermediate(root);
const options = (nowMs = Date.now()) => ({ trustDomain: TRUST_DOMAIN, nowMs });
const DAY = 86_400_000;

function refused(chain: string | readonly Uint8Array[], roots: string, detail: RegExp, nowMs?: number): void {
  const verdict = verifyChain(chain, roots, options(nowMs));
  assert.ok(!verdict.ok, 'it was accepted');
  assert.match(verdict.detail, detail);
}

function idOf(chain: string | readonly Uint8Array[], roots: string): string {
  const verdict = verifyChain(chain, roots, options());
  assert.ok(verdict.ok, verdict.ok ? '' : verdict.detail);
  return verdict.id;
}

interface ForgedCa {
  readonly name: string;
  readonly der: Buffer;
  readonly key: KeyObject;
}

function forgeCa(more: Forgery, name: string, by?: ForgedCa, ...pathLength: readonly Buffer[]): ForgedCa {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const der = forge({
    extensions: [basicConstraints(true, ...pathLength), keyUsage(1, 0x06)],
    ...more,
    issuer: commonName(by?.name ?? name),
    subject: commonName(name),
    spki: publicKey.export({ type: 'spki', format: 'der' }),
    key: by?.key ?? privateKey,
  });
  return { name, der, key: privateKey };
}

describe('a chain', () => {
  it('to a root, straight and through an intermediate, in PEM and DER', () => {
    assert.equal(idOf(issue(root, WEB).chainPem, root.certPem), WEB);
    assert.equal(idOf([issue(root, WEB).der], root.certPem), WEB);
    assert.equal(idOf(issue(middle, WEB).chainPem, root.certPem), WEB);
  });
  it('to any of several roots, in any order, also twice the same', () => {
    const other = makeCa();
    for (const roots of [
      root.certPem + other.certPem,
      other.certPem + root.certPem,
      root.certPem + root.certPem + other.certPem,
    ])
      assert.equal(idOf(issue(root, WEB).chainPem, roots), WEB);
  });
  it('to roots of one name but different keys', () => {
    const twin = makeCa(root.name);
    assert.equal(idOf(issue(root, WEB).chainPem, twin.certPem + root.certPem), WEB);
    refused(issue(root, WEB).chainPem, twin.certPem, /does not chain/);
  });
  it('to the root that is preferred, of two under one name and key; else to the one that ends last', () => {
    const renewed = renewedRoot(root);
    const [hash, renewedHash] = [root, renewed].map(({ certPem }) => rootHashes(certPem).join());
    const chain = issue(middle, WEB).chainPem;
    const found = (roots: string, preferredRoot?: string): string => {
      const verdict = verifyChain(chain, roots, { ...options(), preferredRoot });
      assert.ok(verdict.ok, verdict.ok ? '' : verdict.detail);
      return rootHash(verdict.root);
    };
    for (const roots of [root.certPem + renewed.certPem, renewed.certPem + root.certPem]) {
      assert.equal(found(roots, hash), hash);
      assert.equal(found(roots, renewedHash), renewedHash);
      assert.equal(found(roots), renewedHash);
    }
    assert.equal(found(root.certPem, renewedHash), hash, 'what is preferred is not trusted for it');
  });
  it('to no root that is only preferred, nor to a preferred one that has expired', () => {
    const other = makeCa();
    const preferredRoot = rootHashes(other.certPem).join();
    const untrusted = verifyChain(issue(other, WEB).chainPem, root.certPem, { ...options(), preferredRoot });
    assert.ok(!untrusted.ok);
    const late = Date.now() + 11 * DAY;
    const leaf = issue(root, WEB, { notAfter: new Date(late + DAY) });
    const renewed = renewedRoot(root);
    const verdict = verifyChain(leaf.chainPem, root.certPem + renewed.certPem, {
      ...options(late),
      preferredRoot: rootHashes(root.certPem).join(),
    });
    assert.ok(verdict.ok);
    assert.equal(rootHash(verdict.root), rootHashes(renewed.certPem).join());
  });
  it('of 8 certificates with the root, and not of 9', () => {
    let ca = root;
    for (let i = 0; i < 6; i++) ca = makeIntermediate(ca);
    assert.equal(idOf(issue(ca, WEB).chainPem, root.certPem), WEB);
    refused(issue(makeIntermediate(ca), WEB).chainPem, root.certPem, /does not chain/);
    refused(issue(makeIntermediate(makeIntermediate(ca)), WEB).chainPem, root.certPem, /more than 8/);
  });
});

describe('a chain that is refused', () => {
  it('of a liar who signed himself', () => refused(selfSigned(WEB).chainPem, root.certPem, /does not chain/));
  it("of a liar who uses the root's name", () =>
    refused(selfSigned(WEB, { commonName: root.name }).chainPem, root.certPem, /does not chain/));
  it('of another root', () => refused(issue(makeCa(), WEB).chainPem, root.certPem, /does not chain/));
  it('without its intermediate', () => refused([issue(middle, WEB).der], root.certPem, /does not chain/));
  it('to an intermediate that is given as root', () =>
    refused(issue(middle, WEB).chainPem, middle.certPem, /does not chain/));
  it('signed by a leaf', () => {
    const leaf = issue(root, WEB, { commonName: 'leaf' });
    const liar = { ...root, name: 'leaf', keyPem: leaf.keyPem };
    refused([issue(liar, WEB).der, leaf.der], root.certPem, /is no CA certificate|does not chain/);
  });
  it('with no roots, or no certificate', () => {
    refused(issue(root, WEB).chainPem, '', /does not chain/);
    refused('', root.certPem, /no certificate/);
    refused('garbage', root.certPem, /no certificate/);
  });
  it('with a block that is no certificate', () =>
    refused(
      '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n',
      root.certPem,
      /can not be used/,
    ));
  it('after the root has expired', () => {
    const late = Date.now() + 11 * DAY;
    const leaf = issue(root, WEB, { notAfter: new Date(late + DAY) });
    refused(leaf.chainPem, root.certPem, /has expired/, late);
  });
  it('for the reason that the leaf has, judged as in a handshake', () => {
    refused(issue(root, [WEB, WEB]).chainPem, root.certPem, /more than one/);
    refused(issue(root, WEB, { isCa: true }).chainPem, root.certPem, /CA certificate/);
    refused(issue(root, 'spiffe://other/ns/shop/sa/web').chainPem, root.certPem, /trust domain/);
  });
  it('in bounded work when its intermediates all sign each other', () => {
    const liar = makeCa();
    const twins = Array.from({ length: 7 }, () => liar.der);
    refused([issue(liar, WEB).der, ...twins], root.certPem, /more than 128 signature checks/);
  });
  it('whose names and key identifiers fit, but not its signature', () => {
    const dates = { notBeforeMs: Date.now() - DAY, notAfterMs: Date.now() + DAY };
    const ca = makeCa('some CA');
    const key = createPrivateKey(ca.keyPem);
    assert.equal(idOf([forge({ ...dates, key })], ca.certPem), WEB);
    refused([forge({ ...dates })], ca.certPem, /does not chain/);
  });
  it('through a certificate that may sign but is no CA', () => {
    const made = issue(root, [], { isCa: false, keyUsage: 0x06, usages: [], commonName: 'no CA' });
    const liar = { ...root, name: 'no CA', keyPem: made.keyPem };
    refused([issue(liar, WEB).der, made.der], root.certPem, /is no CA certificate/);
  });
  it('through an intermediate without keyCertSign', () => {
    const made = issue(root, [], { isCa: true, keyUsage: 0x80, usages: [], commonName: 'weak' });
    const liar = { ...root, name: 'weak', keyPem: made.keyPem };
    refused([issue(liar, WEB).der, made.der], root.certPem, /does not chain|keyCertSign/);
  });
  it('through an intermediate without key usage, which a root may lack', () => {
    const dates = { notBeforeMs: Date.now() - DAY, notAfterMs: Date.now() + DAY };
    const bare = { ...dates, extensions: [basicConstraints(true)] };
    const top = forgeCa(bare, 'top');
    const below = forgeCa(bare, 'below', top);
    const trusted = toPem('CERTIFICATE', top.der);
    assert.equal(idOf([forge({ ...dates, issuer: commonName('top'), key: top.key })], trusted), WEB);
    const leaf = forge({ ...dates, issuer: commonName('below'), key: below.key });
    refused([leaf, below.der], trusted, /keyCertSign/);
  });
  it('longer than a CA of it allows', () => {
    const dates = { notBeforeMs: Date.now() - DAY, notAfterMs: Date.now() + DAY };
    for (const [length, fits] of [
      [0, false],
      [1, true],
    ] as const) {
      const ca = forgeCa(dates, 'top', undefined, tlv(0x02, Buffer.of(length)));
      const below = forgeCa(dates, 'below', ca);
      const leaf = forge({ ...dates, issuer: commonName('below'), key: below.key });
      const top = toPem('CERTIFICATE', ca.der);
      if (fits) assert.equal(idOf([leaf, below.der], top), WEB);
      else refused([leaf, below.der], top, /path length/);
    }
  });
  it('with 65 roots, and takes 64', () => {
    const leaf = issue(root, WEB).chainPem;
    assert.equal(idOf(leaf, root.certPem.repeat(64)), WEB);
    refused(leaf, root.certPem.repeat(65), /more than 64/);
  });
});

describe('what a source gave', () => {
  const web = id('web');
  it('is taken with its dates and serial', () => {
    const issued = issue(middle, WEB);
    const [leaf] = readPem(issued.chainPem, 8);
    const accepted = acceptIssued({ ...issued, rootsPem: root.certPem }, web, options());
    assert.ok(accepted.ok && leaf instanceof X509Certificate);
    assert.equal(accepted.certificate.serial, leaf.serialNumber);
    assert.equal(accepted.certificate.notAfterMs, leaf.validToDate.getTime());
  });
  it('is refused with another name, another key, another root, or out of date', () => {
    const issued = { ...issue(root, WEB), rootsPem: root.certPem };
    const wrong: readonly [object, RegExp][] = [
      [issue(root, 'spiffe://cluster.local/ns/shop/sa/admin'), /is for spiffe.*admin/],
      [{ keyPem: issue(root, WEB).keyPem }, /key we were given/],
      [{ keyPem: 'no key' }, /key we were given/],
      [{ rootsPem: makeCa().certPem }, /does not chain/],
      [issue(root, WEB, { notAfter: new Date(Date.now() - 1_000) }), /expired/],
      [issue(root, WEB, { notBefore: new Date(Date.now() + DAY) }), /not valid before/],
    ];
    for (const [change, reason] of wrong) {
      const result = acceptIssued({ ...issued, ...change }, web, options());
      assert.ok(!result.ok, String(reason));
      assert.match(result.reason, reason);
    }
  });
});
