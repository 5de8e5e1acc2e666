/**
 * Policies on a real Kubernetes of two nodes: the kinds come while the mesh runs, what users bring is in force as they
 * wrote it, and the nodes go by what they knew while the API is away.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { httpReply } from '../lab/kit/apps.ts';
import type { LivePod } from './kit/live-pod.ts';
import { MeshCluster } from './kit/mesh.ts';
import { applyCrds, deleteCrds, policy } from './policy-world.ts';

const LIMITS = { timeout: 600_000 };
/** Nodes look for the kinds every 10 to 20 s. */
const LONG = { timeoutMs: 90_000, everyMs: 200 };
const CLIENT = 'cluster.local/ns/shop/sa/client';

describe('policies on a Kubernetes of two nodes', LIMITS, () => {
  let mesh: MeshCluster;
  let client: LivePod;
  let webIp = '';
  before(async () => {
    mesh = await MeshCluster.start();
    client = await mesh.inPod('client');
    webIp = await mesh.shop.serviceIp('web');
  }, LIMITS);
  after(() => mesh[Symbol.asyncDispose]());

  /** The answer's status; 0 when there was none. */
  async function ask(path = '/api/x', method = 'GET'): Promise<number> {
    const lines = [`${method} ${path} HTTP/1.1`, `Host: ${webIp}`, 'Content-Length: 0', 'Connection: close'];
    const first = Buffer.from(`${lines.join('\r\n')}\r\n\r\n`);
    const result = await client.send(webIp, 80, { first, halfClose: false, timeoutMs: 30_000 });
    return httpReply(result).status;
  }
  /** Each worker learns of a change by itself: the next request may meet one that has not yet. */
  async function become(status: number, what: string, path?: string, method?: string): Promise<void> {
    let last = -1;
    const isSo = async (): Promise<boolean> => (last = await ask(path, method)) === status;
    await until(what, isSo, { ...LONG, detail: () => `${last}` });
  }
  const apply = (spec: object, name = 'web'): Promise<void> =>
    mesh.controlPlane.apply(policy('AuthorizationPolicy', { name, spec }));
  const rules = (principal: string): object => ({
    action: 'ALLOW',
    rules: [
      {
        from: [{ source: { principals: [principal] } }],
        to: [{ operation: { methods: ['GET'], paths: ['/api/*'] } }],
      },
    ],
  });

  it('are in force when their kinds come while the mesh runs', async () => {
    assert.equal(await ask(), 200);
    await applyCrds(mesh.controlPlane);
    await apply({ action: 'DENY', rules: [{}] });
    await become(0, 'a refusal');
    await mesh.kubectl(
      '-n',
      'shop',
      'wait',
      'authorizationpolicy/web',
      '--for=condition=ZtunnelAccepted',
      '--timeout=60s',
    );
  });

  it('let in whom, how and to what they say, and nobody else', async (test) => {
    const startMs = performance.now();
    await apply(rules(CLIENT));
    await become(200, 'an answer');
    test.diagnostic(`${Math.round(performance.now() - startMs)} ms after kubectl apply began`);
    await become(403, 'a refusal of another path', '/other');
    await become(403, 'a refusal of another method', '/api/x', 'POST');
    await apply(rules(`${CLIENT}x`));
    await become(403, 'a refusal');
  });

  it('stay as they were while the API is away', async () => {
    await mesh.controlPlane.apiServer.kill();
    await become(403, 'a refusal');
    await mesh.controlPlane.apiServer.start();
    await apply(rules(CLIENT));
    await become(200, 'an answer');
  });

  it('go with their kinds', async () => {
    await apply(rules(`${CLIENT}x`));
    await become(403, 'a refusal');
    await deleteCrds(mesh.controlPlane);
    await become(200, 'an answer');
    await become(200, 'an answer to another request', '/other', 'POST');
  });
});
