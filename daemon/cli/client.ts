/** Asks a daemon's admin API. Every answer is bounded in size and time. */
import { request } from 'node:http';
import type { IncomingMessage } from 'node:http';
import type { Command } from 'commander';
import { z } from 'zod';
import { MeshError } from '../errors.ts';

export const DEFAULT_ADMIN = '127.0.0.1:15000';

const TIMEOUT_MS = 10_000;
const MAX_ANSWER_BYTES = 64 * 1_048_576;

/** Adds `--admin` to a command. */
export function withAdmin(command: Command): Command {
  return command.option('--admin <host:port>', "the daemon's admin API", DEFAULT_ADMIN);
}

/**
 * The answer to `GET path`, checked against `schema`.
 * @throws MeshError ADMIN_UNREACHABLE when nobody answers, or something that is no culvert daemon of our version.
 */
export async function ask<T>(admin: string, path: string, schema: z.ZodType<T>): Promise<T> {
  const answer = schema.safeParse(await call(admin, 'GET', path));
  if (answer.success) return answer.data;
  throw new MeshError(
    'ADMIN_UNREACHABLE',
    `${admin} answered ${path} in a form that this version does not know (${z.prettifyError(answer.error)}); is it a culvert daemon of the same version?`,
  );
}

/** `POST path`. @throws MeshError ADMIN_UNREACHABLE */
export async function tell(admin: string, path: string): Promise<void> {
  await call(admin, 'POST', path);
}

async function call(admin: string, method: 'GET' | 'POST', path: string): Promise<unknown> {
  const { host, port } = parseAddress(admin);
  let status: number;
  let body: string;
  try {
    ({ status, body } = await exchange(host, port, method, path));
  } catch (error) {
    throw new MeshError(
      'ADMIN_UNREACHABLE',
      `no daemon answers on ${admin} (${error instanceof Error ? error.message : 'unknown'}); is it running here? On Kubernetes it listens inside its pod: kubectl -n culvert-system exec POD -- culvert …, or a port-forward and --admin HOST:PORT`,
      { cause: error },
    );
  }
  const data = parseJson(body);
  if (status < 300 && data !== undefined) return data;
  const said = z.object({ error: z.string() }).safeParse(data);
  throw new MeshError(
    'ADMIN_UNREACHABLE',
    `${admin} answered ${method} ${path} with ${status}: ${said.success ? said.data.error : 'not a culvert daemon'}`,
  );
}

function parseAddress(admin: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-f:.]+)\]|([^:[\]/]+)):(\d{1,5})$/i.exec(admin);
  const port = Number(match?.[3]);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined || !(port >= 1 && port <= 65_535))
    throw new MeshError('CONFIG_INVALID', `--admin: "${admin}" is not host:port, such as ${DEFAULT_ADMIN}`);
  return { host, port };
}

async function exchange(
  host: string,
  port: number,
  method: string,
  path: string,
): Promise<{ status: number; body: string }> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  // The daemon answers to loopback's own names only, whatever a port-forward is called here.
  const headers = { host: 'localhost' };
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const sent = request({ host, port, method, path, headers, agent: false, signal }, resolve);
  sent.on('error', reject);
  sent.end();
  const response = await promise;
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response) {
    if (!Buffer.isBuffer(chunk)) continue;
    size += chunk.length;
    if (size > MAX_ANSWER_BYTES) throw new Error(`the answer is longer than ${MAX_ANSWER_BYTES} bytes`);
    chunks.push(chunk);
  }
  return { status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') };
}

function parseJson(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}
