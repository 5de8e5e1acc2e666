/** Pods by namespace and name, for the labels of metrics: a record has names, the state is kept by UID and address. */
import type { Workload } from '../mesh/model.ts';
import type { WorkloadLabels } from '../observe/traffic.ts';

/** How old the index may be when a pod is found in it, and when it is not. */
const FRESH_MS = 10_000;
const FRESH_MISS_MS = 1_000;

/** Walks all workloads at most once a second, however many records ask. */
export class WorkloadIndex {
  readonly #workloads: () => Iterable<Workload>;
  readonly #now: () => number;
  #byName = new Map<string, WorkloadLabels>();
  #builtMs = Number.NEGATIVE_INFINITY;

  /** `now`: a monotonic clock in ms. */
  constructor(workloads: () => Iterable<Workload>, now: () => number) {
    this.#workloads = workloads;
    this.#now = now;
  }

  /** Labels of the controller rather than of the pod, so that series do not multiply; undefined when unknown. */
  describe(namespace: string, pod: string): WorkloadLabels | undefined {
    const key = `${namespace}/${pod}`;
    const ageMs = this.#now() - this.#builtMs;
    if (ageMs > FRESH_MS || (ageMs > FRESH_MISS_MS && !this.#byName.has(key))) this.#build();
    return this.#byName.get(key);
  }

  #build(): void {
    this.#byName = new Map();
    for (const workload of this.#workloads())
      this.#byName.set(`${workload.namespace}/${workload.name}`, labelsOf(workload));
    this.#builtMs = this.#now();
  }
}

function labelsOf({ name, owner, labels }: Workload): WorkloadLabels {
  const app = labels['app.kubernetes.io/name'] ?? labels['app'];
  const version = labels['app.kubernetes.io/version'] ?? labels['version'];
  return {
    workload: owner?.split('/')[1] ?? name,
    app,
    version,
    canonicalService: labels['service.istio.io/canonical-name'] ?? app,
    canonicalRevision: labels['service.istio.io/canonical-revision'] ?? version ?? 'latest',
  };
}
