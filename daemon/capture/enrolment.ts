/**
 * The reconcile loop: makes what is (cgroups, namespaces, maps) equal to what should be (labels), from any state.
 * Events are hints; every `rescanInterval` everything is looked at again.
 */
import type { Hot } from '../../native/hot/index.ts';
import { MeshError } from '../errors.ts';
import { whyNotEnrollable } from '../mesh/enrollable.ts';
import type { PodUid, SpiffeId } from '../mesh/ids.ts';
import { spiffeId } from '../mesh/ids.ts';
import { mode } from '../mesh/mode.ts';
import type { MeshSettings, PublishedState, Workload } from '../mesh/model.ts';
import type { MeshState } from '../mesh/state.ts';
import type { LocalPod, PodStatus } from '../mesh/wiring.ts';
import type { Log } from '../observe/log.ts';
import { CapturedPod } from './captured-pod.ts';
import type { CaptureContext } from './captured-pod.ts';
import { cgroupId, listPodCgroups } from './kubepods.ts';
import { facetsOf, nextDeadline, nextPhase, publishedOf, reasonOf } from './machine.ts';
import type { Phase, PodFacts, Timing } from './machine.ts';
import { findSandbox, hasProcesses } from './sandbox.ts';

/** While a pod waits for its sandbox or its address, look this often: nothing tells when an address is added. */
const SANDBOX_POLL_MS = 10;

export interface EnrolmentEvents {
  wantIdentity(id: SpiffeId, urgent: boolean): void;
  releaseIdentity(id: SpiffeId): void;
  pods(pods: readonly PodStatus[]): void;
  publish(states: readonly PublishedState[]): void;
}

export interface EnrolmentOptions {
  readonly context: CaptureContext;
  readonly state: MeshState;
  readonly settings: MeshSettings;
  readonly timing: Timing & { readonly rescanInterval: number };
  readonly kubepods: string;
  readonly procRoot: string;
  readonly hostNetnsFd: number;
  readonly events: EnrolmentEvents;
  readonly log: Log;
}

interface Entry {
  readonly uid: PodUid;
  phase: Phase;
  id: SpiffeId | undefined;
  captured: CapturedPod | undefined;
  /** Was it running, not captured, when it became wanted? Fixed when it does. */
  wasRunning: boolean;
  wasEnrolled: boolean;
  guarded: string | undefined;
  problem: string | undefined;
  busy: boolean;
  observedMs: number;
  lastWorkload: Workload;
  olderConnections: number;
}

export class Enrolment {
  readonly #options: EnrolmentOptions;
  readonly #hot: Hot;
  readonly #entries = new Map<PodUid, Entry>();
  /** Pods seen running without being wanted: when they become so, they join instead of being held. */
  readonly #seenUnwanted = new Set<PodUid>();
  readonly #certificates = new Map<SpiffeId, { readonly notAfterMs: number } | { readonly failed: string }>();
  #adopted: ReadonlySet<bigint> = new Set();
  #isFirst = true;
  #paused = false;
  #leavingAll: (() => void) | undefined;
  #scheduled: NodeJS.Immediate | undefined;
  #timer: NodeJS.Timeout | undefined;
  #lastStatus = '';
  #lastPublished = '';

  constructor(options: EnrolmentOptions) {
    this.#options = options;
    this.#hot = options.context.hot;
  }

  /** Starts with what a daemon before us left in the kernel: cgroup ids of pods that were enrolled. */
  start(adopted: ReadonlySet<bigint>): void {
    this.#adopted = adopted;
    this.#reconcile();
  }

