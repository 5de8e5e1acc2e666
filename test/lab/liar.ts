/** Liars of the lab: a program in a pod that is not enrolled, with whatever certificate the test gives it. */
import { join } from 'node:path';
import { z } from 'zod';
import { systemClock } from '../../daemon/identity/clock.ts';
import { LocalCa } from '../../daemon/identity/sources/local.ts';
import { parseSpiffeId, parseTrustDomain } from '../../daemon/mesh/ids.ts';
import type { Lab } from './kit/lab.ts';
import type { LabPod } from './kit/pod.ts';
import type { LabProcess } from './kit/process.ts';

/** PEM; without: the liar shows no certificate. */
export interface LiarCertificate {
  readonly key?: string;
  readonly cert?: string;
}

export interface TunnelLie {
  readonly authority: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent after the answer, whatever the answer is. */
  readonly payload?: Uint8Array;
  /** Presents the TLS session of the last tunnel. */
  readonly resume?: boolean;
  /** Says nothing after the handshake. */
  readonly silent?: boolean;
}

const Told = z.object({
  id: z.number(),
  /** Its own side of the handshake ended; under TLS 1.3 that says nothing of the server's verdict. */
  secured: z.boolean(),
  reused: z.boolean(),
  /** TLS sessions that the server offered. */
  sessions: z.number(),
  /** Of the CONNECT; 0: no answer. */
  status: z.number(),
  error: z.string(),
});
export type TunnelOutcome = z.infer<typeof Told>;

const Served = z.object({
  id: z.number(),
  connections: z.number(),
  handshakes: z.number(),
  connects: z.number(),
  bytes: z.number(),
});

export class Liar {
  readonly #process: LabProcess;
  #next = 1;

  static async start(pod: LabPod): Promise<Liar> {
    const process_ = await pod.spawn([process.execPath, 'test/lab/apps/liar.ts']);
    await process_.waitForLine('the liar', (line) => line === '{"id":0}' || undefined);
    return new Liar(process_);
  }

  private constructor(process_: LabProcess) {
    this.#process = process_;
  }

  /** A tunnel to port 15008 of `host` with one CONNECT, to its end. */
  tunnel(host: string, certificate: LiarCertificate, lie: TunnelLie): Promise<TunnelOutcome> {
    const { authority, headers = {}, payload = new Uint8Array(0), resume = false, silent = false } = lie;
    const hex = Buffer.from(payload).toString('hex');
    return this.#ask(
      { do: 'tunnel', host, ...certificate, authority, headers, payload: hex, resume, silent },
      Told,
    );
  }

  /** Serves on port 15008 of its own pod: 200 to every CONNECT. */
  async serve(certificate: LiarCertificate): Promise<void> {
    await this.#ask({ do: 'serve', ...certificate }, z.object({ id: z.number() }));
  }

  /** What its server has seen so far. */
  served(): Promise<z.infer<typeof Served>> {
    return this.#ask({ do: 'served' }, Served);
  }

  async stop(): Promise<void> {
    await this.#process.stop('SIGKILL');
  }

  #ask<T extends { id: number }>(command: object, schema: z.ZodType<T>): Promise<T> {
    const id = this.#next++;
    const answer = this.#process.waitForLine(
      'the liar',
      (line) => {
        const parsed = schema.safeParse(line.startsWith('{') ? JSON.parse(line) : undefined);
        return parsed.success && parsed.data.id === id ? parsed.data : undefined;
      },
      { timeoutMs: 60_000 },
    );
    this.#process.stdin.write(`${JSON.stringify({ id, ...command })}\n`);
    return answer;
  }
}

/** A certificate by the lab's own CA. `id` may be of another trust domain. */
export async function issuedBy(lab: Lab, id: string): Promise<Required<LiarCertificate>> {
  const trustDomain = parseTrustDomain('cluster.local');
  const parsed = parseSpiffeId(id);
  if (trustDomain === undefined || parsed === undefined) throw new RangeError(`no SPIFFE ID: ${id}`);
  const ca = await LocalCa.open({ folder: join(lab.dir, 'ca'), trustDomain, clock: systemClock });
  const issued = await ca.issue(parsed, 3_600_000, AbortSignal.timeout(10_000));
  return { key: issued.keyPem, cert: issued.chainPem };
}
