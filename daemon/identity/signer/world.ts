/** What the signer knows of pods and of other requests, from two watches; the facts behind decide.ts. */
import { z } from 'zod';
import type { Change, Watched } from '../../kube/seams.ts';
import type { PodFacts, SignerWorld } from './decide.ts';
import { readRequest, summaryOf, SIGNER_NAME } from './request.ts';
import type { RequestSummary } from './request.ts';

export const PODS_PATH = '/api/v1/pods';
/** Servers send a bookmark every minute: of a watch that was silent for longer, nobody knows what it has missed. */
const CURRENT_MS = 150_000;
const DAEMON_LABELS = {
  'app.kubernetes.io/name': 'culvert',
  'app.kubernetes.io/component': 'daemon',
} as const;
const MIRROR = 'kubernetes.io/config.mirror';

const word = z.string().max(253);
const podSchema = z.object({
  metadata: z.object({
    name: word,
    namespace: word,
    uid: word,
    labels: z.record(z.string(), z.string()).nullish(),
    annotations: z.record(z.string(), z.string()).nullish(),
    ownerReferences: z
      .array(z.object({ kind: word, name: word, controller: z.boolean().nullish() }))
      .nullish(),
  }),
  spec: z.object({ nodeName: word.nullish(), serviceAccountName: word.nullish() }).nullish(),
  status: z.object({ phase: word.nullish() }).nullish(),
});

/** A decoder of pods. `daemonSet` is the name of ours, in `namespace`. */
export function podReader(namespace: string, daemonSet: string): (object: unknown) => PodFacts | undefined {
  return (object) => {
    const { metadata, spec, status } = podSchema.parse(object);
    const isOver = status?.phase === 'Succeeded' || status?.phase === 'Failed';
    const isOurs = metadata.namespace === namespace;
    // Nothing is ever granted for a pod that is over; ours are kept for the reason that is told.
    if (isOver && !isOurs) return undefined;
    const isLabelled = Object.entries(DAEMON_LABELS).every(
      ([key, value]) => metadata.labels?.[key] === value,
    );
    const isOwned = metadata.ownerReferences?.some(
      (owner) => owner.kind === 'DaemonSet' && owner.name === daemonSet && owner.controller === true,
    );
    // A kubelet makes mirror pods in any namespace by itself: they speak for no account.
    const isMirror = metadata.annotations?.[MIRROR] !== undefined;
    return {
      uid: metadata.uid,
      name: metadata.name,
      namespace: metadata.namespace,
      node: spec?.nodeName ?? '',
      serviceAccount: isMirror ? '' : (spec?.serviceAccountName ?? ''),
      isOver,
      isDaemon: isOurs && isLabelled && isOwned === true,
    };
  };
}

/** A decoder of requests of our signer. */
export function readSummary(object: unknown): RequestSummary | undefined {
  const request = readRequest(object);
  return request?.signerName === SIGNER_NAME ? summaryOf(request) : undefined;
}

/** Indexes two watched collections as they change. */
export class WatchedWorld implements SignerWorld {
  readonly #pods: Watched<PodFacts>;
  readonly #now: () => number;
  /** Pods that are not over, by node, namespace and account. */
  readonly #workloads = new Map<string, Set<string>>();
  readonly #byPod = new Map<string, string>();
  /** Names of requests by key. */
  readonly #requests = new Map<string, RequestSummary>();
  readonly #byKey = new Map<string, Set<string>>();

  /** `now`: the wall clock in ms. */
  constructor(pods: Watched<PodFacts>, now: () => number) {
    this.#pods = pods;
    this.#now = now;
  }

  get nowMs(): number {
    return this.#now();
  }

  get isCurrent(): boolean {
    return this.#pods.stalenessMs() < CURRENT_MS;
  }

  pod(namespace: string, name: string): PodFacts | undefined {
    return this.#pods.items.get(`${namespace}/${name}`);
  }

  hasWorkload(node: string, namespace: string, serviceAccount: string): boolean {
    return (this.#workloads.get(placeOf(node, namespace, serviceAccount))?.size ?? 0) > 0;
  }

  sameKey(keyHash: string): readonly RequestSummary[] {
    return [...(this.#byKey.get(keyHash) ?? [])].flatMap((name) => this.#requests.get(name) ?? []);
  }

  /** Requests known. */
  get requests(): ReadonlyMap<string, RequestSummary> {
    return this.#requests;
  }

  podsChanged(changes: readonly Change<PodFacts>[]): void {
    for (const { type, key, value } of changes) {
      leave(this.#workloads, this.#byPod.get(key), key);
      this.#byPod.delete(key);
      if (type === 'gone' || value.isOver || value.node === '' || value.serviceAccount === '') continue;
      const place = placeOf(value.node, value.namespace, value.serviceAccount);
      this.#byPod.set(key, place);
      join(this.#workloads, place, key);
    }
  }

  requestsChanged(changes: readonly Change<RequestSummary>[]): void {
    for (const { type, key, value } of changes) {
      leave(this.#byKey, this.#requests.get(key)?.keyHash, key);
      this.#requests.delete(key);
      if (type === 'gone') continue;
      this.#requests.set(key, value);
      if (value.keyHash !== undefined) join(this.#byKey, value.keyHash, key);
    }
  }
}

/** No name has a slash in it. */
function placeOf(node: string, namespace: string, serviceAccount: string): string {
  return `${node}/${namespace}/${serviceAccount}`;
}

function join(sets: Map<string, Set<string>>, of: string, member: string): void {
  sets.set(of, (sets.get(of) ?? new Set()).add(member));
}

function leave(sets: Map<string, Set<string>>, of: string | undefined, member: string): void {
  if (of === undefined) return;
  const set = sets.get(of);
  set?.delete(member);
  if (set?.size === 0) sets.delete(of);
}
