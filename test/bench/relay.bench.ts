/**
 * The wire alone: app → proxy A → mTLS tunnel → proxy B → app on loopback, no capture. Prints GB/s, CPU s/GB, ping-pong
 * and connection costs for ours and, when installed, for an HAProxy mTLS pair, in turn. CPU is that of both proxies.
 *
 *   node test/bench/relay.bench.ts [rounds]        PROFILE=dir writes CPU profiles of A and B
 */
import { execFileSync, fork, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createTunnels } from '../../daemon/proxy/hbone/pool.ts';
import { createTunnelServer } from '../../daemon/proxy/hbone/server.ts';
import { relay } from '../../daemon/proxy/relay.ts';
import {
  judge,
  listen,
  LOOPBACK,
  requestOf,
  CLIENT_ID,
  SERVER_ID,
  SERVER_POD,
  testConfig,
} from '../proxy/hbone.kit.ts';
import { issue, localIdentity, makeCa } from '../support/pki.ts';
import type { Issued } from '../support/pki.ts';

interface Setup {
  readonly caPem: string;
  readonly cert: Issued;
  readonly nextPort: number;
}

const OPTIONS = { halfClosedTimeoutMs: 60_000 };
const role = process.argv[2];
if (role === 'a' || role === 'b' || role === 'app') await child(role);
else await main(Number(role ?? 3));

/** A child: gets its set-up as JSON in argv[3], says its port, answers 'cpu'. */
async function child(as: 'a' | 'b' | 'app'): Promise<void> {
  const starters = { a: startA, b: startB, app: startApp };
  // Written by start() below.
  const setup = JSON.parse(process.argv[3] ?? '{}') as Setup;
  process.on('message', () => process.send?.(process.cpuUsage()));
  process.on('disconnect', () => process.exit());
  process.send?.(await starters[as](setup));
}

async function startA(setup: Setup): Promise<number> {
  const identity = localIdentity(CLIENT_ID, setup.cert, setup.caPem);
  const tunnels = createTunnels({ config: testConfig(), identities: judge, port: setup.nextPort });
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) => {
    socket.on('error', () => undefined);
    const request = requestOf(identity, { headers: { forwarded: 'for="127.0.0.1:1234";host=web.shop' } });
    void tunnels.open(request).then((opened) => {
      if (opened.ok) relay(socket, opened.stream, OPTIONS);
      else socket.resetAndDestroy();
    });
  });
  return listen(server);
}

async function startB(setup: Setup): Promise<number> {
  const identity = localIdentity(SERVER_ID, setup.cert, setup.caPem);
  const tunnels = createTunnelServer(testConfig(), judge);
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (raw) => {
    tunnels.serve(raw, {
      podUid: SERVER_POD,
      identity,
      onRefused: (refusal) => console.error(refusal),
      onConnect: (connecting) => {
        const app = connect({ host: LOOPBACK, port: setup.nextPort, allowHalfOpen: true, noDelay: true });
        app.on('error', () => connecting.refuse(503));
        app.once('connect', () => relay(connecting.accept(), app, OPTIONS));
      },
    });
  });
  return listen(server);
}

/** Echoes 1 KiB questions; swallows everything of a connection whose first byte is 'B', and says so at its end. */
async function startApp(): Promise<number> {
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    socket.on('error', () => undefined);
    let bulk: boolean | undefined;
    socket.on('data', (chunk: Buffer) => {
      bulk ??= chunk[0] === 0x42;
      if (!bulk) socket.write(chunk);
    });
    socket.once('end', () => socket.end(bulk === true ? 'done' : ''));
  });
  return listen(server);
}

interface Candidate {
  readonly name: string;
  readonly port: number;
  /** CPU of both proxies so far, in µs. */
  cpu(): Promise<number>;
  stop(): void;
}

async function main(rounds: number): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-bench-'));
  const app = await start('app', {});
  const candidates: Candidate[] = [];
  try {
    candidates.push(await ours(app.port), ...(await haproxy(folder, app.port)));
    const results = new Map<string, Record<string, number>[]>();
    for (let round = 0; round < rounds; round++)
      for (const candidate of candidates) {
        const list = results.get(candidate.name) ?? [];
        results.set(candidate.name, list);
        list.push(await measure(candidate));
      }
    const rows = [...results].map(([name, list]) => [name, medians(list)] as const);
    console.table(Object.fromEntries(rows));
  } finally {
    for (const candidate of candidates) candidate.stop();
    app.process.kill();
    rmSync(folder, { recursive: true });
  }
}

