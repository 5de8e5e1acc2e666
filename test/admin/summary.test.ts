import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { z } from 'zod';
import { nodeSummary } from '../../daemon/admin/summary.ts';
import type { SummaryParts } from '../../daemon/admin/summary.ts';
import { Reports } from '../../daemon/identity/signer/reports.ts';
import type { Change, WatchOptions, Watched } from '../../daemon/kube/seams.ts';

const PARTS: SummaryParts = {
  version: '1.2.3',
  bundle: 'b0',
  issuers: { a1: 3, a2: 1 },
  pods: [],
  certificates: [],
  left: false,
};

describe("what a node says of itself on its daemon's pod", () => {
  it('is what the gates of a rotation read: the bundle, and whose certificates are in use', async () => {
    const pod = {
      metadata: { name: 'culvert-x', annotations: { 'culvert.dev/node': nodeSummary(PARTS) } },
      spec: { nodeName: 'node-1' },
    };
    const api = {
      request: () => Promise.reject(new Error('not asked')),
      stream: () => Promise.reject(new Error('not asked')),
    };
    await using reports = new Reports({
      api,
      watch: (options) => new Fixed(options, options.path.endsWith('/pods') ? pod : undefined),
      namespace: 'culvert-system',
      onProblem: (reason) => assert.fail(reason),
    });
    reports.start(() => undefined);
    assert.partialDeepStrictEqual(reports.all(0), [
      { node: 'node-1', pod: 'culvert-x', bundle: 'b0', issuers: { a1: 3, a2: 1 } },
    ]);
  });

  it('says how many certificates there was no room for, in 64 KiB', () => {
    const certificates = Array.from({ length: 1_000 }, (_, at) => ({
      ...{
        identity: `spiffe://cluster.local/ns/shop/sa/app-${at}`,
        state: 'ready' as const,
        serial: 'ab'.repeat(8),
      },
      ...{ notBeforeMs: 0, notAfterMs: 0, error: undefined, source: 'kubernetes-csr', nextRenewalMs: 0 },
    }));
    const text = nodeSummary({ ...PARTS, certificates });
    assert.ok(Buffer.byteLength(text) <= 64 * 1024);
    const said = z.object({ certificates: z.array(z.unknown()), more: z.number() }).parse(JSON.parse(text));
    assert.equal(said.certificates.length + said.more, 1_000);
    assert.ok(said.certificates.length > 200);
  });
});

/** A collection that never changes. */
class Fixed<T> implements Watched<T> {
  readonly items: ReadonlyMap<string, T>;
  readonly synced = Promise.resolve();

  constructor({ decode }: WatchOptions<T>, object: unknown) {
    const value = object === undefined ? undefined : decode(object);
    this.items = new Map(value === undefined ? [] : [['it', value]]);
  }

  start(onChanges: (changes: readonly Change<T>[]) => void): void {
    onChanges([...this.items].map(([key, value]) => ({ type: 'set', key, value })));
  }

  stalenessMs(): number {
    return 0;
  }

  problem(): undefined {
    return undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.resolve();
  }
}
