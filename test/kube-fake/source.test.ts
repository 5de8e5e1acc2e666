/** What a source over an API asks of it, all its collections together. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { KubernetesSource } from '../../daemon/cluster/kubernetes.ts';
import { KubeError } from '../../daemon/kube/seams.ts';
import type { ApiRequest, ApiStream, KubeApi } from '../../daemon/kube/seams.ts';

/** Has so many nodes, nothing else, and no kinds but its own. */
class NodesOnly implements KubeApi {
  readonly asked: string[] = [];
  readonly #nodes: number;

  constructor(nodes: number) {
    this.#nodes = nodes;
  }

  async request({ path }: ApiRequest): Promise<unknown> {
    this.asked.push(path);
    await Promise.resolve();
    if (path === '/apis') return { kind: 'APIGroupList', groups: [] };
    throw new KubeError(404, 'NotFound', `${path} was not found`);
  }

  stream({ path, query, signal }: ApiRequest): Promise<ApiStream> {
    const names = path.endsWith('/nodes') ? Array.from({ length: this.#nodes }, (_, at) => `node-${at}`) : [];
    const items = names.map((name) => ({ metadata: { name }, spec: {}, status: {} }));
    const list = JSON.stringify({ metadata: { resourceVersion: '1' }, items });
    const bytes = query?.['watch'] === 'true' ? nothing(signal) : once(list);
    return Promise.resolve({ [Symbol.asyncIterator]: () => bytes, [Symbol.dispose]: () => undefined });
  }
}

async function* once(text: string): AsyncGenerator<Uint8Array, void, undefined> {
  yield await Promise.resolve(Buffer.from(text));
}

/** A watch of which nothing is heard. */
async function* nothing(signal: AbortSignal | undefined): AsyncGenerator<Uint8Array, void, undefined> {
  await new Promise<void>((resolve) => signal?.addEventListener('abort', () => resolve()));
  yield* [];
}

describe('a source over an API that has no kinds of policies', () => {
  for (const [nodes, isPaced] of [
    [10, false],
    [600, true],
  ] as const)
    it(`looks for them as often as ${nodes} nodes may, for both at once`, async (t) => {
      const api = new NodesOnly(nodes);
      const source = new KubernetesSource({ api, json: true, tuning: { lookMs: 50, random: () => 0 } });
      t.after(() => source[Symbol.asyncDispose]());
      source.start(() => undefined);
      await source.synced;
      await sleep(2_000);
      const looks = api.asked.filter((path) => path === '/apis/security.istio.io').length;
      // The nodes may not be known yet at the first look: 10 nodes have one in 1/3 s, 600 one in 20 s.
      if (isPaced) assert.ok(looks <= 2, String(looks));
      else assert.ok(looks > 2 && looks <= 8, String(looks));
      assert.equal(api.asked.filter((path) => path === '/apis').length, 1);
    });
});
