/** One thread with an addon of its own, for hot.test.ts and hot-records.test.ts: does what it is asked, and reports. */
import { parentPort, workerData } from 'node:worker_threads';
import { loadHot } from '../../native/hot/index.ts';
import { ownNetns } from './hot-namespaces.ts';

interface Ask {
  readonly netnsFd: number;
  readonly mapFd: number;
  readonly socketFd: number;
}

function isAsk(value: unknown): value is Ask {
  return typeof value === 'object' && value !== null && 'netnsFd' in value && 'mapFd' in value;
}

const ask: unknown = workerData;
if (!isAsk(ask)) throw new TypeError('no such work');
const hot = loadHot();
hot.init({ originalDestinationFd: ask.mapFd, clientAddressFd: ask.mapFd });
const before = ownNetns();
const dialled = hot.dial(ask.netnsFd, 4, null, 0);
const out = new Uint8Array(20);
parentPort?.postMessage({
  before,
  after: ownNetns(),
  dialled,
  cookie: hot.netnsCookie(ask.netnsFd),
  port: hot.originalDestination(ask.socketFd, out),
});
