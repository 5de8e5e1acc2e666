/** What is on the wire, at named points of the lab, as tcpdump wrote it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from '../../support/wait.ts';
import { packetsOf } from './pcap.ts';
import { LabProcess } from './process.ts';

/** An interface in a namespace. */
export interface CapturePoint {
  /** `fabric br0`, `pod client`, `node node-1`: for people. */
  readonly name: string;
  readonly netns: string;
  readonly device: string;
}

export interface TlsSeen {
  /** TCP packets to or from the port. */
  readonly packets: number;
  /** TLS handshake records that start a packet. */
  readonly handshakes: number;
  /** TLS application data records that start a packet. */
  readonly applicationData: number;
}

interface Running {
  readonly point: CapturePoint;
  readonly file: string;
  readonly process: LabProcess;
}

export class Capture implements AsyncDisposable {
  readonly #running: readonly Running[];

  private constructor(running: readonly Running[]) {
    this.#running = running;
  }

  /** Resolves when every point is listened to. `filter`: tcpdump's language; default everything. */
  static async start(
    points: readonly CapturePoint[],
    folder: string,
    cgroup: string,
    filter = '',
  ): Promise<Capture> {
    const running = await Promise.all(
      points.map((point, index) =>
        startOne(point, join(folder, `${index}-${Date.now()}.pcap`), cgroup, filter),
      ),
    );
    return new Capture(running);
  }

  /**
   * Waits until tcpdump has written every packet that the kernel gave it. @throws Error when packets were dropped: a
   * capture with holes proves nothing.
   */
  async sync(): Promise<void> {
    await Promise.all(this.#running.map(({ process, point }) => drain(process, point)));
  }

  /** By point name: whether its packets hold `marker`. One write of up to 1,000 bytes is one segment. */
  async find(marker: Uint8Array): Promise<ReadonlyMap<string, boolean>> {
    await this.sync();
    return new Map(this.#running.map(({ point, file }) => [point.name, readFileSync(file).includes(marker)]));
  }

  /** Names of the points at which `marker` was seen. */
  async seenAt(marker: Uint8Array): Promise<string[]> {
    return [...(await this.find(marker))].flatMap(([name, found]) => (found ? [name] : []));
  }

  /** By point name: what crossed to and from TCP `port`. */
  async tls(port: number): Promise<ReadonlyMap<string, TlsSeen>> {
    await this.sync();
    return new Map(this.#running.map(({ point, file }) => [point.name, tlsSeen(readFileSync(file), port)]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#running.map(({ process }) => process.stop('SIGINT')));
  }
}

async function startOne(point: CapturePoint, file: string, cgroup: string, filter: string): Promise<Running> {
  const argv = ['tcpdump', '-i', point.device, '-w', file, '-s', '0', '-U', '--immediate-mode'];
  const process = await LabProcess.start(
    [...argv, '-B', '32768', '-n', '-Z', 'root', ...(filter === '' ? [] : [filter])],
    { cgroup, netns: point.netns },
  );
  await process.waitForLine('tcpdump listening', (line) => line.includes('listening on') || undefined);
  return { point, file, process };
}

/** Only ever reached by a failing test; a machine with too much to do has let tcpdump wait for 10 s. */
const CATCH_UP_MS = 60_000;

/** Waits until as many packets are written as the kernel had given when it was first asked: on a busy wire more follow. */
async function drain(process: LabProcess, point: CapturePoint): Promise<void> {
  let wanted: number | undefined;
  let written = 0;
  await until(
    `tcpdump on ${point.name} to catch up`,
    async () => {
      const { captured, received } = await counts(process, point);
      wanted ??= received;
      written = captured;
      return captured >= wanted;
    },
    { timeoutMs: CATCH_UP_MS, detail: () => `${written} of ${wanted ?? '?'} packets are written` },
  );
}

/** SIGUSR1 makes tcpdump print its counts: `5 packets captured, 5 packets received by filter, 0 packets dropped`. */
async function counts(
  process: LabProcess,
  point: CapturePoint,
): Promise<{ captured: number; received: number }> {
  const from = process.lines.length;
  process.signal('SIGUSR1');
  const [captured = 0, received = 0, dropped] = await process.waitForLine(
    'the counts',
    (line) => /(\d+) packets? captured, (\d+) .*filter, (\d+) /.exec(line)?.slice(1).map(Number),
    { from },
  );
  if (dropped !== 0) throw new Error(`tcpdump on ${point.name} lost ${dropped ?? '?'} packets`);
  return { captured, received };
}

function tlsSeen(file: Buffer, port: number): TlsSeen {
  const seen = { packets: 0, handshakes: 0, applicationData: 0 };
  for (const packet of packetsOf(file)) {
    if (packet.sourcePort !== port && packet.destinationPort !== port) continue;
    seen.packets += 1;
    const isTls = packet.payload[1] === 3;
    if (isTls && packet.payload[0] === 22) seen.handshakes += 1;
    if (isTls && packet.payload[0] === 23) seen.applicationData += 1;
  }
  return seen;
}
