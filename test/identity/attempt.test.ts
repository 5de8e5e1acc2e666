/** A CA that says no, or gives what can not be used: how often it is asked again. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { trustBundle } from '../../daemon/identity/bundle.ts';
import type { TrustBundle } from '../../daemon/identity/bundle.ts';
import { Certificates } from '../../daemon/identity/certificates.ts';
import { Refused } from '../../daemon/identity/sources/source.ts';
import type { CertificateSource, IssuedCertificate } from '../../daemon/identity/sources/source.ts';
import type { SpiffeId } from '../../daemon/mesh/ids.ts';
import { issue, makeCa } from '../support/pki.ts';
import { FakeClock, settled } from './fake-clock.ts';
import { NOW, TRUST_DOMAIN, id } from './forge.ts';

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const web = id('web');
const db = id('db');

/** A CA whose clock can be another one, and that refuses whom the test says. */
class StrictSource implements CertificateSource {
  readonly name = 'strict';
  ca = makeCa();
  readonly asked: SpiffeId[] = [];
  /** The CA's clock is ahead of ours by so much. */
  aheadMs = 0;
  isAway = false;
  silentTo: SpiffeId | undefined;
  readonly refused = new Set<SpiffeId>();
  liesTo: SpiffeId | undefined;
  #tell: (bundle: TrustBundle) => void = () => undefined;
  readonly #clock: FakeClock;

  constructor(clock: FakeClock) {
    this.#clock = clock;
  }
  async issue(wanted: SpiffeId, lifetimeMs: number): Promise<IssuedCertificate> {
    await Promise.resolve();
    this.asked.push(wanted);
    if (this.isAway || wanted === this.silentTo) throw new Error('no answer');
    if (this.refused.has(wanted)) throw new Refused('LifetimeNotAllowed');
    const nowMs = this.#clock.nowMs() + this.aheadMs;
    const options = { notBefore: new Date(nowMs - MINUTE), notAfter: new Date(nowMs + lifetimeMs) };
    const issued = issue(wanted === this.liesTo ? makeCa() : this.ca, wanted, options);
    return { ...issued, rootsPem: this.ca.certPem };
  }
  roots(): Promise<string> {
    return Promise.resolve(this.ca.certPem);
  }
  onBundle(listener: (bundle: TrustBundle) => void): () => void {
    this.#tell = listener;
    listener(trustBundle(this.ca.certPem));
    return () => undefined;
  }
  replaceRoot(): void {
    this.ca = makeCa();
    this.#tell(trustBundle(this.ca.certPem));
  }
}

let clock: FakeClock;
let source: StrictSource;
let certificates: Certificates;
beforeEach(() => {
  clock = new FakeClock();
  // The test CA is valid around the machine's own time; so is this test's.
  clock.step(Math.floor(Date.now() / SECOND) * SECOND - NOW);
  source = new StrictSource(clock);
  const random = (): number => 0.5;
  certificates = new Certificates({
    source,
    trustDomain: TRUST_DOMAIN,
    lifetimeMs: 24 * HOUR,
    clock,
    random,
  });
});
afterEach(() => certificates[Symbol.dispose]());

const stateOf = (of: SpiffeId): string | undefined =>
  certificates.list().find((status) => status.id === of)?.state;
const errorOf = (of: SpiffeId): string | undefined =>
  certificates.list().find((status) => status.id === of)?.lastError;
const asks = (of: SpiffeId): number => source.asked.filter((one) => one === of).length;

describe('an identity that the CA refuses', () => {
  it('is asked for about thirty times an hour, also while a pod waits: each time is another object of the API', async () => {
    source.refused.add(web);
    certificates.want(web, true);
    await clock.advance(HOUR);
    assert.ok(asks(web) >= 20 && asks(web) <= 36, `${asks(web)} requests`);
    assert.equal(errorOf(web), 'LifetimeNotAllowed');
    source.refused.clear();
    await clock.advance(150 * SECOND);
    assert.equal(stateOf(web), 'ready');
  });

  it('or gives an unusable certificate, likewise', async () => {
    source.liesTo = web;
    certificates.want(web, true);
    await clock.advance(HOUR);
    assert.ok(asks(web) >= 20 && asks(web) <= 36, `${asks(web)} requests`);
    assert.match(errorOf(web) ?? '', /does not chain/);
  });

  it('is not asked for more because others are served, after failures that look like an outage', async () => {
    source.refused.add(web);
    certificates.want(web, true);
    source.silentTo = db;
    certificates.want(db, true);
    await clock.advance(10 * MINUTE);
    const before = asks(web);
    for (let i = 0; i < 60; i++) {
      certificates.want(id(`other-${i}`), true);
      await clock.advance(MINUTE);
    }
    assert.equal(certificates.usable().length, 60);
    assert.ok(asks(web) - before <= 28, `${asks(web) - before} requests`);
  });

  it('is asked for soon after its first refusal, however long the CA was away before', async () => {
    source.isAway = true;
    certificates.want(web, true);
    certificates.want(db, false);
    await clock.advance(HOUR + 30 * SECOND);
    source.isAway = false;
    source.refused.add(web);
    await clock.advance(5 * SECOND);
    assert.equal(errorOf(web), 'LifetimeNotAllowed');
    const before = asks(web);
    source.refused.clear();
    await clock.advance(2 * SECOND);
    assert.ok(asks(web) > before);
    assert.equal(stateOf(web), 'ready');
  });

  it('is asked for soon when one more pod comes that needs it', async () => {
    source.refused.add(web);
    certificates.want(web, true);
    await clock.advance(HOUR);
    source.refused.clear();
    certificates.want(web, true);
    await clock.advance(5 * SECOND);
    assert.equal(stateOf(web), 'ready');
  });
});

