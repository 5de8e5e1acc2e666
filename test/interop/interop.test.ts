/** Interop with a real ztunnel, which the person brings: `make interop PEER_ZTUNNEL=path`. */
import assert from 'node:assert/strict';
import { after, before, describe } from 'node:test';
import { Lab } from '../lab/kit/lab.ts';
import { carries, toPeer, toUs } from './carry.ts';
import { peerRefuses, weRefuse } from './refuse.ts';
import { check, report } from './results.ts';
import { PORTS, makeWorld } from './world.ts';
import type { World } from './world.ts';
import { peerVersion, requirePeer } from './ztunnel.ts';

describe('interop with a real ztunnel', { timeout: 600_000 }, () => {
  let lab: Lab | undefined;
  let made: World | undefined;
  let version = 'which ztunnel: unknown';
  const world = (): World => {
    if (made === undefined) throw new Error('the lab could not be made: see above');
    return made;
  };
  before(async () => {
    const binary = requirePeer();
    version = await peerVersion(binary);
    lab = await Lab.create();
    made = await makeWorld(lab, binary);
  });
  after(async () => {
    report(version);
    await lab?.[Symbol.asyncDispose]();
  });

  carries(toUs, world);
  carries(toPeer, world);
  peerRefuses(world);
  weRefuse(world);

  check('our daemon is restarted: the next connections of both directions are carried', async () => {
    await world().daemon.stop();
    world().daemon = await world().lab.startDaemon(1, { flags: ['--join-wait', '500ms'] });
    await bothAnswer(world());
  });
  check('ztunnel is restarted: the next connections of both directions are carried', async () => {
    await world().restartZtunnel();
    await bothAnswer(world());
  });
});

async function bothAnswer({ ours, peer }: World): Promise<void> {
  for (const [client, server] of [
    [peer, ours],
    [ours, peer],
  ] as const) {
    const reply = await client.pod.request(server.pod.ip, PORTS.http);
    assert.equal(reply.status, 200, `${client.pod.name}: ${JSON.stringify(reply.result)}`);
  }
}
