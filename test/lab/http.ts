/** Requests to an HTTP app in a pod, and what it was asked. */
import assert from 'node:assert/strict';
import { z } from 'zod';
import type { SendResult } from './kit/apps.ts';
import type { LabPod } from './kit/pod.ts';
import type { LabProcess } from './kit/process.ts';

const SCRIPT = 'test/lab/apps/http.ts';
export const HTTP_PORT = 8081;
export const HTTP2_PORT = 8082;

export interface Request {
  readonly method: string;
  readonly path: string;
  readonly host: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

const Asked = z.object({ asked: z.string() });
const Answer = z.object({
  status: z.number().nullable(),
  grpc: z.string().nullable(),
  text: z.string(),
  code: z.number(),
});
export type Http2Answer = z.infer<typeof Answer>;

/** The app, and what it has been asked since it was last looked at. */
export class HttpApp {
  readonly #process: LabProcess;
  #seen = 0;

  private constructor(process: LabProcess) {
    this.#process = process;
  }

  static async on(pod: LabPod): Promise<HttpApp> {
    const process = await pod.spawn([
      globalThis.process.execPath,
      SCRIPT,
      'serve',
      String(HTTP_PORT),
      String(HTTP2_PORT),
    ]);
    await process.waitForLine('to listen', (line) => line.includes('listening') || undefined);
    return new HttpApp(process);
  }

  /** Requests in the order in which they came. A request is told before it is answered. */
  asked(): string[] {
    const lines = this.#process.lines.slice(this.#seen);
    this.#seen = this.#process.lines.length;
    return lines.flatMap((line) => {
      const parsed = line.startsWith('{') ? Asked.safeParse(JSON.parse(line)) : undefined;
      return parsed?.success === true ? [parsed.data.asked] : [];
    });
  }
}

export function bytesOf(requests: readonly Request[]): string {
  return requests
    .map(({ method, path, host, headers = {}, body = '' }, i) => {
      const fields = Object.entries({ ...headers, 'Content-Length': String(body.length) });
      if (i === requests.length - 1) fields.push(['Connection', 'close']);
      const lines = fields.map(([name, value]) => `${name}: ${value}\r\n`).join('');
      return `${method} ${path} HTTP/1.1\r\nHost: ${host}\r\n${lines}\r\n${body}`;
    })
    .join('');
}

/** Sends bytes on one connection, and reads until the other side ends it. */
export function say(client: LabPod, to: LabPod, text: string, port: number = HTTP_PORT): Promise<SendResult> {
  return client.send(to.ip, port, {
    first: Buffer.from(text, 'latin1'),
    halfClose: false,
    timeoutMs: 20_000,
  });
}

/** All requests, pipelined on one connection. @returns the status of each; none when the connection was refused. */
export async function statuses(client: LabPod, to: LabPod, requests: readonly Request[]): Promise<number[]> {
  const result = await say(client, to, bytesOf(requests));
  const found = [...result.head.toString('latin1').matchAll(/HTTP\/1\.1 (\d{3})/g)];
  assert.ok(
    result.end === 'eof' || result.received === 0,
    JSON.stringify({ ...result, head: result.head.toString('latin1') }),
  );
  return found.map(([, status]) => Number(status));
}

/** The same over one connection of HTTP/2, one after the other. */
export async function http2Answers(
  client: LabPod,
  to: LabPod,
  requests: readonly Request[],
): Promise<Http2Answer[]> {
  const process = await client.spawn([
    globalThis.process.execPath,
    SCRIPT,
    'call',
    to.ip,
    String(HTTP2_PORT),
  ]);
  try {
    const answers: Http2Answer[] = [];
    for (const { method, path, host, headers = {}, body = '' } of requests) {
      const from = process.lines.length;
      const named = { ':method': method, ':path': path, ':authority': host, ...headers };
      process.stdin.write(`${JSON.stringify({ headers: named, body })}\n`);
      answers.push(
        await process.waitForLine('an answer', (line) => Answer.safeParse(JSON.parse(line)).data, {
          from,
          timeoutMs: 30_000,
        }),
      );
    }
    return answers;
  } finally {
    await process.stop('SIGKILL');
  }
}
