/** The cluster CA's own affairs: what it makes, publishes and says while things go wrong around it. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { unionOf } from '../../../daemon/identity/bundle.ts';
import { makeIssuer } from '../../../daemon/identity/signer/issuer.ts';
import { MADE_FOR } from '../../../daemon/identity/signer/ca-secret.ts';
import { KubeError } from '../../../daemon/kube/seams.ts';
import { TRUST_DOMAIN } from '../forge.ts';
import { BUNDLE, CLUSTER_BUNDLE, CLUSTER_BUNDLES, CaWorld, SECRET, STATE, usable } from './ca-world.ts';

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

  it('puts the published roots back within a look when somebody edits or deletes them', async () => {
    await using world = new CaWorld();
    const ca = await world.begin();
    const roots = world.bundlePem;
    const isBack = async (): Promise<void> => {
      await world.looks();
      assert.equal(world.bundlePem, roots);
      assert.equal(world.issuingRoot, ca.rootHash);
    };
    world.cluster.remove(BUNDLE);
    await isBack();
    world.cluster.patchData(BUNDLE, { 'ca.crt': 'nothing of ours' });
    await isBack();
    world.cluster.put(BUNDLE, { metadata: { name: 'culvert-trust-bundle' }, data: { 'ca.crt': roots } });
    await isBack();
    world.cluster.remove(SECRET);
    world.cluster.remove(BUNDLE);
    await isBack();
    const writes = world.cluster.count(`PUT ${BUNDLE}`);
    await world.looks(3);
    assert.equal(world.cluster.count(`PUT ${BUNDLE}`), writes, 'nothing is written while all is well');
  });

  it('puts no roots back that a later leader has replaced', async () => {
    await using world = new CaWorld();
    await world.begin();
    const { certificates } = await makeIssuer(TRUST_DOMAIN, world.clock.nowMs());
    const both = unionOf(world.bundlePem, certificates);
    const state = world.cluster.objects.get(STATE);
    assert.ok(state);
    const base64 = (text: string): string => Buffer.from(text).toString('base64');
    const data = { ...state.data, step: base64('trust'), 'bundle.crt': base64(both) };
    const seen = world.history(BUNDLE);
    world.cluster.put(STATE, { ...state, data });
    world.cluster.patchData(BUNDLE, { 'ca.crt': both });
    await world.looks(3);
    assert.deepEqual([...new Set(seen.map(({ data: at }) => at?.['ca.crt']))], [both]);
    assert.equal(world.status()?.step, 'trust');
  });

  for (const when of ['while it leads', 'before it leads'] as const)
    it(`says that it has expired (${when}), and walks to a new root when it is asked to`, async () => {
      await using world = new CaWorld();
      const old = await world.begin();
      world.clock.step(old.notAfterMs - world.clock.nowMs());
      if (when === 'before it leads') await world.lead();
      await world.comes('the problem', () => /expired at/.test(world.status()?.problem ?? ''));
      assert.match(world.status()?.problem ?? '', /culvert ca rotate/);
      assert.equal(usable(world.ca()), undefined);

      world.rotate('2036-06-01');
      const { rootHash } = await world.walked(old.rootHash);
      assert.notEqual(rootHash, old.rootHash);
      assert.equal(world.status()?.problem, undefined);
      assert.equal(world.status()?.request, 'done');
    });

  it('replaces a Secret of its own that can not be read, when it is asked to', async () => {
    await using world = new CaWorld();
    const old = await world.begin();
    world.apply({ key: 'no key' });
    await world.lead();
    await world.comes('the problem', () => /tls\.key is no private key/.test(world.status()?.problem ?? ''));
    assert.equal(usable(world.ca())?.rootHash, old.rootHash, 'it signs on with what is stored');
    world.rotate('2026-06-01');
    const { rootHash } = await world.walked(old.rootHash);
    assert.notEqual(rootHash, old.rootHash);
  });

  it('leaves a CA alone that the user has put over its own by kubectl apply, which keeps annotations', async () => {
    await using world = new CaWorld();
    const old = await world.begin();
    const theirs = await makeIssuer(TRUST_DOMAIN, world.clock.nowMs());
    world.apply(theirs);
    const { rootHash, pems } = await world.walked(old.rootHash);
    assert.equal(pems.certificates, theirs.certificates);
    world.rotate('2026-06-01');
    await world.comes('the refusal', () => /^refused/.test(world.status()?.request ?? ''));
    await world.looks(2);
    assert.equal(world.secret.data?.['tls.key'], Buffer.from(theirs.key).toString('base64'));
    assert.equal(usable(world.ca())?.rootHash, rootHash);
  });

  it('names ca.crt when only the other two have been put over its own', async () => {
    await using world = new CaWorld();
    await world.begin();
    const { certificates, key } = await makeIssuer(TRUST_DOMAIN, world.clock.nowMs());
    world.apply({ certificates, key });
    await world.comes('the problem', () => /ca\.crt: it does not chain/.test(world.status()?.problem ?? ''));
    assert.match(world.status()?.problem ?? '', /put another one there/);
  });

  it('does what was asked once, also when the Secret of before is put back', async () => {
    await using world = new CaWorld();
    const old = await world.begin();
    const first = world.secret;
    world.rotate('2026-06-01');
    const fresh = await world.walked(old.rootHash);
    assert.equal(world.status()?.request, 'done');

    await world.lead();
    world.cluster.put(SECRET, first);
    assert.equal((await world.walked(fresh.rootHash)).rootHash, old.rootHash);
    await world.looks(2);
    assert.equal(world.secret.data?.['tls.crt'], first.data?.['tls.crt']);
    assert.match(world.status()?.request ?? '', /^over/);

    world.rotate('2026-06-02');
    assert.notEqual((await world.walked(old.rootHash)).rootHash, old.rootHash);
    assert.equal(world.status()?.request, 'done');
  });

  it('forgets a request that it has refused', async () => {
    await using world = new CaWorld();
    const old = await world.begin();
    const first = world.secret;
    world.apply(await makeIssuer(TRUST_DOMAIN, world.clock.nowMs()));
    const theirs = await world.walked(old.rootHash);
    world.rotate('2026-06-01');
    await world.comes('the refusal', () => /^refused/.test(world.status()?.request ?? ''));
    await world.looks();
    world.cluster.put(SECRET, first);
    await world.walked(theirs.rootHash);
    await world.looks(2);
    assert.equal(usable(world.ca())?.rootHash, old.rootHash);
  });

  it('knows a Secret that an earlier version of it has made, and marks it anew', async () => {
    await using world = new CaWorld();
    const old = await world.begin();
    const { metadata } = world.secret;
    assert.match(metadata.annotations?.[MADE_FOR] ?? '', /^first [0-9a-f]{64}$/);
    world.cluster.put(SECRET, {
      ...world.secret,
      metadata: { ...metadata, annotations: { [MADE_FOR]: 'first' } },
    });
    await world.looks(2);
    assert.equal(world.secret.metadata.annotations?.[MADE_FOR], metadata.annotations?.[MADE_FOR]);
    world.rotate('2026-06-01');
    assert.notEqual((await world.walked(old.rootHash)).rootHash, old.rootHash);
  });
});
