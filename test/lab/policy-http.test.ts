/**
 * AuthorizationPolicy over the real wire, for HTTP: each field once, and how connections go on when one of their requests
 * is denied. One connection carries all requests of a case, pipelined; the app says what it was asked.
 */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { bytesOf, http2Answers, HTTP_PORT, HttpApp, say, statuses } from './http.ts';
import type { Request } from './http.ts';
import type { LabPod } from './kit/pod.ts';
import { authorizationPolicy, decisions, inboundTo, Policies } from './policies.ts';
import { openShop } from './shop.ts';
import type { Shop } from './shop.ts';

const FRONT = 'cluster.local/ns/shop/sa/client';

const REQUESTS: Readonly<Record<string, Request>> = {
  list: { method: 'GET', path: '/api/v1/items?all', host: 'shop.example', headers: { 'X-Role': 'admin' } },
  add: {
    method: 'POST',
    path: '/api/v1/items',
    host: 'shop.example:8081',
    headers: { 'x-role': 'guest' },
    body: 'one',
  },
  drop: { method: 'DELETE', path: '/admin', host: 'other.example' },
};
const ASKED: Readonly<Record<string, string>> = {
  list: 'GET /api/v1/items?all',
  add: 'POST /api/v1/items',
  drop: 'DELETE /admin',
};

const to = (fields: unknown): unknown => ({ to: [{ operation: fields }] });
const header = (name: string, fields: unknown): unknown => ({
  when: [{ key: `request.headers[${name}]`, ...Object(fields) }],
});

const FIELDS: readonly (readonly [name: string, rule: unknown, allowed: string])[] = [
  ['hosts', to({ hosts: ['shop.example'] }), 'list'],
  ['hosts, in another case', to({ hosts: ['SHOP.Example'] }), 'list'],
  ['hosts, a prefix', to({ hosts: ['shop.example*'] }), 'list add'],
  ['hosts, a suffix', to({ hosts: ['*.example'] }), 'list drop'],
  ['notHosts', to({ notHosts: ['shop.example'] }), 'add drop'],
  ['methods', to({ methods: ['GET', 'DELETE'] }), 'list drop'],
  ['notMethods', to({ notMethods: ['GET'] }), 'add drop'],
  ['paths', to({ paths: ['/api/v1/items'] }), 'list add'],
  ['paths, a prefix', to({ paths: ['/api/*'] }), 'list add'],
  ['paths, a suffix', to({ paths: ['*/items'] }), 'list add'],
  ['paths, a template of one segment', to({ paths: ['/api/{*}/items'] }), 'list add'],
  ['paths, a template of one segment that does not fit', to({ paths: ['/{*}/items'] }), ''],
  ['paths, a template of any segments', to({ paths: ['/api/{**}'] }), 'list add'],
  ['notPaths', to({ notPaths: ['/api/*'] }), 'drop'],
  ['request.headers', header('x-role', { values: ['admin'] }), 'list'],
  ['request.headers, present', header('X-Role', { values: ['*'] }), 'list add'],
  ['request.headers, not', header('x-role', { notValues: ['admin'] }), 'add drop'],
  ['request.headers, the host', header(':authority', { values: ['other.example'] }), 'drop'],
  ['ports beside methods', to({ ports: [String(HTTP_PORT)], methods: ['GET'] }), 'list'],
  ['another port beside methods', to({ ports: ['9999'], methods: ['GET'] }), ''],
  [
    'two operations',
    { to: [{ operation: { methods: ['POST'] } }, { operation: { paths: ['/admin'] } }] },
    'add drop',
  ],
  [
    'a source beside a method',
    { from: [{ source: { principals: [FRONT] } }], ...Object(to({ methods: ['GET'] })) },
    'list',
  ],
  [
    'another source beside a method',
    { from: [{ source: { namespaces: ['bank'] } }], ...Object(to({ methods: ['GET'] })) },
    '',
  ],
];

