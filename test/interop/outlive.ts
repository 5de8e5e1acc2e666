/** One proxy ends, in order or not: what the other makes of it. */
import assert from 'node:assert/strict';
import { until } from '../support/wait.ts';
import type { Sending } from '../lab/kit/apps.ts';
import { check } from './results.ts';
import { DAEMON_FLAGS, PORTS } from './world.ts';
import type { Side, World } from './world.ts';

/** Registers the cases; they come last, since they end what the others use. */
export function outlives(world: () => World): void {
  check('our daemon is restarted: the next connections of both directions are carried', async () => {
    await world().daemon.stop();
    await restartDaemon(world());
    await bothAnswer(world());
  });
  check('our daemon is killed under a connection of ztunnel’s: its client hears of it', async () => {
    const { ours, peer } = world();
    await using open = await openConnection(peer, ours);
    await world().daemon.stop('SIGKILL');
    const { end } = await open.result();
    assert.ok(end === 'eof' || end === 'error', end);
    await restartDaemon(world());
    await bothAnswer(world());
  });
  check('ztunnel is restarted: the next connections of both directions are carried', async () => {
    await world().restartZtunnel();
    await bothAnswer(world());
  });
  check('ztunnel is killed under a connection of ours: reset for the client, TUNNEL_LOST', async () => {
    const { ours, peer, daemon } = world();
    const from = daemon.process.lines.length;
    await using open = await openConnection(ours, peer);
    await world().restartZtunnel('SIGKILL');
    const { error } = await open.result();
    assert.equal(error, 'ECONNRESET');
    const isIt = (record: Readonly<Record<string, unknown>>): boolean =>
      record['direction'] === 'outbound' && record['reason'] !== 'OK';
    const record = await daemon.waitForAccess('our record of its end', isIt, { from });
    assert.equal(record['reason'], 'TUNNEL_LOST', JSON.stringify(record));
    await bothAnswer(world());
  });
}

async function restartDaemon(world: World): Promise<void> {
  world.daemon = await world.lab.startDaemon(1, { flags: DAEMON_FLAGS });
}

/** A connection to the echo server that has carried bytes both ways and stays open. */
async function openConnection(client: Side, server: Side): Promise<Sending> {
  const { ip } = server.pod;
  const sending = await client.pod.startSend(ip, PORTS.echo, {
    first: Buffer.from('hold'),
    halfClose: false,
    timeoutMs: 60_000,
  });
  await until('the echo', async () => (await sending.progress()).received === 4);
  return sending;
}

async function bothAnswer({ ours, peer }: World): Promise<void> {
  for (const [client, server] of [
    [peer, ours],
    [ours, peer],
  ] as const) {
    const reply = await client.pod.request(server.pod.ip, PORTS.http);
    assert.equal(reply.status, 200, `${client.pod.name}: ${JSON.stringify(reply.result)}`);
  }
}
