/**
 * Writes the conditions of the policy objects, and an Event where one is not in force as it is written. For the leader
 * of culvert-ca only: each request ends with its term. What is there already is not written again; where somebody else
 * goes on writing another word under the same type, ours is repeated now and then, not fought for.
 */
import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { CustomCollection } from '../kube/custom.ts';
import type { CustomTuning } from '../kube/custom.ts';
import { KubeError } from '../kube/seams.ts';
import type { KubeApi } from '../kube/seams.ts';
import { POLICY_COLLECTIONS, POLICY_GROUP } from './policies.ts';
import type { PolicyCollection } from './policies.ts';
import { WAYPOINT, ZTUNNEL, conditionOf } from './policy-conditions.ts';
import type { PolicyCondition } from './policy-conditions.ts';

export interface PolicyStatusOptions {
  readonly api: KubeApi;
  readonly rootNamespace: string;
  /** Our pod's name. */
  readonly instance: string;
  readonly nowMs: () => number;
  readonly onProblem: (reason: string) => void;
  readonly tuning?: Partial<CustomTuning> & Partial<PolicyStatusTuning>;
}

/** Times in ms. */
export interface PolicyStatusTuning {
  /** From one write to the next. */
  readonly paceMs: number;
  /** The same word on the same object is written again no sooner. */
  readonly repeatMs: number;
  readonly firstRetryMs: number;
}

const PACE_MS = 100;
const REPEAT_MS = 600_000;
const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 30_000;
const CONTROLLER = 'culvert.dev/ca';
/** Conditions of others on one object. */
const MAX_OTHERS = 30;

const existingSchema = z.looseObject({
  type: z.string(),
  status: z.string(),
  reason: z.string().nullish(),
  message: z.string().nullish(),
  lastTransitionTime: z.string().nullish(),
  // Istio writes it as text.
  observedGeneration: z.union([z.number(), z.string()]).nullish(),
});
type Existing = z.infer<typeof existingSchema>;

const objectSchema = z.looseObject({
  metadata: z.looseObject({
    name: z.string(),
    namespace: z.string(),
    uid: z.string(),
    resourceVersion: z.string(),
    generation: z.number().nullish(),
  }),
  status: z.looseObject({ conditions: z.array(existingSchema).nullish() }).nullish(),
});

/** One object as far as its condition goes. */
interface Watched {
  readonly kind: PolicyCollection;
  readonly version: string;
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly resourceVersion: string;
  readonly generation: number;
  readonly existing: readonly Existing[];
  readonly wanted: PolicyCondition;
}

/** Says on the policies what is to be said until `term` aborts. Never rejects: what goes wrong is told as a problem. */
export async function servePolicyStatus(term: AbortSignal, options: PolicyStatusOptions): Promise<void> {
  await using status = new PolicyStatus(term, options);
  status.start();
  const ended = Promise.withResolvers<undefined>();
  term.addEventListener('abort', () => ended.resolve(undefined), { once: true });
  if (!term.aborted) await ended.promise;
}

class PolicyStatus implements AsyncDisposable {
  readonly #options: PolicyStatusOptions;
  readonly #closing = new AbortController();
  /** The leader's term, or our own end. */
  readonly #term: AbortSignal;
  readonly #collections: readonly CustomCollection<Watched>[];
  /** By kind and name: the newest of each object that is to be looked at. */
  readonly #due = new Map<string, Watched>();
  /** What was written last, and when. */
  readonly #written = new Map<string, { readonly text: string; readonly atMs: number }>();
  #wake: () => void = () => undefined;
  #failures = 0;
  #running: Promise<void> | undefined;

  constructor(term: AbortSignal, options: PolicyStatusOptions) {
    this.#term = AbortSignal.any([term, this.#closing.signal]);
    this.#options = options;
    this.#collections = POLICY_COLLECTIONS.map((kind) => this.#watch(kind));
  }

  start(): void {
    this.#term.addEventListener('abort', () => this.#wake(), { once: true });
    for (const [at, collection] of this.#collections.entries()) {
      const prefix = POLICY_COLLECTIONS[at]?.resource ?? '';
      collection.start((changes) => {
        for (const { type, key, value } of changes) this.#take(`${prefix} ${key}`, type, value);
      });
    }
    this.#running = this.#run();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    this.#wake();
    await Promise.all(this.#collections.map((collection) => collection[Symbol.asyncDispose]()));
    await this.#running;
  }

  #watch(kind: PolicyCollection): CustomCollection<Watched> {
    const { api, onProblem, rootNamespace, tuning } = this.#options;
    const decode = (object: unknown, version: string): Watched | undefined => {
      const { metadata, status } = objectSchema.parse(object);
      const wanted = conditionOf(kind.kind, object, rootNamespace);
      if (wanted === undefined) return undefined;
      const { name, namespace, uid, resourceVersion, generation } = metadata;
      const existing = status?.conditions ?? [];
      return {
        ...{ kind, version, namespace, name, uid, resourceVersion, wanted, existing },
        generation: generation ?? 0,
      };
    };
    return new CustomCollection<Watched>({ api, kind, decode, onProblem }, tuning);
  }

