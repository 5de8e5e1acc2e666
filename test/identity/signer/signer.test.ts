/** The signer at work on requests in memory: what it writes, and how often. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { makeKeyPair } from '../../../daemon/identity/csr.ts';
import { RefusalEvents } from '../../../daemon/identity/signer/events.ts';
import { makeIssuer, readIssuer } from '../../../daemon/identity/signer/issuer.ts';
import { REQUESTS_PATH } from '../../../daemon/identity/signer/request.ts';
import { Signer } from '../../../daemon/identity/signer/signer.ts';
import { createLog } from '../../../daemon/observe/log.ts';
import { until } from '../../support/wait.ts';
import { FakeClock } from '../fake-clock.ts';
import { NOW, TRUST_DOMAIN } from '../forge.ts';
import { Cluster } from './cluster.ts';
import type { Stored } from './cluster.ts';
import { RULES, requestObject } from './requests.ts';

class SignerAtWork implements AsyncDisposable {
  readonly cluster = new Cluster();
  readonly clock = new FakeClock();
  readonly #signer: Signer;

  static async start(): Promise<SignerAtWork> {
    const pems = await makeIssuer(TRUST_DOMAIN, NOW);
    const ca = readIssuer(pems, TRUST_DOMAIN, await makeKeyPair(), NOW);
    return new SignerAtWork(() => ca);
  }

  constructor(ca: ConstructorParameters<typeof Signer>[0]['ca']) {
    const { cluster, clock } = this;
    cluster.put(
      '/api/v1/namespaces/culvert-system/pods/culvert-a',
      pod('culvert-a', 'culvert-system', 'culvert'),
    );
    cluster.put('/api/v1/namespaces/shop/pods/web-1', pod('web-1', 'shop', 'web'));
    this.#signer = new Signer({
      api: cluster,
      watch: cluster.watch,
      rules: RULES,
      daemonSet: 'culvert',
      clock,
      log: createLog({ thread: 'test', level: 'info', destination: { write: () => undefined } }),
      events: new RefusalEvents({ api: cluster, clock, instance: 'ca-1', onProblem: () => undefined }),
      ca,
      onOutcome: () => undefined,
    });
    this.#signer.start();
  }

  /** A request comes, of this name. */
  async post(name: string): Promise<void> {
    this.cluster.put(`${REQUESTS_PATH}/${name}`, requestObject(await makeKeyPair(), { name }) as Stored);
  }

  /** The certificate of the request, once it has one and nothing more is under way. */
  async answer(name: string): Promise<unknown> {
    return until(`an answer to ${name}`, async () => {
      await this.clock.advance(1_000);
      const status = this.cluster.objects.get(`${REQUESTS_PATH}/${name}`)?.['status'];
      return this.#signer.waiting === 0 && (status as { certificate?: string }).certificate;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#signer[Symbol.asyncDispose]();
  }
}

function pod(name: string, namespace: string, account: string): Stored {
  const labels = { 'app.kubernetes.io/name': 'culvert', 'app.kubernetes.io/component': 'daemon' };
  const ownerReferences = [{ kind: 'DaemonSet', name: 'culvert', controller: true }];
  const metadata = { name, namespace, uid: name === 'culvert-a' ? 'uid-a' : name };
  return {
    metadata: name === 'culvert-a' ? { ...metadata, labels, ownerReferences } : metadata,
    spec: { nodeName: 'node-a', serviceAccountName: account },
    status: { phase: 'Running' },
  };
}

describe('the signer', () => {
  it('takes a request once, though the watch tells of its own approval while it signs', async () => {
    await using work = await SignerAtWork.start();
    await work.post('one');
    assert.ok(await work.answer('one'));
    const path = `${REQUESTS_PATH}/one`;
    assert.deepEqual(
      work.cluster.asked.filter((one) => one.includes(path)),
      [`GET ${path}`, `PUT ${path}/approval`, `PUT ${path}/status`],
    );
  });

  it('takes a request of the same name that has come in the place of another meanwhile', async () => {
    await using work = await SignerAtWork.start();
    const path = `${REQUESTS_PATH}/one`;
    const another = requestObject(await makeKeyPair(), { name: 'one', uid: 'another' }) as Stored;
    work.cluster.onPut = (at, object) => {
      const { certificate } = (object['status'] ?? {}) as { certificate?: string };
      if (at !== path || certificate === undefined) return;
      work.cluster.onPut = () => undefined;
      work.cluster.remove(path);
      work.cluster.put(path, another);
    };
    await work.post('one');
    assert.ok(await work.answer('one'));
    assert.equal(work.cluster.objects.get(path)?.metadata.uid, 'another');
    assert.equal(work.cluster.count(`PUT ${path}/status`), 2);
  });

  it('looks again at once when a request has changed while it was looked at in vain', async () => {
    await using work = await SignerAtWork.start();
    await work.post('one');
    const path = `${REQUESTS_PATH}/one`;
    const known = work.cluster.objects.get(path);
    assert.ok(known);
    // Somebody else writes between our read and our write.
    work.cluster.onAsked = (asked) => {
      if (asked !== `PUT ${path}/approval`) return;
      work.cluster.onAsked = () => undefined;
      work.cluster.put(path, { ...known, metadata: { ...known.metadata, labels: { by: 'somebody' } } });
    };
    await until('two reads', () => work.cluster.count(`GET ${path}`) === 2);
    assert.ok(await work.answer('one'));
  });
});
