import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { KubeClient } from '../../daemon/kube/client.ts';
import type { KubeClientOptions } from '../../daemon/kube/client.ts';
import type { Access } from '../../daemon/kube/config.ts';
import { KubeError } from '../../daemon/kube/seams.ts';
import { issue, makeCa } from '../support/pki.ts';
import { FakeServer, PATH, isList, json, refuse } from './server.ts';

const GET = { method: 'GET', path: PATH } as const;

async function serve(t: TestContext): Promise<FakeServer> {
  const server = await FakeServer.start();
  t.after(() => server[Symbol.asyncDispose]());
  return server;
}

function connect(t: TestContext, access: Access, options: Partial<KubeClientOptions> = {}): KubeClient {
  const client = new KubeClient(access, { userAgent: 'culvert/test', ...options });
  t.after(() => client[Symbol.dispose]());
  return client;
}

/** The KubeError that `asked` ends with. */
async function failure(asked: Promise<unknown>): Promise<KubeError> {
  const error: unknown = await asked.then(
    () => assert.fail('it was answered'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof KubeError, String(error));
  return error;
}

describe('a request', () => {
  it('carries the token, who asks, and its query', async (t) => {
    const server = await serve(t);
    const client = connect(t, server.access({ impersonate: 'jane' }));
    await client.request({ ...GET, query: { fieldSelector: 'spec.nodeName=a&b' } });
    assert.equal(server.requests[0]?.searchParams.get('fieldSelector'), 'spec.nodeName=a&b');
    const [headers] = server.headers;
    assert.equal(headers?.authorization, 'Bearer sesame');
    assert.equal(headers['user-agent'], 'culvert/test');
    assert.equal(headers['impersonate-user'], 'jane');
  });

  it('uses one connection again and again, and a fresh one when the server has closed it', async (t) => {
    const server = await serve(t);
    const client = connect(t, server.access());
    const ports = new Set<number | undefined>();
    for (let i = 0; i < 3; i++) {
      server.once(isList, (request, response) => {
        ports.add(request.socket.remotePort);
        json(response, 200, {});
      });
      await client.request(GET);
    }
    assert.equal(ports.size, 1);
    server.reset();
    assert.ok(await client.request(GET));
  });

  it('sends a patch as what it is', async (t) => {
    const server = await serve(t);
    const client = connect(t, server.access());
    let sent = '';
    server.once(
      () => true,
      (request, response) => {
        request.on('data', (chunk: Buffer) => (sent += chunk.toString()));
        request.on('end', () => json(response, 200, {}));
      },
    );
    await client.request({
      method: 'PATCH',
      path: `${PATH}/a/status`,
      patch: 'application/merge-patch+json',
      body: { metadata: { annotations: { x: null } } },
    });
    assert.equal(server.headers[0]?.['content-type'], 'application/merge-patch+json');
    assert.deepEqual(JSON.parse(sent), { metadata: { annotations: { x: null } } });
  });
});

describe('a failure', () => {
  it('says what was asked, what the server said, and when to come back', async (t) => {
    const server = await serve(t);
    server.once(isList, refuse(409, 'Conflict', { 'retry-after': '3' }));
    const error = await failure(connect(t, server.access()).request(GET));
    assert.equal(error.status, 409);
    assert.equal(error.reason, 'Conflict');
    assert.equal(error.message, 'GET /api/v1/things: 409 it is Conflict');
    assert.equal(error.retryAfterMs, 3_000);
  });

  it('of a server that nobody vouches for comes before any request', async (t) => {
    const server = await serve(t);
    const error = await failure(connect(t, server.access({ ca: makeCa().certPem })).request(GET));
    assert.equal(error.status, 0);
    assert.match(error.message, /self-signed|unable to (get|verify)/);
    const nameless = { ...server.access(), serverName: 'another' };
    assert.match((await failure(connect(t, nameless).request(GET))).message, /another/);
    assert.equal(server.requests.length, 0);
  });

  it('never names the token or the key', async (t) => {
    const server = await serve(t);
    const key = issue(makeCa(), []).keyPem;
    const client = connect(t, server.access({ authorization: 'Bearer secret-token' }));
    server.once(isList, refuse(403, 'Forbidden'));
    server.once(isList, (request) => request.socket.destroy());
    server.once(isList, (request) => request.socket.destroy());
    for (let i = 0; i < 2; i++) {
      const error = await failure(client.request(GET));
      const all = `${JSON.stringify(error)} ${String(error)} ${String(error.cause)} ${JSON.stringify(error.cause ?? {})}`;
      assert.doesNotMatch(all, /secret-token/);
    }
    const broken = connect(t, server.access({ cert: 'no certificate', key }));
    assert.doesNotMatch(String(await failure(broken.request(GET))), /PRIVATE KEY/);
  });

  it('of a token makes it read again, once', async (t) => {
    const server = await serve(t);
    let renewed = 0;
    server.once(isList, refuse(401, 'Unauthorized'));
    assert.ok(
      await connect(
        t,
        server.access({}, () => renewed++),
      ).request(GET),
    );
    assert.equal(renewed, 1);
    for (let i = 0; i < 2; i++) server.once(isList, refuse(401, 'Unauthorized'));
    assert.equal((await failure(connect(t, server.access()).request(GET))).status, 401);
    assert.equal(server.requests.length, 4);
  });

  for (const [what, isBegun] of [
    ['says nothing', false],
    ['only begins to', true],
  ] as const)
    it(`comes in time when the server ${what}`, async (t) => {
      const server = await serve(t);
      const client = connect(t, server.access(), { timeoutMs: 60 });
      for (let i = 0; i < 4; i++)
        server.once(isList, (_, response) => (isBegun ? response.write('{') : undefined));
      assert.equal((await failure(client.request(GET))).reason, 'Timeout');
      if (!isBegun) assert.equal((await failure(client.stream(GET))).reason, 'Timeout');
    });

  it('ends an answer that is too large', async (t) => {
    const server = await serve(t);
    server.once(isList, (_, response) => response.end('x'.repeat(100_000)));
    const client = connect(t, server.access(), { maxBytes: 1_000 });
    assert.equal((await failure(client.request(GET))).reason, 'TooLarge');
    server.once(isList, (_, response) => {
      response.writeHead(500);
      response.end('x'.repeat(100_000));
    });
    assert.equal((await failure(client.request(GET))).status, 500);
  });

  it('comes at once when the one who asked gives up, and when the client is closed', async (t) => {
    const server = await serve(t);
    const client = connect(t, server.access());
    const giving = new AbortController();
    const asked = failure(client.request({ ...GET, signal: giving.signal }));
    giving.abort();
    assert.equal((await asked).reason, 'Aborted');
    assert.equal((await failure(client.request({ ...GET, signal: giving.signal }))).reason, 'Aborted');
    client[Symbol.dispose]();
    assert.equal((await failure(client.request(GET))).reason, 'Closed');
  });
});
