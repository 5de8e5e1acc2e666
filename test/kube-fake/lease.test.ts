import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Lease, mayTake } from '../../daemon/kube/lease.ts';
import { KubeError } from '../../daemon/kube/seams.ts';
import type { ApiRequest, ApiStream, KubeApi } from '../../daemon/kube/seams.ts';
import { FakeClock, settled } from '../identity/fake-clock.ts';

/** One Lease, with versions; or away. */
class LeaseApi implements KubeApi {
  object: { metadata: { resourceVersion: string }; spec: Record<string, unknown> } | undefined;
  away = false;
  #version = 0;

  request({ method, body }: ApiRequest): Promise<unknown> {
    if (this.away) return Promise.reject(new KubeError(0, 'ECONNREFUSED', 'away'));
    if (method === 'GET')
      return this.object === undefined
        ? Promise.reject(new KubeError(404, 'NotFound', 'none'))
        : Promise.resolve(structuredClone(this.object));
    const sent = body as { metadata?: { resourceVersion?: string }; spec: Record<string, unknown> };
    if (sent.metadata?.resourceVersion !== this.object?.metadata.resourceVersion)
      return Promise.reject(new KubeError(409, 'Conflict', 'changed'));
    this.object = { metadata: { resourceVersion: String(++this.#version) }, spec: sent.spec };
    return Promise.resolve(structuredClone(this.object));
  }
  stream(): Promise<ApiStream> {
    return Promise.reject(new Error('no watches'));
  }
}

interface Candidate {
  readonly lease: Lease;
  terms: AbortSignal[];
  readonly clock: FakeClock;
}

function candidate(api: KubeApi, holder: string, clock: FakeClock): Candidate {
  const lease = new Lease({
    api,
    namespace: 'n',
    name: 'l',
    holder,
    clock,
    onProblem: () => undefined,
  });
  const made: Candidate = { lease, terms: [], clock };
  lease.start((term) => made.terms.push(term));
  return made;
}

describe('a lease', () => {
  it('is taken when it is free, and by one only', async () => {
    const api = new LeaseApi();
    const clock = new FakeClock();
    const [a, b] = [candidate(api, 'a', clock), candidate(api, 'b', clock)];
    await clock.advance(60_000);
    assert.equal(Number(a.lease.isLeading) + Number(b.lease.isLeading), 1);
    assert.equal(a.terms.length + b.terms.length, 1);
    await Promise.all([a.lease[Symbol.asyncDispose](), b.lease[Symbol.asyncDispose]()]);
  });

  it('is judged by what we saw, not by the other’s clock', () => {
    const record = { holder: 'a', durationMs: 15_000, version: '1', transitions: 0 };
    const seen = { version: '1', atMs: 0 };
    assert.equal(mayTake(record, seen, 'b', 15_000), false);
    assert.equal(mayTake(record, seen, 'b', 15_001), true);
    assert.equal(mayTake(record, seen, 'a', 0), true);
    assert.equal(mayTake({ ...record, holder: '' }, seen, 'b', 0), true);
    assert.equal(mayTake({ ...record, durationMs: 1e12 }, seen, 'b', 60_001), true);
  });

  it('ends for a leader that can not renew it, before it may be another’s', async () => {
    const api = new LeaseApi();
    const clock = new FakeClock();
    const a = candidate(api, 'a', clock);
    await settled();
    assert.ok(a.lease.isLeading);
    const renewed = clock.monotonicMs();
    api.away = true;
    await clock.advance(9_000);
    assert.ok(a.lease.isLeading);
    await clock.advance(1_000);
    assert.ok(!a.lease.isLeading);
    assert.ok(a.terms[0]?.aborted);
    assert.ok(clock.monotonicMs() - renewed < 15_000);
    api.away = false;
    await clock.advance(2_000);
    assert.ok(a.lease.isLeading);
    assert.equal(a.terms.length, 2);
    await a.lease[Symbol.asyncDispose]();
  });

  it('passes to the other after a death by the time that it lasts, and at once when it is given back', async () => {
    const api = new LeaseApi();
    const clock = new FakeClock();
    const dying = new FakeClock();
    const a = candidate(api, 'a', dying);
    await settled();
    const b = candidate(api, 'b', clock);
    await clock.advance(14_000);
    assert.ok(!b.lease.isLeading, 'while it may still act');
    await clock.advance(4_000);
    assert.ok(b.lease.isLeading);
    // The one that was thought dead wakes up: it finds out before it acts.
    await dying.advance(2_000);
    assert.ok(!a.lease.isLeading);
    assert.ok(a.terms[0]?.aborted);
    await b.lease[Symbol.asyncDispose]();
    assert.equal(api.object?.spec['holderIdentity'], '');
    await dying.advance(2_000);
    assert.ok(a.lease.isLeading);
    await a.lease[Symbol.asyncDispose]();
  });
});
