/** What a change of roots does to the certificates of a node. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { bundleHash, trustBundle, unionOf } from '../../daemon/identity/bundle.ts';
import type { TrustBundle } from '../../daemon/identity/bundle.ts';
import { rootHash } from '../../daemon/identity/bundle.ts';
import { readPem } from '../../daemon/identity/chain.ts';
import { Certificates } from '../../daemon/identity/certificates.ts';
import type { CertificateEvent } from '../../daemon/identity/events.ts';
import { renewalSpread, renewalTime, retryDelay } from '../../daemon/identity/renewal.ts';
import type { CertificateSource, IssuedCertificate } from '../../daemon/identity/sources/source.ts';
import type { SpiffeId } from '../../daemon/mesh/ids.ts';
import { issue, makeCa } from '../support/pki.ts';
import type { TestCa } from '../support/pki.ts';
import { FakeClock, settled } from './fake-clock.ts';
import { NOW, TRUST_DOMAIN, id, renewedRoot } from './forge.ts';

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const old = makeCa();
const fresh = makeCa();
const hashOf = ({ certPem }: TestCa): string => readPem(certPem, 1).map(rootHash).join();
const both = unionOf(old.certPem, fresh.certPem);

/** A CA that rotates when told to. */
class RotatingSource implements CertificateSource {
  readonly name = 'rotating';
  signer = old;
  asked: { id: SpiffeId; atMs: number }[] = [];
  isAway = false;
  /** Set: requests wait until `answer`. */
  held: (() => void)[] | undefined;
  bundle = trustBundle(old.certPem, hashOf(old));
  #tell: (bundle: TrustBundle) => void = () => undefined;
  readonly #clock: FakeClock;

