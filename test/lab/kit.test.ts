/** The lab itself: before a test of the mesh can be believed, what it stands on. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Lab } from './kit/lab.ts';

describe('topology', () => {
  let lab: Lab;
  before(async () => {
    lab = await Lab.create();
  });
  after(() => lab[Symbol.asyncDispose]());

  it('carries IPv4 and IPv6 from pod to pod across nodes and within one, source addresses kept', async () => {
    const [client, near, far] = await Promise.all([
      lab.pod({ name: 'client', node: 1 }),
      lab.pod({ name: 'near', node: 1 }),
      lab.pod({ name: 'far', node: 2 }),
    ]);
    for (const server of [near, far]) {
      await server.serve('http', 8080);
      for (const [to, from] of [
        [server.ip, client.ip],
        [server.ip6, `[${client.ip6}]`],
      ] as const) {
        const reply = await client.request(to, 8080);
        assert.equal(reply.status, 200, `${server.name} ${to} ${reply.result.error}`);
        assert.equal(reply.name, server.name);
        assert.equal(reply.peer.slice(0, reply.peer.lastIndexOf(':')), from);
      }
    }
  });
});
