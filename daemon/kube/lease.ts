/**
 * Leader election by a Lease (coordination.k8s.io/v1), as client-go does it: whether another's lease has run out is
 * judged by how long we have seen no change of it, never by the other's clock. A leader that could not renew in time
 * stops acting before anybody else can begin.
 */
import { z } from 'zod';
import { KubeError } from './seams.ts';
import type { KubeApi } from './seams.ts';

/** identity/clock.ts has one. */
export interface LeaseClock {
  nowMs(): number;
  monotonicMs(): number;
  after(delayMs: number, fire: () => void): () => void;
}

export interface LeaseOptions {
  readonly api: KubeApi;
  readonly namespace: string;
  readonly name: string;
  /** Who we are: unlike any other replica, also unlike one of the same name before us. */
  readonly holder: string;
  readonly clock: LeaseClock;
  readonly onProblem: (reason: string) => void;
  /** How long a lease is good for others after its last renewal. */
  readonly leaseMs?: number;
  /** How long it is good for ourselves: shorter. */
  readonly deadlineMs?: number;
  /** Between two attempts. */
  readonly retryMs?: number;
}

/** The API's record, as far as it decides. */
export interface LeaseRecord {
  readonly holder: string;
  readonly durationMs: number;
  /** Changes with each renewal. */
  readonly version: string;
  readonly transitions: number;
}

/** When a version was first seen by us, by our monotonic clock. */
export interface Sighting {
  readonly version: string;
  readonly atMs: number;
}

const LEASE_MS = 15_000;
const DEADLINE_MS = 10_000;
const RETRY_MS = 2_000;
/** Whatever another says of itself. */
const MAX_LEASE_MS = 60_000;

/** Whether the lease may be taken: it is ours, nobody's, or has not changed for as long as it lasts. */
export function mayTake(
  record: LeaseRecord | undefined,
  seen: Sighting,
  holder: string,
  nowMs: number,
): boolean {
  if (record === undefined || record.holder === '' || record.holder === holder) return true;
  return nowMs - seen.atMs > Math.min(record.durationMs, MAX_LEASE_MS);
}

export class Lease implements AsyncDisposable {
  readonly #options: Required<LeaseOptions>;
  readonly #path: string;
  readonly #closing = new AbortController();
  #seen: Sighting = { version: '', atMs: 0 };
  #term: AbortController | undefined;
  #cancelExpiry: () => void = () => undefined;
  #running: Promise<void> | undefined;
  #answered = false;

  constructor(options: LeaseOptions) {
    this.#options = { leaseMs: LEASE_MS, deadlineMs: DEADLINE_MS, retryMs: RETRY_MS, ...options };
    const { namespace } = options;
    this.#path = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`;
  }

  get isLeading(): boolean {
    return this.#term !== undefined;
  }

  /** Whether the API has answered once: this replica could take over. */
  get hasAnswer(): boolean {
    return this.#answered;
  }

  /** Starts to stand for election. `onLead` is called at each term's beginning; its signal aborts at the term's end. */
  start(onLead: (term: AbortSignal) => void): void {
    this.#running ??= this.#run(onLead);
  }

  /** Ends the term at once and gives the lease back, so that another can begin without waiting. */
  async [Symbol.asyncDispose](): Promise<void> {
    const wasLeading = this.isLeading;
    this.#closing.abort();
    this.#end('stopping');
    await this.#running;
    if (wasLeading)
      await this.#giveBack().catch((error: unknown) => this.#options.onProblem(messageOf(error)));
  }

