/** The cluster CA's own affairs: what it makes, publishes and says while things go wrong around it. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { KubeError } from '../../../daemon/kube/seams.ts';
import { CLUSTER_BUNDLE, CLUSTER_BUNDLES, CaWorld } from './ca-world.ts';

describe('the CA', () => {
  for (const [status, reason] of [
    [422, 'Invalid'],
    [403, 'Forbidden'],
  ] as const)
    it(`signs, and says so, where its ClusterTrustBundle can not be written (${status})`, async () => {
      await using world = new CaWorld();
      const refusal = new KubeError(status, reason, `a policy says no: ${reason}`);
      world.cluster.refusals.set(`POST ${CLUSTER_BUNDLES}`, refusal);
      await world.lead();
      await world.comes('a CA', () => typeof world.ca() === 'object');
      await world.comes('the problem', () => /a policy says no/.test(world.status()?.problem ?? ''));
      assert.match(world.status()?.problem ?? '', /ClusterTrustBundle/);
      assert.notEqual(world.bundlePem, '');
      await world.looks(3);
      const said = world.lines.filter((line) => /ClusterTrustBundle/.test(line));
      assert.equal(said.length, 1, 'one line, not one for each look');

      world.cluster.refusals.clear();
      await world.comes('it', () => world.cluster.objects.get(CLUSTER_BUNDLE));
      await world.comes('no problem', () => world.status()?.problem === undefined);
    });
});
