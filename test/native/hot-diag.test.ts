import assert from 'node:assert/strict';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { createServer, Socket } from 'node:net';
import { describe, it } from 'node:test';
import type { TestContext } from 'node:test';
import { errorName, loadHot, must } from '../../native/hot/index.ts';
import { namespace } from './hot-namespaces.ts';

const hot = loadHot();

/** A connection inside a namespace: both of its ends, as node's sockets. */
async function connection(
  t: TestContext,
  netnsFd: number,
  host: string,
  port: number,
): Promise<[Socket, Socket]> {
  const server = createServer();
  server.on('error', () => undefined);
  server.listen({ fd: must(hot.listen(netnsFd, 6, port, 16, 0), 'listen') }, 16);
  const client = new Socket({ fd: must(hot.dial(netnsFd, host.includes(':') ? 6 : 4, null, 0), 'dial') });
  client.on('error', () => undefined);
  client.connect({ host, port });
  const accepted: unknown = (await once(server, 'connection')).at(0);
  assert(accepted instanceof Socket);
  accepted.on('error', () => undefined);
  t.after(() => {
    client.destroy();
    accepted.destroy();
    server.close();
  });
  return [client, accepted];
}

/** Resolves when the socket has ended, with whatever error. */
async function closed(socket: Socket): Promise<void> {
  await new Promise<void>((resolve) => {
    socket.once('close', () => resolve());
  });
}

void describe('sockets of a namespace', () => {
  void it('are listed with both addresses, state, cookie and inode; other namespaces’ are not', async (t) => {
    const pod = namespace(t, hot);
    const neighbour = namespace(t, hot);
    const fd = must(hot.listen(neighbour.fd, 4, 61_011, 16, 0), 'listen');
    t.after(() => hot.closeFd(fd));
    const [client] = await connection(t, pod.fd, '127.0.0.1', 61_012);
    const { sockets, truncated } = must(hot.tcpSockets(pod.fd, 100), 'list sockets');
    assert.equal(truncated, false);
    const shown = sockets.map((one) => [
      one.family,
      one.state,
      one.source,
      one.sourcePort,
      one.destination,
      one.destinationPort,
    ]);
    assert.deepEqual(shown.toSorted(), [
      [4, 'ESTABLISHED', '127.0.0.1', client.localPort, '127.0.0.1', 61_012],
      [6, 'ESTABLISHED', '127.0.0.1', 61_012, '127.0.0.1', client.localPort],
      [6, 'LISTEN', '::', 61_012, '::', 0],
    ]);
    const [listed] = must(hot.tcpSockets(neighbour.fd, 100), 'list sockets').sockets;
    assert(listed !== undefined);
    assert.equal(listed.cookie, hot.socketCookie(fd));
    assert.equal(listed.inode, statSync(`/proc/self/fd/${fd}`).ino);
    assert.ok(listed.cgroupId > 0n, 'the kernel says the cgroup');
  });

  void it('are cut off at the bound, and that is said', (t) => {
    const pod = namespace(t, hot);
    const fds = Array.from({ length: 300 }, (_, i) =>
      must(hot.listen(pod.fd, i % 2 === 0 ? 4 : 6, 20_000 + i, 1, 0), 'listen'),
    );
    t.after(() => fds.forEach((fd) => hot.closeFd(fd)));
    const all = must(hot.tcpSockets(pod.fd, 300), 'list sockets');
    assert.deepEqual([all.sockets.length, all.truncated], [300, false]);
    for (const bound of [1, 149, 150, 299]) {
      const some = must(hot.tcpSockets(pod.fd, bound), 'list sockets');
      assert.deepEqual([some.sockets.length, some.truncated], [bound, true]);
    }
  });

  for (const host of ['127.0.0.1', '::1']) {
    void it(`one is destroyed, its peer is reset, others live on: ${host}`, async (t) => {
      const pod = namespace(t, hot);
      const [client, accepted] = await connection(t, pod.fd, host, 61_013);
      const [bystander] = await connection(t, pod.fd, host, 61_014);
      const { sockets } = must(hot.tcpSockets(pod.fd, 100), 'list sockets');
      const target = sockets.find((one) => one.sourcePort === 61_013 && one.state === 'ESTABLISHED');
      assert(target !== undefined);
      const stale = { ...target, cookie: target.cookie + 1n };
      assert.notEqual(
        hot.destroySocket(pod.fd, stale),
        0,
        'another socket of the same addresses is left alone',
      );
      const ends = Promise.all([closed(client), closed(accepted)]);
      client.resume();
      accepted.resume();
      assert.equal(hot.destroySocket(pod.fd, target), 0);
      await ends;
      assert.equal(errorName(hot.destroySocket(pod.fd, target)), 'ENOENT');
      assert.equal(bystander.readyState, 'open');
      const left = must(hot.tcpSockets(pod.fd, 100), 'list sockets').sockets;
      assert.equal(left.filter((one) => one.state === 'ESTABLISHED').length, 2);
    });
  }

  void it('a socket of another namespace is not destroyed through this one', async (t) => {
    const pod = namespace(t, hot);
    const neighbour = namespace(t, hot);
    await connection(t, neighbour.fd, '127.0.0.1', 61_015);
    const { sockets } = must(hot.tcpSockets(neighbour.fd, 100), 'list sockets');
    const target = sockets.find((one) => one.state === 'ESTABLISHED');
    assert(target !== undefined);
    assert.equal(errorName(hot.destroySocket(pod.fd, target)), 'ENOENT');
  });
});
