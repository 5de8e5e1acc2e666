/** What a daemon asks of cert-manager's issuer, and what it makes of each answer. */
import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { verifyCsr } from '../../../daemon/identity/csr.ts';
import { parseBundle, parseIssuer } from '../../../daemon/identity/issuer-ref.ts';
import { CertManager } from '../../../daemon/identity/sources/cert-manager.ts';
import type { IssuedCertificate } from '../../../daemon/identity/sources/source.ts';
import type { Watched, WatchOptions } from '../../../daemon/kube/seams.ts';
import { issue, makeCa } from '../../support/pki.ts';
import { AskedApi, OneWatched } from '../asked-api.ts';
import { FakeClock } from '../fake-clock.ts';
import { WEB, id } from '../forge.ts';

const CA = makeCa();
const OWN = 'culvert-system';
const condition = (type: string, status: string, reason: string, message = 'because'): unknown => ({
  type,
  status,
  reason,
  message,
});
const APPROVED = condition('Approved', 'True', 'NodeRunsWorkload');

let api: AskedApi;
let clock: FakeClock;
let source: CertManager;
beforeEach(() => {
  api = new AskedApi();
  clock = new FakeClock();
  source = make();
});

function make(podName = 'culvert-a'): CertManager {
  const watch = <T>(options: WatchOptions<T>): Watched<T> => {
    const watched = new OneWatched(options);
    watched.put(`${OWN}/culvert-trust-bundle`, { metadata: {}, data: { 'ca.crt': CA.certPem } });
    return watched;
  };
  const issuer = parseIssuer('ClusterIssuer/cluster-ca');
  const onProblem = (): void => undefined;
  return new CertManager({
    ...{ api, namespace: OWN, nodeName: 'node-a', podName, podUid: 'uid-a', clock, onProblem, issuer, watch },
  });
}

const ask = (lifetimeMs = 86_400_000): Promise<IssuedCertificate> =>
  source.issue(id('web'), lifetimeMs, new AbortController().signal);

/** Lets the attempt end unanswered. */
async function unanswered(): Promise<string> {
  const asked = ask().then(
    () => 'issued',
    (error: unknown) => String(error),
  );
  await clock.advance(50_000);
  return asked;
}

/** An attempt that finds `status`; it ends by the clock when that is no answer. */
async function answered(status: unknown): Promise<IssuedCertificate> {
  api.status = status;
  const asked = ask();
  asked.catch(() => undefined); // whoever awaits it hears of it
  await clock.advance(50_000);
  return asked;
}

const ready = (chainPem: string): unknown => ({
  certificate: Buffer.from(chainPem).toString('base64'),
  ca: Buffer.from(makeCa().certPem).toString('base64'),
  conditions: [APPROVED, condition('Ready', 'True', 'Issued')],
});

describe('the request', () => {
  it('asks the issuer for one URI name, in our namespace, and for nothing that the issuer would add by itself', async () => {
    await answered(ready(issue(CA, WEB).chainPem));
    assert.equal(api.paths[0], 'POST /apis/cert-manager.io/v1/namespaces/culvert-system/certificaterequests');
    const [posted] = api.posted;
    assert.ok(posted);
    const { request, ...spec } = posted.spec;
    assert.deepEqual(spec, {
      issuerRef: { kind: 'ClusterIssuer', name: 'cluster-ca', group: 'cert-manager.io' },
      usages: ['client auth', 'digital signature', 'server auth'],
      duration: '86400s',
      isCA: false,
    });
    const pem = Buffer.from(String(request), 'base64').toString();
    const der = Buffer.from(pem.replace(/-----.*-----/g, ''), 'base64');
    const verdict = verifyCsr(der);
    assert.ok(verdict.ok && verdict.id === WEB, JSON.stringify(verdict));
  });
  it('goes when the daemon’s pod goes: cert-manager cleans up after Certificates only', async () => {
    await answered(ready(issue(CA, WEB).chainPem));
    const owners = (at: number): unknown => Reflect.get(Object(api.posted[at]?.metadata), 'ownerReferences');
    assert.deepEqual(owners(0), [{ apiVersion: 'v1', kind: 'Pod', name: 'culvert-a', uid: 'uid-a' }]);
    source = make('');
    await ask();
    assert.deepEqual(owners(1), []);
  });
});

describe('the answer', () => {
  it('is the chain, under the published roots and not those of status.ca', async () => {
    const { chainPem } = issue(CA, WEB);
    const given = await answered(ready(chainPem));
    assert.equal(given.chainPem, chainPem);
    assert.equal(given.rootsPem.trim(), CA.certPem.trim());
  });
  it('is a reason when it is refused; the next attempt makes another object under another key', async () => {
    for (const [refused, reason] of [
      [[condition('Denied', 'True', 'NoSuchWorkload')], /\(Denied, NoSuchWorkload\): because/],
      [[APPROVED, condition('Ready', 'False', 'Failed')], /the issuer refused .*\(Ready, Failed\): because/],
      [[APPROVED, condition('Ready', 'False', 'Denied')], /\(Ready, Denied\)/],
      [[APPROVED, condition('InvalidRequest', 'True', 'BadUsages')], /\(InvalidRequest, BadUsages\)/],
    ] as const)
      await assert.rejects(answered({ conditions: refused }), reason);
    assert.equal(new Set(api.posted.map(({ metadata }) => metadata.name)).size, 4);
    assert.equal(new Set(api.posted.map(({ spec }) => spec['request'])).size, 4);
  });
  it('is waited for: one object for all attempts, and who is to act next is said', async () => {
    assert.match(
      await unanswered(),
      /describe certificaterequest culvert-node-a-.*is Deployment culvert-ca running\? `culvert ca status` says what is wrong/,
    );
    api.status = { conditions: [APPROVED] };
    assert.match(
      await unanswered(),
      /it is approved, and the issuer has said nothing: is cert-manager running/,
    );
    api.status = { conditions: [APPROVED, condition('Ready', 'False', 'Pending', 'issuer not found')] };
    assert.match(await unanswered(), /the issuer says: issuer not found/);
    await answered(ready(issue(CA, WEB).chainPem));
    assert.equal(api.posted.length, 1);
  });
  it('is no certificate before Ready', async () => {
    api.status = { ...Object(ready(issue(CA, WEB).chainPem)), conditions: [APPROVED] };
    assert.match(await unanswered(), /no answer/);
  });
});

describe('the configuration', () => {
  it('names an issuer and a key of an object, or says what it would have to look like', () => {
    assert.deepEqual(parseIssuer('Issuer/mesh'), { kind: 'Issuer', name: 'mesh' });
    assert.deepEqual(parseBundle('ConfigMap/trust/roots/ca.crt'), {
      kind: 'ConfigMap',
      namespace: 'trust',
      name: 'roots',
      key: 'ca.crt',
    });
    for (const wrong of ['', 'mesh', 'Vault/mesh', 'Issuer/', 'Issuer/a/b', 'Issuer/Mesh', 'Issuer/../x'])
      assert.throws(() => parseIssuer(wrong), /is not Issuer\/NAME or ClusterIssuer\/NAME/, wrong);
    for (const wrong of ['', 'Secret/a/b', 'Pod/a/b/c', 'Secret/a/b/c/d', 'Secret//b/c', 'Secret/a/b/x?y'])
      assert.throws(() => parseBundle(wrong), /is not Secret\/NAMESPACE\/NAME\/KEY/, wrong);
  });
});
