/** Who may have what of cert-manager's issuer: every refusal of the approver. */
import assert from 'node:assert/strict';
import { before, beforeEach, describe, it } from 'node:test';
import { AsnConvert } from '@peculiar/asn1-schema';
import { Attributes, CertificationRequest, CertificationRequestInfo } from '@peculiar/asn1-csr';
import { Attribute, Extension, Extensions, Name } from '@peculiar/asn1-x509';
import {
  arrayBuffer,
  ecdsaSha256,
  makeCsr,
  makeKeyPair,
  publicKeyInfo,
  signEcdsa,
  toPem,
} from '../../../daemon/identity/csr.ts';
import type { KeyPair } from '../../../daemon/identity/csr.ts';
import {
  decideApproval,
  issuerSummaryOf,
  readIssuerRequest,
} from '../../../daemon/identity/signer/certificate-request.ts';
import type { Approval, IssuerRequest } from '../../../daemon/identity/signer/certificate-request.ts';
import type { DenyReason } from '../../../daemon/identity/signer/decide.ts';
import {
  SERVER_AUTH,
  WEB,
  basicConstraints,
  commonName,
  dns,
  extKeyUsage,
  id,
  san,
  tlv,
  uri,
} from '../forge.ts';
import { CERT_MANAGER, SCOPE, issuerObject } from './issuer-requests.ts';
import type { IssuerAsked } from './issuer-requests.ts';
import { RULES, World, oddCsr, request } from './requests.ts';
import { summaryOf } from '../../../daemon/identity/signer/request.ts';

const APPROVER = { ...RULES, caUsers: ['jane'] };
const MICROSOFTS = '1.3.6.1.4.1.311.2.1.14';
const PKCS9 = '1.2.840.113549.1.9.14';

let keys: KeyPair;
let world: World;
before(async () => {
  keys = await makeKeyPair();
});
beforeEach(() => {
  world = new World();
});

function read(asked: IssuerAsked, scope: Parameters<typeof readIssuerRequest>[1] = SCOPE): IssuerRequest {
  const found = readIssuerRequest(issuerObject(keys, asked), scope);
  assert.ok(found);
  return found;
}

const decided = (asked: IssuerAsked = {}): Approval => decideApproval(read(asked), world, APPROVER);

function denied(asked: IssuerAsked, reason: DenyReason, detail: RegExp): void {
  const approval = decided(asked);
  assert.ok(approval.verdict === 'deny', JSON.stringify(approval));
  assert.equal(approval.reason, reason);
  assert.match(approval.detail, detail);
}

function approved(asked: IssuerAsked, reason: string): void {
  const approval = decided(asked);
  assert.ok(approval.verdict === 'approve', JSON.stringify(approval));
  assert.equal(approval.reason, reason);
}

/** A request with several attributes of several values. */
function manyCsr(...attributes: readonly (readonly [type: string, ...values: Uint8Array[][]])[]): Uint8Array {
  const info = new CertificationRequestInfo({
    subject: new Name(),
    subjectPKInfo: publicKeyInfo(keys.publicKey),
    attributes: new Attributes(
      attributes.map(
        ([type, ...values]) =>
          new Attribute({
            type,
            values: values.map((ders) =>
              AsnConvert.serialize(
                new Extensions(ders.map((der) => AsnConvert.parse(arrayBuffer(der), Extension))),
              ),
            ),
          }),
      ),
    ),
  });
  const signature = signEcdsa(AsnConvert.serialize(info), keys.privateKey);
  const whole = { certificationRequestInfo: info, signatureAlgorithm: ecdsaSha256(), signature };
  return new Uint8Array(AsnConvert.serialize(new CertificationRequest(whole)));
}

const BACKEND = { username: CERT_MANAGER, extra: {}, namespace: 'production', usages: undefined } as const;

