/** Requests of a test to an API server, as the holder of a client certificate: nothing that is ours to test is in it. */
import { Agent, request } from 'node:https';
import type { ClusterPki } from './pki.ts';

export interface ApiAnswer {
  /** 0 when there was none. */
  readonly status: number;
  /** JSON when it is JSON, else text. */
  readonly body: unknown;
}

export interface AskOptions {
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Default `application/json`; a PATCH needs its own. */
  readonly contentType?: string;
  /** Default 15 s. */
  readonly timeoutMs?: number;
}

export class Api implements Disposable {
  readonly url: string;
  readonly #agent: Agent;

  constructor(url: string, pki: ClusterPki) {
    const { chainPem, keyPem } = pki.client({ name: 'kubernetes-admin', groups: ['system:masters'] });
    this.url = url;
    this.#agent = new Agent({ keepAlive: true, maxSockets: 32, ca: pki.caPem, cert: chainPem, key: keyPem });
  }

  /** One request; never throws for how it went. */
  ask(method: string, path: string, options: AskOptions = {}): Promise<ApiAnswer> {
    const { promise, resolve } = Promise.withResolvers<ApiAnswer>();
    const headers = { 'content-type': options.contentType ?? 'application/json' };
    const signal = AbortSignal.timeout(options.timeoutMs ?? 15_000);
    const asked = request(
      new URL(path, this.url),
      { method, agent: this.#agent, headers, signal },
      (answer) => {
        const chunks: Buffer[] = [];
        answer.on('data', (chunk: Buffer) => chunks.push(chunk));
        answer.on('error', (error) => resolve({ status: 0, body: error.message }));
        answer.on('end', () => {
          const text = Buffer.concat(chunks).toString();
          const isJson = answer.headers['content-type']?.startsWith('application/json') === true;
          resolve({ status: answer.statusCode ?? 0, body: isJson ? parsed(text) : text });
        });
      },
    );
    asked.on('error', (error) => resolve({ status: 0, body: error.message }));
    asked.end(options.body === undefined ? undefined : JSON.stringify(options.body));
    return promise;
  }

  /** The body of a 2xx answer. @throws Error with the answer otherwise. */
  async must(method: string, path: string, options: AskOptions = {}): Promise<unknown> {
    const { status, body } = await this.ask(method, path, options);
    if (status >= 200 && status < 300) return body;
    throw new Error(`${method} ${path}: ${status} ${typeof body === 'string' ? body : JSON.stringify(body)}`);
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
  }
}

function parsed(text: string): unknown {
  return JSON.parse(text);
}
