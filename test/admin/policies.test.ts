import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { policyLines } from '../../daemon/admin/policies.ts';
import { pod, stateOf, told } from '../mesh/world.ts';

describe('the policies of GET /config', () => {
  it('are told with what they do and how many pods of this node they are for', () => {
    const web = pod('web', '10.244.1.1', { labels: { app: 'web' } });
    const db = pod('db', '10.244.1.2');
    const far = pod('far', '10.244.2.1', { labels: { app: 'web' } });
    const selector = { matchLabels: { app: 'web' } };
    const state = stateOf([
      ...[web, db, far].map(told.pod),
      told.policy('shop', 'all', { rules: [{}, {}] }),
      told.policy('shop', 'web', { selector, action: 'DENY', rules: [{}] }, { 'istio.io/dry-run': 'true' }),
      told.policy('bank', 'none', {}),
      told.policy('istio-system', 'web', { selector }),
      told.policy('shop', 'waypoint', { targetRefs: [{ kind: 'Service', name: 'web' }] }),
      told.peerAuthentication('istio-system', 'mesh', { mtls: { mode: 'STRICT' } }),
      told.peerAuthentication('istio-system', 'ignored', { selector, mtls: { mode: 'STRICT' } }),
    ]);
    assert.deepEqual(
      policyLines(state, [web, db]).map((line) => [
        `${line.namespace}/${line.name}`,
        line.does,
        line.dryRun,
        line.rules,
        line.localPods,
      ]),
      [
        ['bank/none', 'ALLOW', false, 0, 0],
        ['istio-system/web', 'ALLOW', false, 0, 1],
        ['shop/all', 'ALLOW', false, 2, 2],
        ['shop/waypoint', 'ALLOW', false, 0, 0],
        ['shop/web', 'DENY', true, 1, 1],
        ['istio-system/ignored', 'STRICT', false, 0, 0],
        ['istio-system/mesh', 'STRICT', false, 0, 2],
      ],
    );
  });
});