describe('a request of a daemon', () => {
  it('is approved for an account that runs on its node', () => {
    const approval = decided();
    assert.ok(approval.verdict === 'approve');
    assert.equal(approval.reason, 'NodeRunsWorkload');
    assert.equal(approval.claimsIdentity, true);
    assert.match(approval.detail, /node-a runs a pod of spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web/);
  });
  it('is denied for another node’s identity', () => {
    denied({ der: makeCsr(id('db'), keys) }, 'NoSuchWorkload', /db of namespace shop runs on node node-a/);
  });
  it('is denied without the pod and the node that the webhook has written', () => {
    denied({ extra: {} }, 'NoPodBinding', /bound to one pod/);
    denied(
      {
        extra: {
          'authentication.kubernetes.io/pod-name': ['culvert-a'],
          'authentication.kubernetes.io/pod-uid': ['uid-a'],
          'authentication.kubernetes.io/node-name': ['node-b'],
        },
      },
      'NodeMismatch',
      /the token says node-b/,
    );
  });
  it('is denied in another namespace than ours: no daemon may ask there, whatever the request says', () => {
    for (const namespace of ['shop', 'culvert', 'culvert-system2', 'CULVERT-SYSTEM']) {
      world.isCurrent = true;
      denied({ namespace }, 'OtherNamespace', /daemons ask in namespace culvert-system; it is in \S+$/);
      world.isCurrent = false;
      denied({ namespace }, 'OtherNamespace', /it is in/);
    }
  });
  it('is denied with other usages, or with none: cert-manager’s default has no client auth', () => {
    denied({ usages: undefined }, 'UsagesNotAllowed', /must be client auth, digital signature, server auth/);
    denied({ usages: ['digital signature', 'any'] }, 'UsagesNotAllowed', /any/);
  });
  it('is denied for longer than certLifetime, or for no time: cert-manager’s default is 90 days', () => {
    for (const duration of [undefined, '', '24h0m1s', '2160h', '86401s', '-1h', '1d', '0s', '5'])
      denied({ duration }, 'LifetimeNotAllowed', /this CA gives 1 to 86400 seconds/);
    for (const duration of ['24h', '86400s', '1440m0s', '1h30m', '1.5h', '500ms'])
      approved({ duration }, 'NodeRunsWorkload');
  });
  it('is denied with anything besides the one name', () => {
    denied({ der: oddCsr(keys, [san(uri(WEB), dns('a.example'))]) }, 'RequestInvalid', /several names/);
    denied({ der: oddCsr(keys, [san(uri(WEB))], commonName('x')) }, 'RequestInvalid', /subject is not empty/);
    denied(
      { der: oddCsr(keys, [san(uri(WEB)), extKeyUsage(SERVER_AUTH)]) },
      'RequestInvalid',
      /other extensions/,
    );
  });
  it('is denied with a key that another request has', () => {
    world.twins = [{ ...summaryOf(request(keys, { uid: 'other', ageMs: 120_000 })), phase: 'issued' }];
    denied({}, 'KeyReused', /needs a key of its own/);
  });
  it('waits while pods are not known to be current', () => {
    world.isCurrent = false;
    assert.equal(decided().verdict, 'wait');
  });
});

describe('a URI name', () => {
  it('is denied to everybody else, cert-manager itself included', () => {
    for (const username of [
      CERT_MANAGER,
      'system:serviceaccount:shop:web',
      'kubernetes-admin',
      'jane',
      undefined,
    ])
      denied({ username }, 'NotTheDaemon', /only system:serviceaccount:culvert-system:culvert may ask/);
  });
  it('is seen wherever a reader may look for it', () => {
    const other = { ...BACKEND };
    const both = san(dns('backend.example'), uri(WEB));
    const dnsOnly = san(dns('backend.example'));
    const named = san(uri(WEB));
    for (const der of [
      oddCsr(keys, [both], commonName('backend')),
      oddCsr(keys, [san(uri('https://backend.example'))]),
      oddCsr(keys, [dnsOnly, named]),
      manyCsr([PKCS9, [dnsOnly]], [PKCS9, [named]]),
      manyCsr([PKCS9, [dnsOnly], [named]]),
      manyCsr([MICROSOFTS, [named]]),
    ])
      denied({ ...other, der }, 'NotTheDaemon', /only/);
  });
  it('may hide in nothing that only others can read', () => {
    const der = Buffer.from(makeCsr(id('web'), keys));
    denied({ ...BACKEND, der: Buffer.concat([der, Buffer.of(0)]) }, 'RequestInvalid', /not one DER value/);
    const indefinite = tlv(
      0x30,
      Buffer.of(0x06, 0x03, 0x55, 0x1d, 0x11),
      tlv(0x04, Buffer.of(0x30, 0x80, 0, 0)),
    );
    denied({ ...BACKEND, der: oddCsr(keys, [indefinite]) }, 'RequestInvalid', /2\.5\.29\.17 is not one DER/);
    const pem = toPem('CERTIFICATE REQUEST', oddCsr(keys, [san(dns('a.example'))]));
    const hidden = toPem('CERTIFICATE REQUEST', der);
    for (const odd of [
      `${pem}${hidden}`,
      `${hidden}${pem}`,
      `# a remark\n${hidden}`,
      pem.replaceAll('CERTIFICATE', 'NEW CERTIFICATE'),
      pem.replace('\nM', '\n=M'),
      '',
    ])
      denied({ ...BACKEND, pem: odd }, 'RequestInvalid', /no PEM certificate request/);
  });
});

