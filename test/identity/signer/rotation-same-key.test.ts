/** A root that gets new dates under its name and key, as cert-manager renews one with `rotationPolicy: Never`. */
import assert from 'node:assert/strict';
import { X509Certificate, createPrivateKey, createPublicKey } from 'node:crypto';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { trustBundle } from '../../../daemon/identity/bundle.ts';
import type { TrustBundle } from '../../../daemon/identity/bundle.ts';
import { Certificates } from '../../../daemon/identity/certificates.ts';
import { keyPem, makeKeyPair, toPem } from '../../../daemon/identity/csr.ts';
import type { KeyPair } from '../../../daemon/identity/csr.ts';
import { makeRoot } from '../../../daemon/identity/issue.ts';
import { makeIssuer, readIssuer, signGrant } from '../../../daemon/identity/signer/issuer.ts';
import type { SigningCa } from '../../../daemon/identity/signer/issuer.ts';
import { firstState, nextStep } from '../../../daemon/identity/signer/rotation.ts';
import type { CaState } from '../../../daemon/identity/signer/rotation.ts';
import type { CertificateSource, IssuedCertificate } from '../../../daemon/identity/sources/source.ts';
import type { SpiffeId } from '../../../daemon/mesh/ids.ts';
import { FakeClock, settled } from '../fake-clock.ts';
import { NOW, TRUST_DOMAIN, id } from '../forge.ts';

const HOUR = 3_600_000;
const DAY = 24 * HOUR;

/** The CA and one node of the mesh, without the API between them. */
class Mesh implements CertificateSource {
  readonly name = 'mesh';
  readonly #keys: KeyPair;
  readonly #clock: FakeClock;
  readonly #cas: SigningCa[];
  state: CaState;
  asked = 0;
  #tell: (bundle: TrustBundle) => void = () => undefined;

  constructor(first: SigningCa, keys: KeyPair, clock: FakeClock) {
    this.#keys = keys;
    this.#clock = clock;
    this.#cas = [first];
    this.state = firstState(first, '', NOW);
  }

  get active(): SigningCa | undefined {
    return this.#cas.find(({ pems }) => pems.certificates === this.state.active?.certificates);
  }
  get #bundle(): TrustBundle {
    return trustBundle(this.state.bundlePem, this.active?.rootHash);
  }
  async issue(wanted: SpiffeId, lifetimeMs: number): Promise<IssuedCertificate> {
    await Promise.resolve();
    this.asked++;
    assert.ok(this.active);
    const grant = { id: wanted, publicKey: this.#keys.publicKey, lifetimeMs };
    const chainPem = signGrant(this.active, grant, this.#clock.nowMs());
    return { chainPem, keyPem: keyPem(this.#keys.privateKey), rootsPem: this.#bundle.rootsPem };
  }
  async roots(): Promise<string> {
    await Promise.resolve();
    return this.state.bundlePem;
  }
  onBundle(listener: (bundle: TrustBundle) => void): () => void {
    this.#tell = listener;
    listener(this.#bundle);
    return () => undefined;
  }

  /** Takes every step towards `desired` that the node's report allows. */
  walk(desired: SigningCa, node: Certificates): void {
    if (!this.#cas.includes(desired)) this.#cas.push(desired);
    for (;;) {
      const said = { bundle: node.bundle?.hash, issuers: node.issuers(), notReadySinceMs: undefined };
      const reports = [{ node: 'a', pod: 'culvert-a', ...said }];
      const { state, active } = this;
      const walk = nextStep({ state, active, desired, reports, nowMs: this.#clock.nowMs() });
      if (walk.type === 'stay') return;
      this.state = walk.state;
      this.#tell(this.#bundle);
    }
  }
}

let clock: FakeClock;
let probe: KeyPair;
let first: SigningCa;
let renewed: SigningCa;
let mesh: Mesh;
let node: Certificates;
beforeEach(async () => {
  clock = new FakeClock();
  probe = await makeKeyPair();
  const pems = await makeIssuer(TRUST_DOMAIN, NOW);
  first = readIssuer(pems, TRUST_DOMAIN, probe, NOW);
  const privateKey = createPrivateKey(pems.key);
  const keys = { privateKey, publicKey: createPublicKey(privateKey) };
  const subject = new X509Certificate(pems.certificates).subject.replace(/^CN=/, '');
  const pem = toPem('CERTIFICATE', makeRoot(keys, TRUST_DOMAIN, NOW - HOUR, NOW + 7_300 * DAY, subject));
  renewed = readIssuer({ ...pems, certificates: pem, roots: pem }, TRUST_DOMAIN, probe, NOW);
  mesh = new Mesh(first, probe, clock);
  node = new Certificates({ source: mesh, trustDomain: TRUST_DOMAIN, lifetimeMs: DAY, clock });
  for (const account of ['a', 'b', 'c']) node.want(id(account), true);
  await settled();
  assert.equal(node.usable().length, 3);
  mesh.asked = 0;
});
afterEach(() => node[Symbol.dispose]());

describe('a root renewed with the same key', () => {
  it('takes the place of the old one, at one renewal of each certificate at most', async () => {
    mesh.walk(renewed, node);
    for (let i = 0; i < 6; i++) {
      await clock.advance(HOUR / 6);
      mesh.walk(renewed, node);
    }
    assert.equal(mesh.state.step, 'steady');
    assert.equal(mesh.state.bundlePem, renewed.rootsPem);
    assert.deepEqual(node.issuers(), { [renewed.rootHash]: 3 });
    assert.ok(mesh.asked <= 3, `${mesh.asked} renewals of 3 certificates`);
    for (const { rootsPem } of node.usable()) assert.equal(rootsPem, renewed.rootsPem);
  });

  it('also when the old one is put back meanwhile', async () => {
    mesh.walk(renewed, node);
    mesh.walk(first, node);
    await clock.advance(HOUR);
    mesh.walk(first, node);
    assert.equal(mesh.state.step, 'steady');
    assert.equal(mesh.state.bundlePem, first.rootsPem);
    assert.ok(mesh.asked <= 6, `${mesh.asked} renewals`);
  });

  it('a certificate that comes while both are trusted is of the one that issues', async () => {
    const steps: string[] = [];
    for (const desired of [renewed, first, renewed]) {
      mesh.walk(desired, node);
      node.renew('*');
      await settled();
      mesh.walk(desired, node);
      steps.push(mesh.state.step);
      assert.deepEqual(node.issuers(), { [desired.rootHash]: 3 });
    }
    assert.deepEqual(steps, ['steady', 'steady', 'steady']);
    mesh.asked = 0;
    await clock.advance(HOUR);
    assert.equal(mesh.asked, 0);
  });
});
