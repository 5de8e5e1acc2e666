import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { before, beforeEach, describe, it } from 'node:test';
import { makeCsr, makeKeyPair } from '../../../daemon/identity/csr.ts';
import type { KeyPair } from '../../../daemon/identity/csr.ts';
import { decide } from '../../../daemon/identity/signer/decide.ts';
import type { DenyReason } from '../../../daemon/identity/signer/decide.ts';
import { readRequest, summaryOf } from '../../../daemon/identity/signer/request.ts';
import {
  SERVER_AUTH,
  WEB,
  basicConstraints,
  commonName,
  dns,
  domain,
  extKeyUsage,
  id,
  san,
  tlv,
  uri,
} from '../forge.ts';
import { spiffeId } from '../../../daemon/mesh/ids.ts';
import { DAEMON_A, RULES, World, oddCsr, request, requestObject } from './requests.ts';
import type { Asked } from './requests.ts';

let keys: KeyPair;
let world: World;
before(async () => {
  keys = await makeKeyPair();
});
beforeEach(() => {
  world = new World();
});

function denied(asked: Asked, reason: DenyReason, detail: RegExp): void {
  const decision = decide(request(keys, asked), world, RULES);
  assert.ok(decision.verdict === 'deny', JSON.stringify(decision));
  assert.equal(decision.reason, reason);
  assert.match(decision.detail, detail);
}

const verdict = (asked: Asked = {}): string => decide(request(keys, asked), world, RULES).verdict;

describe('an honest request', () => {
  it('is granted for its node, with the lifetime that it asks for', () => {
    const decision = decide(request(keys, { expirationSeconds: 3_600 }), world, RULES);
    assert.ok(decision.verdict === 'grant');
    assert.equal(decision.id, WEB);
    assert.equal(decision.node, 'node-a');
    assert.equal(decision.lifetimeMs, 3_600_000);
    assert.ok(decision.publicKey.equals(keys.publicKey));
  });
  it('may have its usages in any order', () => {
    assert.equal(verdict({ usages: ['server auth', 'client auth', 'digital signature'] }), 'grant');
  });
  it('gets no more than the CA gives, where that is less than the API lets anybody ask for', () => {
    const short = { ...RULES, maxLifetimeMs: 60_000 };
    const decision = decide(request(keys, { expirationSeconds: 600 }), world, short);
    assert.ok(decision.verdict === 'grant');
    assert.equal(decision.lifetimeMs, 60_000);
  });
});

describe('who asks', () => {
  it('must be the daemon’s service account, exactly', () => {
    for (const username of [
      'system:serviceaccount:culvert-system:culvert-ca',
      'system:serviceaccount:culvert-system:culvert2',
      'system:serviceaccount:shop:culvert',
      'system:node:node-a',
      'kubernetes-admin',
      '',
    ])
      denied({ username }, 'NotTheDaemon', /only system:serviceaccount:culvert-system:culvert may ask/);
  });
  it('must have a token bound to one pod, and to one node', () => {
    for (const key of ['pod-name', 'pod-uid'])
      for (const values of [undefined, [], ['culvert-a', 'culvert-b']])
        denied({ extra: { [key]: values } }, 'NoPodBinding', /bound to one pod/);
    for (const values of [undefined, [], ['node-a', 'node-b']])
      denied({ extra: { 'node-name': values } }, 'NodeUnproven', /1\.30/);
  });
  it('must be a pod that exists with that UID', () => {
    denied({ extra: { 'pod-name': ['culvert-c'] } }, 'PodUnknown', /no pod culvert-c/);
    denied({ extra: { 'pod-uid': ['uid-old'] } }, 'PodUnknown', /UID uid-old/);
  });
  it('must be a running pod of our DaemonSet, whatever its account', () => {
    for (const change of [{ isDaemon: false }, { serviceAccount: 'default' }, { isOver: true }]) {
      world.daemons = [{ ...DAEMON_A, ...change }];
      denied({}, 'NotOurPod', /no running pod of our DaemonSet/);
    }
  });
  it('must be on the node that its token names', () => {
    denied(
      { extra: { 'node-name': ['node-b'] } },
      'NodeMismatch',
      /is on node node-a, the token says node-b/,
    );
    world.daemons = [{ ...DAEMON_A, node: '' }];
    denied({}, 'PodNotOnNode', /on no node/);
  });
});

describe('whom it asks for', () => {
  it('must have a live pod on that node: another node’s identity is not given', () => {
    denied(
      { der: makeCsr(id('db'), keys) },
      'NoSuchWorkload',
      /service account db of namespace shop runs on node node-a/,
    );
    denied({ der: makeCsr(id('web', 'kube-system'), keys) }, 'NoSuchWorkload', /namespace kube-system/);
  });
  it('must be of our trust domain', () => {
    const foreign = spiffeId(domain('other.example'), 'shop', 'web');
    denied({ der: makeCsr(foreign, keys) }, 'ForeignTrustDomain', /not of trust domain cluster\.local/);
  });
});

