/** In a client pod: POST /run with a load's arguments answers its result; GET /captured whether the mesh has this pod. */
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';

const MODES = ['ping', 'bulk', 'churn'];
const RUN_TIMEOUT_MS = 120_000;
const CONNECT_TIMEOUT_MS = 5_000;
const MAX_BODY_BYTES = 4_096;

/** Serves until the process ends. */
export function serveAgent(port: number): void {
  createServer((request, response) => {
    answer(request).then(
      (body) => response.end(body),
      (error: unknown) => {
        response.statusCode = 500;
        response.end(String(error));
      },
    );
  }).listen(port);
}

async function answer(request: IncomingMessage): Promise<string> {
  const { pathname, searchParams } = new URL(request.url ?? '/', 'http://agent');
  if (pathname === '/captured') return String(await isCaptured(searchParams.get('server') ?? ''));
  const words: unknown = JSON.parse(await bodyOf(request));
  if (!Array.isArray(words)) throw new Error('not a list of arguments');
  const argv = words.map(String);
  if (!MODES.includes(argv[0] ?? '')) throw new Error(`not a load: ${argv.join(' ')}`);
  return run(argv);
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  let body = '';
  for await (const chunk of request) {
    body += String(chunk);
    if (body.length > MAX_BODY_BYTES) throw new Error('too long');
  }
  return body;
}

/** A captured connection leaves the app on a loopback address. */
function isCaptured(server: string): Promise<boolean> {
  const { promise, resolve, reject } = Promise.withResolvers<boolean>();
  const socket = connect({ host: server, port: 8_080, timeout: CONNECT_TIMEOUT_MS });
  socket.on('error', reject);
  socket.on('timeout', () => reject(new Error(`${server} does not answer`)));
  socket.on('connect', () => resolve(socket.localAddress?.startsWith('127.') === true));
  return promise.finally(() => socket.destroy());
}

/** The result line of one load (test/bench/load.c). */
async function run(argv: readonly string[]): Promise<string> {
  const child = spawn('load', argv, { stdio: ['pipe', 'pipe', 'pipe'], timeout: RUN_TIMEOUT_MS });
  const { promise: broken, reject } = Promise.withResolvers<never>();
  const said: string[] = [];
  child.on('error', reject);
  child.stdin.on('error', () => undefined);
  child.stderr.on('data', (chunk: Buffer) => said.push(chunk.toString()));
  child.on('exit', (code) =>
    reject(new Error(`load ${argv.join(' ')}: exit ${code ?? '?'} ${said.join('')}`)),
  );
  const result = (async (): Promise<string> => {
    for await (const line of createInterface({ input: child.stdout })) {
      if (line.includes('"ready"')) child.stdin.write('go\n');
      if (line.includes('"result"')) return line;
    }
    return await broken;
  })();
  try {
    return await Promise.race([result, broken]);
  } finally {
    child.removeAllListeners('exit');
    child.kill('SIGKILL');
  }
}