  /** Something may have changed: look, soon and once. */
  poke(): void {
    this.#scheduled ??= setImmediate(() => {
      this.#scheduled = undefined;
      this.#reconcile();
    });
  }

  identityReady(id: SpiffeId, notAfterMs: number): void {
    this.#certificates.set(id, { notAfterMs });
    this.poke();
  }

  identityFailed(id: SpiffeId, reason: string): void {
    if (!this.#hasCertificate(id)) this.#certificates.set(id, { failed: reason });
    this.poke();
  }

  /** Another daemon has the node: change nothing more. */
  pause(): void {
    this.#paused = true;
    clearTimeout(this.#timer);
  }

  /** The node is ours again: the other daemon may have changed every entry. */
  resume(): void {
    this.#paused = false;
    for (const entry of this.#entries.values()) entry.captured?.invalidate();
    this.#lastPublished = '';
    this.poke();
  }

  /** Lets go of our copies of the listeners: with the workers' closed too, new connections are refused at once. */
  closeListeners(): void {
    for (const entry of this.#entries.values()) entry.captured?.closeListeners();
  }

  /** Un-enrols every pod as if each label had gone; resolves when nothing is left. */
  leaveAll(): Promise<void> {
    return new Promise((resolve) => {
      this.#leavingAll = resolve;
      this.poke();
    });
  }

  /** Hands every pod to a new worker. */
  equip(worker: number): void {
    for (const entry of this.#entries.values()) {
      if (entry.captured === undefined) continue;
      this.#options.context.fleet.send(worker, { type: 'pod', pod: localPod(entry, entry.captured) });
      entry.captured.handTo(worker);
    }
  }

  #reconcile(): void {
    if (this.#paused) return;
    clearTimeout(this.#timer);
    const cgroups = new Map(listPodCgroups(this.#options.kubepods).map(({ uid, path }) => [uid, path]));
    const local = new Map<PodUid, Workload>();
    for (const workload of this.#options.state.workloads())
      if (workload.node === this.#options.settings.nodeName) local.set(workload.uid, workload);
    for (const [uid, workload] of local) this.#consider(uid, workload, cgroups.get(uid));
    for (const entry of [...this.#entries.values()])
      this.#step(entry, local.get(entry.uid), cgroups.get(entry.uid));
    for (const uid of this.#seenUnwanted) if (!local.has(uid)) this.#seenUnwanted.delete(uid);
    if (this.#isFirst) this.#removeStrangers(cgroups);
    this.#isFirst = false;
    this.#tell(local);
    if (this.#leavingAll !== undefined && this.#entries.size === 0) this.#leavingAll();
    this.#timer = setTimeout(() => this.#reconcile(), this.#untilNext());
  }

  /** Makes an entry for a pod that has become wanted. */
  #consider(uid: PodUid, workload: Workload, cgroup: string | undefined): void {
    if (this.#entries.has(uid)) return;
    if (!this.#isWanted(workload)) {
      this.#seenUnwanted.add(uid);
      return;
    }
    if (cgroup === undefined) return; // its cgroup has not appeared yet
    const running = hasProcesses(cgroup);
    const isAdopted = this.#adopted.has(cgroupId(cgroup));
    this.#entries.set(uid, {
      uid,
      phase: { state: 'none' },
      id: undefined,
      captured: undefined,
      wasEnrolled: isAdopted,
      wasRunning: running && !isAdopted && (this.#seenUnwanted.has(uid) || this.#isFirst),
      guarded: undefined,
      problem: undefined,
      busy: false,
      observedMs: 0,
      lastWorkload: workload,
      olderConnections: 0,
    });
    this.#seenUnwanted.delete(uid);
  }

  #isWanted(workload: Workload): boolean {
    if (this.#leavingAll !== undefined) return false;
    const isOver = workload.phase === 'Succeeded' || workload.phase === 'Failed';
    return (
      !isOver &&
      this.#options.state.isLabelled(workload) &&
      whyNotEnrollable(workload, this.#options.state.namespace(workload.namespace)) === undefined
    );
  }

  /** One pod, from where it is towards where it should be. A failure is kept as its reason and tried again. */
  #step(entry: Entry, workload: Workload | undefined, cgroup: string | undefined): void {
    if (entry.busy) return;
    if (workload !== undefined) entry.lastWorkload = workload;
    try {
      if (cgroup === undefined) {
        this.#dismantle(entry, 'POD_GONE');
        return;
      }
      this.#observe(entry, cgroup);
      this.#advance(entry, workload, cgroup);
      entry.problem = undefined;
    } catch (error) {
      const reason = error instanceof MeshError ? `${error.code}: ${error.message}` : String(error);
      if (entry.problem !== reason)
        this.#options.log.error({ pod: entry.uid, err: error }, 'enrolment failed; it is tried again');
      entry.problem = reason;
    }
  }

  /** Finds the sandbox, its addresses; a pod whose namespace changed (restart in place) starts over. */
  #observe(entry: Entry, cgroup: string): void {
    const { procRoot, hostNetnsFd, timing } = this.#options;
    const now = Date.now();
    const isSettled = entry.captured !== undefined && entry.captured.ips.length > 0;
    if (isSettled && now - entry.observedMs < timing.rescanInterval / 2) return;
    entry.observedMs = now;
    const sandbox = findSandbox(this.#hot, procRoot, cgroup, hostNetnsFd);
    if (sandbox === undefined) return;
    if (entry.captured !== undefined) {
      const isSame = this.#hot.sameNetns(sandbox.netnsFd, entry.captured.netnsFd) === true;
      this.#hot.closeFd(sandbox.netnsFd);
      if (!isSame) this.#dismantle(entry, 'POD_GONE');
      else if (entry.captured.refreshAddresses()) this.#announce(entry);
      return;
    }
    if (!this.#isWanted(entry.lastWorkload) && entry.phase.state === 'none') {
      this.#hot.closeFd(sandbox.netnsFd);
      return;
    }
    entry.captured = new CapturedPod(
      this.#options.context,
      entry.uid,
      sandbox.netnsFd,
      cgroupId(cgroup),
      entry.lastWorkload,
    );
    entry.captured.refreshAddresses();
  }

  #advance(entry: Entry, workload: Workload | undefined, cgroup: string): void {
    const facts = this.#facts(entry, workload);
    for (;;) {
      const next = nextPhase(entry.phase, facts, this.#options.timing);
      if (next === entry.phase) break;
      this.#enter(entry, next, workload);
    }
    if (entry.phase.state === 'none') {
      this.#dismantle(entry, 'POLICY_CHANGED');
      return;
    }
    this.#guard(entry, cgroup);
    if (entry.captured !== undefined && entry.captured.ips.length > 0) this.#apply(entry, entry.captured);
  }

  #facts(entry: Entry, workload: Workload | undefined): PodFacts {
    return {
      wanted: workload !== undefined && this.#isWanted(workload),
      hasNetns: (entry.captured?.ips.length ?? 0) > 0,
      wasRunning: entry.wasRunning,
      wasEnrolled: entry.wasEnrolled,
      certificate: entry.id !== undefined && this.#hasCertificate(entry.id),
      listening: entry.captured !== undefined && this.#options.context.fleet.isListening(entry.uid),
      nowMs: Date.now(),
    };
  }

  #hasCertificate(id: SpiffeId): boolean {
    const known = this.#certificates.get(id);
    return known !== undefined && 'notAfterMs' in known;
  }

  #enter(entry: Entry, next: Phase, workload: Workload | undefined): void {
    const before = entry.phase;
    entry.phase = next;
    if (entry.id === undefined && workload !== undefined && next.state !== 'none')
      this.#wantIdentity(entry, workload);
    if (next.state === before.state && next.state !== 'joining') return;
    this.#announce(entry);
    if (next.state === 'enrolled' && entry.captured !== undefined)
      this.#cutOlderIfAsked(entry, entry.captured);
  }

  #wantIdentity(entry: Entry, workload: Workload): void {
    const id = spiffeId(this.#options.settings.trustDomain, workload.namespace, workload.serviceAccount);
    entry.id = id;
    const isNew = ![...this.#entries.values()].some((other) => other !== entry && other.id === id);
    if (isNew || !this.#hasCertificate(id)) this.#options.events.wantIdentity(id, true);
  }

  #announce(entry: Entry): void {
    if (entry.captured !== undefined && entry.id !== undefined)
      this.#options.context.fleet.announce(localPod(entry, entry.captured));
  }

  /** The guard stands from the cgroup's appearance until the namespace itself is redirected. */
  #guard(entry: Entry, cgroup: string): void {
    const { kernel } = this.#options.context;
    const wantsGuard = facetsOf(entry.phase).guard;
    if (wantsGuard && entry.guarded === undefined) {
      kernel.setPodCgroup(cgroupId(cgroup), { state: 'pending', netnsCookie: 0n, allowNested: false });
      kernel.guardPending(entry.uid, cgroup);
      entry.guarded = cgroup;
    }
  }

  #apply(entry: Entry, captured: CapturedPod): void {
    const facets = facetsOf(entry.phase);
    const captures = facets.capture && !captured.isCapturing;
    if (captures) captured.noteOlder();
    captured.apply(facets, entry.lastWorkload);
    if (entry.guarded !== undefined && !facets.guard) {
      this.#options.context.kernel.unguardPending(entry.uid);
      entry.guarded = undefined;
    }
    // A pod that should have been guarded from its start has nothing older: what it opened meanwhile went unguarded.
    if (captures && entry.phase.state === 'opening' && !entry.wasEnrolled)
      this.#cutUnguarded(entry, captured);
    entry.olderConnections = captured.countOlder();
  }

  #cutUnguarded(entry: Entry, captured: CapturedPod): void {
    const cut = captured.cutOlder(() => true);
    if (cut > 0)
      this.#options.log.warn(
        { pod: entry.uid, connections: cut },
        'the pod started before it was guarded: its connections were cut',
      );
  }

  /** DESIGN.md 3a: STRICT destroys connections older than enrolment; PERMISSIVE only on the pod's wish. */
  #cutOlderIfAsked(entry: Entry, captured: CapturedPod): void {
    const workload = entry.lastWorkload;
    const cut = captured.cutOlder(
      (port) => workload.cutExisting || mode(this.#options.state, workload, port) === 'strict',
    );
    if (cut > 0)
      this.#options.log.info(
        { pod: entry.uid, connections: cut },
        'connections older than enrolment were cut',
      );
  }

  #dismantle(entry: Entry, reason: 'POD_GONE' | 'POLICY_CHANGED'): void {
    const { kernel } = this.#options.context;
    if (entry.guarded !== undefined) {
      kernel.unguardPending(entry.uid);
      kernel.deletePodCgroup(cgroupIdOrZero(entry.guarded));
      entry.guarded = undefined;
    }
    const { captured } = entry;
    entry.captured = undefined;
    const isOver =
      reason === 'POLICY_CHANGED' ||
      !this.#isWanted(entry.lastWorkload) ||
      this.#options.state.workload(entry.uid) === undefined;
    if (isOver) this.#remove(entry);
    else entry.phase = { state: 'none' };
    entry.wasRunning = false;
    entry.wasEnrolled = false;
    if (captured === undefined) return;
    entry.busy = true;
    void captured.dismantle(reason).finally(() => {
      entry.busy = false;
      this.poke();
    });
  }

  #remove(entry: Entry): void {
    this.#entries.delete(entry.uid);
    if (this.#options.state.workload(entry.uid) !== undefined) this.#seenUnwanted.add(entry.uid);
    const { id } = entry;
    if (id === undefined || [...this.#entries.values()].some((other) => other.id === id)) return;
    this.#certificates.delete(id);
    this.#options.events.releaseIdentity(id);
  }

  /** What a dead daemon left for pods that are no longer there, or no longer ours. */
  #removeStrangers(cgroups: ReadonlyMap<PodUid, string>): void {
    const { kernel } = this.#options.context;
    const ours = new Set(this.#entries.keys());
    const cookies = new Set([...this.#entries.values()].flatMap((entry) => entry.captured?.cookie ?? []));
    const ids = new Set([...cgroups].filter(([uid]) => ours.has(uid)).map(([, path]) => cgroupId(path)));
    const left = kernel.inventory();
    for (const cookie of left.pods) if (!cookies.has(cookie)) kernel.deletePod(cookie);
    for (const id of left.podCgroups) if (!ids.has(id)) kernel.deletePodCgroup(id);
    for (const uid of left.netnsLinks) if (!ours.has(uid)) kernel.detachNetns(uid);
    for (const uid of left.guards) if (!ours.has(uid)) kernel.unguardPending(uid);
    for (const { ip, cookie } of left.localPods) if (!cookies.has(cookie)) kernel.deleteLocalPod(ip, cookie);
  }

  #untilNext(): number {
    const { timing } = this.#options;
    let wait = timing.rescanInterval;
    const now = Date.now();
    for (const entry of this.#entries.values()) {
      const deadline = nextDeadline(entry.phase, timing);
      if (deadline !== undefined) wait = Math.min(wait, Math.max(1, deadline - now));
      if (entry.captured === undefined || entry.captured.ips.length === 0)
        wait = Math.min(wait, SANDBOX_POLL_MS);
    }
    return wait;
  }

  #tell(local: ReadonlyMap<PodUid, Workload>): void {
    const published: PublishedState[] = [];
    for (const entry of this.#entries.values()) {
      const state = publishedOf(entry.phase);
      if (state !== undefined && entry.phase.state !== 'none')
        published.push({ uid: entry.uid, state, sinceMs: entry.phase.sinceMs });
    }
    const text = JSON.stringify(published);
    if (text !== this.#lastPublished) {
      this.#lastPublished = text;
      this.#options.events.publish(published);
    }
    const status = this.#status(local);
    const statusText = JSON.stringify(status);
    if (statusText === this.#lastStatus) return;
    this.#lastStatus = statusText;
    this.#options.events.pods(status);
  }

  #status(local: ReadonlyMap<PodUid, Workload>): PodStatus[] {
    const all: PodStatus[] = [...this.#entries.values()].map((entry) => this.#statusOf(entry));
    for (const [uid, workload] of local) {
      if (this.#entries.has(uid) || !this.#options.state.isLabelled(workload)) continue;
      const why = whyNotEnrollable(workload, this.#options.state.namespace(workload.namespace));
      all.push({
        uid,
        name: workload.name,
        namespace: workload.namespace,
        state: why === undefined ? 'pending' : 'unenrollable',
        reason:
          why === undefined
            ? 'PENDING_CGROUP: the pod has no cgroup on this node yet'
            : `${why.code}: ${why.text}`,
        id: undefined,
        ips: workload.ips,
        olderConnections: 0,
        sinceMs: workload.createdMs,
      });
    }
    return all;
  }

  #statusOf(entry: Entry): PodStatus {
    const { phase, lastWorkload } = entry;
    const certificate = entry.id !== undefined && this.#hasCertificate(entry.id);
    const failed = entry.id === undefined ? undefined : this.#certificates.get(entry.id);
    const why = failed !== undefined && 'failed' in failed ? ` (${failed.failed})` : '';
    const base = reasonOf(phase, { certificate, hasNetns: entry.captured !== undefined });
    return {
      uid: entry.uid,
      name: lastWorkload.name,
      namespace: lastWorkload.namespace,
      state: phase.state,
      reason: entry.problem ?? (base === undefined ? undefined : `${base}${why}`),
      id: entry.id,
      ips: entry.captured?.ips ?? [],
      olderConnections: entry.olderConnections,
      sinceMs: phase.state === 'none' ? 0 : phase.sinceMs,
    };
  }
}

function localPod(entry: Entry, captured: CapturedPod): LocalPod {
  const { lastWorkload, id } = entry;
  if (id === undefined) throw new MeshError('SYSTEM_CALL_FAILED', `pod ${entry.uid} has no identity yet`);
  return {
    uid: entry.uid,
    name: lastWorkload.name,
    namespace: lastWorkload.namespace,
    id,
    ips: captured.ips,
    state: entry.phase.state,
    netnsFd: captured.netnsFd,
    ownPorts: captured.ownPorts,
  };
}

function cgroupIdOrZero(path: string): bigint {
  try {
    return cgroupId(path);
  } catch {
    return 0n; // the cgroup is gone, and its map entry can never match again
  }
}
