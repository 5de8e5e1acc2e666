import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { createServer, Socket } from 'node:net';
import { describe, it } from 'node:test';
import { Worker } from 'node:worker_threads';
import { MeshError } from '../../daemon/errors.ts';
import type { Hot } from '../../native/hot/index.ts';
import { errorName, LISTEN, loadHot, must } from '../../native/hot/index.ts';
import { namespace, openFds, ownNetns, run } from './hot-namespaces.ts';

const hot = loadHot();
const BACKLOG = 128;

/** A listener of node's on a descriptor of the addon's, that says hello; its port. */
async function greeter(fd: number): Promise<{ port: number; close: () => void }> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.end('hello');
  });
  server.on('error', () => undefined);
  server.listen({ fd }, BACKLOG);
  await once(server, 'listening');
  const address = server.address();
  assert(typeof address === 'object' && address !== null);
  return { port: address.port, close: () => server.close() };
}

/** What arrives from a connection made with `fd`, or the error's code. */
async function greeting(fd: number, host: string, port: number): Promise<string> {
  const socket = new Socket({ fd });
  return await new Promise((resolve) => {
    let text = '';
    socket.on('data', (bytes) => (text += bytes.toString()));
    socket.on('end', () => resolve(text));
    socket.on('error', (error) => resolve('code' in error ? String(error.code) : error.message));
    socket.connect({ host, port });
  });
}

