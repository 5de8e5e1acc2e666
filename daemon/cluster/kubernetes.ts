/**
 * The cluster as a Kubernetes API tells it: one reflector for each kind that the mesh uses, and of each object only
 * what the mesh's model has. ServiceAccounts are not watched: a pod's spec names its own, and nothing else is used.
 */
import { isDeepStrictEqual } from 'node:util';
import type { ClusterSource, Delta, PublishedState, SourceProblem, Workload } from '../mesh/model.ts';
import { CustomCollection } from '../kube/custom.ts';
import type { CustomTuning } from '../kube/custom.ts';
import { Looks } from '../kube/discovery.ts';
import { protobufWire } from '../kube/protobuf.ts';
import { Reflector } from '../kube/reflector.ts';
import type { Change, KubeApi, Watched } from '../kube/seams.ts';
import { pathText } from './documents.ts';
import { translate } from './objects.ts';
import type { Translation } from './objects.ts';
import { gone, inOrder } from './order.ts';
import { POLICY_COLLECTIONS, POLICY_GROUP } from './policies.ts';
import type { PolicyCollection } from './policies.ts';
import { PROTOBUF_FIELDS } from './protobuf-fields.ts';
import { STATE_ANNOTATION, readState } from './state-annotation.ts';

export interface KubernetesSourceOptions {
  readonly api: KubeApi;
  /** Only this node's pods, its own object, and all namespaces: what enrolment needs. */
  readonly node?: string;
  /** Lists and watches in JSON: what protobuf is measured against (test/bench/watch.bench.ts). */
  readonly json?: true;
  /** Something went wrong in a watch and was survived. `part`: the collection's name. */
  readonly onProblem?: (part: string, reason: string) => void;
  readonly tuning?: Partial<CustomTuning>;
}

/** A pod, and its annotation. */
export interface PodView {
  readonly workload: Workload;
  /** What it says that others decide by. */
  readonly published: PublishedState | undefined;
  /** All that it says, where pods are one node's; of a text that is longer than ours its beginning. */
  readonly shown: string | undefined;
}

/** What is kept of one object. */
interface Kept {
  readonly title: string;
  readonly delta: Delta;
  readonly pod?: Omit<PodView, 'workload'>;
}

interface Collection {
  /** Also the name of its series in the metrics. */
  readonly part: string;
  readonly apiVersion: string;
  readonly kind: keyof typeof PROTOBUF_FIELDS;
  readonly path: string;
  readonly fieldSelector?: string;
}

const core = (part: string, kind: Collection['kind']): Collection => ({
  part,
  apiVersion: 'v1',
  kind,
  path: `/api/v1/${part}`,
});
const NAMESPACES = core('namespaces', 'Namespace');
const NODES = core('nodes', 'Node');
const PODS = core('pods', 'Pod');
const SERVICES = core('services', 'Service');
const SLICES: Collection = {
  part: 'endpointslices',
  apiVersion: 'discovery.k8s.io/v1',
  kind: 'EndpointSlice',
  path: '/apis/discovery.k8s.io/v1/endpointslices',
};

/** More than any text of ours. */
const MAX_SHOWN = 1_024;
/** Problems told at once. */
const MAX_PROBLEMS = 1_000;

export class KubernetesSource implements ClusterSource {
  readonly synced: Promise<void>;
  readonly #options: KubernetesSourceOptions;
  readonly #tuning: Partial<CustomTuning>;
  readonly #parts: ReadonlyMap<string, Watched<Kept>>;
  readonly #pods = new Map<string, Kept>();
  /** By the object's title. */
  readonly #problems = new Map<string, readonly string[]>();
  #onDeltas: (deltas: readonly Delta[]) => void = () => undefined;
  #pending: Delta[] = [];
  #isSynced = false;
  #flushing: NodeJS.Immediate | undefined;

