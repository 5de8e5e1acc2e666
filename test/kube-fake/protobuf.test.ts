import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { protobufStatus, protobufWire } from '../../daemon/kube/protobuf.ts';
import { KubeError } from '../../daemon/kube/seams.ts';
import type { WatchEvent } from '../../daemon/kube/seams.ts';
import { encoded, frame } from './protobuf-server.ts';

const WIRE = protobufWire('Thing', {
  Thing: { metadata: ['ObjectMeta', 1], spec: ['Spec', 2] },
  Spec: { nodeName: ['string', 10] },
});
const METADATA = {
  name: 'a',
  namespace: 'shop',
  resourceVersion: '7',
  labels: { app: 'web' },
  creationTimestamp: { seconds: 1_700_000_000, nanos: 5 },
  managedFields: [{ manager: 'kubectl' }],
};
const THING = encoded('Thing', {
  metadata: METADATA,
  spec: { finalizers: ['kubernetes'], nodeName: 'node-a' },
});
/** As JSON would have it, without what nobody asked for. */
const EXPECTED = {
  metadata: {
    name: 'a',
    namespace: 'shop',
    resourceVersion: '7',
    labels: { app: 'web' },
    creationTimestamp: '2023-11-14T22:13:20.000Z',
  },
  spec: { nodeName: 'node-a' },
};

const PROBED = {
  Thing: { spec: ['Spec', 2] },
  Spec: { unschedulable: ['bool', 4, 'nullable'], other: ['bool', 5] },
} as const;

/** In the envelope of an answer: `k8s`, and Unknown { raw (2) }. */
function wrapped(raw: Buffer): Buffer {
  return Buffer.concat([Buffer.from('k8s\0'), Buffer.from([0x12, raw.length]), raw]);
}

async function eventsOf(chunks: readonly Buffer[], maxBytes = 10_000): Promise<WatchEvent[]> {
  const events: WatchEvent[] = [];
  const stream = (async function* () {
    await Promise.resolve();
    yield* chunks;
  })();
  for await (const some of WIRE.events(stream, maxBytes)) events.push(...some.map((read) => read()));
  return events;
}

describe('Kubernetes protobuf', () => {
  it('gives objects as JSON has them, and only the fields that were asked for', () => {
    const items = [{ metadata: METADATA, spec: { nodeName: 'node-a' } }, { metadata: { name: 'b' } }];
    const list = encoded('List', { metadata: { resourceVersion: '9', continue: 'next' }, items });
    const page = WIRE.page(list);
    assert.deepEqual(JSON.parse(JSON.stringify(page)), {
      items: [EXPECTED, { metadata: { name: 'b' } }],
      version: '9',
      next: 'next',
    });
  });

  it('tells a false that was sent from nothing, where the field is a pointer', () => {
    const { Thing } = PROBED;
    const wire = protobufWire('Thing', PROBED);
    // Spec { unschedulable (4): false, other (5): false }, as Go writes them.
    const spec = Buffer.from([0x20, 0, 0x28, 0]);
    const thing = Buffer.concat([Buffer.from([Thing.spec[1] * 8 + 2, spec.length]), spec]);
    // ListMeta { resourceVersion (2): '9' }, and the one item.
    const list = Buffer.from([0x0a, 3, 0x12, 1, 0x39, 0x12, thing.length]);
    const page = wire.page(wrapped(Buffer.concat([list, thing])));
    assert.deepEqual(JSON.parse(JSON.stringify(page.items)), [{ spec: { unschedulable: false } }]);
  });

  it('reads the events of a watch wherever its bytes are cut', async () => {
    const bookmark = frame('BOOKMARK', encoded('Thing', { metadata: { resourceVersion: '8' } }));
    const bytes = Buffer.concat([frame('ADDED', THING), bookmark, frame('DELETED', THING)]);
    for (let cut = 0; cut <= bytes.length; cut++) {
      const events = await eventsOf([bytes.subarray(0, cut), bytes.subarray(cut)]);
      assert.deepEqual(
        events.map(({ type, version }) => `${type} ${version ?? ''}`),
        ['ADDED 7', 'BOOKMARK 8', 'DELETED 7'],
      );
      assert.deepEqual(JSON.parse(JSON.stringify(events[0]?.object)), EXPECTED);
    }
  });

  it("tells the server's own word of what is wrong", async () => {
    const status = encoded('Status', { status: 'Failure', code: 410, reason: 'Expired', message: 'too old' });
    await assert.rejects(
      eventsOf([frame('ERROR', status)]),
      (error) => error instanceof KubeError && error.status === 410 && error.reason === 'Expired',
    );
    assert.partialDeepStrictEqual(protobufStatus(status), { code: 410, message: 'too old' });
    assert.equal(protobufStatus(Buffer.from('{}')), undefined);
  });

  it('takes nothing that is no such encoding, or too long', async () => {
    assert.throws(() => WIRE.page(Buffer.from('{"items":[]}')), TypeError);
    assert.throws(() => WIRE.page(Buffer.from('k8s\0\xff\xff', 'latin1')));
    assert.throws(() => WIRE.page(THING.subarray(0, 20)));
    await assert.rejects(eventsOf([Buffer.from('GET / HTTP')]), RangeError);
    await assert.rejects(eventsOf([frame('PATCHED', THING)]), TypeError);
    await assert.rejects(eventsOf([frame('ADDED', THING)], 10), RangeError);
  });
});
