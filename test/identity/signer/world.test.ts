import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { PodFacts } from '../../../daemon/identity/signer/decide.ts';
import { WatchedWorld, podReader, readSummary } from '../../../daemon/identity/signer/world.ts';
import { makeKeyPair } from '../../../daemon/identity/csr.ts';
import { NOW } from '../forge.ts';
import { requestObject } from './requests.ts';

const read = podReader('culvert-system', 'culvert');

interface PodChange {
  readonly metadata?: object;
  readonly spec?: object;
  readonly phase?: string;
}

function pod({ metadata, spec, phase }: PodChange = {}): unknown {
  return {
    metadata: {
      name: 'culvert-a',
      namespace: 'culvert-system',
      uid: 'uid-a',
      labels: { 'app.kubernetes.io/name': 'culvert', 'app.kubernetes.io/component': 'daemon' },
      ownerReferences: [{ kind: 'DaemonSet', name: 'culvert', controller: true }],
      ...metadata,
    },
    spec: { nodeName: 'node-a', serviceAccountName: 'culvert', ...spec },
    status: { phase: phase ?? 'Running' },
  };
}

describe('a pod as the signer knows it', () => {
  it('is our daemon by namespace, labels and owner, all of them', () => {
    assert.equal(read(pod())?.isDaemon, true);
    for (const metadata of [
      { namespace: 'shop' },
      { labels: {} },
      { labels: { 'app.kubernetes.io/name': 'culvert' } },
      { ownerReferences: [] },
      { ownerReferences: null },
      { ownerReferences: [{ kind: 'DaemonSet', name: 'other', controller: true }] },
      { ownerReferences: [{ kind: 'ReplicaSet', name: 'culvert', controller: true }] },
      { ownerReferences: [{ kind: 'DaemonSet', name: 'culvert' }] },
    ])
      assert.equal(read(pod({ metadata }))?.isDaemon, false, JSON.stringify(metadata));
  });
  it('speaks for no account when a kubelet made it by itself', () => {
    const annotations = { 'kubernetes.io/config.mirror': 'x' };
    assert.equal(read(pod({ metadata: { annotations } }))?.serviceAccount, '');
    assert.equal(read(pod({ spec: { serviceAccountName: undefined } }))?.serviceAccount, '');
  });
  it('is forgotten when it is over, but for ours', () => {
    assert.equal(read(pod({ metadata: { namespace: 'shop' }, phase: 'Succeeded' })), undefined);
    assert.equal(read(pod({ phase: 'Failed' }))?.isOver, true);
  });
});

describe('the signer’s index', () => {
  const items = new Map<string, PodFacts>();
  let staleMs = 0;
  const world = new WatchedWorld(
    {
      items,
      synced: Promise.resolve(),
      start: () => undefined,
      stalenessMs: () => staleMs,
      problem: () => undefined,
      [Symbol.asyncDispose]: () => Promise.resolve(),
    },
    () => NOW,
  );
  const web = (name: string, change: PodChange = {}): PodFacts => {
    const metadata = { name, namespace: 'shop', labels: null, ownerReferences: null };
    const facts = read(pod({ ...change, metadata, spec: { serviceAccountName: 'web', ...change.spec } }));
    assert.ok(facts);
    return facts;
  };
  const has = (node: string): boolean => world.hasWorkload(node, 'shop', 'web');

  it('knows a workload for as long as one of its pods is on the node', () => {
    const set = (value: PodFacts): void =>
      world.podsChanged([{ type: 'set', key: `shop/${value.name}`, value }]);
    assert.equal(has('node-a'), false);
    set(web('one', { spec: { nodeName: undefined } }));
    assert.equal(has(''), false);
    set(web('one'));
    set(web('two'));
    set(web('two'));
    assert.equal(has('node-a'), true);
    assert.equal(has('node-b'), false);
    assert.equal(world.hasWorkload('node-a', 'other', 'web'), false);
    world.podsChanged([{ type: 'gone', key: 'shop/one', value: web('one') }]);
    assert.equal(has('node-a'), true);
    world.podsChanged([{ type: 'gone', key: 'shop/two', value: web('two') }]);
    assert.equal(has('node-a'), false);
  });
  it('counts no pod without an account', () => {
    const value = { ...web('mirror'), serviceAccount: '' };
    world.podsChanged([{ type: 'set', key: 'shop/mirror', value }]);
    assert.equal(world.hasWorkload('node-a', 'shop', ''), false);
  });
  it('finds requests by their key until they are gone', async () => {
    const value = readSummary(requestObject(await makeKeyPair()));
    assert.ok(value?.keyHash);
    world.requestsChanged([{ type: 'set', key: value.name, value }]);
    assert.deepEqual(world.sameKey(value.keyHash), [value]);
    world.requestsChanged([{ type: 'gone', key: value.name, value }]);
    assert.deepEqual(world.sameKey(value.keyHash), []);
    assert.equal(readSummary(requestObject(await makeKeyPair(), { signerName: 'example.com/x' })), undefined);
  });
  it('is not current when nothing was heard for longer than bookmarks take', () => {
    assert.equal(world.isCurrent, true);
    staleMs = 150_000;
    assert.equal(world.isCurrent, false);
  });
});
