import assert from 'node:assert/strict';
import { request } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { text as readText } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { Heartbeats } from '../../daemon/admin/heartbeats.ts';
import { startAdmin } from '../../daemon/admin/server.ts';
import type { AdminPorts } from '../../daemon/admin/server.ts';
import { MeshError } from '../../daemon/errors.ts';
import { createLog } from '../../daemon/observe/log.ts';
import { FakeBackend } from './backend.ts';

const log = createLog({ thread: 'test', level: 'error', destination: { write: () => undefined } });
const FREE: AdminPorts = { admin: 0, metrics: 0, health: 0 };

class Daemon {
  backend = new FakeBackend();
  dead: readonly string[] = [];
  notReady: readonly string[] = [];
  ports = FREE;
  #running: AsyncDisposable | undefined;

  async start(): Promise<void> {
    this.#running = await startAdmin({
      ports: FREE,
      log,
      backend: this.backend,
      dead: () => this.dead,
      notReady: () => this.notReady,
      metrics: { text: () => Promise.resolve('culvert_ready 1\n'), contentType: 'text/plain; version=0.0.4' },
      onListening: (ports) => (this.ports = ports),
    });
  }

  async stop(): Promise<void> {
    await this.#running?.[Symbol.asyncDispose]();
  }
}

interface Reply {
  readonly status: number | undefined;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

async function call(
  port: number,
  path: string,
  method = 'GET',
  headers: Readonly<Record<string, string>> = {},
): Promise<Reply> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  request({ host: '127.0.0.1', port, path, method, headers, agent: false }, resolve)
    .on('error', reject)
    .end();
  const response = await promise;
  return { status: response.statusCode, headers: response.headers, body: await readText(response) };
}

