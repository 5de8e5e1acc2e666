/**
 * What the calls of one connection cost: `node test/bench/hot.bench.ts` (as root). Prints CPU nanoseconds per call, the
 * median of nine rounds, one JSON line at the end. Sockets are closed outside the measured time.
 * Run under `hot-maps run` (test/native/hot-maps.c) to have the SK_STORAGE maps 10 and 11 and the socket 12.
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { parseIp, parsePort } from '../../daemon/mesh/ids.ts';
import { loadHot, must, podSockets } from '../../native/hot/index.ts';
import { run } from '../native/hot-namespaces.ts';

const ROUNDS = 9;
const hot = loadHot();
const pods = podSockets(hot);
const figures: Record<string, number> = {};

/** CPU time of this thread: wall time on a busy machine is other people's. */
function cpuNs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) * 1_000;
}

/** Times `calls` calls in each round; what they return is closed after the clock has stopped. */
function measure(name: string, calls: number, call: () => unknown, close = false): void {
  const rounds: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const made = new Array<unknown>(calls);
    const before = cpuNs();
    for (let i = 0; i < calls; i++) made[i] = call();
    rounds.push((cpuNs() - before) / calls);
    if (close) for (const fd of made) hot.closeFd(must(Number(fd), name));
  }
  rounds.sort((a, b) => a - b);
  const median = Math.round(rounds[(ROUNDS - 1) / 2] ?? 0);
  figures[name] = median;
  console.log(`${name.padEnd(44)} ${String(median).padStart(7)} ns`);
}

function measureAll(netnsFd: number, homeFd: number): void {
  const ip16 = new Uint8Array(16).fill(1);
  const out = new Uint8Array(20);
  measure('crossing (no-op)', 100_000, () => hot.noop());
  measure('dial', 1_000, () => hot.dial(netnsFd, 4, null, 0), true);
  measure('dial in the own namespace (no setns)', 1_000, () => hot.dial(homeFd, 4, null, 0), true);
  measure('dial + close', 1_000, () => hot.closeFd(hot.dial(netnsFd, 4, null, 0)));
  measure('listen + close', 1_000, () => hot.closeFd(hot.listen(netnsFd, 6, 61_001, 4_096, 0)));
  measure('tcpSockets, empty', 1_000, () => hot.tcpSockets(netnsFd, 100));
  if (!existsSync('/proc/self/fd/12')) {
    console.log('no maps: run under hot-maps to measure records and tags');
    return;
  }
  hot.sweepSockets(0);
  hot.init({ originalDestinationFd: 10, clientAddressFd: 11 });
  const client = { ip: parseIp('192.0.2.9'), port: parsePort(40_001) };
  if (client.ip === undefined || client.port === undefined) throw new RangeError('no such client');
  const typed = { ip: client.ip, port: client.port };
  measure('originalDestination', 20_000, () => hot.originalDestination(12, out));
  measure('dial, tagged', 1_000, () => hot.dial(netnsFd, 4, ip16, 40_001), true);
  measure('dial, tagged + close', 1_000, () => hot.closeFd(hot.dial(netnsFd, 4, ip16, 40_001)));
  measure('podSockets.originalDestination', 20_000, () => pods.originalDestination(12));
  measure('podSockets.dial, tagged', 1_000, () => pods.dial(netnsFd, 4, typed), true);
  const of = (name: string): number => figures[name] ?? 0;
  // A tunnelled connection: one record read where it starts, one tagged dial where it ends; one passed on in the clear
  // costs a plain dial instead. Tunnels are dialled once for many.
  figures['connection'] = of('originalDestination') + of('dial, tagged');
  console.log(
    `${'a connection: originalDestination + dial, tagged'.padEnd(48)} ${String(figures['connection']).padStart(3)} ns`,
  );
}

const name = `hot-${randomBytes(6).toString('hex')}`;
run('ip', 'netns', 'add', name);
try {
  const netnsFd = must(hot.openNetns(`/run/netns/${name}`), 'open the namespace');
  measureAll(netnsFd, must(hot.openNetns('/proc/self/ns/net'), 'open the own namespace'));
  console.log(JSON.stringify({ bench: 'hot', unit: 'ns', figures }));
} finally {
  run('ip', 'netns', 'del', name);
}