async function ours(appPort: number): Promise<Candidate> {
  const ca = makeCa();
  const b = await start('b', { caPem: ca.certPem, cert: issue(ca, SERVER_ID), nextPort: appPort });
  const a = await start('a', { caPem: ca.certPem, cert: issue(ca, CLIENT_ID), nextPort: b.port });
  const ask = async (of: ChildProcess): Promise<number> => {
    const answer = once(of, 'message');
    of.send('cpu');
    const [usage] = (await answer) as [NodeJS.CpuUsage];
    return usage.user + usage.system;
  };
  return {
    name: 'ours',
    port: a.port,
    cpu: async () => (await ask(a.process)) + (await ask(b.process)),
    // Not kill(): a profile is written at a clean exit.
    stop: () => [a, b].forEach(({ process: running }) => running.disconnect()),
  };
}

async function start(as: string, setup: Partial<Setup>): Promise<{ process: ChildProcess; port: number }> {
  const profile = process.env['PROFILE'];
  const execArgv =
    profile === undefined || as === 'app'
      ? []
      : ['--cpu-prof', `--cpu-prof-dir=${profile}`, `--cpu-prof-name=${as}.cpuprofile`];
  const running = fork(import.meta.filename, [as, JSON.stringify(setup)], { execArgv });
  const [port] = (await once(running, 'message')) as [number];
  return { process: running, port };
}

/** Two HAProxy processes of one thread each, or none when it is not installed. */
async function haproxy(folder: string, appPort: number): Promise<Candidate[]> {
  try {
    execFileSync('haproxy', ['-v'], { stdio: 'ignore' });
  } catch {
    console.log('haproxy is not installed: no rival in this run');
    return [];
  }
  const ca = makeCa();
  writeFileSync(join(folder, 'ca.pem'), ca.certPem);
  for (const [name, id] of [
    ['a', CLIENT_ID],
    ['b', SERVER_ID],
  ] as const) {
    const made = issue(ca, id);
    writeFileSync(join(folder, `${name}.pem`), made.chainPem + made.keyPem);
  }
  const [portA, portB] = [await freePort(), await freePort()];
  const tls = `crt ${folder}/%.pem ca-file ${folder}/ca.pem ciphersuites TLS_AES_128_GCM_SHA256`;
  const a = `listen a\n bind 127.0.0.1:${portA}\n server b 127.0.0.1:${portB} ssl verify required ${tls.replace('%', 'a')} no-ssl-reuse`;
  const b = `listen b\n bind 127.0.0.1:${portB} ssl verify required ${tls.replace('%', 'b')}\n server app 127.0.0.1:${appPort}`;
  const processes = [
    ['a', a],
    ['b', b],
  ].map(([name, text]) => {
    const file = join(folder, `${name}.cfg`);
    writeFileSync(
      file,
      `global\n nbthread 1\n maxconn 4000\ndefaults\n mode tcp\n timeout connect 10s\n timeout client 60s\n timeout server 60s\n${text}\n`,
    );
    return spawn('haproxy', ['-db', '-f', file], { stdio: 'ignore' });
  });
  await new Promise((resolve) => setTimeout(resolve, 500));
  return [
    {
      name: 'haproxy',
      port: portA,
      cpu: () => Promise.resolve(processes.reduce((sum, one) => sum + cpuOf(one.pid ?? 0), 0)),
      stop: () => processes.forEach((one) => one.kill()),
    },
  ];
}

async function freePort(): Promise<number> {
  const server = createServer();
  const port = await listen(server);
  server.close();
  await once(server, 'close');
  return port;
}

/** utime + stime of a process, in µs (proc(5): fields 14 and 15, in ticks of 10 ms). */
function cpuOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