describe('the three servers', () => {
  const daemon = new Daemon();
  before(() => daemon.start());
  after(() => daemon.stop());

  it('say alive and ready, and why not', async () => {
    const { health } = daemon.ports;
    assert.equal((await call(health, '/healthz')).status, 200);
    assert.equal((await call(health, '/healthz/ready')).body, 'ready\n');
    daemon.notReady = ['programs are not attached', 'the state is not complete'];
    for (const path of ['/readyz', '/healthz/ready']) {
      const { status, body } = await call(health, path);
      assert.deepEqual(
        { status, body },
        { status: 503, body: 'programs are not attached\nthe state is not complete\n' },
      );
    }
    assert.equal((await call(health, '/healthz')).status, 200, 'not ready is not dead');
    daemon.dead = ['the event loop of worker-0 has not turned for 12 s'];
    assert.equal((await call(health, '/healthz')).status, 503);
  });

  it('serve metrics under their own content type', async () => {
    const { status, headers, body } = await call(daemon.ports.metrics, '/metrics');
    assert.deepEqual(
      [status, headers['content-type'], body],
      [200, 'text/plain; version=0.0.4', 'culvert_ready 1\n'],
    );
  });

  it('keep admin paths off the ports that others reach', async () => {
    for (const port of [daemon.ports.metrics, daemon.ports.health])
      for (const path of ['/status', '/config', '/connections', '/certs'])
        assert.equal((await call(port, path)).status, 404);
    assert.equal((await call(daemon.ports.health, '/uninstall', 'POST')).status, 404);
    assert.equal(daemon.backend.uninstalls, 0);
  });

  it('serve the admin answers as JSON', async () => {
    for (const path of ['/status', '/config', '/connections', '/certs']) {
      const { status, headers, body } = await call(daemon.ports.admin, path);
      assert.deepEqual([status, headers['content-type']], [200, 'application/json']);
      assert.equal(typeof JSON.parse(body), 'object');
    }
  });

  it('listen on loopback only for admin, on every address for the rest', async () => {
    const reach = async (host: string, port: number): Promise<boolean> => {
      const { promise, resolve } = Promise.withResolvers<boolean>();
      const socket = connect({ host, port });
      socket.on('connect', () => resolve(true)).on('error', () => resolve(false));
      const reached = await promise;
      socket.destroy();
      return reached;
    };
    // Another address of this host: a wildcard listener answers it, one on 127.0.0.1 does not.
    assert.equal(await reach('127.0.0.2', daemon.ports.health), true);
    assert.equal(await reach('127.0.0.2', daemon.ports.metrics), true);
    assert.equal(await reach('127.0.0.2', daemon.ports.admin), false);
  });

  it('uninstall by POST only', async () => {
    const { admin } = daemon.ports;
    for (const method of ['GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS']) {
      const { status, headers } = await call(admin, '/uninstall', method);
      assert.deepEqual([method, status, headers.allow], [method, 405, 'POST']);
    }
    assert.equal((await call(admin, '/status', 'POST')).status, 405);
    assert.equal(daemon.backend.uninstalls, 0);
    assert.equal((await call(admin, '/uninstall', 'POST')).status, 202);
    assert.equal(daemon.backend.uninstalls, 1);
  });

  it('answer admin only to the names of loopback (DNS rebinding) and to no web page', async () => {
    const { admin } = daemon.ports;
    const before = daemon.backend.uninstalls;
    for (const host of [
      'evil.example',
      'localhost.evil.example',
      '10.0.0.1:15000',
      '127.0.0.1.evil.example',
      ' ',
      '[::2]',
    ])
      for (const [path, method] of [
        ['/config', 'GET'],
        ['/uninstall', 'POST'],
      ] as const)
        assert.equal((await call(admin, path, method, { host })).status, 403, host);
    assert.equal((await call(admin, '/uninstall', 'POST', { origin: 'http://localhost:15000' })).status, 403);
    assert.equal(daemon.backend.uninstalls, before);
    for (const host of ['localhost', 'LOCALHOST:15000', '127.0.0.1:9', '[::1]:15000'])
      assert.equal((await call(admin, '/config', 'GET', { host })).status, 200, host);
  });

  it('survive a backend that fails, or answers what JSON can not hold', async () => {
    const { admin } = daemon.ports;
    daemon.backend.config = () => Promise.reject(new Error('worker 2 does not answer'));
    const { status, body } = await call(admin, '/config');
    assert.deepEqual([status, body], [500, '{"error":"worker 2 does not answer"}\n']);
    daemon.backend.config = () => Promise.resolve({ big: 1n });
    assert.equal((await call(admin, '/config')).status, 500);
    daemon.backend.config = () => {
      throw new Error('at once');
    };
    assert.equal((await call(admin, '/config')).status, 500);
    assert.equal((await call(admin, '/status')).status, 200);
  });

  it('answer a probe while another address holds all the connections that it may', async () => {
    const { health } = daemon.ports;
    daemon.dead = [];
    const idle = Array.from({ length: 40 }, () =>
      connect({ host: '127.0.0.1', port: health, localAddress: '127.0.0.3' }),
    );
    for (const socket of idle) socket.on('error', () => undefined);
    // The server cuts those beyond 16; the others stay, saying nothing.
    await Promise.all(idle.slice(16).map((socket) => once(socket, 'close')));
    assert.equal((await call(health, '/healthz')).status, 200);
    assert.equal(idle.filter((socket) => socket.destroyed).length, 24);
    for (const socket of idle) socket.destroy();
  });

  it('refuse headers beyond 8 KiB', async () => {
    assert.equal((await call(daemon.ports.health, '/healthz', 'GET', { x: 'a'.repeat(9_000) })).status, 431);
  });
});

describe('a port that is taken', () => {
  it('is named with its flag, and nothing stays open', async () => {
    const holder = createServer();
    const { promise, resolve } = Promise.withResolvers<undefined>();
    holder.listen(0, () => resolve(undefined));
    await promise;
    const address = holder.address();
    const health = typeof address === 'object' && address !== null ? address.port : 0;
    const started = startAdmin({
      ports: { ...FREE, health },
      log,
      backend: new FakeBackend(),
      dead: () => [],
      notReady: () => [],
      metrics: { text: () => Promise.resolve(''), contentType: 'text/plain' },
    });
    await assert.rejects(started, (error) => {
      assert.ok(error instanceof MeshError);
      assert.match(
        error.message,
        new RegExp(`health server can't listen on \\*:${health}: .*EADDRINUSE.*--health-port`),
      );
      return true;
    });
    holder.close();
  });
});

describe('heartbeats', () => {
  it('name the threads whose loop has not turned for ten seconds', () => {
    let now = 0;
    const beats = new Heartbeats(() => now);
    beats.beat('main');
    beats.beat('worker-0');
    now = 10_000;
    assert.deepEqual(beats.late(), []);
    beats.beat('main');
    now = 10_001;
    assert.deepEqual(beats.late(), ['the event loop of worker-0 has not turned for 10 s']);
    beats.forget('worker-0');
    assert.deepEqual(beats.late(), []);
  });
});
