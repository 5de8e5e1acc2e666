/** What the janitor takes away, and what it leaves, from an API that a test fills. */
import assert from 'node:assert/strict';
import { before, beforeEach, describe, it } from 'node:test';
import { makeKeyPair } from '../../../daemon/identity/csr.ts';
import type { KeyPair } from '../../../daemon/identity/csr.ts';
import { Janitor } from '../../../daemon/identity/signer/janitor.ts';
import { KubeError } from '../../../daemon/kube/seams.ts';
import type { ApiRequest, ApiStream, KubeApi } from '../../../daemon/kube/seams.ts';
import { createLog } from '../../../daemon/observe/log.ts';
import { FakeClock } from '../fake-clock.ts';
import { SCOPE, issuerObject } from './issuer-requests.ts';
import type { IssuerAsked } from './issuer-requests.ts';
import { DAEMON } from './requests.ts';

const HOUR_MS = 3_600_000;
const ISSUED = [{ type: 'Approved', status: 'True' }];

/** Lists what a test put there, two a page, and deletes. */
class Requests implements KubeApi {
  items: Record<string, unknown>[] = [];
  readonly deleted: string[] = [];

  async request({ method, path, query, body }: ApiRequest): Promise<unknown> {
    await Promise.resolve();
    if (method === 'DELETE') {
      this.deleted.push(
        `${path.split('/').at(-1) ?? ''} ${JSON.stringify(Reflect.get(Object(body), 'preconditions'))}`,
      );
      return {};
    }
    const from = Number(query?.['continue'] ?? 0);
    const to = from + 2;
    const items = this.items.slice(from, to);
    return { metadata: to < this.items.length ? { continue: String(to) } : {}, items };
  }

  stream(): Promise<ApiStream> {
    return Promise.reject(new KubeError(0, 'none', 'no stream here'));
  }
}

describe('the janitor', () => {
  let keys: KeyPair;
  let api: Requests;
  let clock: FakeClock;
  before(async () => {
    keys = await makeKeyPair();
  });
  beforeEach(() => {
    api = new Requests();
    clock = new FakeClock();
  });

  /** A request of a daemon that was answered an hour ago, but for what `asked` and `spec` say. */
  function put(name: string, asked: IssuerAsked = {}, spec: object = {}): void {
    const object = issuerObject(keys, { ageMs: HOUR_MS, conditions: ISSUED, ...asked });
    Object.assign(Object(object['metadata']), { name, uid: `uid-of-${name}` });
    Object.assign(Object(object['spec']), spec);
    Object.assign(Object(object['status']), { certificate: 'eA==' });
    api.items.push(object);
  }

  async function sweep(): Promise<number> {
    const log = createLog({ level: 'error', thread: 'test' });
    await using janitor = new Janitor({ api, clock, log, scope: SCOPE, daemon: DAEMON });
    const swept = janitor.sweep();
    await clock.advance(1_000);
    return await swept;
  }

  it('takes away what daemons asked an hour ago and was answered, that very object, page by page', async () => {
    for (const name of ['a', 'b', 'c']) put(name);
    assert.equal(await sweep(), 3);
    assert.deepEqual(
      api.deleted,
      ['a', 'b', 'c'].map((name) => `${name} {"uid":"uid-of-${name}"}`),
    );
  });

  it('leaves young ones, other people’s and those to another issuer', async () => {
    put('young', { ageMs: HOUR_MS - 1_000 });
    put('of-jane', { username: 'jane' });
    put('elsewhere', { issuerRef: { name: 'other', kind: 'ClusterIssuer' } });
    assert.equal(await sweep(), 0);
  });

  it('goes on past what it can not read', async () => {
    put('long-issuer', {}, { issuerRef: { name: 'x'.repeat(1_025), kind: 'ClusterIssuer' } });
    put('no-issuer', {}, { issuerRef: null });
    api.items.push({});
    put('old');
    assert.equal(await sweep(), 1);
    assert.deepEqual(api.deleted, ['old {"uid":"uid-of-old"}']);
  });
});
