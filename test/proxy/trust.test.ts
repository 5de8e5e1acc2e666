/** Tunnels that stand, when the roots of the identity that took them change. */
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { describe, it } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { IdentityStore } from '../../daemon/identity/contexts.ts';
import { parseTrustDomain } from '../../daemon/mesh/ids.ts';
import { createTunnels } from '../../daemon/proxy/hbone/pool.ts';
import { createTunnelServer } from '../../daemon/proxy/hbone/server.ts';
import { issue, makeCa } from '../support/pki.ts';
import type { TestCa } from '../support/pki.ts';
import { until } from '../support/wait.ts';
import {
  CLIENT_ID,
  CLIENT_POD,
  SERVER_ID,
  SERVER_POD,
  echo,
  identityOf,
  judge,
  listen,
  requestOf,
  testConfig,
} from './hbone.kit.ts';

const trustDomain = parseTrustDomain('cluster.local');
assert.ok(trustDomain !== undefined);
const store = new IdentityStore({ trustDomain });

/** Gives the server a certificate of `ca` and the roots of `roots`, as a rotation does. */
function rotate(ca: TestCa, ...roots: readonly TestCa[]): void {
  const { chainPem, keyPem } = issue(ca, SERVER_ID);
  store.set({
    ...{ id: SERVER_ID, chainPem, keyPem, serial: '1' },
    rootsPem: roots.map(({ certPem }) => certPem).join(''),
    ...{ notBeforeMs: 0, notAfterMs: Date.now() + 3_600_000 },
  });
}

describe('the roots of an identity change', () => {
  it('a tunnel stays while one of them proves its peer, and is cut when none does any more', async () => {
    const [before, after] = [makeCa(), makeCa()];
    rotate(before, before);
    const config = testConfig();
    const server = createTunnelServer(config, store);
    store.onChange((id) => server.judgeAgain(id));
    const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      const identity = store.get(SERVER_ID);
      assert.ok(identity.ok);
      server.serve(socket, {
        podUid: SERVER_POD,
        identity: identity.identity,
        onConnect: (connect) => echo(connect.accept()),
        onRefused: (refusal) => assert.fail(refusal.reason),
      });
    });
    const tunnels = createTunnels({ config, identities: judge, port: await listen(listener) });
    const opened = await tunnels.open(requestOf(identityOf(before, CLIENT_ID)));
    assert.ok(opened.ok);
    const { stream } = opened;
    const lost = Promise.withResolvers<Error>();
    stream.on('error', (error) => lost.resolve(error));
    const ping = async (): Promise<void> => {
      const answer = new Promise((resolve) => stream.once('data', (chunk: Buffer) => resolve(String(chunk))));
      stream.write('ping');
      assert.equal(await answer, 'ping');
    };

    await ping();
    rotate(before, before, after);
    rotate(after, after, before);
    await nextTurn();
    await ping();
    assert.equal(server.size, 1);
    rotate(after, after);
    await lost.promise;
    await until('the tunnel to be gone', () => server.size === 0);
    tunnels.closePod(CLIENT_POD, true);
    listener.close();
  });
});
