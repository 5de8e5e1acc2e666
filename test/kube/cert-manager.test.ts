/** The mesh's certificates from a real cert-manager: its webhook, its controllers, and culvert-ca as the approver. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { bundleHash, rootHash, unionOf } from '../../daemon/identity/bundle.ts';
import { verifyChain } from '../../daemon/identity/chain.ts';
import { systemClock } from '../../daemon/identity/clock.ts';
import { makeCsr, makeKeyPair, toPem } from '../../daemon/identity/csr.ts';
import { Janitor } from '../../daemon/identity/signer/janitor.ts';
import { CertManager } from '../../daemon/identity/sources/cert-manager.ts';
import type { KubeClient } from '../../daemon/kube/client.ts';
import type { SpiffeId } from '../../daemon/mesh/ids.ts';
import { createLog } from '../../daemon/observe/log.ts';
import { TRUST_DOMAIN, WEB, basicConstraints, dns, san } from '../identity/forge.ts';
import { oddCsr } from '../identity/signer/requests.ts';
import { makeCa } from '../support/pki.ts';
import { until } from '../support/wait.ts';
import { APPROVER, CONTROLLERS, CertManagerKit, UNVALIDATED } from './kit/cert-manager.ts';
import { namespace } from './kit/fakes.ts';
import { at, list, text } from './manifests.ts';
import { OWN, SignerWorld, idOf } from './signer-world.ts';

const GROUP = '/apis/cert-manager.io/v1';
const SETTINGS = {
  CULVERT_CERT_SOURCE: 'cert-manager',
  CULVERT_CERT_ISSUER: 'ClusterIssuer/cluster-ca',
  CULVERT_CERT_ISSUER_BUNDLE: 'Secret/cert-manager/cluster-ca/ca.crt',
  CULVERT_CERT_CA_USERS: 'kubernetes-admin',
};
const ISSUER = { name: 'cluster-ca', kind: 'ClusterIssuer', group: 'cert-manager.io' };
const OLD = makeCa('first CA');
const NEW = makeCa('second CA');
const hashOf = (pem: string): string => rootHash(new X509Certificate(pem));

describe('cert-manager’s issuer', () => {
  let world: SignerWorld;
  let kit: CertManagerKit;
  let daemonA: KubeClient;
  before(async () => {
    world = await SignerWorld.start('overlays/cert-manager');
    kit = await CertManagerKit.start(world.plane);
    await kit.issuer('cluster-ca', OLD);
    await kit.run('cert-manager', ...CONTROLLERS);
    daemonA = await world.client(OWN, 'culvert', 'culvert-a');
    await namespace(world.plane, 'production');
    await namespace(world.plane, 'careless', UNVALIDATED);
    await world.replica('ca-1', SETTINGS);
    await world.leader();
  });
  after(() => world[Symbol.asyncDispose]());

  const source = (): CertManager =>
    new CertManager({
      api: daemonA,
      namespace: OWN,
      nodeName: 'node-a',
      podName: '',
      podUid: '',
      clock: systemClock,
      onProblem: () => undefined,
      issuer: { kind: 'ClusterIssuer', name: 'cluster-ca' },
    });

  async function issued(id: SpiffeId = idOf('web')): Promise<{ leaf: X509Certificate; root: string }> {
    await using asked = source();
    const { chainPem, rootsPem } = await asked.issue(id, 3_600_000, AbortSignal.timeout(60_000));
    const verdict = verifyChain(chainPem, rootsPem, { trustDomain: TRUST_DOMAIN, nowMs: Date.now() });
    assert.ok(verdict.ok, JSON.stringify(verdict));
    assert.equal(verdict.id, id);
    return { leaf: verdict.leaf, root: rootHash(verdict.root) };
  }

  async function published(): Promise<string> {
    const path = `/api/v1/namespaces/${OWN}/configmaps/culvert-trust-bundle`;
    const map = await world.plane.api.ask('GET', path);
    return map.status === 200 ? text(map.body, 'data', 'ca.crt') : '';
  }

  /** A condition of that type of a request, once it is there. */
  function condition(of: string, type: string): Promise<unknown> {
    return until(
      `${type} of ${of}`,
      async () => {
        const object = await world.plane.api.must('GET', `${GROUP}/namespaces/${of}`);
        return list(object, 'status', 'conditions').find((one) => at(one, 'type') === type);
      },
      { timeoutMs: 60_000, everyMs: 200, detail: () => world.logs() },
    );
  }

  /** Makes a request as the administrator. @returns `namespace/certificaterequests/name`. */
  async function post(name: string, pem: string, more: object = {}, inside = 'production'): Promise<string> {
    await world.plane.api.must('POST', `${GROUP}/namespaces/${inside}/certificaterequests`, {
      body: {
        apiVersion: 'cert-manager.io/v1',
        kind: 'CertificateRequest',
        metadata: { name, labels: { 'culvert.dev/node': 'node-a' } },
        spec: { issuerRef: ISSUER, request: Buffer.from(pem).toString('base64'), ...more },
      },
    });
    return `${inside}/certificaterequests/${name}`;
  }

  /** Changes the spec of a request as the administrator. */
  function respec(of: string, spec: object): Promise<{ status: number; body: unknown }> {
    const options = { body: { spec }, contentType: 'application/merge-patch+json' };
    return world.plane.api.ask('PATCH', `${GROUP}/namespaces/${of}`, options);
  }

  async function certificate(name: string, spec: object): Promise<void> {
    await world.plane.apply({
      apiVersion: 'cert-manager.io/v1',
      kind: 'Certificate',
      metadata: { name, namespace: 'production' },
      spec: { secretName: `${name}-tls`, issuerRef: ISSUER, ...spec },
    });
  }

  /** The one request that a Certificate made. */
  async function requestOf(name: string): Promise<string> {
    const found = await until(`the request of ${name}`, async () => {
      const all = await world.plane.api.must('GET', `${GROUP}/namespaces/production/certificaterequests`);
      return list(all, 'items').find(
        (one) => at(one, 'metadata', 'annotations', 'cert-manager.io/certificate-name') === name,
      );
    });
    return `production/certificaterequests/${text(found, 'metadata', 'name')}`;
  }

  it('gives a daemon the identities of its node, under the roots of its Secret, and makes no Certificate', async () => {
    const { leaf, root } = await issued();
    assert.equal(leaf.subjectAltName, `URI:${WEB}`);
    assert.equal(root, hashOf(OLD.certPem));
    assert.equal(bundleHash(await published()), bundleHash(OLD.certPem));
    assert.deepEqual(list(await world.plane.api.must('GET', `${GROUP}/certificates`), 'items'), []);
  });

  it('renews by another request under another key', async () => {
    const [one, two] = [await issued(), await issued()];
    assert.notEqual(one.leaf.serialNumber, two.leaf.serialNumber);
    assert.ok(!one.leaf.publicKey.equals(two.leaf.publicKey));
  });

  it('gives a daemon no identity of another node, and tells why: in the request, and in an Event', async () => {
    await using asked = source();
    await assert.rejects(
      asked.issue(idOf('db'), 3_600_000, AbortSignal.timeout(60_000)),
      /\(Denied, NoSuchWorkload\): no pod with service account db of namespace shop runs on node node-a/,
    );
    const events = `/apis/events.k8s.io/v1/namespaces/${OWN}/events`;
    const event = await until('the Event', async () =>
      list(await world.plane.api.must('GET', events), 'items').find(
        (one) => at(one, 'reason') === 'NoSuchWorkload',
      ),
    );
    assert.equal(text(event, 'regarding', 'kind'), 'CertificateRequest');
  });

  it('gives nobody else a URI name, however it is asked for', async () => {
    const pem = toPem('CERTIFICATE REQUEST', makeCsr(idOf('web'), await makeKeyPair()));
    const forged = { username: `system:serviceaccount:${OWN}:culvert` };
    const denied = await condition(await post('forged', pem, forged), 'Denied');
    assert.equal(text(denied, 'reason'), 'NotTheDaemon');
    assert.match(text(denied, 'message'), /not kubernetes-admin/, 'the webhook wrote who it was');
    await certificate('thief', { uris: [WEB] });
    assert.equal(text(await condition(await requestOf('thief'), 'Denied'), 'reason'), 'NotTheDaemon');
  });

  it('is not fooled where cert-manager’s webhook does not look', async () => {
    const pem = toPem('CERTIFICATE REQUEST', makeCsr(idOf('web'), await makeKeyPair()));
    const pod = await world.plane.api.must('GET', `/api/v1/namespaces/${OWN}/pods/culvert-a`);
    const daemon = {
      username: `system:serviceaccount:${OWN}:culvert`,
      extra: {
        'authentication.kubernetes.io/pod-name': ['culvert-a'],
        'authentication.kubernetes.io/pod-uid': [text(pod, 'metadata', 'uid')],
        'authentication.kubernetes.io/node-name': ['node-a'],
      },
    };
    const denied = await condition(await post('forged', pem, daemon, 'careless'), 'Denied');
    assert.equal(text(denied, 'reason'), 'NotTheDaemon');
    const other = { issuerRef: { ...ISSUER, name: 'other' } };
    const guarded = await post('guarded', pem, other);
    assert.match(JSON.stringify(await respec(guarded, daemon)), /identity cannot be changed once set/);
    const swapped = await post('swapped', pem, other, 'careless');
    assert.equal((await respec(swapped, daemon)).status, 200, 'nobody minds there');
    const { status, body } = await respec(swapped, { issuerRef: ISSUER, ...daemon });
    assert.equal(status, 403, JSON.stringify(body));
    assert.match(text(body, 'message'), /none comes to it from another issuer/);
  });

  it('makes nobody a CA but those that the configuration names', async () => {
    await certificate('subordinate', { isCA: true, commonName: 'subordinate' });
    const denied = await condition(await requestOf('subordinate'), 'Denied');
    assert.equal(text(denied, 'reason'), 'CaNotAllowed');
    const der = oddCsr(await makeKeyPair(), [san(dns('ca.example')), basicConstraints(true)]);
    const pem = toPem('CERTIFICATE REQUEST', der);
    const name = await post('named', pem, { isCA: true, usages: ['cert sign'] });
    assert.equal(text(await condition(name, 'Approved'), 'reason'), 'CaUser');
  });

  it('goes on to serve others: an ordinary Certificate is issued', async () => {
    await certificate('backend', {
      duration: '24h',
      renewBefore: '1h',
      subject: { organizations: ['my-cluster'] },
      commonName: 'backend.production.svc.cluster.local',
      dnsNames: ['backend.production.svc.cluster.local', 'backend.production.svc'],
    });
    const secret = await until(
      'the Secret',
      async () => {
        const path = '/api/v1/namespaces/production/secrets/backend-tls';
        const answer = await world.plane.api.ask('GET', path);
        return answer.status === 200 ? answer.body : undefined;
      },
      { timeoutMs: 60_000, everyMs: 200, detail: () => world.logs() },
    );
    const pem = Buffer.from(text(secret, 'data', 'tls.crt'), 'base64');
    assert.match(new X509Certificate(pem).subjectAltName ?? '', /DNS:backend\.production\.svc/);
  });

  it('has answered requests of daemons taken away, young ones and other people’s not', async () => {
    await issued();
    await using asked = source();
    await assert.rejects(asked.issue(idOf('db'), 3_600_000, AbortSignal.timeout(60_000)), /Denied/);
    const api = await world.client(OWN, 'culvert-ca');
    const scope = { issuer: { kind: 'ClusterIssuer', name: 'cluster-ca' }, namespace: OWN } as const;
    const daemon = `system:serviceaccount:${OWN}:culvert`;
    const common = {
      api,
      clock: systemClock,
      log: createLog({ level: 'error', thread: 'test' }),
      scope,
      daemon,
    };
    await using patient = new Janitor(common);
    const before = await daemonRequests();
    assert.ok(before.length >= 5, before.join());
    assert.equal(await patient.sweep(), 0);
    // Somebody else's, with our label.
    const pem = toPem('CERTIFICATE REQUEST', oddCsr(await makeKeyPair(), [san(dns('other.example'))]));
    const other = await post('others', pem, {}, OWN);
    await condition(other, 'Ready');
    await using hasty = new Janitor({ ...common, tuning: { answeredMs: 0, paceMs: 0 } });
    assert.equal(await hasty.sweep(), before.length);
    assert.deepEqual(await daemonRequests(), ['others']);
    assert.equal(await hasty.sweep(), 0);
    // Nor with its rights by hand.
    const path = `${GROUP}/namespaces/${other}`;
    await assert.rejects(
      api.request({ method: 'DELETE', path }),
      /deletes certificate requests of daemons only/,
    );
    await issued();
  });

  /** Names of the requests in our namespace that have our label. */
  async function daemonRequests(): Promise<string[]> {
    const path = `${GROUP}/namespaces/${OWN}/certificaterequests?labelSelector=culvert.dev/node`;
    return list(await world.plane.api.must('GET', path), 'items').map((one) => text(one, 'metadata', 'name'));
  }

  it('may be gone: the daemon says so, and what it asked is answered when the issuer is back', async () => {
    await world.plane.kubectl(['delete', 'clusterissuer', 'cluster-ca']);
    await using asked = source();
    await assert.rejects(
      asked.issue(idOf('web'), 3_600_000, AbortSignal.timeout(8_000)),
      /no answer to request .* it is approved, and the issuer says: .*not found/,
    );
    await kit.issuer('cluster-ca', OLD);
    const { chainPem } = await asked.issue(idOf('web'), 3_600_000, AbortSignal.timeout(60_000));
    assert.match(chainPem, /BEGIN CERTIFICATE/);
  });

  it('may get another CA: both are trusted before the new one is used, and the old one until nobody uses it', async () => {
    const [oldHash, newHash] = [hashOf(OLD.certPem), hashOf(NEW.certPem)];
    const both = bundleHash(unionOf(OLD.certPem, NEW.certPem));
    for (const pod of ['culvert-a', 'culvert-b'])
      await world.says(pod, bundleHash(OLD.certPem), { [oldHash]: 1 });
    await kit.issuer('cluster-ca', NEW);
    const reaches = (what: string, hash: string): Promise<unknown> =>
      until(what, async () => bundleHash(await published()) === hash, {
        timeoutMs: 60_000,
        everyMs: 200,
        detail: () => world.logs(),
      });
    await reaches('both roots', both);
    await using asked = source();
    const early = asked.issue(idOf('web'), 3_600_000, AbortSignal.timeout(5_000));
    await assert.rejects(early, /is Deployment culvert-ca running/, 'no approval before all trust it');
    for (const pod of ['culvert-a', 'culvert-b']) await world.says(pod, both, { [oldHash]: 1 });
    assert.equal((await issued()).root, newHash);
    assert.equal(bundleHash(await published()), both, 'old certificates are in use still');
    for (const pod of ['culvert-a', 'culvert-b']) await world.says(pod, both, { [newHash]: 1 });
    await reaches('the new root alone', bundleHash(NEW.certPem));
  });

  it('gives nothing with a URI name while cert-manager’s own approver is on and culvert-ca is not', async () => {
    for (const { process, log } of world.replicas) {
      process.kill('SIGKILL');
      assert.doesNotMatch(log(), /forbidden/i, 'what it did all the while needs no other rights');
    }
    const approver = await kit.run('cert-manager-approver', APPROVER);
    const pem = toPem('CERTIFICATE REQUEST', makeCsr(idOf('web'), await makeKeyPair()));
    const ours = await post('unguarded', pem);
    const theirs = await post('other-issuer', pem, { issuerRef: { ...ISSUER, name: 'other' } });
    assert.equal(text(await condition(theirs, 'Approved'), 'reason'), 'cert-manager.io');
    const bait = await post('bait', pem, { issuerRef: { ...ISSUER, name: 'other' } }, 'careless');
    await condition(bait, 'Approved');
    const { status, body } = await respec(bait, { issuerRef: ISSUER, isCA: true });
    assert.equal(status, 403, JSON.stringify(body));
    await until(
      'the refusal',
      () => /only culvert-ca approves requests to this issuer/.test(approver.tail()),
      {
        timeoutMs: 60_000,
        everyMs: 200,
        detail: () => approver.tail(),
      },
    );
    const object = await world.plane.api.must('GET', `${GROUP}/namespaces/${ours}`);
    assert.ok(!list(object, 'status', 'conditions').some((one) => at(one, 'type') === 'Approved'));
    assert.equal(at(object, 'status', 'certificate'), undefined);
  });
});