describe('a certificate that is not valid yet, as our clock is behind', () => {
  const events: string[] = [];
  beforeEach(() => {
    events.length = 0;
    certificates.onEvent(({ type }) => events.push(type));
    source.aheadMs = 3 * MINUTE;
    certificates.want(web, true);
  });

  it('is kept until then, and not asked for once more', async () => {
    await clock.advance(2 * MINUTE - SECOND);
    assert.equal(certificates.get(web), undefined, 'it is judged by our clock');
    assert.match(errorOf(web) ?? '', /not valid before .* kept until then/);
    assert.deepEqual(events, ['failed']);
    await clock.advance(2 * SECOND);
    assert.equal(stateOf(web), 'ready');
    assert.equal(errorOf(web), undefined);
    assert.deepEqual(events, ['failed', 'certificate']);
    await clock.advance(HOUR);
    assert.equal(asks(web), 1);
  });

  it('is used within the tick when the clock is set right', async () => {
    await clock.advance(10 * SECOND);
    clock.step(3 * MINUTE);
    await clock.advance(30 * SECOND);
    assert.equal(stateOf(web), 'ready');
    assert.equal(asks(web), 1);
  });

  it('stays kept when one more pod comes to wait, and when others are served', async () => {
    await clock.advance(10 * SECOND);
    source.aheadMs = 0;
    certificates.want(web, true);
    certificates.want(db, true);
    await clock.advance(MINUTE);
    assert.equal(stateOf(db), 'ready');
    assert.equal(asks(web), 1);
  });

  it('of hours is asked for once an hour: it may have been the CA that was ahead', async () => {
    await settled();
    certificates.release(web);
    source.aheadMs = 10 * HOUR;
    const before = asks(web);
    certificates.want(web, true);
    await clock.advance(5 * HOUR + MINUTE);
    assert.equal(asks(web) - before, 1 + 5);
    source.aheadMs = 0;
    await clock.advance(HOUR);
    assert.equal(stateOf(web), 'ready');
  });

  it('is replaced at once when a person asks for it', async () => {
    await clock.advance(10 * SECOND);
    source.aheadMs = 0;
    certificates.renew(web);
    await settled();
    assert.equal(stateOf(web), 'ready');
    const serial = certificates.get(web)?.serial;
    await clock.advance(HOUR);
    assert.equal(certificates.get(web)?.serial, serial);
  });

  it('is not used when its root is trusted no more by then, nor when it has run out', async () => {
    await clock.advance(10 * SECOND);
    source.replaceRoot();
    source.aheadMs = 0;
    await clock.advance(2 * MINUTE);
    assert.equal(stateOf(web), 'ready');
    assert.equal(certificates.get(web)?.rootsPem.trim(), source.ca.certPem.trim());
    assert.equal(asks(web), 2);
    source.aheadMs = HOUR;
    certificates.renew(web);
    await settled();
    assert.equal(asks(web), 3);
    clock.step(3 * 24 * HOUR);
    source.aheadMs = 0;
    await clock.advance(MINUTE);
    assert.equal(asks(web), 4);
    assert.equal(stateOf(web), 'ready');
  });

  it('leaves the one before it in use meanwhile', async () => {
    await clock.advance(3 * MINUTE);
    const serial = certificates.get(web)?.serial;
    assert.ok(serial !== undefined);
    source.aheadMs = 10 * MINUTE;
    certificates.renew(web);
    await clock.advance(5 * MINUTE);
    assert.equal(certificates.get(web)?.serial, serial);
    assert.equal(stateOf(web), 'renewing');
    await clock.advance(5 * MINUTE);
    assert.notEqual(certificates.get(web)?.serial, serial);
    assert.equal(stateOf(web), 'ready');
  });
});
