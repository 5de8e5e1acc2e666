import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { Certificates } from '../../daemon/identity/certificates.ts';
import type { CertificatesOptions } from '../../daemon/identity/certificates.ts';
import type { CertificateEvent } from '../../daemon/identity/events.ts';
import type { CertificateSource, IssuedCertificate } from '../../daemon/identity/sources/source.ts';
import type { SpiffeId } from '../../daemon/mesh/ids.ts';
import { issue, makeCa } from '../support/pki.ts';
import { FakeClock, settled } from './fake-clock.ts';
import { NOW, TRUST_DOMAIN, id } from './forge.ts';
import { parseSpiffeId } from '../../daemon/mesh/ids.ts';

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const web = id('web');

/** A CA that can be slow, down or lying. Its certificates go by the fake clock. */
class FakeSource implements CertificateSource {
  readonly name = 'fake';
  readonly ca = makeCa();
  readonly asked: SpiffeId[] = [];
  readonly signals: AbortSignal[] = [];
  down: string | undefined;
  /** Set: requests wait until `answer`. */
  held: (() => void)[] | undefined;
  lie: Partial<IssuedCertificate> | undefined;
  as: string | undefined;
  most = 0;
  #open = 0;
  readonly #clock: FakeClock;

  constructor(clock: FakeClock) {
    this.#clock = clock;
  }

