/** One source address floods port 15008 with connections that say nothing: other pods' new tunnels lose nothing. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { until } from '../support/wait.ts';
import { issuedBy, Liar } from './liar.ts';
import { openShop } from './shop.ts';

/** More than the places of a pod, and those of a whole worker. */
const SILENT = 400;
const TUNNELS = 30;

describe('a pod floods port 15008 with silent connections', { timeout: 300_000 }, () => {
  it("another pod's new tunnels are all served meanwhile; the flood is refused with a record", async () => {
    const shop = await openShop({ daemon: { flags: ['--workers', '1', '--handshake-timeout', '2m'] } });
    await using lab = shop.lab;
    const { server, daemon2 } = shop;
    const sink = await server.serve('sink', 8080);
    const honest = await lab.pod({ name: 'honest', namespace: 'wild', node: 1 });
    const peer = await Liar.start(honest);
    const certificate = await issuedBy(lab, 'spiffe://cluster.local/ns/wild/sa/honest');
    const flooder = await lab.pod({ name: 'flooder', namespace: 'wild', node: 1 });
    await using flood = await flooder.idle(server.ip, 15_008, SILENT);
    const isFull = (): boolean =>
      daemon2.accessRecords().some((record) => record['reason'] === 'HANDSHAKE_LIMIT');
    await until('the flood to be at its limit', isFull);

    // Each is a tunnel of its own, with a handshake of its own.
    for (let tunnel = 1; tunnel <= TUNNELS; tunnel++) {
      const lie = { authority: `${server.ip}:8080`, payload: randomBytes(64) };
      const outcome = await peer.tunnel(server.ip, certificate, lie);
      assert.deepEqual([outcome.status, outcome.error], [200, ''], `tunnel ${tunnel} was lost`);
      await until('its payload', async () => (await sink.stats()).received === 64 * tunnel);
    }
    assert.ok((await flood.stats()).inFlight > 0, 'the flood was over: the test proves nothing');
    const refused = daemon2.accessRecords().filter((record) => record['reason'] === 'HANDSHAKE_LIMIT');
    const from = new Set(refused.map((record) => String(record['src.addr']).replace(/:\d+$/, '')));
    assert.deepEqual([...from], [flooder.ip]);
  });
});
