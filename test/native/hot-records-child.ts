/** What hot-records.test.ts runs under `hot-maps run`: prints one JSON line of what the addon did with the maps. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { parseIp, parsePort } from '../../daemon/mesh/ids.ts';
import { loadHot, must, podSockets } from '../../native/hot/index.ts';

const MAP = 10;
const OTHER_MAP = 11;
const SEEDED = 12;

const [netnsPath = '', reader = ''] = process.argv.slice(2);
const hot = loadHot();
hot.init({ originalDestinationFd: MAP, clientAddressFd: MAP });
const netnsFd = must(hot.openNetns(netnsPath), 'open the namespace');
const pods = podSockets(hot);

const out = new Uint8Array(20).fill(255);
const port = hot.originalDestination(SEEDED, out);

/** Dials for a client, and reads the record back: by another program, and by the addon (both maps are the same here). */
function tagged(text: string, clientPort: number): { raw: string; read: unknown } {
  const ip = parseIp(text);
  const client = parsePort(clientPort);
  if (ip === undefined || client === undefined) throw new RangeError('no such client');
  const fd = must(pods.dial(netnsFd, 4, { ip, port: client }), 'dial');
  const stdio: (number | 'ignore' | 'pipe')[] = ['ignore', 'pipe', 2, MAP, fd];
  const raw = spawnSync(reader, ['read', '3', '4'], { stdio, encoding: 'utf8' }).stdout;
  return { raw, read: pods.originalDestination(fd) };
}

const v4 = tagged('192.0.2.9', 40_001);
const v6 = tagged('2001:db8::9', 65_535);
const untagged = must(hot.dial(netnsFd, 4, null, 0), 'dial');
const work = { netnsFd, mapFd: OTHER_MAP, socketFd: SEEDED };
const worker = new Worker(new URL('./hot-worker.ts', import.meta.url), { workerData: work });
const answer: unknown = (await once(worker, 'message')).at(0);
console.log(
  JSON.stringify({
    seeded: { port, bytes: Buffer.from(out).toString('hex'), read: pods.originalDestination(SEEDED) },
    cookie: String(hot.netnsCookie(netnsFd)),
    v4,
    v6,
    untagged: hot.originalDestination(untagged, out),
    otherThread: typeof answer === 'object' && answer !== null && 'port' in answer ? answer.port : null,
  }),
);
