/** Refusals, in both directions: each said by one proxy, understood by the other, and no byte for the app. */
import assert from 'node:assert/strict';
import type { Server, SendResult } from '../lab/kit/apps.ts';
import { httpRequest } from '../lab/kit/apps.ts';
import type { LogRecord } from '../lab/kit/daemon.ts';
import type { LabPod } from '../lab/kit/pod.ts';
import { REFUSER_BASE } from './refuser.ts';
import { isOf } from './records.ts';
import { check } from './results.ts';
import { PORTS } from './world.ts';
import type { World } from './world.ts';

interface Attempt {
  readonly from: LabPod;
  readonly ip: string;
  readonly port: number;
  /** The app that must not hear of it. */
  readonly app?: Server;
}

/** Tries a request that must fail without a byte for the client, or for the app. */
async function attempt({ from, ip, port, app }: Attempt): Promise<SendResult> {
  const before = app === undefined ? 0 : (await app.stats()).received;
  const result = await from.send(ip, port, { first: httpRequest('/'), halfClose: false });
  assert.equal(result.received, 0, result.head.toString());
  if (app !== undefined) assert.equal((await app.stats()).received, before, 'bytes reached the app');
  return result;
}

/** Tries as a client of ours. Gives our access record. */
async function fromUs(world: World, what: Attempt): Promise<LogRecord> {
  const from = world.daemon.process.lines.length;
  const { local } = await attempt(what);
  const isIt = (record: LogRecord): boolean =>
    record['direction'] === 'outbound' && isOf(record, { local, to: `${what.ip}:${what.port}` });
  return world.daemon.waitForAccess('our record of the refusal', isIt, { from });
}

interface PeerAttempt {
  readonly theirs: LogRecord;
  /** Our record of its CONNECT. */
  readonly connect: () => Promise<LogRecord>;
  /** Our record of its tunnel, which never came to a CONNECT. */
  readonly tunnel: () => Promise<LogRecord>;
}

/** Tries as a client of a ztunnel. Gives ztunnel's record. */
async function fromPeer(world: World, what: Attempt, ztunnel = world.ztunnel): Promise<PeerAttempt> {
  const { daemon } = world;
  const from = daemon.process.lines.length;
  const mark = ztunnel.mark;
  await attempt(what);
  const to = `${what.ip}:${what.port}`;
  const isTheirs = (record: LogRecord): boolean =>
    record['direction'] === 'outbound' && record['dst.hbone_addr'] === to;
  const theirs = await ztunnel.waitForAccess('ztunnel’s record of the refusal', mark, isTheirs);
  const isConnect = (record: LogRecord): boolean =>
    record['direction'] === 'inbound' && isOf(record, { local: String(theirs['src.addr']), to });
  const isTunnel = (record: LogRecord): boolean =>
    record['direction'] === 'inbound' &&
    String(record['dst.addr']).endsWith(':15008') &&
    String(record['src.addr']).startsWith(`${what.from.ip}:`);
  return {
    theirs,
    connect: () => daemon.waitForAccess('our record of the refusal', isConnect, { from }),
    tunnel: () => daemon.waitForAccess('our record of the tunnel', isTunnel, { from }),
  };
}

function assertReason(record: LogRecord, reason: string, detail?: RegExp): void {
  assert.equal(record['reason'], reason, JSON.stringify(record));
  if (detail !== undefined) assert.match(String(record['detail']), detail);
}

function assertError(record: LogRecord, pattern: RegExp): void {
  assert.match(String(record['error']), pattern, JSON.stringify(record));
}