  async #run(onLead: (term: AbortSignal) => void): Promise<void> {
    const { retryMs, onProblem } = this.#options;
    while (!this.#closing.signal.aborted) {
      await this.#round(onLead).catch((error: unknown) => {
        if (!this.#closing.signal.aborted) onProblem(`lease ${this.#options.name}: ${messageOf(error)}`);
      });
      await this.#pause(retryMs);
    }
  }

  async #round(onLead: (term: AbortSignal) => void): Promise<void> {
    const { clock, holder, deadlineMs } = this.#options;
    const signal = AbortSignal.any([this.#closing.signal, AbortSignal.timeout(deadlineMs)]);
    const { record, object } = await this.#read(signal);
    const nowMs = clock.monotonicMs();
    this.#answered = true;
    if (record !== undefined && record.version !== this.#seen.version)
      this.#seen = { version: record.version, atMs: nowMs };
    if (record?.holder !== holder) this.#end('another replica leads');
    if (!mayTake(record, this.#seen, holder, nowMs)) return;
    const taken = await this.#write(record, object, signal);
    this.#seen = { version: taken, atMs: nowMs };
    // From before the request: the API counts from when it got it.
    this.#renewed(nowMs + deadlineMs, onLead);
  }

  #renewed(untilMs: number, onLead: (term: AbortSignal) => void): void {
    const { clock } = this.#options;
    if (this.#closing.signal.aborted) return;
    this.#cancelExpiry();
    const leftMs = untilMs - clock.monotonicMs();
    if (leftMs <= 0) return this.#end('the lease could not be renewed in time');
    this.#cancelExpiry = clock.after(leftMs, () => this.#end('the lease could not be renewed in time'));
    if (this.#term !== undefined) return;
    this.#term = new AbortController();
    onLead(this.#term.signal);
  }

  #end(why: string): void {
    this.#cancelExpiry();
    const term = this.#term;
    this.#term = undefined;
    term?.abort(new Error(why));
  }

  async #read(
    signal: AbortSignal,
  ): Promise<{ readonly record: LeaseRecord | undefined; readonly object: unknown }> {
    const { api, name } = this.#options;
    try {
      const object = await api.request({ method: 'GET', path: `${this.#path}/${name}`, signal });
      return { record: parseRecord(object), object };
    } catch (error) {
      if (error instanceof KubeError && error.status === 404) return { record: undefined, object: undefined };
      throw error;
    }
  }

  /** @returns the version written. @throws KubeError: `Conflict` or `AlreadyExists` when another was faster. */
  async #write(record: LeaseRecord | undefined, object: unknown, signal: AbortSignal): Promise<string> {
    const { api, clock, holder, leaseMs, name, namespace } = this.#options;
    const now = microTime(clock.nowMs());
    const isOurs = record?.holder === holder;
    const spec = {
      holderIdentity: holder,
      leaseDurationSeconds: Math.ceil(leaseMs / 1_000),
      renewTime: now,
      ...(isOurs
        ? {}
        : { acquireTime: now, leaseTransitions: record === undefined ? 0 : record.transitions + 1 }),
    };
    if (object === undefined) {
      const body = {
        apiVersion: 'coordination.k8s.io/v1',
        kind: 'Lease',
        metadata: { name, namespace },
        spec,
      };
      return versionOf(await api.request({ method: 'POST', path: this.#path, body, signal }));
    }
    const body = merged(object, spec);
    return versionOf(await api.request({ method: 'PUT', path: `${this.#path}/${name}`, body, signal }));
  }

  async #giveBack(): Promise<void> {
    const { api, clock, deadlineMs, holder, name } = this.#options;
    const signal = AbortSignal.timeout(deadlineMs);
    const { record, object } = await this.#read(signal);
    if (record?.holder !== holder) return;
    const body = merged(object, {
      holderIdentity: '',
      leaseDurationSeconds: 1,
      renewTime: microTime(clock.nowMs()),
    });
    await api.request({ method: 'PUT', path: `${this.#path}/${name}`, body, signal });
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const { signal } = this.#closing;
      const done = (): void => {
        cancel();
        signal.removeEventListener('abort', done);
        resolve();
      };
      const cancel = this.#options.clock.after(ms, done);
      signal.addEventListener('abort', done, { once: true });
      if (signal.aborted) done();
    });
  }
}

const leaseSchema = z.looseObject({
  metadata: z.looseObject({ resourceVersion: z.string() }),
  spec: z
    .looseObject({
      holderIdentity: z.string().nullish(),
      leaseDurationSeconds: z.number().nullish(),
      leaseTransitions: z.number().nullish(),
    })
    .nullish(),
});

function parseRecord(object: unknown): LeaseRecord {
  const { metadata, spec } = leaseSchema.parse(object);
  return {
    holder: spec?.holderIdentity ?? '',
    durationMs: (spec?.leaseDurationSeconds ?? 0) * 1_000,
    version: metadata.resourceVersion,
    transitions: spec?.leaseTransitions ?? 0,
  };
}

function merged(object: unknown, spec: Readonly<Record<string, unknown>>): unknown {
  const whole = leaseSchema.parse(object);
  return { ...whole, spec: { ...whole.spec, ...spec } };
}

function versionOf(object: unknown): string {
  return leaseSchema.parse(object).metadata.resourceVersion;
}

/** The API's MicroTime has six digits. */
function microTime(ms: number): string {
  return new Date(ms).toISOString().replace('Z', '000Z');
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
