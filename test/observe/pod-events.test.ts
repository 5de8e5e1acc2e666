import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { PodStatus } from '../../daemon/mesh/wiring.ts';
import { eventOfConnection, eventOfStatus } from '../../daemon/observe/pod-events.ts';
import { podUid, record } from './records.ts';

const status = (changes: Partial<PodStatus>): PodStatus => ({
  uid: podUid('uid-web'),
  name: 'web',
  namespace: 'shop',
  state: 'enrolled',
  reason: undefined,
  id: undefined,
  ips: [],
  olderConnections: 0,
  sinceMs: 0,
  ...changes,
});

describe('what deserves an Event on a pod', () => {
  it('a client without mTLS: on the server, naming the client without its port', () => {
    const event = eventOfConnection(
      record({
        direction: 'inbound',
        reason: 'PLAINTEXT_DENIED',
        podUid: podUid('uid-web'),
        dstWorkload: 'web',
        dstNamespace: 'shop',
        dstAddr: '10.244.1.7:80',
        srcWorkload: undefined,
        srcNamespace: undefined,
        srcAddr: '10.0.0.9:41234',
      }),
    );
    assert.equal(event?.reason, 'PlaintextDenied');
    assert.deepEqual(event.pod, { uid: 'uid-web', name: 'web', namespace: 'shop' });
    assert.match(event.note, /from 10\.0\.0\.9 to 10\.244\.1\.7:80/);
    assert.doesNotMatch(event.note, /41234/);
  });

  it('an unknown destination and an unreachable 15008: on the client', () => {
    const outbound = {
      direction: 'outbound',
      podUid: podUid('uid-web'),
      srcWorkload: 'web',
      srcNamespace: 'shop',
    } as const;
    const unknown = eventOfConnection(record({ ...outbound, reason: 'UNKNOWN_DESTINATION' }));
    assert.deepEqual([unknown?.reason, unknown?.pod.name], ['UnknownDestination', 'web']);
    const blocked = eventOfConnection(record({ ...outbound, reason: 'TUNNEL_CONNECT_FAILED' }));
    assert.equal(blocked?.reason, 'NetworkPolicyHint');
    assert.match(blocked.note, /NetworkPolicy.*culvert check/);
  });

  it('nothing for a connection that went well, nor for one of no pod', () => {
    assert.equal(eventOfConnection(record({ reason: 'OK' })), undefined);
    assert.equal(eventOfConnection(record({ reason: 'PLAINTEXT_DENIED', podUid: undefined })), undefined);
  });

  it('a pod that cannot be enrolled, or has waited for long; not one that has ended or is just starting', () => {
    const lasting = 30_000;
    const unenrollable = status({
      state: 'unenrollable',
      reason: 'HOST_NETWORK: it uses the network of its node',
    });
    assert.equal(eventOfStatus(unenrollable, 0)?.reason, 'EnrollFailed');
    const ended = status({ state: 'unenrollable', reason: 'FINISHED: the pod has ended (Succeeded)' });
    assert.equal(eventOfStatus(ended, lasting), undefined);
    const joining = status({ state: 'joining', reason: 'JOINING_NO_CERTIFICATE: the CA denied it' });
    assert.equal(eventOfStatus(joining, lasting - 1), undefined);
    assert.equal(eventOfStatus(joining, lasting)?.reason, 'CertificateFailed');
    const pending = status({ state: 'pending', reason: 'NETNS: not found' });
    assert.equal(eventOfStatus(pending, 0), undefined);
    assert.equal(eventOfStatus(pending, lasting)?.reason, 'EnrollFailed');
    assert.equal(eventOfStatus(status({}), lasting), undefined);
    assert.equal(eventOfStatus(status({ state: 'leaving', reason: 'UNLABELLED: …' }), lasting), undefined);
  });
});