/** What ztunnel refuses, as our records have it. */
export function peerRefuses(world: () => World): void {
  check('us → ztunnel: 401 for an account that its policy does not name: TUNNEL_REFUSED', async () => {
    const { peer, stranger } = world();
    const to = { ip: peer.pod.ip, port: PORTS.http, app: peer.http };
    const record = await fromUs(world(), { from: stranger, ...to });
    assertReason(record, 'TUNNEL_REFUSED', /401/);
  });
  check('us → ztunnel: 401 for a port that its policy does not name: TUNNEL_REFUSED', async () => {
    const { peer, ours, denied } = world();
    const to = { ip: peer.pod.ip, port: PORTS.denied, app: denied };
    assertReason(await fromUs(world(), { from: ours.pod, ...to }), 'TUNNEL_REFUSED', /401/);
  });
  check(
    'us → ztunnel: 400 for an address that is not its pod’s (NAT bent it): TUNNEL_BAD_REQUEST',
    async () => {
      const { peer, ours, phantoms } = world();
      const to = { ip: phantoms.bentToPeer.ips[0] ?? '', port: PORTS.http, app: peer.http };
      assertReason(await fromUs(world(), { from: ours.pod, ...to }), 'TUNNEL_BAD_REQUEST', /400/);
    },
  );
  check('us → ztunnel: 503 for a closed port: TUNNEL_UPSTREAM_FAILED', async () => {
    const { peer, ours } = world();
    const to = { ip: peer.pod.ip, port: PORTS.closed };
    assertReason(await fromUs(world(), { from: ours.pod, ...to }), 'TUNNEL_UPSTREAM_FAILED', /503/);
  });
  check('us → ztunnel: another account’s certificate than the pod’s: PEER_IDENTITY_MISMATCH', async () => {
    const { peer, ours, phantoms } = world();
    const to = { ip: phantoms.falsePeer.ips[0] ?? '', port: PORTS.http, app: peer.http };
    assertReason(await fromUs(world(), { from: ours.pod, ...to }), 'PEER_IDENTITY_MISMATCH', /sa\/peer/);
  });
  check('us → ztunnel: the right SAN under another root: PEER_CERTIFICATE_INVALID', async () => {
    const { ours, rogue, rogueHttp } = world();
    const to = { ip: rogue.ip, port: PORTS.http, app: rogueHttp };
    assertReason(await fromUs(world(), { from: ours.pod, ...to }), 'PEER_CERTIFICATE_INVALID');
  });
}

/** What we refuse, as ztunnel's records have it. */
export function weRefuse(world: () => World): void {
  check('ztunnel → us: 503 for a closed port: UPSTREAM_CONNECT_FAILED', async () => {
    const { peer, ours } = world();
    const { theirs, connect } = await fromPeer(world(), {
      from: peer.pod,
      ip: ours.pod.ip,
      port: PORTS.closed,
    });
    assertError(theirs, /503/);
    assertReason(await connect(), 'UPSTREAM_CONNECT_FAILED');
  });
  check('ztunnel → us: 503 for a listener of ours as target: OWN_LISTENER', async () => {
    const { peer, ours } = world();
    const port = await ownPort(ours.pod);
    const { theirs, connect } = await fromPeer(world(), { from: peer.pod, ip: ours.pod.ip, port });
    assertError(theirs, /503/);
    assertReason(await connect(), 'OWN_LISTENER');
  });
  check(
    'ztunnel → us: 400 for an address that is not the pod’s (NAT bent it): CONNECT_TARGET_MISMATCH',
    async () => {
      const { peer, ours, phantoms } = world();
      const to = { ip: phantoms.bentToOurs.ips[0] ?? '', port: PORTS.http, app: ours.http };
      const { theirs, connect } = await fromPeer(world(), { from: peer.pod, ...to });
      assertError(theirs, /400/);
      assertReason(await connect(), 'CONNECT_TARGET_MISMATCH');
    },
  );
  for (const status of [400, 401, 403, 503])
    check(`ztunnel → our HBONE server alone, which answers ${status}: read as that`, async () => {
      const { peer, refuser } = world();
      const to = { ip: refuser.ip, port: REFUSER_BASE + status };
      const { theirs } = await fromPeer(world(), { from: peer.pod, ...to });
      assertError(theirs, new RegExp(`status.*${status}`));
    });
  check('ztunnel → us: our certificate is of another account than it wants: it refuses us', async () => {
    const { peer, ours, phantoms } = world();
    const to = { ip: phantoms.falseOurs.ips[0] ?? '', port: PORTS.http, app: ours.http };
    const { theirs, tunnel } = await fromPeer(world(), { from: peer.pod, ...to });
    assertError(theirs, /identity|certificate|tls/i);
    assertReason(await tunnel(), 'TLS_HANDSHAKE_FAILED');
  });
  check('ztunnel → us: the right SAN under another root: PEER_CERTIFICATE_INVALID', async () => {
    const { ours, rogue, rogueZtunnel } = world();
    const to = { from: rogue, ip: ours.pod.ip, port: PORTS.http, app: ours.http };
    const { theirs, tunnel } = await fromPeer(world(), to, rogueZtunnel);
    assertReason(await tunnel(), 'PEER_CERTIFICATE_INVALID');
    assertError(theirs, /./);
  });
}

/** A port of one of our listeners in the pod, as `ss` shows it. */
async function ownPort(pod: LabPod): Promise<number> {
  const { lines } = await pod.exec(['ss', '-Hltn']);
  const ports = lines.map((line) => Number(/:(\d+)\s/.exec(line)?.[1] ?? 0));
  const own = ports.find((port) => port > 61_000);
  if (own === undefined) throw new Error(`no listener of ours:\n${lines.join('\n')}`);
  return own;
}
