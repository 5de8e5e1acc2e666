import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { admit } from '../../daemon/mesh/admit.ts';
import type { AdmitRequest } from '../../daemon/mesh/admit.ts';
import { parseSpiffeId } from '../../daemon/mesh/ids.ts';
import { mode } from '../../daemon/mesh/mode.ts';
import type { Delta, MeshSettings, PodState } from '../../daemon/mesh/model.ts';
import { anyHistory, anyPodUid, anyTarget, ip, pod, port, stateOf, told } from './world.ts';

const server = pod('server', '10.244.2.7');
const client = parseSpiffeId('spiffe://cluster.local/ns/shop/sa/client');
const known = [told.pod(server), told.namespace('shop', 'enabled')];
const STATES: readonly PodState[] = [
  'none',
  'pending',
  'opening',
  'joining',
  'enrolled',
  'leaving',
  'unenrollable',
];

function ask(
  over: Partial<AdmitRequest>,
  defaultMode: MeshSettings['defaultMode'] = 'permissive',
  deltas: readonly Delta[] = known,
): string {
  const request: AdmitRequest = {
    pod: server,
    podState: 'enrolled',
    ownPorts: [port(61_001), port(61_002)],
    targetIp: ip('10.244.2.7'),
    targetPort: port(8080),
    sourceIp: ip('10.244.1.5'),
    peer: client,
    viaHbone: true,
    ...over,
  };
  const verdict = admit(stateOf(deltas, { defaultMode }), request);
  assert.ok(verdict.rule.length > 0);
  return `${verdict.kind} ${verdict.reason}`;
}

const plain = { viaHbone: false, peer: undefined };

describe('admit', () => {
  it('takes a tunnel from a proven peer, also when STRICT', () => {
    assert.equal(ask({}), 'allow OK');
    assert.equal(ask({}, 'strict'), 'allow OK');
  });

  it('refuses a tunnel without a proven peer, and one of another trust domain', () => {
    assert.equal(ask({ peer: undefined }), 'refuse PEER_CERTIFICATE_INVALID');
    const stranger = parseSpiffeId('spiffe://elsewhere/ns/shop/sa/client');
    assert.equal(ask({ peer: stranger }), 'refuse PEER_TRUST_DOMAIN');
  });

  it('takes plaintext by the mode of the pod', () => {
    assert.equal(ask(plain), 'allow PLAINTEXT_ACCEPTED');
    assert.equal(ask(plain, 'strict'), 'refuse PLAINTEXT_DENIED');
    // Not to have read its namespace is not to have read that it has no label.
    assert.equal(ask(plain, 'strict', [told.pod(server)]), 'refuse PLAINTEXT_DENIED');
    assert.equal(ask({ ...plain, podState: 'joining' }, 'strict'), 'allow PLAINTEXT_JOINING');
    assert.equal(ask({ ...plain, podState: 'leaving' }, 'strict'), 'allow PLAINTEXT_ACCEPTED');
  });

  it('never takes an identity from a plaintext connection', () => {
    assert.equal(ask({ viaHbone: false, peer: client }, 'strict'), 'refuse PLAINTEXT_DENIED');
  });

  it('refuses each of our own listeners, by tunnel and by plaintext', () => {
    for (const own of [61_001, 61_002, 15_008])
      for (const way of [{}, plain])
        assert.equal(ask({ ...way, targetPort: port(own) }), 'refuse OWN_LISTENER');
    // An app may have these: they are steered nowhere.
    for (const free of [15_001, 15_006]) assert.equal(ask({ targetPort: port(free) }), 'allow OK');
  });

  it("refuses another pod's address", () => {
    assert.equal(ask({ targetIp: ip('10.244.2.8') }), 'refuse CONNECT_TARGET_MISMATCH');
    assert.equal(ask({ targetIp: ip('127.0.0.1') }), 'refuse CONNECT_TARGET_MISMATCH');
  });

  it('holds while the pod opens or its mode is not known, and refuses for a pod that is not ours', () => {
    assert.equal(ask({ podState: 'opening' }), 'hold POD_NOT_READY');
    assert.equal(ask({ ...plain, podState: 'pending' }), 'hold POD_NOT_READY');
    assert.equal(ask(plain, 'permissive', []), 'hold POD_NOT_READY');
    assert.equal(ask({ ...plain, podState: 'none' }), 'refuse POD_GONE');
  });

  it('gives a verdict in any state, and lets in no plaintext to a STRICT pod that is enrolled', () => {
    const anyRequest = fc.record({
      deltas: anyHistory,
      uid: anyPodUid,
      podState: fc.constantFrom(...STATES),
      target: anyTarget,
      viaHbone: fc.boolean(),
      hasPeer: fc.boolean(),
    });
    fc.assert(
      fc.property(anyRequest, ({ deltas, uid, podState, target, viaHbone, hasPeer }) => {
        const state = stateOf(deltas, { defaultMode: 'strict' });
        const workload = state.workload(uid);
        const verdict = admit(state, {
          pod: workload ?? { uid, ips: [target.ip] },
          podState,
          ownPorts: [port(61_001)],
          targetIp: target.ip,
          targetPort: target.port,
          sourceIp: ip('10.244.1.5'),
          peer: hasPeer ? client : undefined,
          viaHbone,
        });
        if (verdict.kind !== 'allow') return;
        assert.notEqual(target.port, 15_008);
        assert.notEqual(target.port, 61_001);
        assert.ok(!viaHbone || hasPeer);
        const isOpen = podState === 'joining' || podState === 'leaving';
        assert.ok(viaHbone || isOpen || (workload && mode(state, workload, target.port) === 'permissive'));
      }),
      { numRuns: 2_000 },
    );
  });
});