  #take(key: string, type: 'set' | 'gone', value: Watched): void {
    if (type === 'gone') {
      this.#due.delete(key);
      this.#written.delete(key);
      return;
    }
    if (isSaid(value)) this.#due.delete(key);
    else this.#due.set(key, value);
    this.#wake();
  }

  async #run(): Promise<void> {
    while (!this.#term.aborted) {
      const [next] = this.#due;
      if (next === undefined) await new Promise<void>((resolve) => (this.#wake = resolve));
      else await this.#settle(...next);
    }
  }

  async #settle(key: string, object: Watched): Promise<void> {
    const { nowMs, tuning, onProblem } = this.#options;
    this.#due.delete(key);
    const text = JSON.stringify([object.uid, object.generation, object.wanted]);
    const before = this.#written.get(key);
    const isRepeated = before?.text === text && nowMs() - before.atMs < (tuning?.repeatMs ?? REPEAT_MS);
    if (isRepeated) return;
    try {
      await this.#write(object);
      this.#written.set(key, { text, atMs: nowMs() });
      this.#failures = 0;
      await this.#tellEvent(object);
      await this.#rest(tuning?.paceMs ?? PACE_MS);
    } catch (error) {
      if (this.#term.aborted) return;
      const status = error instanceof KubeError ? error.status : 0;
      // Changed meanwhile: the watch brings what is there now.
      if (status === 409) return;
      onProblem(`${key}: its condition could not be written: ${messageOf(error)}`);
      // Gone meanwhile, or its kind has no status: trying again helps with neither.
      if (status === 404) return;
      this.#failures += 1;
      if (!this.#due.has(key)) this.#due.set(key, object);
      await this.#rest(this.#retryMs());
    }
  }

  async #write(object: Watched): Promise<void> {
    const { wanted, existing, generation, resourceVersion } = object;
    const old = existing.find(({ type }) => type === wanted.type);
    const isSameStatus = old?.status === wanted.status && typeof old.lastTransitionTime === 'string';
    const now = new Date(this.#options.nowMs()).toISOString().replace(/\.\d+Z$/, 'Z');
    const condition = {
      ...wanted,
      observedGeneration: generation,
      lastTransitionTime: isSameStatus ? old.lastTransitionTime : now,
    };
    const others = existing.filter((one) => !isOurs(one)).slice(0, MAX_OTHERS);
    await this.#options.api.request({
      method: 'PATCH',
      path: `${pathOf(object)}/status`,
      patch: 'application/merge-patch+json',
      // With the version, so that nobody else's condition is lost.
      body: { metadata: { resourceVersion }, status: { conditions: [...others, condition] } },
      signal: this.#term,
    });
  }

  /** Best effort: the condition says it too. */
  async #tellEvent({ kind, version, namespace, name, uid, wanted }: Watched): Promise<void> {
    if (wanted.reason === 'Accepted') return;
    const { api, instance, nowMs, onProblem } = this.#options;
    const body = {
      apiVersion: 'events.k8s.io/v1',
      kind: 'Event',
      metadata: { namespace, name: `${name.slice(0, 200)}.${randomBytes(8).toString('hex')}` },
      eventTime: new Date(nowMs()).toISOString().replace('Z', '000Z'),
      type: 'Warning',
      reason: `Policy${wanted.reason}`,
      action: 'Judge',
      note: wanted.message,
      reportingController: CONTROLLER,
      reportingInstance: instance.slice(0, 128),
      regarding: { apiVersion: `${POLICY_GROUP}/${version}`, kind: kind.kind, namespace, name, uid },
    };
    const path = `/apis/events.k8s.io/v1/namespaces/${namespace}/events`;
    await api.request({ method: 'POST', path, body, signal: this.#term }).catch((error: unknown) => {
      if (!this.#term.aborted) onProblem(`an Event could not be written: ${messageOf(error)}`);
    });
  }

  #retryMs(): number {
    const firstMs = this.#options.tuning?.firstRetryMs ?? FIRST_RETRY_MS;
    return (
      Math.min(LAST_RETRY_MS, firstMs * 2 ** Math.min(this.#failures - 1, 10)) * (0.5 + Math.random() / 2)
    );
  }

  async #rest(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#term }).catch(() => undefined);
  }
}

/** Whether the object carries the word already, or another's that is better informed: a waypoint has taken it. */
function isSaid({ existing, wanted, generation }: Watched): boolean {
  if (wanted.type === WAYPOINT && existing.some(isBound)) return true;
  const ours = existing.filter(isOurs).map(({ type, status, reason, message, observedGeneration }) => ({
    ...{ type, status, reason, message },
    observedGeneration: Number(observedGeneration),
  }));
  return isDeepStrictEqual(ours, [{ ...wanted, observedGeneration: generation }]);
}

function isOurs(one: Existing): boolean {
  return one.type === ZTUNNEL || (one.type === WAYPOINT && !isBound(one));
}

function isBound({ type, status }: Existing): boolean {
  return type === WAYPOINT && status === 'True';
}

function pathOf({ kind, version, namespace, name }: Watched): string {
  return `/apis/${kind.group}/${version}/namespaces/${namespace}/${kind.resource}/${name}`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