describe('AuthorizationPolicy for HTTP', { timeout: 600_000 }, () => {
  let shop: Shop;
  let policies: Policies;
  let app: HttpApp;
  let plain: LabPod;
  before(async () => {
    shop = await openShop();
    policies = new Policies(shop, [shop.daemon1, shop.daemon2]);
    plain = await shop.lab.outsider('plain');
    app = await HttpApp.on(shop.server);
  });
  after(() => shop.lab[Symbol.asyncDispose]());

  const rule = (action: string, ...rules: readonly unknown[]): Promise<void> =>
    policies.set(authorizationPolicy('shop', 'http', { action, rules }));
  /** Which of the requests get through, of one connection; the app has been asked exactly those. */
  async function which(client = shop.client): Promise<string> {
    const answers = await statuses(client, shop.server, Object.values(REQUESTS));
    const names = Object.keys(REQUESTS);
    // Where no rule could ever hold, the connection itself is refused.
    assert.ok(answers.length === names.length || answers.length === 0);
    assert.ok(
      answers.every((status) => status === 200 || status === 403),
      answers.join(' '),
    );
    const allowed = names.filter((_, i) => answers[i] === 200);
    assert.deepEqual(
      app.asked(),
      allowed.map((name) => ASKED[name]),
    );
    return allowed.join(' ');
  }
  const others = (names: string): string =>
    Object.keys(REQUESTS)
      .filter((name) => !names.split(' ').includes(name))
      .join(' ');

  for (const [name, content, allowed] of FIELDS)
    it(`${name}: ALLOW lets ${allowed === '' ? 'nothing' : allowed} in, DENY keeps that out`, async () => {
      await rule('ALLOW', content);
      assert.equal(await which(), allowed);
      await rule('DENY', content);
      assert.equal(await which(), others(allowed));
    });

  it('plaintext is judged alike, without an identity', async () => {
    await rule('ALLOW', to({ methods: ['GET'] }));
    assert.equal(await which(plain), 'list');
    await rule('ALLOW', { from: [{ source: { principals: ['*'] } }], ...Object(to({ methods: ['GET'] })) });
    assert.equal(await which(plain), '');
    assert.equal(await which(), 'list');
  });

  it('a denied request is answered 403 with no hint of the rule, recorded and counted with it; the connection lives on', async () => {
    await rule('ALLOW', to({ paths: ['/api/*'] }));
    const from = shop.daemon2.process.lines.length;
    const before = await decisions(shop.daemon2, 'shop/http', 'allow');
    const secret: Request = { method: 'POST', path: '/secret', host: 'shop', body: 'x'.repeat(1_000) };
    const open: Request = { method: 'GET', path: '/api/x', host: 'shop' };
    const result = await say(shop.client, shop.server, bytesOf([open, secret, open]));
    const text = result.head.toString('latin1');
    assert.deepEqual(
      [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status),
      ['200', '403', '200'],
    );
    assert.match(text, /access denied\n/);
    assert.doesNotMatch(text, /policy|shop\/http|rule|culvert|istio/i);
    assert.deepEqual(app.asked(), ['GET /api/x', 'GET /api/x']);
    const record = await inboundTo(shop.daemon2, HTTP_PORT, from);
    assert.match(JSON.stringify(record), /requests denied: 1/);
    await until(
      'the metric',
      async () => (await decisions(shop.daemon2, 'shop/http', 'allow')) >= before + 2,
    );
  });

  it('what is ambiguous gets 400 and reaches nobody, whoever asks', async () => {
    await rule('ALLOW', to({ paths: ['*'] }));
    const HOST = 'Host: shop\r\n';
    for (const bytes of [
      `POST / HTTP/1.1\r\n${HOST}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      `GET / HTTP/1.1\r\n${HOST}Host: other\r\n\r\n`,
      `GET / HTTP/1.1\r\n${HOST}X: a\r\n b\r\n\r\n`,
      `GET / HTTP/1.1\nHost: shop\n\n`,
      `GET /a%00 HTTP/1.1\r\n${HOST}\r\n`,
      `GET /%c0%af HTTP/1.1\r\n${HOST}\r\n`,
      `GET http://other/ HTTP/1.1\r\n${HOST}\r\n`,
    ])
      assert.match(
        (await say(shop.client, shop.server, bytes)).head.toString('latin1'),
        /^HTTP\/1\.1 400 /,
        bytes,
      );
    assert.deepEqual(app.asked(), []);
  });

  it('the path that was judged is the path that the app gets', async () => {
    await rule('DENY', to({ paths: ['/admin*'] }));
    const asked = (path: string): Request => ({ method: 'GET', path, host: 'shop' });
    const paths = ['/a/../admin', '/%61dmin', '/a\\..\\admin', '/a/./b?x=/../y', '/a%2fadmin'];
    assert.deepEqual(await statuses(shop.client, shop.server, paths.map(asked)), [403, 403, 403, 200, 200]);
    assert.deepEqual(app.asked(), ['GET /a/b?x=/../y', 'GET /a%2fadmin']);
  });

  it('a WebSocket is judged when it opens, and cut when it is denied later', async () => {
    await rule('ALLOW', to({ paths: ['/chat'] }));
    const offer = (path: string, connection: string): string =>
      `GET ${path} HTTP/1.1\r\nHost: shop\r\nConnection: ${connection}\r\nUpgrade: websocket\r\n\r\n`;
    const denied = await say(shop.client, shop.server, offer('/other', 'close, Upgrade'));
    assert.match(denied.head.toString(), /^HTTP\/1\.1 403 /);
    const open = await shop.client.startSend(shop.server.ip, HTTP_PORT, {
      first: Buffer.from(`${offer('/chat', 'Upgrade')}frame`),
      halfClose: false,
    });
    await until('the frame back', async () => (await open.progress()).received > 80);
    assert.deepEqual(app.asked(), ['UPGRADE /chat']);
    const from = shop.daemon2.process.lines.length;
    await rule('ALLOW', to({ paths: ['/nothing'] }));
    const result = await open.result();
    assert.notEqual(result.end, 'timeout');
    assert.match(result.head.toString(), /^HTTP\/1\.1 101 .*frame$/s);
    await inboundTo(shop.daemon2, HTTP_PORT, from, { reason: 'POLICY_DENIED' });
  });

  it('h2c is not offered to the app', async () => {
    await rule('ALLOW', to({ methods: ['GET'] }));
    const result = await say(
      shop.client,
      shop.server,
      'GET / HTTP/1.1\r\nHost: shop\r\nConnection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n',
    );
    assert.match(result.head.toString(), /^HTTP\/1\.1 200 /);
    assert.deepEqual(app.asked(), ['GET /']);
  });

  it('gRPC: each call is judged, a denied one gets PERMISSION_DENIED, and the connection lives on', async () => {
    await rule('ALLOW', to({ methods: ['POST'], paths: ['/shop.Items/List'] }));
    const calling = (path: string): Request => ({
      method: 'POST',
      path,
      host: 'shop',
      headers: { 'content-type': 'application/grpc', te: 'trailers' },
      body: 'message',
    });
    const calls = ['/shop.Items/List', '/shop.Items/Drop', '/shop.Items/List'].map(calling);
    const answers = await http2Answers(shop.client, shop.server, [
      ...calls,
      { method: 'GET', path: '/', host: 'shop' },
    ]);
    assert.deepEqual(
      answers.map(({ status, grpc, text }) => [status, grpc, text]),
      [
        [200, '0', 'message'],
        [200, '7', ''],
        [200, '0', 'message'],
        [403, null, 'access denied\n'],
      ],
    );
    assert.deepEqual(app.asked(), ['POST /shop.Items/List', 'POST /shop.Items/List']);
  });

  it('bytes that are not HTTP match no ALLOW with HTTP content, and every DENY', async () => {
    const sink = await shop.server.serve('sink', 8083);
    const count = async (): Promise<number> => {
      await shop.client.send(shop.server.ip, 8083, { first: Buffer.from('\x01binary\n'), timeoutMs: 20_000 });
      return (await sink.stats()).received;
    };
    await rule('ALLOW', to({ methods: ['GET', 'POST'] }));
    const from = shop.daemon2.process.lines.length;
    assert.equal(await count(), 0);
    await inboundTo(shop.daemon2, 8083, from, { reason: 'POLICY_DENIED' });
    await rule('DENY', to({ methods: ['DELETE'] }));
    assert.equal(await count(), 0);
    await rule('DENY', to({ methods: ['DELETE'], ports: ['8081'] }));
    assert.equal(await count(), 8);
    await rule('ALLOW', to({ methods: ['GET'] }), { from: [{ source: { principals: [FRONT] } }] });
    assert.equal(await count(), 16);
  });
});