  async issue(wanted: SpiffeId, lifetimeMs: number, signal: AbortSignal): Promise<IssuedCertificate> {
    this.asked.push(wanted);
    this.signals.push(signal);
    this.most = Math.max(this.most, ++this.#open);
    const { held } = this;
    if (held !== undefined) await new Promise<void>((resolve) => held.push(resolve));
    this.#open--;
    if (this.down !== undefined) throw new Error(this.down);
    const nowMs = this.#clock.nowMs();
    const options = { notBefore: new Date(nowMs - MINUTE), notAfter: new Date(nowMs + lifetimeMs) };
    const issued = issue(this.ca, this.as ?? wanted, options);
    return { ...issued, rootsPem: this.ca.certPem, ...this.lie };
  }
  roots(): Promise<string> {
    return Promise.resolve(this.ca.certPem);
  }
  /** Answers the oldest held request. */
  async answer(): Promise<void> {
    this.held?.shift()?.();
    await settled();
  }
}

let clock: FakeClock;
let source: FakeSource;
let certificates: Certificates;
let events: CertificateEvent[];

function start(options: Partial<CertificatesOptions> = {}): void {
  certificates[Symbol.dispose]();
  certificates = new Certificates({
    source,
    trustDomain: TRUST_DOMAIN,
    lifetimeMs: 24 * HOUR,
    clock,
    random: () => 0.5,
    ...options,
  });
  events = [];
  certificates.onEvent((event) => events.push(event));
}

beforeEach(() => {
  clock = new FakeClock();
  // The test CA is valid around the machine's own time; so is this test's.
  clock.step(Math.floor(Date.now() / SECOND) * SECOND - NOW);
  source = new FakeSource(clock);
  certificates = new Certificates({ source, trustDomain: TRUST_DOMAIN, lifetimeMs: HOUR, clock });
  start();
});
afterEach(() => certificates[Symbol.dispose]());

const types = () => events.map(({ type }) => type);
const state = (of = web) => certificates.list().find((status) => status.id === of)?.state;
const status = () => {
  const [first] = certificates.list();
  assert.ok(first);
  return first;
};
async function ready(of = web): Promise<string> {
  certificates.want(of, true);
  await settled();
  const serial = certificates.get(of)?.serial;
  assert.ok(serial !== undefined);
  return serial;
}

describe('an identity', () => {
  it('goes from waiting over issuing to ready', async () => {
    source.held = [];
    certificates.want(web, true);
    assert.equal(state(), 'issuing');
    assert.equal(certificates.get(web), undefined);
    await source.answer();
    assert.equal(state(), 'ready');
    const [event] = events;
    assert.ok(event?.type === 'certificate');
    assert.equal(event.certificate.id, web);
    assert.equal(certificates.get(web), event.certificate);
    assert.deepEqual(certificates.usable(), [event.certificate]);
    assert.equal(status().serial, event.certificate.serial);
    assert.equal(status().nextAttemptMs, clock.nowMs() + 12 * HOUR);
  });

  it('is asked for once, however often it is wanted', async () => {
    for (let i = 0; i < 5; i++) certificates.want(web, i % 2 === 0);
    await ready();
    certificates.want(web, true);
    await settled();
    assert.equal(source.asked.length, 1);
  });

  it('is renewed at half of its life, counted from its issue', async () => {
    const first = await ready();
    await clock.advance(12 * HOUR - SECOND);
    assert.equal(certificates.get(web)?.serial, first);
    await clock.advance(2 * SECOND);
    assert.notEqual(certificates.get(web)?.serial, first);
    assert.deepEqual(types(), ['certificate', 'certificate']);
    assert.equal(state(), 'ready');
  });

  it('is renewed up to a tenth earlier or later', async () => {
    for (const [random, hours] of [
      [0, 10.8],
      [1, 13.2],
    ] as const) {
      start({ random: () => random });
      await ready();
      assert.equal(status().nextAttemptMs, clock.nowMs() + hours * HOUR);
    }
  });

  it('of another trust domain, or beyond the bound, is not asked for', async () => {
    start({ maxIdentities: 2 });
    const foreign = parseSpiffeId('spiffe://other/ns/shop/sa/web');
    assert.ok(foreign !== undefined);
    certificates.want(foreign, true);
    for (const account of ['a', 'b', 'c']) certificates.want(id(account), true);
    await settled();
    assert.deepEqual(source.asked, [id('a'), id('b')]);
    const failed = events.filter((event) => event.type === 'failed').map(({ reason }) => reason);
    assert.match(failed[0] ?? '', /trust domain/);
    assert.match(failed[1] ?? '', /2 identities/);
    assert.equal(certificates.list().length, 2);
  });
});

describe('while the CA is down', () => {
  it('a first certificate is tried for, ever slower, and its reason is told', async () => {
    source.down = 'connection refused';
    certificates.want(web, false);
    await settled();
    assert.equal(state(), 'waiting');
    assert.equal(status().lastError, 'connection refused');
    assert.deepEqual(types(), ['failed']);
    await clock.advance(SECOND);
    assert.deepEqual(source.asked, [web, web]);
    await clock.advance(10 * MINUTE);
    const soFar = source.asked.length;
    assert.ok(soFar >= 9 && soFar <= 14, `${soFar} tries`);
    await clock.advance(10 * MINUTE);
    const later = source.asked.length - soFar;
    assert.ok(later >= 4 && later <= 6, `${later} tries in ten minutes`);
    source.down = undefined;
    await clock.advance(150 * SECOND);
    assert.equal(state(), 'ready');
    assert.equal(status().lastError, undefined);
  });

  it('a waiting pod is served at most 5 s after the CA is back', async () => {
    source.down = 'down';
    certificates.want(web, true);
    // Not near the next try of a full back-off, which would hide what is tested.
    await clock.advance(HOUR + 30 * SECOND);
    source.down = undefined;
    await clock.advance(5 * SECOND);
    assert.equal(state(), 'ready');
  });

  it('a pod that comes to wait shortens the back-off', async () => {
    source.down = 'down';
    certificates.want(web, false);
    // Not near the next try of a full back-off, which would hide what is tested.
    await clock.advance(HOUR + 30 * SECOND);
    source.down = undefined;
    certificates.want(web, true);
    await clock.advance(5 * SECOND);
    assert.equal(state(), 'ready');
  });

  it('and back again, the first success brings all others within 5 s', async () => {
    source.down = 'down';
    for (const account of ['a', 'b', 'c', 'd']) certificates.want(id(account), false);
    // Not near the next try of a full back-off, which would hide what is tested.
    await clock.advance(HOUR + 30 * SECOND);
    source.down = undefined;
    await ready();
    await clock.advance(5 * SECOND);
    for (const account of ['a', 'b', 'c', 'd']) assert.equal(state(id(account)), 'ready');
  });

  it('the old certificate is kept until it expires, then told once, and heals', async () => {
    const first = await ready();
    source.down = 'no signer';
    await clock.advance(12 * HOUR + MINUTE);
    assert.equal(state(), 'renewing');
    assert.equal(status().lastError, 'no signer');
    assert.equal(certificates.get(web)?.serial, first);
    await clock.advance(12 * HOUR - 2 * MINUTE);
    assert.equal(certificates.get(web)?.serial, first, 'a minute before its end');
    await clock.advance(MINUTE);
    assert.equal(certificates.get(web)?.serial, first, 'in its last millisecond');
    await clock.advance(2);
    assert.equal(state(), 'expired');
    assert.equal(certificates.get(web), undefined);
    assert.deepEqual(certificates.usable(), []);
    await clock.advance(HOUR);
    assert.equal(types().filter((type) => type === 'expired').length, 1);
    source.down = undefined;
    await clock.advance(150 * SECOND);
    assert.equal(state(), 'ready');
    assert.equal(types().at(-1), 'certificate');
  });

  it('a source that never answers is given up after a minute', async () => {
    source.held = [];
    certificates.want(web, true);
    await clock.advance(MINUTE);
    assert.ok(source.signals[0]?.aborted);
    assert.match(status().lastError ?? '', /no answer within 60000 ms/);
    source.held = undefined;
    await clock.advance(SECOND);
    assert.equal(state(), 'ready');
  });

  it('no key gets into an error', async () => {
    const { keyPem } = issue(source.ca, web);
    source.down = `cannot parse ${keyPem}`;
    certificates.want(web, true);
    await settled();
    assert.equal(status().lastError, 'cannot parse [PEM removed]\\u000a');
  });
});

describe('many identities', () => {
  it('wait in line behind 10 requests, pods that wait first, renewals last', async () => {
    await ready(id('old'));
    source.held = [];
    await clock.advance(12 * HOUR - 1);
    for (let i = 0; i < 10; i++) certificates.want(id(`busy-${i}`), false);
    await clock.advance(2);
    certificates.want(id('calm'), false);
    certificates.want(id('soon'), false);
    certificates.want(id('urgent'), true);
    certificates.want(id('soon'), true);
    assert.equal(state(id('old')), 'renewing');
    const before = source.asked.length;
    for (let i = 0; i < 14; i++) await source.answer();
    assert.deepEqual(
      source.asked.slice(before),
      ['urgent', 'soon', 'calm', 'old'].map((account) => id(account)),
    );
    assert.equal(source.most, 10);
  });

  it('1,000 of them are had, and renewed, with 10 in flight at most', async () => {
    start({ random: Math.random });
    for (let i = 0; i < 1_000; i++) certificates.want(id(`web-${i}`), true);
    await clock.advance(0);
    while (certificates.usable().length < 1_000) await settled();
    await clock.advance(14 * HOUR);
    while (source.asked.length < 2_000) await settled();
    await settled();
    assert.equal(source.asked.length, 2_000);
    assert.ok(source.most <= 10);
    assert.ok(certificates.list().every((one) => one.state === 'ready'));
  });
});

describe('when the clock jumps', () => {
  it('2 h of sleep beyond the end: expired at once at use, renewed within the tick', async () => {
    start({ lifetimeMs: HOUR });
    const first = await ready();
    await clock.advance(5 * MINUTE);
    clock.step(2 * HOUR);
    assert.equal(certificates.get(web), undefined);
    assert.equal(state(), 'expired');
    await clock.advance(30 * SECOND);
    assert.notEqual(certificates.get(web)?.serial, first);
    assert.deepEqual(types(), ['certificate', 'expired', 'certificate']);
  });

  it('an hour forward over half-life: renewed within the tick', async () => {
    start({ lifetimeMs: 90 * MINUTE });
    const first = await ready();
    clock.step(HOUR);
    assert.equal(certificates.get(web)?.serial, first);
    await clock.advance(30 * SECOND);
    assert.notEqual(certificates.get(web)?.serial, first);
  });

  it('an hour back: what is not valid yet is renewed, and stays in use meanwhile', async () => {
    clock.step(HOUR);
    const first = await ready();
    clock.step(-HOUR);
    assert.equal(certificates.get(web)?.serial, first);
    source.down = 'down';
    await clock.advance(30 * SECOND);
    assert.equal(certificates.get(web)?.serial, first);
    assert.equal(state(), 'renewing');
    source.down = undefined;
    await clock.advance(30 * SECOND);
    assert.notEqual(certificates.get(web)?.serial, first);
    assert.ok((certificates.get(web)?.notBeforeMs ?? Infinity) <= clock.nowMs());
  });

  it('an hour back does not delay a retry', async () => {
    source.down = 'down';
    certificates.want(web, true);
    await settled();
    clock.step(-HOUR);
    source.down = undefined;
    await clock.advance(SECOND);
    assert.equal(state(), 'ready');
  });

  it('a certificate is never renewed in a hot loop', async () => {
    start({ lifetimeMs: SECOND });
    await ready();
    await clock.advance(10 * SECOND);
    assert.ok(source.asked.length <= 22, `${source.asked.length} requests in 10 s`);
    assert.ok(source.asked.length >= 10);
  });
});

describe('a source that lies', () => {
  const cases: Readonly<Record<string, readonly [() => void, RegExp]>> = {
    'about the name': [() => (source.as = id('admin')), /is for spiffe.*admin/],
    'about the trust domain': [() => (source.as = 'spiffe://evil/ns/shop/sa/web'), /trust domain/],
    'about the key': [() => (source.lie = { keyPem: issue(source.ca, web).keyPem }), /key we were given/],
    'about the root': [() => (source.lie = { rootsPem: makeCa().certPem }), /does not chain/],
    'with garbage': [() => (source.lie = { chainPem: 'x' }), /no certificate/],
  };
  for (const [name, [lie, reason]] of Object.entries(cases))
    it(`${name} is not believed, and the old certificate stays`, async () => {
      const first = await ready();
      lie();
      await clock.advance(12 * HOUR + MINUTE);
      assert.match(status().lastError ?? '', reason);
      assert.equal(certificates.get(web)?.serial, first);
      assert.equal(state(), 'renewing');
    });
});

describe('an identity that is released', () => {
  it('is forgotten, and told', async () => {
    await ready();
    certificates.release(web);
    assert.deepEqual(certificates.list(), []);
    assert.equal(certificates.get(web), undefined);
    assert.deepEqual(types(), ['certificate', 'released']);
    certificates.release(web);
    await clock.advance(24 * HOUR);
    assert.equal(source.asked.length, 1);
    assert.deepEqual(types(), ['certificate', 'released']);
  });

  it('while it is asked for: the request is ended and its answer not used', async () => {
    source.held = [];
    certificates.want(web, true);
    certificates.release(web);
    assert.ok(source.signals[0]?.aborted);
    await source.answer();
    assert.deepEqual(types(), ['released']);
    assert.equal(certificates.get(web), undefined);
  });

  it('and wanted again while the old request runs: gets an answer of its own', async () => {
    source.held = [];
    certificates.want(web, true);
    certificates.release(web);
    certificates.want(web, true);
    await source.answer();
    assert.equal(state(), 'issuing');
    await source.answer();
    assert.equal(state(), 'ready');
    assert.deepEqual(types(), ['released', 'certificate']);
  });

  it('while it waits in line: is never asked for', async () => {
    start({ maxInFlight: 1 });
    source.held = [];
    certificates.want(id('first'), true);
    certificates.want(web, true);
    certificates.release(web);
    await source.answer();
    assert.deepEqual(source.asked, [id('first')]);
  });

  it('at the end of all: requests are ended, no timer and no event is left', async () => {
    await ready();
    source.held = [];
    certificates.want(id('late'), true);
    events = [];
    certificates[Symbol.dispose]();
    certificates.want(id('later'), true);
    await source.answer();
    assert.ok(source.signals.at(-1)?.aborted);
    assert.equal(clock.timers, 0);
    assert.deepEqual(events, []);
  });
});