  constructor(options: KubernetesSourceOptions) {
    this.#options = options;
    // Where only our own node is watched, nobody knows how many there are.
    const nodes = (): number => this.#parts.get(NODES.part)?.items.size ?? 1;
    this.#tuning = { nodes, ...options.tuning };
    const builtIn = collectionsFor(options.node).map((one) => [one.part, this.#reflect(one)] as const);
    // Nobody is enrolled by a policy.
    const policies = options.node === undefined ? POLICY_COLLECTIONS : [];
    const looks = new Looks(options.api, POLICY_GROUP, this.#tuning);
    const custom = policies.map((one) => [one.resource, this.#reflectPolicies(one, looks)] as const);
    this.#parts = new Map<string, Watched<Kept>>([...builtIn, ...custom]);
    this.synced = Promise.all([...this.#parts.values()].map(({ synced }) => synced)).then(() => {
      this.#isSynced = true;
      this.#flush();
    });
  }

  start(onDeltas: (deltas: readonly Delta[]) => void): void {
    this.#onDeltas = onDeltas;
    for (const reflector of this.#parts.values()) reflector.start((changes) => this.#take(changes));
  }

  problems(): readonly SourceProblem[] {
    const parts = [...this.#parts].flatMap(([part, reflector]) => {
      const reason = reflector.problem();
      return reason === undefined ? [] : [{ where: `the API's ${part}`, line: undefined, reason }];
    });
    const objects = [...this.#problems].flatMap(([where, reasons]) =>
      reasons.map((reason) => ({ where, line: undefined, reason })),
    );
    return [...parts, ...objects].slice(0, MAX_PROBLEMS);
  }

  stalenessMs(): ReadonlyMap<string, number> {
    return new Map([...this.#parts].map(([part, reflector]) => [part, reflector.stalenessMs()]));
  }

  /** Every pod that is held, with what is published of it. */
  *pods(): Iterable<PodView> {
    for (const { delta, pod } of this.#pods.values())
      if (pod !== undefined && delta.kind === 'workload' && delta.value !== undefined)
        yield { workload: delta.value, ...pod };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearImmediate(this.#flushing);
    this.#onDeltas = () => undefined;
    await Promise.all([...this.#parts.values()].map((reflector) => reflector[Symbol.asyncDispose]()));
  }

  #reflect(collection: Collection): Reflector<Kept> {
    const { api, onProblem } = this.#options;
    return new Reflector<Kept>(
      {
        api,
        path: collection.path,
        ...(this.#options.json === true
          ? {}
          : { wire: protobufWire(collection.kind, PROTOBUF_FIELDS[collection.kind]) }),
        ...(collection.fieldSelector === undefined ? {} : { fieldSelector: collection.fieldSelector }),
        decode: (object) => this.#decode(collection, object),
        onProblem: (reason) => onProblem?.(collection.part, reason),
      },
      this.#tuning,
    );
  }

  #reflectPolicies(kind: PolicyCollection, looks: Looks): CustomCollection<Kept> {
    const { api, onProblem } = this.#options;
    return new CustomCollection<Kept>(
      {
        api,
        kind,
        looks,
        decode: (object, version) =>
          this.#decode({ apiVersion: `${POLICY_GROUP}/${version}`, kind: kind.kind }, object),
        onProblem: (reason) => onProblem?.(kind.resource, reason),
      },
      this.#tuning,
    );
  }

  /** @throws Error when the object can't be read: then it stays as it was, a label too. */
  #decode({ apiVersion, kind }: { apiVersion: string; kind: string }, object: unknown): Kept | undefined {
    // Objects in a list don't say what they are.
    const translation = translate({ ...Object(object), apiVersion, kind });
    if (translation.kind === 'foreign') return undefined;
    const reasons = this.#note(translation);
    if (translation.kind === 'invalid') throw new Error(reasons.join('; '));
    const { title, delta } = translation;
    if (delta?.kind !== 'workload') return delta && { title, delta };
    const text = annotationOf(object, STATE_ANNOTATION);
    const published = text === undefined ? undefined : readState(text, delta.key);
    // Whoever has all nodes' pods needs it of none.
    const shown = this.#options.node === undefined ? undefined : text?.slice(0, MAX_SHOWN);
    return { title, delta, pod: { published, shown } };
  }

  #note(translation: Exclude<Translation, { kind: 'foreign' }>): readonly string[] {
    const { title } = translation;
    const notes = translation.kind === 'object' ? translation.notes : translation.problems;
    const reasons = notes.map(({ path, reason }) => `${pathText(path)}${reason}`);
    if (reasons.length === 0) this.#problems.delete(title);
    else if (this.#problems.has(title) || this.#problems.size < MAX_PROBLEMS)
      this.#problems.set(title, reasons);
    return reasons;
  }

  #take(changes: readonly Change<Kept>[]): void {
    for (const change of changes) {
      const { delta, title } = change.value;
      if (delta.kind === 'workload') this.#takePod(change, delta);
      else this.#pending.push(change.type === 'set' ? delta : gone(delta));
      if (change.type === 'gone') this.#problems.delete(title);
    }
    if (this.#isSynced && this.#pending.length > 0)
      this.#flushing ??= setImmediate(() => {
        this.#flushing = undefined;
        this.#flush();
      });
  }

  /** Of a pod its object and its published state change apart; another pod of the same name is another pod. */
  #takePod({ type, key, value }: Change<Kept>, delta: Delta & { kind: 'workload' }): void {
    const before = this.#pods.get(key);
    const old = type === 'set' && before?.delta.key === delta.key ? before : undefined;
    if (before !== undefined && old === undefined) this.#dropPod(before);
    if (type === 'gone') {
      this.#pods.delete(key);
      return;
    }
    this.#pods.set(key, value);
    if (!isDeepStrictEqual(old?.delta, delta)) this.#pending.push(delta);
    const published = value.pod?.published;
    if (!isDeepStrictEqual(old?.pod?.published, published))
      this.#pending.push({ kind: 'published', key: delta.key, value: published });
  }

  #dropPod({ delta, pod }: Kept): void {
    if (delta.kind !== 'workload') return;
    this.#pending.push(gone(delta));
    if (pod?.published !== undefined)
      this.#pending.push({ kind: 'published', key: delta.key, value: undefined });
  }

  #flush(): void {
    const deltas = inOrder(this.#pending);
    this.#pending = [];
    if (deltas.length > 0) this.#onDeltas(deltas);
  }
}

function collectionsFor(node: string | undefined): readonly Collection[] {
  if (node === undefined) return [NAMESPACES, NODES, PODS, SERVICES, SLICES];
  return [
    NAMESPACES,
    { ...NODES, fieldSelector: `metadata.name=${node}` },
    { ...PODS, fieldSelector: `spec.nodeName=${node}` },
  ];
}

/** An annotation of an object's JSON. */
export function annotationOf(object: unknown, name: string): string | undefined {
  const metadata: unknown = Reflect.get(Object(object), 'metadata');
  const annotations: unknown = Reflect.get(Object(metadata), 'annotations');
  const value: unknown = Reflect.get(Object(annotations), name);
  return typeof value === 'string' ? value : undefined;
}
