/** culvert-ca against a real API server, with the manifests' rights: what it signs, what it refuses, and who is told. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { bundleHash } from '../../daemon/identity/bundle.ts';
import { verifyChain } from '../../daemon/identity/chain.ts';
import { systemClock } from '../../daemon/identity/clock.ts';
import { makeKeyPair } from '../../daemon/identity/csr.ts';
import { KubernetesCsr } from '../../daemon/identity/sources/kubernetes-csr.ts';
import type { KubeClient } from '../../daemon/kube/client.ts';
import { TRUST_DOMAIN, WEB, commonName, san, uri } from '../identity/forge.ts';
import { oddCsr } from '../identity/signer/requests.ts';
import { until } from '../support/wait.ts';
import { at, list, text } from './manifests.ts';
import { OWN, REQUESTS, SignerWorld, idOf } from './signer-world.ts';

describe('culvert-ca', () => {
  let world: SignerWorld;
  let daemonA: KubeClient;
  before(async () => {
    world = await SignerWorld.start();
    daemonA = await world.client(OWN, 'culvert', 'culvert-a');
    await world.replica('ca-1');
    await world.leader();
  });
  after(() => world[Symbol.asyncDispose]());

  const source = (client: KubeClient, nodeName: string): KubernetesCsr =>
    new KubernetesCsr({
      api: client,
      namespace: OWN,
      nodeName,
      clock: systemClock,
      onProblem: () => undefined,
    });

  it('makes its root, publishes it, and gives a daemon the identities of its node', async () => {
    await using csr = source(daemonA, 'node-a');
    const issued = await csr.issue(idOf('web'), 3_600_000, AbortSignal.timeout(60_000));
    const verdict = verifyChain(issued.chainPem, issued.rootsPem, {
      trustDomain: TRUST_DOMAIN,
      nowMs: Date.now(),
    });
    assert.ok(verdict.ok, JSON.stringify(verdict));
    assert.equal(verdict.id, WEB);
    const bundle = await world.plane.api.must(
      'GET',
      '/apis/certificates.k8s.io/v1beta1/clustertrustbundles/culvert.dev:workload:bundle',
    );
    assert.equal(bundleHash(text(bundle, 'spec', 'trustBundle')), bundleHash(issued.rootsPem));
    assert.equal(text(bundle, 'spec', 'signerName'), 'culvert.dev/workload');
    const secret = await world.plane.api.must('GET', `/api/v1/namespaces/${OWN}/secrets/culvert-ca`);
    assert.equal(text(secret, 'type'), 'kubernetes.io/tls');
  });

  it('gives a daemon no identity of another node, and tells why: in the request, an Event, the log', async () => {
    await using csr = source(daemonA, 'node-a');
    await assert.rejects(
      csr.issue(idOf('db'), 3_600_000, AbortSignal.timeout(60_000)),
      /\(Denied, NoSuchWorkload\): no pod with service account db of namespace shop runs on node node-a/,
    );
    const event = await until('the Event', async () => {
      const events = await world.plane.api.must('GET', '/apis/events.k8s.io/v1/namespaces/default/events');
      return list(events, 'items').find((one) => at(one, 'reason') === 'NoSuchWorkload');
    });
    assert.equal(text(event, 'regarding', 'kind'), 'CertificateSigningRequest');
    assert.equal(text(event, 'reportingController'), 'culvert.dev/ca');
  });

  it('gives a daemon an identity as soon as its pod is there', async () => {
    await using csr = source(daemonA, 'node-a');
    const asked = csr.issue(idOf('late'), 3_600_000, AbortSignal.timeout(60_000));
    await world.pod('late-1', 'shop', 'late', 'node-a');
    assert.match((await asked).chainPem, /BEGIN CERTIFICATE/);
  });

  it('denies a pod of an application with the same verbs', async () => {
    const binding = (name: string, account: string): unknown => ({
      apiVersion: 'rbac.authorization.k8s.io/v1',
      kind: 'ClusterRoleBinding',
      metadata: { name },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'culvert' },
      subjects: [{ kind: 'ServiceAccount', name: account, namespace: 'shop' }],
    });
    await world.plane.apply(binding('thief', 'web'));
    const thief = await world.client('shop', 'web', 'web-1');
    const answer = await world.answer(await world.post(thief, await makeKeyPair()));
    assert.deepEqual([answer.type, answer.reason], ['Denied', 'NotTheDaemon']);
    assert.match(answer.message, /not system:serviceaccount:shop:web/);
  });

  it('denies the daemon’s account without a pod, and a pod of that account that is no daemon', async () => {
    const loose = await world.client(OWN, 'culvert');
    const one = await world.answer(await world.post(loose, await makeKeyPair()));
    assert.deepEqual([one.type, one.reason], ['Denied', 'NoPodBinding']);
    await world.pod('impostor', OWN, 'culvert', 'node-a');
    const impostor = await world.client(OWN, 'culvert', 'impostor');
    const two = await world.answer(await world.post(impostor, await makeKeyPair()));
    assert.deepEqual([two.type, two.reason], ['Denied', 'NotOurPod']);
  });

  it('denies a common name, other usages and a lifetime out of bounds', async () => {
    const keys = await makeKeyPair();
    const named = oddCsr(keys, [san(uri(WEB))], commonName('system:admin'));
    for (const [asked, reason] of [
      [{ der: named }, 'RequestInvalid'],
      [{ usages: ['digital signature', 'client auth', 'server auth', 'cert sign'] }, 'UsagesNotAllowed'],
      [{ expirationSeconds: 864_000 }, 'LifetimeNotAllowed'],
    ] as const) {
      const answer = await world.answer(await world.post(daemonA, await makeKeyPair(), asked));
      assert.deepEqual([answer.type, answer.reason], ['Denied', reason]);
    }
  });

  it('signs one key once, and one request once', async () => {
    const keys = await makeKeyPair();
    const first = await world.answer(await world.post(daemonA, keys));
    assert.equal(first.type, 'Issued');
    const replay = await world.answer(await world.post(daemonA, keys));
    assert.deepEqual([replay.type, replay.reason], ['Denied', 'KeyReused']);
  });

  it('fails what somebody else approved and it would not have', async () => {
    const daemonB = await world.client(OWN, 'culvert', 'culvert-b');
    const name = await world.post(daemonB, await makeKeyPair(), { id: idOf('web') });
    await world.plane.kubectl(['certificate', 'approve', name]);
    const answer = await world.answer(name);
    assert.deepEqual([answer.type, answer.reason], ['Failed', 'NoSuchWorkload']);
    assert.equal(at(answer.object, 'status', 'certificate'), undefined);
  });

  it('leaves other signers’ requests alone', async () => {
    const { plane } = world;
    const [other, ours] = [await makeKeyPair(), await makeKeyPair()];
    const name = await world.post(daemonA, other, { signerName: 'example.com/other' });
    await world.answer(await world.post(daemonA, ours));
    assert.deepEqual(list(await plane.api.must('GET', `${REQUESTS}/${name}`), 'status', 'conditions'), []);
  });
});
