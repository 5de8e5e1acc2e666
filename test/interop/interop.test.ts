/** Interop with a real ztunnel, which the person brings: `make interop PEER_ZTUNNEL=path`. */
import { after, before, describe } from 'node:test';
import { Lab } from '../lab/kit/lab.ts';
import { carries, toPeer, toUs } from './carry.ts';
import { outlives } from './outlive.ts';
import { peerRefuses, weRefuse } from './refuse.ts';
import { report } from './results.ts';
import { makeWorld } from './world.ts';
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

  outlives(world);
});