  constructor(clock: FakeClock) {
    this.#clock = clock;
  }
  async issue(wanted: SpiffeId, lifetimeMs: number): Promise<IssuedCertificate> {
    this.asked.push({ id: wanted, atMs: this.#clock.monotonicMs() });
    const { held } = this;
    if (held !== undefined) await new Promise<void>((resolve) => held.push(resolve));
    if (this.isAway) throw new Error('away');
    const nowMs = this.#clock.nowMs();
    const options = { notBefore: new Date(nowMs - MINUTE), notAfter: new Date(nowMs + lifetimeMs) };
    return { ...issue(this.signer, wanted, options), rootsPem: this.bundle.rootsPem };
  }
  /** Answers the oldest held request. */
  async answer(): Promise<void> {
    this.held?.shift()?.();
    await settled();
  }
  roots(): Promise<string> {
    return Promise.resolve(this.bundle.rootsPem);
  }
  onBundle(listener: (bundle: TrustBundle) => void): () => void {
    this.#tell = listener;
    listener(this.bundle);
    return () => (this.#tell = () => undefined);
  }
  publish(pem: string, issuing: TestCa | undefined): void {
    this.bundle = trustBundle(pem, issuing && hashOf(issuing));
    this.#tell(this.bundle);
  }
}

let clock: FakeClock;
let source: RotatingSource;
let certificates: Certificates;
let events: CertificateEvent[];
let nodes = 1;
const ids = ['a', 'b', 'c'].map((name) => id(name));

beforeEach(async () => {
  clock = new FakeClock();
  clock.step(Math.floor(Date.now() / SECOND) * SECOND - NOW);
  source = new RotatingSource(clock);
  nodes = 1;
  certificates = new Certificates({
    source,
    trustDomain: TRUST_DOMAIN,
    lifetimeMs: 24 * HOUR,
    clock,
    nodes: () => nodes,
  });
  for (const wanted of ids) certificates.want(wanted, true);
  await settled();
  events = [];
  certificates.onEvent((event) => events.push(event));
  source.asked = [];
});
afterEach(() => certificates[Symbol.dispose]());

describe('another trust bundle', () => {
  it('reaches the workers with every certificate at once; nothing is renewed for it', async () => {
    source.publish(both, old);
    assert.equal(events.length, ids.length);
    for (const event of events) {
      assert.ok(event.type === 'certificate');
      assert.equal(bundleHash(event.certificate.rootsPem), bundleHash(both));
    }
    assert.equal(certificates.bundle?.hash, bundleHash(both));
    assert.deepEqual(certificates.issuers(), { [hashOf(old)]: 3 });
    await clock.advance(HOUR);
    assert.equal(source.asked.length, 0);
  });

  it('under which another root issues: certificates of the old one are replaced, and only those', async () => {
    source.publish(both, old);
    source.signer = fresh;
    source.publish(both, fresh);
    await clock.advance(10 * SECOND);
    assert.deepEqual(source.asked.map((one) => one.id).sort(), [...ids].sort());
    assert.deepEqual(certificates.issuers(), { [hashOf(fresh)]: 3 });
    source.publish(fresh.certPem, fresh);
    await clock.advance(HOUR);
    assert.equal(source.asked.length, 3);
    for (const wanted of ids) assert.equal(certificates.get(wanted)?.rootsPem, source.bundle.rootsPem);
  });

  it('is not waited for by a certificate that comes late from the old root: it is replaced too, but not in a loop', async () => {
    source.publish(both, fresh);
    await clock.advance(10 * SECOND);
    const first = source.asked.length;
    assert.equal(first, 3);
    await clock.advance(50 * SECOND);
    assert.equal(source.asked.length, first);
    source.signer = fresh;
    await clock.advance(20 * SECOND);
    assert.deepEqual(certificates.issuers(), { [hashOf(fresh)]: 3 });
  });

  it('with the old root renewed under its key: what is there chains to it already, and nothing is renewed', async () => {
    const renewed = renewedRoot(old);
    const two = unionOf(old.certPem, renewed.certPem);
    source.publish(two, old);
    assert.deepEqual(certificates.issuers(), { [hashOf(old)]: 3 });
    source.publish(two, renewed);
    assert.deepEqual(certificates.issuers(), { [hashOf(renewed)]: 3 });
    source.publish(renewed.certPem, renewed);
    await clock.advance(HOUR);
    assert.equal(source.asked.length, 0);
    source.publish(two, old);
    assert.deepEqual(certificates.issuers(), { [hashOf(old)]: 3 }, 'and back');
    source.publish(two, undefined);
    assert.deepEqual(certificates.issuers(), { [hashOf(renewed)]: 3 }, 'nobody says which of them issues');
  });

  it('under which what comes is always of another root: it is asked for again within the rate of all nodes', async () => {
    nodes = 1_000;
    source.publish(both, fresh);
    await clock.advance(HOUR);
    const hours = HOUR / renewalSpread(1_000, 3);
    assert.ok(source.asked.length <= 3 * (hours + 1), `${source.asked.length} in an hour`);
    assert.ok(source.asked.length >= 3 * (hours - 2), `${source.asked.length} in an hour`);
  });

  it('is spread by the number of nodes: all together ask at most 50 times a second', async () => {
    nodes = 1_000;
    source.signer = fresh;
    source.publish(both, fresh);
    const spread = renewalSpread(1_000, 3);
    assert.equal(spread, 360_000);
    await clock.advance(spread + MINUTE);
    assert.equal(source.asked.length, 3);
    assert.ok(source.asked.every(({ atMs }) => atMs <= spread));
    // 1,000 such nodes ask for 3,000 certificates in that time, at six requests each.
    assert.equal((1_000 * 3 * 6) / (spread / SECOND), 50);
  });
});

describe('a node that was cut off while its root was retired', () => {
  const many = Array.from({ length: 20 }, (_, i) => id(`web-${i}`));
  const places = (): readonly (readonly [SpiffeId, string | undefined])[] =>
    certificates.list().map((one) => [one.id, one.rootHash] as const);
  const areNew = (): boolean => places().every(([, root]) => root === hashOf(fresh));

  beforeEach(async () => {
    nodes = 1_000;
    for (const wanted of many) certificates.want(wanted, true);
    for (let i = 0; i < 5; i++) await settled();
    assert.equal(certificates.usable().length, many.length + ids.length);
    source.asked = [];
  });

  it('renews everything within 5 s: nobody trusts what it has', async () => {
    source.signer = fresh;
    source.publish(fresh.certPem, fresh);
    assert.ok(certificates.list().every(({ state }) => state === 'renewing'));
    await clock.advance(5 * SECOND);
    assert.ok(areNew(), JSON.stringify(places()));
    assert.equal(source.asked.length, many.length + ids.length);
    assert.ok(certificates.list().every(({ state }) => state === 'ready'));
    await clock.advance(HOUR);
    assert.equal(source.asked.length, many.length + ids.length);
  });

  it('also what it was told to try later, when the CA did not answer', async () => {
    source.isAway = true;
    certificates.renew('*');
    await clock.advance(3 * HOUR);
    source.isAway = false;
    source.signer = fresh;
    const waits = certificates.list().map((one) => (one.nextAttemptMs ?? 0) - clock.nowMs());
    assert.ok(Math.max(...waits) > MINUTE, waits.join());
    source.publish(fresh.certPem, fresh);
    await clock.advance(5 * SECOND);
    assert.ok(areNew(), JSON.stringify(places()));
  });

  it('and tries again soon while the CA does not answer', async () => {
    source.isAway = true;
    source.publish(fresh.certPem, fresh);
    await clock.advance(HOUR);
    source.isAway = false;
    source.signer = fresh;
    await clock.advance(150 * SECOND);
    assert.ok(areNew(), JSON.stringify(places()));
  });

  it('before what is only due, and after pods that wait', async () => {
    // One that the new bundle leaves alone, and that a person wants renewed; it would be the first by its age.
    const calm = ids[0] ?? id('a');
    source.signer = fresh;
    source.publish(both, old);
    certificates.renew(calm);
    await settled();
    source.held = [];
    for (let i = 0; i < 10; i++) certificates.want(id(`busy-${i}`), false);
    certificates.renew(calm);
    source.publish(fresh.certPem, fresh);
    await clock.advance(5 * SECOND);
    certificates.want(id('pod'), true);
    const before = source.asked.length;
    for (let i = 0; i < 40; i++) await source.answer();
    const order = source.asked.slice(before).map((one) => one.id);
    assert.equal(order[0], id('pod'));
    assert.equal(order.at(-1), calm);
    assert.ok(areNew(), JSON.stringify(places()));
  });

  it('a pod that comes to wait for such a certificate goes first', async () => {
    source.signer = fresh;
    source.held = [];
    for (let i = 0; i < 10; i++) certificates.want(id(`busy-${i}`), false);
    source.publish(fresh.certPem, fresh);
    await clock.advance(5 * SECOND);
    const last = many.at(-1) ?? id('a');
    certificates.want(last, true);
    const before = source.asked.length;
    await source.answer();
    assert.deepEqual(
      source.asked.slice(before).map((one) => one.id),
      [last],
    );
  });
});

describe('what a rotation waits for', () => {
  it('is what is in use: no certificate that has run out and can not be renewed', async () => {
    source.isAway = true;
    await clock.advance(24 * HOUR);
    assert.deepEqual(certificates.issuers(), { [hashOf(old)]: 3 }, 'in its last millisecond');
    await clock.advance(1);
    assert.deepEqual(certificates.issuers(), {});
    source.isAway = false;
    await clock.advance(150 * SECOND);
    assert.deepEqual(certificates.issuers(), { [hashOf(old)]: 3 });
  });
});

describe('a certificate asked for by a person', () => {
  it('is renewed at once, the others not', async () => {
    const serial = certificates.get(ids[0] ?? id('a'))?.serial;
    certificates.renew(ids[0] ?? id('a'));
    await settled();
    assert.equal(source.asked.length, 1);
    assert.notEqual(certificates.get(ids[0] ?? id('a'))?.serial, serial);
    certificates.renew('*');
    await settled();
    assert.equal(source.asked.length, 4);
  });
});

describe('jitter', () => {
  it('grows with the mesh, within the middle half of a life', () => {
    const at = (random: number, spreadMs: number): number =>
      renewalTime(0, 2 * HOUR, random, spreadMs) / HOUR;
    assert.deepEqual([at(0, 0), at(1, 0)], [0.9, 1.1]);
    assert.deepEqual([at(0, 0.8 * HOUR), at(1, 0.8 * HOUR)], [0.6, 1.4]);
    assert.deepEqual([at(0, 100 * HOUR), at(1, 100 * HOUR)], [0.5, 1.5]);
    assert.equal(retryDelay(30, false, 0, HOUR), HOUR);
    assert.equal(retryDelay(30, true, 0, HOUR), 5_000);
  });
});