void describe('sockets in a namespace', () => {
  void it('a listener and a dialled socket live in the namespace and nowhere else', async (t) => {
    const home = ownNetns();
    const pod = namespace(t, hot);
    const server = await greeter(must(hot.listen(pod.fd, 6, 61_001, BACKLOG, 0), 'listen'));
    t.after(server.close);
    assert.equal(server.port, 61_001);
    assert.equal(ownNetns(), home);
    assert.match(run('ip', 'netns', 'exec', pod.name, 'ss', '-Htln'), /\s128\s+\*:61001\s/);

    const dialled = must(hot.dial(pod.fd, 4, null, 0), 'dial');
    assert.equal(ownNetns(), home);
    assert.equal(await greeting(dialled, '127.9.8.7', 61_001), 'hello', 'dual stack: any 127/8 address');
    assert.equal(await greeting(must(hot.dial(pod.fd, 6, null, 0), 'dial'), '::1', 61_001), 'hello');
    const outside = must(hot.openNetns('/proc/self/ns/net'), 'open');
    t.after(() => hot.closeFd(outside));
    assert.equal(
      await greeting(must(hot.dial(outside, 4, null, 0), 'dial'), '127.0.0.1', 61_001),
      'ECONNREFUSED',
    );
  });

  void it('carries the keepalive that finds a dead peer in 20 s, on both ends', async (t) => {
    const pod = namespace(t, hot);
    const server = createServer((socket) => socket.on('error', () => undefined));
    server.on('error', () => undefined);
    server.listen({ fd: must(hot.listen(pod.fd, 4, 61_002, BACKLOG, LISTEN.loopback), 'listen') }, BACKLOG);
    const client = new Socket({ fd: must(hot.dial(pod.fd, 4, null, 0), 'dial') });
    client.on('error', () => undefined);
    client.connect({ host: '127.0.0.1', port: 61_002 });
    const accepted: unknown = (await once(server, 'connection')).at(0);
    t.after(() => {
      client.destroy();
      if (accepted instanceof Socket) accepted.destroy();
      server.close();
    });
    const timers = run('ip', 'netns', 'exec', pod.name, 'ss', '-Htno', 'state', 'established');
    assert.equal(timers.match(/timer:\(keepalive,(9\.?\d*(sec|ms)|10sec)/g)?.length, 2, timers);
  });

  void it('a port that somebody uses is EADDRINUSE, also when only on loopback', (t) => {
    const pod = namespace(t, hot);
    const first = must(hot.listen(pod.fd, 4, 61_003, BACKLOG, LISTEN.loopback), 'listen');
    t.after(() => hot.closeFd(first));
    assert.equal(errorName(hot.listen(pod.fd, 6, 61_003, BACKLOG, 0)), 'EADDRINUSE');
    const only6 = must(hot.listen(pod.fd, 6, 61_003, BACKLOG, LISTEN.v6only), 'listen on IPv6 only');
    hot.closeFd(only6);
  });

  void it('a duplicate keeps the listener open', (t) => {
    const pod = namespace(t, hot);
    const fd = must(hot.listen(pod.fd, 6, 61_004, BACKLOG, 0), 'listen');
    const copy = must(hot.dupFd(fd), 'duplicate');
    assert.equal(hot.socketCookie(copy), hot.socketCookie(fd));
    assert.equal(hot.closeFd(fd), 0);
    assert.match(run('ip', 'netns', 'exec', pod.name, 'ss', '-Htln'), /:61004/);
    assert.equal(hot.closeFd(copy), 0);
    assert.equal(run('ip', 'netns', 'exec', pod.name, 'ss', '-Htln'), '');
    assert.equal(errorName(hot.closeFd(copy)), 'EBADF');
  });
});

void describe('facts about a namespace', () => {
  void it('tells namespaces apart and names them as the kernel does', (t) => {
    const one = namespace(t, hot);
    const two = namespace(t, hot);
    const again = must(hot.openNetns(one.path), 'open');
    t.after(() => hot.closeFd(again));
    assert.equal(hot.sameNetns(one.fd, again), true);
    assert.equal(hot.sameNetns(one.fd, two.fd), false);
    const cookie = must(hot.netnsCookie(one.fd), 'read the cookie');
    assert.equal(typeof cookie, 'bigint');
    assert.equal(hot.netnsCookie(again), cookie);
    assert.notEqual(hot.netnsCookie(two.fd), cookie);
  });

  void it("reads the namespace's own ephemeral ports", (t) => {
    const pod = namespace(t, hot);
    run('ip', 'netns', 'exec', pod.name, 'sysctl', '-qw', 'net.ipv4.ip_local_port_range=20000 30001');
    const home = ownNetns();
    assert.deepEqual(hot.localPortRange(pod.fd), { low: 20_000, high: 30_001 });
    assert.equal(ownNetns(), home);
  });

  void it('lists addresses with scope and interface', (t) => {
    const pod = namespace(t, hot);
    run('ip', '-n', pod.name, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth1');
    run('ip', '-n', pod.name, 'link', 'set', 'eth0', 'up');
    run('ip', '-n', pod.name, 'addr', 'add', '10.1.2.3/24', 'dev', 'eth0');
    run('ip', '-n', pod.name, 'addr', 'add', '2001:db8::5/64', 'dev', 'eth0', 'nodad');
    const list = must(hot.addresses(pod.fd), 'list addresses');
    const seen = list
      .filter((one) => one.scope !== 'link')
      .map((one) => [one.ip, one.prefixLength, one.scope, one.ifname]);
    assert.deepEqual(seen, [
      ['127.0.0.1', 8, 'host', 'lo'],
      ['10.1.2.3', 24, 'global', 'eth0'],
      ['::1', 128, 'host', 'lo'],
      ['2001:db8::5', 64, 'global', 'eth0'],
    ]);
  });
});

void describe('what goes wrong', () => {
  void it('comes back as -errno, with the thread at home', (t) => {
    const home = ownNetns();
    const pod = namespace(t, hot);
    const file = openSync('/dev/null', 'r');
    t.after(() => hot.closeFd(file));
    assert.equal(errorName(hot.openNetns('/run/netns/none')), 'ENOENT');
    assert.equal(errorName(hot.openNetns('/etc/passwd')), 'EINVAL');
    assert.equal(errorName(hot.openNetns('/proc/self/ns/mnt')), 'EINVAL');
    assert.equal(errorName(hot.dial(999_999, 4, null, 0)), 'EBADF');
    assert.equal(errorName(hot.dial(file, 4, null, 0)), 'EINVAL');
    assert.equal(errorName(hot.dial(pod.fd, 4, new Uint8Array(16), 1)), 'EBADF', 'init was never called');
    assert.equal(errorName(hot.originalDestination(file, new Uint8Array(20))), 'EBADF');
    assert.equal(errorName(Number(hot.netnsCookie(file))), 'EINVAL');
    assert.equal(errorName(Number(hot.socketCookie(file))), 'ENOTSOCK');
    assert.equal(errorName(Number(hot.sameNetns(pod.fd, 999_999))), 'EBADF');
    assert.equal(errorName(Number(hot.localPortRange(999_999))), 'EBADF');
    assert.equal(errorName(Number(hot.addresses(999_999))), 'EBADF');
    assert.equal(errorName(Number(hot.tcpSockets(999_999, 5))), 'EBADF');
    assert.equal(ownNetns(), home);
    assert.throws(
      () => must(-98, 'listen on 61001'),
      new MeshError('SYSTEM_CALL_FAILED', 'could not listen on 61001: EADDRINUSE'),
    );
  });

  void it('no call leaves a descriptor behind: 20,000 dials, half of them failed, and 1,000 of the others', (t) => {
    const pod = namespace(t, hot);
    const before = openFds();
    for (let i = 0; i < 10_000; i++) {
      hot.closeFd(hot.dial(pod.fd, 4, null, 0));
      hot.dial(pod.fd, 4, new Uint8Array(16), 1);
    }
    for (let i = 0; i < 1_000; i++) {
      hot.closeFd(hot.listen(pod.fd, 6, 61_005, BACKLOG, 0));
      hot.openNetns('/etc/passwd');
      hot.netnsCookie(pod.fd);
      hot.localPortRange(pod.fd);
      hot.addresses(pod.fd);
      hot.tcpSockets(pod.fd, 10);
    }
    assert.equal(openFds(), before);
  });

  void it('keeps no socket made ahead in a namespace whose pod has gone, nor after the thread', async (t) => {
    const pod = namespace(t, hot);
    hot.sweepSockets(0);
    const before = openFds();
    for (let i = 0; i < 3; i++) hot.closeFd(hot.dial(pod.fd, 4, null, 0));
    assert.ok(openFds() > before);
    hot.sweepSockets(1);
    assert.equal(openFds(), before);
    const source = `
      const { workerData } = require('node:worker_threads');
      const hot = require(workerData.addon);
      hot.sweepSockets(0);
      for (let i = 0; i < 3; i++) hot.closeFd(hot.dial(workerData.fd, 4, null, 0));`;
    const addon = new URL('../../native/hot/build/Release/hot.node', import.meta.url).pathname;
    const thread = new Worker(source, { eval: true, workerData: { addon, fd: pod.fd } });
    await once(thread, 'exit');
    assert.equal(openFds(), before);
  });

  void it('makes sockets ahead while dials keep coming, each in its own namespace, and keeps none that nobody wants', async (t) => {
    const home = ownNetns();
    const pods = [namespace(t, hot), namespace(t, hot)] as const;
    const server = await greeter(must(hot.listen(pods[0].fd, 4, 61_006, BACKLOG, 0), 'listen'));
    t.after(server.close);
    const before = openFds();
    hot.sweepSockets(0);
    t.after(() => hot.sweepSockets(1));
    const dialled = Array.from({ length: 20 }, (_, i) =>
      must(hot.dial(pods[i % 2 === 0 ? 0 : 1].fd, 4, null, 0), 'dial'),
    );
    assert.equal(ownNetns(), home);
    assert.equal(new Set(dialled).size, 20);
    const ahead = hot.sweepSockets(0);
    assert.ok(ahead > 0, 'no socket was made ahead');
    assert.equal(openFds(), before + 20 + ahead);
    const answers = await Promise.all(dialled.map((fd) => greeting(fd, '127.0.0.1', 61_006)));
    assert.deepEqual(
      answers,
      dialled.map((_, i) => (i % 2 === 0 ? 'hello' : 'ECONNREFUSED')),
    );
    assert.equal(hot.sweepSockets(0), 0, 'nobody dialled since');
    assert.ok(openFds() <= before + 20);
  });

  void it('aborts rather than going on in a foreign namespace', (t) => {
    const pod = namespace(t, hot);
    // The addon's own copy of its home is closed under it, so that the way back fails.
    const script = `
      import { readdirSync, readlinkSync } from 'node:fs';
      import { loadHot } from ${JSON.stringify(new URL('../../native/hot/index.ts', import.meta.url).href)};
      const hot = loadHot();
      const pod = hot.openNetns(${JSON.stringify(pod.path)});
      const home = readlinkSync('/proc/thread-self/ns/net');
      const link = (fd) => { try { return readlinkSync('/proc/self/fd/' + fd); } catch { return ''; } };
      for (const fd of readdirSync('/proc/self/fd')) if (link(fd) === home) hot.closeFd(Number(fd));
      hot.dial(pod, 4, null, 0);
      console.log('went on');`;
    const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
    assert.equal(child.signal, 'SIGABRT', child.stderr);
    assert.match(child.stderr, /can't return from a pod's network namespace: .+; aborting/);
    assert.equal(child.stdout, '');
  });

  void it('a wrong argument is a TypeError, in each place of each call', () => {
    const fine: Record<keyof Hot, readonly unknown[]> = {
      noop: [],
      init: [],
      originalDestination: [0, new Uint8Array(20)],
      dial: [0, 4, null, 0],
      listen: [0, 4, 1, 1, 0],
      openNetns: ['/'],
      sameNetns: [0, 0],
      netnsCookie: [0],
      localPortRange: [0],
      socketCookie: [0],
      dupFd: [0],
      closeFd: [99_999],
      sweepSockets: [0],
      addresses: [0],
      tcpSockets: [0, 10],
      destroySocket: [0],
      mountBpf: ['/nowhere', '/'],
    };
    const wrong = [
      undefined,
      {},
      [],
      NaN,
      Infinity,
      -1,
      0.5,
      2 ** 32,
      4n,
      Symbol('x'),
      true,
      new Uint8Array(3),
    ];
    const more = [
      new Uint16Array(64),
      new DataView(new ArrayBuffer(64)),
      'x'.repeat(5_000),
      'a\0b',
      '',
      detached(),
    ];
    let refused = 0;
    for (const [name, args] of Object.entries(fine)) {
      const call: unknown = Reflect.get(hot, name);
      assert(typeof call === 'function');
      if (name === 'destroySocket') continue;
      for (let at = 0; at < args.length; at++) {
        for (const value of [...wrong, ...more]) {
          const given = args.map((arg, index) => (index === at ? value : arg));
          assert.throws(() => void Reflect.apply(call, hot, given), TypeError, `${name} argument ${at + 1}`);
          refused++;
        }
      }
    }
    assert.ok(refused > 300, `${refused} calls were refused`);
  });
});

/** A view whose memory is gone. */
function detached(): Uint8Array {
  const view = new Uint8Array(64);
  structuredClone(view.buffer, { transfer: [view.buffer] });
  return view;
}

void describe('threads', () => {
  void it('four workers at once, each at home again after dialling into the namespace', async (t) => {
    const pod = namespace(t, hot);
    const home = ownNetns();
    const work = { netnsFd: pod.fd, mapFd: 999_999, socketFd: 0 };
    const answers = await Promise.all(
      [1, 2, 3, 4].map(async () => {
        const worker = new Worker(new URL('./hot-worker.ts', import.meta.url), { workerData: work });
        // Asked for before either: the two can come in one turn.
        const [message] = await Promise.all([once(worker, 'message'), once(worker, 'exit')]);
        const answer: unknown = message.at(0);
        return answer;
      }),
    );
    for (const answer of answers) {
      assert(typeof answer === 'object' && answer !== null && 'dialled' in answer);
      const fd = Number(answer.dialled);
      assert.ok(fd > 2, errorName(fd));
      const expected = { before: home, after: home, dialled: fd, cookie: hot.netnsCookie(pod.fd), port: -9 };
      assert.deepEqual(answer, expected);
      assert.equal(hot.closeFd(fd), 0, 'descriptors belong to the process, not to the thread');
    }
    assert.equal(ownNetns(), home);
  });
});