async function measure(candidate: Candidate): Promise<Record<string, number>> {
  await pingPong(candidate, 8, 300);
  const one = await bulk(candidate, 1, 1_000_000_000);
  const eight = await bulk(candidate, 8, 1_000_000_000);
  const single = await pingPong(candidate, 1, 1_500);
  const many = await pingPong(candidate, 64, 1_500);
  const fresh = await connections(candidate, 1_500);
  return {
    'GB/s 1': one.rate,
    'CPU s/GB 1': one.cpu,
    'GB/s 8': eight.rate,
    'CPU s/GB 8': eight.cpu,
    'p50 µs 1': single.p50,
    'CPU µs/req 1': single.cpu,
    'req/s 64': many.rate,
    'CPU µs/req 64': many.cpu,
    'conn/s': fresh.rate,
    'CPU µs/conn': fresh.cpu,
  };
}

/** Runs `work`; what it says it did, per second and in CPU µs each. */
async function timed(
  candidate: Candidate,
  work: () => Promise<number>,
): Promise<{ rate: number; cpu: number }> {
  const [cpu, began] = [await candidate.cpu(), performance.now()];
  const done = await work();
  const seconds = (performance.now() - began) / 1_000;
  return { rate: done / seconds, cpu: ((await candidate.cpu()) - cpu) / done };
}

async function bulk(
  candidate: Candidate,
  streams: number,
  bytes: number,
): Promise<{ rate: number; cpu: number }> {
  const block = Buffer.alloc(256 * 1024, 'B');
  const one = async (): Promise<void> => {
    const socket = await dial(candidate.port);
    for (let left = bytes / streams; left > 0; left -= block.length)
      if (!socket.write(block)) await once(socket, 'drain');
    socket.end();
    await once(socket, 'data');
    socket.destroy();
  };
  const result = await timed(candidate, async () => {
    await Promise.all(Array.from({ length: streams }, one));
    return bytes / 1e9;
  });
  return { rate: result.rate, cpu: result.cpu / 1e6 };
}

async function pingPong(
  candidate: Candidate,
  connectionCount: number,
  ms: number,
): Promise<{ rate: number; cpu: number; p50: number }> {
  const sockets = await Promise.all(Array.from({ length: connectionCount }, () => dial(candidate.port)));
  const times: number[] = [];
  const result = await timed(candidate, async () => {
    const end = performance.now() + ms;
    await Promise.all(sockets.map((socket) => asks(socket, end, times)));
    return times.length;
  });
  for (const socket of sockets) socket.destroy();
  times.sort((x, y) => x - y);
  return { ...result, p50: (times[times.length >> 1] ?? 0) * 1_000 };
}

function asks(socket: Socket, end: number, times: number[]): Promise<void> {
  const question = Buffer.alloc(1_024, 'q');
  return new Promise((resolve) => {
    let began = performance.now();
    let missing = question.length;
    socket.on('data', (chunk: Buffer) => {
      missing -= chunk.length;
      if (missing > 0) return;
      const now = performance.now();
      times.push(now - began);
      began = now;
      missing = question.length;
      if (now < end) socket.write(question);
      else resolve();
    });
    socket.write(question);
  });
}

/** New connections, 16 at a time: connect, one byte each way, end. */
async function connections(candidate: Candidate, ms: number): Promise<{ rate: number; cpu: number }> {
  let count = 0;
  return timed(candidate, async () => {
    const end = performance.now() + ms;
    const lane = async (): Promise<void> => {
      while (performance.now() < end) {
        const socket = await dial(candidate.port);
        socket.end('q');
        socket.resume();
        await once(socket, 'close');
        count++;
      }
    };
    await Promise.all(Array.from({ length: 16 }, lane));
    return count;
  });
}

async function dial(port: number): Promise<Socket> {
  const socket = connect({ host: '127.0.0.1', port, noDelay: true, allowHalfOpen: false });
  socket.on('error', (error) => console.error(error.message));
  await once(socket, 'connect');
  return socket;
}

function medians(list: readonly Record<string, number>[]): Record<string, number> {
  const names = Object.keys(list[0] ?? {});
  return Object.fromEntries(
    names.map((name) => {
      const values = list.map((one) => one[name] ?? Number.NaN).sort((x, y) => x - y);
      return [name, Number((values[values.length >> 1] ?? Number.NaN).toPrecision(4))];
    }),
  );
}