describe('the request itself', () => {
  const invalid = (der: Uint8Array, detail: RegExp): void => denied({ der }, 'RequestInvalid', detail);
  it('must prove its key', () => {
    const der = Buffer.from(makeCsr(id('web'), keys));
    const at = der.indexOf(WEB) + WEB.length - 1;
    der[at] = (der[at] ?? 0) ^ 1;
    invalid(der, /signature is wrong/);
  });
  it('must have a P-256 key', () => {
    invalid(makeCsr(id('web'), generateKeyPairSync('ec', { namedCurve: 'P-384' })), /not ECDSA P-256/);
  });
  it('must ask for one URI and nothing else', () => {
    invalid(oddCsr(keys, [san(uri(WEB))], commonName('admin')), /subject is not empty/);
    invalid(oddCsr(keys, [san(uri(WEB), dns('web.shop'))]), /several names/);
    invalid(oddCsr(keys, [san(uri(WEB), uri(WEB))]), /several names/);
    invalid(oddCsr(keys, [san(dns('web.shop'))]), /not a URI/);
    invalid(oddCsr(keys, [san(tlv(0x87, Buffer.of(10, 0, 0, 1)))]), /not a URI/);
    invalid(oddCsr(keys, [san(tlv(0x81, Buffer.from('a@b')))]), /not a URI/);
    invalid(oddCsr(keys, [san(uri('spiffe://cluster.local/web'))]), /is none/);
    invalid(oddCsr(keys, [san(uri(WEB)), basicConstraints(true)]), /other extensions/);
    invalid(oddCsr(keys, [san(uri(WEB)), extKeyUsage(SERVER_AUTH)]), /other extensions/);
    invalid(oddCsr(keys, []), /other extensions/);
  });
  it('must be a request at all', () => {
    invalid(Buffer.from('hello'), /not one DER/);
  });
  it('must have exactly our usages', () => {
    for (const usages of [
      [],
      ['digital signature', 'client auth'],
      ['digital signature', 'client auth', 'server auth', 'cert sign'],
      ['digital signature', 'key encipherment', 'server auth'],
    ])
      denied({ usages }, 'UsagesNotAllowed', /they must be client auth, digital signature, server auth/);
  });
  it('must have a lifetime within bounds', () => {
    for (const expirationSeconds of [undefined, 0, 599, 86_401, 31_536_000])
      denied({ expirationSeconds }, 'LifetimeNotAllowed', /this CA gives 600 to 86400/);
  });
  it('must be for our signer', () => {
    denied({ signerName: 'kubernetes.io/kubelet-serving' }, 'OtherSigner', /not for culvert\.dev\/workload/);
  });
});

describe('a key', () => {
  const other = (asked: Asked): void => {
    world.twins = [summaryOf(request(keys, { name: 'other', uid: 'request-0', ...asked }))];
  };
  it('is signed once: another request with it is refused, whichever got further', () => {
    for (const conditions of [['Approved'], []]) {
      other({ conditions });
      denied({}, 'KeyReused', /that of other/);
    }
    const issued = requestObject(keys, { name: 'other', uid: 'request-9' });
    Object.assign(Object(Reflect.get(Object(issued), 'status')), { certificate: 'eA==' });
    const read = readRequest(issued);
    assert.ok(read);
    world.twins = [summaryOf(read)];
    denied({ conditions: ['Approved'] }, 'KeyReused', /that of other/);
  });
  it('is not taken from who had it first', () => {
    other({ uid: 'request-2' });
    assert.equal(verdict(), 'grant');
    other({ ageMs: 1_000 });
    assert.equal(verdict(), 'grant');
  });
  it('is not taken by another daemon’s copy, though all daemons are one user, nor by a stranger’s', () => {
    const nodeB = { 'pod-name': ['culvert-b'], 'pod-uid': ['uid-b'], 'node-name': ['node-b'] };
    const unbound = { 'pod-name': undefined, 'pod-uid': undefined, 'node-name': undefined };
    const username = 'system:serviceaccount:shop:web';
    for (const copier of [
      { extra: nodeB },
      { extra: unbound },
      { username },
      { username: 'uid-a', extra: unbound },
    ])
      for (const further of [{}, { ageMs: 120_000 }, { conditions: ['Approved'] }]) {
        other({ ...copier, ...further });
        assert.equal(verdict(), 'grant', JSON.stringify([copier, further]));
      }
  });
  it('is not taken by a request that was refused', () => {
    for (const conditions of [['Denied'], ['Approved', 'Failed']]) {
      other({ conditions });
      assert.equal(verdict(), 'grant');
    }
  });
});

describe('what is not known yet', () => {
  it('is waited for while the request is new', () => {
    world.workloads = [];
    assert.equal(verdict({ ageMs: 1_000 }), 'wait');
    assert.equal(verdict({ ageMs: 16_000 }), 'deny');
    world.daemons = [];
    assert.equal(verdict({ ageMs: 1_000 }), 'wait');
  });
  it('is waited for while our knowledge is old, and nothing is granted on it', () => {
    world.isCurrent = false;
    assert.equal(verdict(), 'wait');
    world.workloads = [];
    assert.equal(verdict(), 'wait');
  });
  it('does not save a stranger', () => {
    world.isCurrent = false;
    assert.equal(verdict({ username: 'jane', ageMs: 0 }), 'deny');
  });
});