describe('a CA certificate', () => {
  const plain = (): Uint8Array => oddCsr(keys, [san(dns('ca.example'))], commonName('ca'));
  it('is denied to all but those that the configuration names', () => {
    for (const username of [CERT_MANAGER, 'jane2', '', undefined])
      denied({ ...BACKEND, username, der: plain(), isCA: true }, 'CaNotAllowed', /not in certCaUsers/);
    approved({ ...BACKEND, username: 'jane', der: plain(), isCA: true }, 'CaUser');
  });
  it('is one by its request or its usages too', () => {
    const der = oddCsr(keys, [san(dns('ca.example')), basicConstraints(true)]);
    denied({ ...BACKEND, der }, 'CaNotAllowed', /could sign any identity/);
    denied({ ...BACKEND, der: plain(), usages: ['cert sign'] }, 'CaNotAllowed', /could sign any identity/);
    approved(
      { ...BACKEND, der: oddCsr(keys, [san(dns('a.example')), basicConstraints(false)]) },
      'NoIdentity',
    );
  });
  it('with a URI name is nobody’s, not the daemon’s either', () => {
    denied({ isCA: true }, 'CaNotAllowed', /nobody may have that/);
    denied({ isCA: true, username: 'jane' }, 'CaNotAllowed', /nobody may have that/);
  });
});

describe('an ordinary certificate', () => {
  it('is approved for anybody, as cert-manager would', () => {
    const address = tlv(0x87, Buffer.of(10, 0, 0, 1));
    for (const der of [
      oddCsr(keys, [san(dns('backend.production.svc'))], commonName('backend.production.svc.cluster.local')),
      oddCsr(keys, [san(address)]),
      oddCsr(keys, [san(dns('a.example')), extKeyUsage(SERVER_AUTH)]),
      oddCsr(keys, [], commonName('only a name')),
    ]) {
      approved({ ...BACKEND, der, duration: '2160h' }, 'NoIdentity');
      approved({ ...BACKEND, der, username: 'jane', duration: undefined }, 'NoIdentity');
    }
  });
  it('does not wait for the mesh', () => {
    world.isCurrent = false;
    approved({ ...BACKEND, der: oddCsr(keys, [san(dns('a.example'))]) }, 'NoIdentity');
  });
});

describe('requests to the issuer', () => {
  const isOurs = (asked: IssuerAsked, scope: Parameters<typeof readIssuerRequest>[1] = SCOPE): boolean =>
    readIssuerRequest(issuerObject(keys, asked), scope) !== undefined;
  it('are those that cert-manager would hand to it', () => {
    assert.ok(isOurs({ issuerRef: { name: 'cluster-ca', kind: 'ClusterIssuer' } }));
    assert.ok(isOurs({ issuerRef: { name: 'cluster-ca', kind: 'ClusterIssuer', group: '' } }));
    for (const issuerRef of [
      { name: 'cluster-ca' },
      { name: 'cluster-ca', kind: 'Issuer' },
      { name: 'other', kind: 'ClusterIssuer' },
      { name: 'cluster-ca', kind: 'ClusterIssuer', group: 'example.com' },
    ])
      assert.ok(!isOurs({ issuerRef }), JSON.stringify(issuerRef));
  });
  it('are our own namespace’s where it is an Issuer', () => {
    const scope = { issuer: { kind: 'Issuer', name: 'mesh' }, namespace: 'culvert-system' } as const;
    assert.ok(isOurs({ issuerRef: { name: 'mesh' } }, scope));
    assert.ok(isOurs({ issuerRef: { name: 'mesh', kind: 'Issuer' } }, scope));
    assert.ok(!isOurs({ issuerRef: { name: 'mesh' }, namespace: 'shop' }, scope));
    assert.ok(!isOurs({ issuerRef: { name: 'mesh', kind: 'ClusterIssuer' } }, scope));
  });
  it('are open until somebody has decided', () => {
    const phase = (...conditions: unknown[]): string => read({ conditions }).request.phase;
    assert.equal(phase(), 'pending');
    assert.equal(phase({ type: 'Ready', status: 'False', reason: 'Pending' }), 'pending');
    assert.equal(phase({ type: 'Approved', status: 'True' }), 'approved');
    assert.equal(phase({ type: 'Denied', status: 'True' }), 'denied');
    assert.equal(phase({ type: 'Ready', status: 'False', reason: 'Failed' }), 'failed');
    assert.equal(phase({ type: 'InvalidRequest', status: 'True' }), 'failed');
  });
  it('wait in a line of their namespace, a daemon’s in a line of its pod', () => {
    assert.equal(issuerSummaryOf(read({})).source, 'uid-a');
    assert.equal(issuerSummaryOf(read({ ...BACKEND })).source, `production/${CERT_MANAGER}`);
  });
});
