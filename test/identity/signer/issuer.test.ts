import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { readPem, verifyChain } from '../../../daemon/identity/chain.ts';
import { makeKeyPair } from '../../../daemon/identity/csr.ts';
import type { KeyPair } from '../../../daemon/identity/csr.ts';
import { makeIssuer, readIssuer, signGrant } from '../../../daemon/identity/signer/issuer.ts';
import type { IssuerPems, SigningCa } from '../../../daemon/identity/signer/issuer.ts';
import { issue, makeCa, makeIntermediate } from '../../support/pki.ts';
import { must } from '../../support/run.ts';
import { tempDir } from '../../support/tmp.ts';
import { TRUST_DOMAIN, id } from '../forge.ts';

let keys: KeyPair;
before(async () => {
  keys = await makeKeyPair();
});

const read = (pems: IssuerPems): SigningCa => readIssuer(pems, TRUST_DOMAIN, keys, Date.now());

/** What `ca` signs is taken by a daemon that trusts its roots. */
function signs(ca: SigningCa): string {
  const nowMs = Date.now();
  const chain = signGrant(ca, { id: id('web'), publicKey: keys.publicKey, lifetimeMs: 3_600_000 }, nowMs);
  const verdict = verifyChain(chain, ca.rootsPem, { trustDomain: TRUST_DOMAIN, nowMs });
  assert.ok(verdict.ok, JSON.stringify(verdict));
  assert.equal(verdict.id, id('web'));
  return chain;
}

describe('the CA of the Secret', () => {
  it('may be what we make', async () => {
    const ca = read(await makeIssuer(TRUST_DOMAIN, Date.now()));
    assert.equal(readPem(signs(ca), 8).length, 1);
  });

  it('may be an intermediate, whose chain goes with each certificate, root left out', () => {
    const root = makeCa();
    const middle = makeIntermediate(root);
    const pems = { certificates: middle.certPem, key: middle.keyPem, roots: root.certPem };
    assert.equal(readPem(signs(read(pems)), 8).length, 2);
    const whole = { ...pems, certificates: middle.certPem + root.certPem, roots: '' };
    assert.equal(readPem(signs(read(whole)), 8).length, 2);
  });

  it('may be of openssl: RSA or another curve; PKCS #8, PKCS #1 or SEC 1; no ca.crt', async () => {
    await using dir = await tempDir('issuer');
    const path = (name: string): string => join(dir.path, name);
    const text = (name: string): string => readFileSync(path(name), 'utf8');
    for (const [kind, convert] of [
      [['rsa:2048'], ['rsa', '-traditional']],
      [['ec', '-pkeyopt', 'ec_paramgen_curve:P-384'], ['ec']],
    ] as const) {
      await must(
        ['openssl', 'req', '-x509', '-newkey', ...kind, '-nodes', '-days', '9', '-subj', '/CN=x'].concat([
          '-keyout',
          path('tls.key'),
          '-out',
          path('tls.crt'),
        ]),
      );
      const [tool, ...flags] = convert;
      await must(['openssl', tool, ...flags, '-in', path('tls.key'), '-out', path('old.key')]);
      assert.match(text('old.key'), /BEGIN (RSA|EC) PRIVATE KEY/);
      for (const key of [text('tls.key'), text('old.key')])
        signs(read({ certificates: text('tls.crt'), key, roots: '' }));
    }
  });

  it('never signs for longer than it lives itself', () => {
    const root = makeCa();
    const ca = read({ certificates: root.certPem, key: root.keyPem, roots: root.certPem });
    const grant = { id: id('web'), publicKey: keys.publicKey, lifetimeMs: 90 * 86_400_000 };
    const [leaf] = readPem(signGrant(ca, grant, Date.now()), 8);
    assert.equal(leaf?.validToDate.getTime(), ca.notAfterMs);
    assert.throws(() => signGrant(ca, grant, ca.notAfterMs), /expired/);
  });

  it('is refused with what is wrong, and nothing of its key', () => {
    const root = makeCa();
    const other = makeCa();
    const leaf = issue(root, 'spiffe://cluster.local/ns/a/sa/b');
    const good = { certificates: root.certPem, key: root.keyPem, roots: root.certPem };
    const weak = generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' });
    for (const [pems, why] of [
      [{ ...good, certificates: '' }, /tls\.crt holds no certificate/],
      [{ ...good, key: '' }, /no private key/],
      [{ ...good, key: other.keyPem }, /not the key of the first certificate/],
      [{ ...good, key: weak }, /ed25519/],
      [{ ...good, roots: other.certPem }, /would be refused by those who trust ca\.crt: .*does not chain/],
      [{ certificates: leaf.chainPem, key: leaf.keyPem, roots: root.certPem }, /is no CA/],
      [{ certificates: leaf.chainPem, key: leaf.keyPem, roots: '' }, /ca\.crt is missing/],
    ] as const)
      assert.throws(
        () => read(pems),
        (error: Error) => {
          assert.match(error.message, why);
          assert.doesNotMatch(error.message, /BEGIN/);
          return true;
        },
      );
  });
});
