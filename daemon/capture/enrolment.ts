/**
 * The reconcile loop: makes what is (cgroups, namespaces, maps) equal to what should be (labels), from any state.
 * Events are hints; every `rescanInterval` everything is looked at again.
 */
import type { Hot } from '../../native/hot/index.ts';
import { MeshError } from '../errors.ts';
import type { PodUid, SpiffeId } from '../mesh/ids.ts';
import { spiffeId } from '../mesh/ids.ts';
import type { MeshSettings, Workload } from '../mesh/model.ts';
import type { MeshState } from '../mesh/state.ts';
import type { Log } from '../observe/log.ts';
import { Adoption } from './adoption.ts';
import { CapturedPod } from './captured-pod.ts';
import type { CaptureContext } from './captured-pod.ts';
import { localPod, newEntry } from './entry.ts';
import type { Entry } from './entry.ts';
import { dropGuard, guardInbound, guardPod } from './guard.ts';
import { WantedIdentities } from './identities.ts';
import type { IdentityEvents } from './identities.ts';
import { cgroupId, listPodCgroups } from './kubepods.ts';
import { facetsOf, nextPhase } from './machine.ts';
import type { Phase, PodFacts, Timing } from './machine.ts';
import { cutOlderIfAsked, cutUnguarded } from './older.ts';
import { untilNextLook } from './pace.ts';
import { Reports } from './reports.ts';
import type { ReportEvents } from './reports.ts';
import { findSandbox, hasProcesses } from './sandbox.ts';
import type { Adopted } from './strangers.ts';
import { takeApart } from './take-apart.ts';
import { UnknownPods } from './unknown-pods.ts';
import { isWanted } from './wanted.ts';

export interface EnrolmentOptions {
  readonly context: CaptureContext;
  readonly state: MeshState;
  readonly settings: MeshSettings;
  readonly timing: Timing & { readonly rescanInterval: number; readonly unknownPodHold: number };
  readonly kubepods: string;
  readonly procRoot: string;
  readonly hostNetnsFd: number;
  readonly events: IdentityEvents & ReportEvents;
  readonly log: Log;
}

export class Enrolment {
  readonly #options: EnrolmentOptions;
  readonly #hot: Hot;
  readonly #entries = new Map<PodUid, Entry>();
  /** Pods seen running without being wanted: when they become so, they join instead of being held. */
  readonly #seenUnwanted = new Set<PodUid>();
  readonly #identities: WantedIdentities;
  readonly #reports: Reports;
  readonly #unknown: UnknownPods;
  /** Set when it starts. */
  #adoption: Adoption | undefined;
  #isFirst = true;
  #paused = false;
  #leavingAll: (() => void) | undefined;
  #scheduled: NodeJS.Immediate | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: EnrolmentOptions) {
    this.#options = options;
    this.#hot = options.context.hot;
    this.#identities = new WantedIdentities(options.events);
    this.#reports = new Reports(options.state, this.#identities, options.events);
    this.#unknown = new UnknownPods(options.context.kernel, options.timing.unknownPodHold, options.log);
  }

  /** Starts with what a daemon before us left in the kernel. Nothing is done before: all of it would look strange. */
  start(adopted: Adopted): void {
    this.#adoption = new Adoption(this.#options.context.kernel, this.#options.log, adopted);
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
    this.#identities.ready(id, notAfterMs);
    this.poke();
  }

  identityFailed(id: SpiffeId, reason: string): void {
    this.#identities.failed(id, reason);
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
    this.#reports.forget();
    this.poke();
  }

  /** Whose network namespace has this cookie; undefined when no pod of ours has it any more. */
  podOfNetns(cookie: bigint): PodUid | undefined {
    return [...this.#entries.values()].find(({ captured }) => captured?.cookie === cookie)?.uid;
  }

  /** Lets go of our copies of the listeners: with the workers' closed too, new connections are refused at once. */
  closeListeners(): void {
    for (const entry of this.#entries.values()) entry.captured?.listeners.close();
  }

  /**
   * Un-enrols every pod as if each label had gone; resolves when nothing is left. Before it has started no pod is known,
   * so none can be left in order: it never starts then, and resolves at once.
   */
  leaveAll(): Promise<void> {
    if (this.#adoption === undefined) {
      this.pause();
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      this.#leavingAll = resolve;
      this.poke();
    });
  }

  /** Hands every pod to a new worker. */
  equip(worker: number): void {
    for (const entry of this.#entries.values()) {
      if (entry.captured === undefined) continue;
      entry.captured.listeners.owe(worker);
      try {
        if (entry.id !== undefined)
          this.#options.context.fleet.send(worker, { type: 'pod', pod: localPod(entry, entry.captured) });
        entry.captured.listeners.handOver();
      } catch (error) {
        this.#failed(entry, error);
      }
    }
    this.poke();
  }

  #reconcile(): void {
    const adoption = this.#adoption;
    if (this.#paused || adoption === undefined) return;
    clearTimeout(this.#timer);
    const cgroups = this.#podCgroups();
    if (cgroups === undefined) return this.#later(this.#options.timing.rescanInterval);
    const local = this.#localWorkloads();
    if (this.#leavingAll === undefined) this.#unknown.look(cgroups, (uid) => local.has(uid), Date.now());
    else this.#unknown.releaseAll();
    for (const workload of local.values()) this.#consider(adoption, workload, cgroups.get(workload.uid));
    for (const entry of [...this.#entries.values()])
      this.#step(entry, local.get(entry.uid), cgroups.get(entry.uid));
    for (const uid of this.#seenUnwanted) if (!local.has(uid)) this.#seenUnwanted.delete(uid);
    adoption.settle(this.#entries, cgroups, (uid) => local.has(uid), this.#unknown.uids);
    this.#isFirst = false;
    // Whoever leaves them all says nothing of those that never came.
    this.#reports.tell(this.#entries, this.#leavingAll === undefined ? local : new Map());
    if (this.#leavingAll !== undefined && this.#entries.size === 0) this.#leavingAll();
    const now = Date.now();
    const wait = untilNextLook(this.#entries.values(), this.#options.timing, now);
    this.#later(Math.min(wait, Math.max(1, this.#unknown.deadlineMs - now)));
  }

  #localWorkloads(): ReadonlyMap<PodUid, Workload> {
    const local = new Map<PodUid, Workload>();
    for (const workload of this.#options.state.workloads())
      if (workload.node === this.#options.settings.nodeName) local.set(workload.uid, workload);
    return local;
  }

  #later(ms: number): void {
    this.#timer = setTimeout(() => this.#reconcile(), ms);
  }

  /** undefined when they can't be listed now: a pod that is not seen is not gone. */
  #podCgroups(): ReadonlyMap<PodUid, string> | undefined {
    const { kubepods, log } = this.#options;
    try {
      return new Map(listPodCgroups(kubepods).map(({ uid, path }) => [uid, path]));
    } catch (error) {
      log.error({ kubepods, err: error }, "the pods' cgroups can't be listed; every pod stays as it is");
      return undefined;
    }
  }

  /** Makes an entry for a pod that has become wanted, or that a daemon before us left enrolled: it leaves in order. */
  #consider(adoption: Adoption, workload: Workload, cgroup: string | undefined): void {
    const { uid } = workload;
    if (this.#entries.has(uid)) return;
    const wasEnrolled = cgroup !== undefined && adoption.wasEnrolled(uid, cgroup);
    const isAdopted = adoption.isGuarded(uid);
    if (!wasEnrolled && !this.#isWanted(workload, isAdopted)) {
      // Of a pod that came after us and whose label nobody could tell, it is not known that it was not wanted.
      const isRead = this.#options.state.labelling(workload) !== 'unread';
      if (this.#isFirst || isRead) this.#seenUnwanted.add(uid);
      if (isRead) this.#unknown.release(uid);
      return;
    }
    if (cgroup === undefined) return; // its cgroup has not appeared yet
    const guard = this.#unknown.handOver(uid);
    const ranBefore = !wasEnrolled && (guard?.ranBefore ?? !isAdopted) && hasProcesses(cgroup);
    const wasRunning = ranBefore && (this.#seenUnwanted.has(uid) || this.#isFirst);
    const guarded = guard !== undefined || isAdopted ? cgroup : undefined;
    const ranUnguarded = ranBefore && !wasRunning;
    this.#entries.set(uid, newEntry(workload, { wasRunning, ranUnguarded, wasEnrolled, guarded }));
    this.#seenUnwanted.delete(uid);
  }

  /** `isOurs`: false only for a pod that has no entry, and that no daemon before us left closed. */
  #isWanted(workload: Workload, isOurs = true): boolean {
    return this.#leavingAll === undefined && isWanted(this.#options.state, workload, isOurs);
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
      try {
        this.#observe(entry, cgroup);
        entry.captured?.listeners.handOver();
      } finally {
        // Also when its listeners can't be opened: then it stays guarded, not open.
        this.#advance(entry, workload, cgroup);
      }
      entry.problem = undefined;
    } catch (error) {
      this.#failed(entry, error);
    }
  }

  #failed(entry: Entry, error: unknown): void {
    const reason = error instanceof MeshError ? `${error.code}: ${error.message}` : String(error);
    if (entry.problem !== reason)
      this.#options.log.error({ pod: entry.uid, err: error }, 'enrolment failed; it is tried again');
    entry.problem = reason;
  }

  /** Finds the sandbox, its addresses; a pod whose namespace changed (restart in place) starts over. */
  #observe(entry: Entry, cgroup: string): void {
    const { procRoot, hostNetnsFd, timing } = this.#options;
    const now = Date.now();
    const isSettled = entry.captured !== undefined && entry.captured.ips.length > 0;
    if (isSettled && now - entry.observedMs < timing.rescanInterval / 2) return;
    entry.observedMs = now;
    const sandbox = findSandbox(this.#hot, procRoot, cgroup, hostNetnsFd, entry.sandboxPid);
    if (sandbox === undefined) return;
    entry.sandboxPid = sandbox.pid;
    if (entry.captured !== undefined) {
      const isSame = this.#hot.sameNetns(sandbox.netnsFd, entry.captured.netnsFd) === true;
      this.#hot.closeFd(sandbox.netnsFd);
      if (!isSame) this.#dismantle(entry, 'POD_GONE', cgroup);
      else if (entry.captured.refreshAddresses()) this.#announce(entry);
      return;
    }
    if (!this.#isWanted(entry.lastWorkload) && entry.phase.state === 'none' && !entry.wasEnrolled) {
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
    for (;;) {
      const next = nextPhase(entry.phase, this.#facts(entry, workload), this.#options.timing);
      if (next === entry.phase) break;
      this.#enter(entry, next, workload);
    }
    if (entry.phase.state === 'none') {
      this.#dismantle(entry, 'POLICY_CHANGED');
      return;
    }
    // It stands from the cgroup's appearance until the namespace itself is redirected.
    if (facetsOf(entry.phase).guard) guardPod(this.#options.context.kernel, entry, cgroup);
    if (entry.captured !== undefined) this.#apply(entry, entry.captured);
  }

  #facts(entry: Entry, workload: Workload | undefined): PodFacts {
    return {
      // Its object may go before its processes do: until then the label that it had counts.
      wanted: this.#isWanted(workload ?? entry.lastWorkload),
      hasNetns: entry.captured !== undefined,
      wasRunning: entry.wasRunning,
      wasEnrolled: entry.wasEnrolled,
      certificate: this.#identities.has(entry.id),
      listening:
        entry.captured !== undefined &&
        entry.captured.ips.length > 0 &&
        entry.captured.listeners.isHandedOver &&
        this.#options.context.fleet.isListening(entry.uid),
      nowMs: Date.now(),
    };
  }

  #enter(entry: Entry, next: Phase, workload: Workload | undefined): void {
    const before = entry.phase;
    entry.phase = next;
    if (next.state === 'leaving') entry.wasEnrolled = false; // that has been made good: it leaves once
    if (entry.id === undefined && workload !== undefined && next.state !== 'none')
      this.#wantIdentity(entry, workload);
    if (next.state === before.state && next.state !== 'joining') return;
    this.#announce(entry);
  }

  #wantIdentity(entry: Entry, workload: Workload): void {
    const id = spiffeId(this.#options.settings.trustDomain, workload.namespace, workload.serviceAccount);
    entry.id = id;
    const isShared = [...this.#entries.values()].some((other) => other !== entry && other.id === id);
    this.#identities.want(id, isShared);
  }

  #announce(entry: Entry): void {
    if (entry.captured !== undefined && entry.id !== undefined)
      this.#options.context.fleet.announce(localPod(entry, entry.captured));
  }

  #apply(entry: Entry, captured: CapturedPod): void {
    const facets = facetsOf(entry.phase);
    const captures = facets.capture && !captured.isCapturing;
    // Without an address it could reach nobody.
    const isGuarded = (entry.guarded !== undefined && !entry.ranUnguarded) || captured.ips.length === 0;
    captured.apply(facets, entry.lastWorkload);
    // Once nothing escapes any more: what was opened a moment before is older too.
    if (captures) captured.older.note(entry.lastWorkload.excludeOutboundCidrs);
    if (entry.guarded !== undefined && !facets.guard) {
      this.#options.context.kernel.unguardPending(entry.uid);
      entry.guarded = undefined;
    }
    // A pod that should have been guarded from its start has nothing older: what it opened meanwhile went unguarded.
    if (captures && entry.phase.state === 'opening' && !entry.wasEnrolled && !isGuarded)
      this.#options.events.unguarded(entry.uid, cutUnguarded(this.#options.log, entry.uid, captured.older));
    entry.olderConnections = captured.older.count();
    if (entry.phase.state !== 'enrolled' || entry.olderConnections === 0) return;
    cutOlderIfAsked(this.#options, entry.lastWorkload, captured.older);
    entry.olderConnections = captured.older.count();
  }

  /** `liveCgroup`: the pod goes on in it with another sandbox, and is guarded until that one is captured. */
  #dismantle(entry: Entry, reason: 'POD_GONE' | 'POLICY_CHANGED', liveCgroup?: string): void {
    const isOver =
      reason === 'POLICY_CHANGED' ||
      !this.#isWanted(entry.lastWorkload) ||
      this.#options.state.workload(entry.uid) === undefined;
    const isGuarded = liveCgroup !== undefined && !isOver;
    const { kernel } = this.#options.context;
    if (isGuarded) guardInbound(kernel, entry, liveCgroup);
    else dropGuard(kernel, entry);
    const { captured } = entry;
    entry.captured = undefined;
    entry.phase = { state: 'none' };
    entry.wasRunning = false;
    entry.ranUnguarded = false;
    entry.wasEnrolled = false;
    entry.busy = captured !== undefined;
    if (captured === undefined) {
      if (isOver) this.#remove(entry);
      return;
    }
    const { log, timing } = this.#options;
    const isPaused = (): boolean => this.#paused;
    const how = { reason, isGuarded, isPaused, retryMs: timing.rescanInterval, log };
    void takeApart(captured, how).then(() => {
      entry.busy = false;
      if (isOver) this.#remove(entry);
      this.poke();
    });
  }

  #remove(entry: Entry): void {
    this.#entries.delete(entry.uid);
    if (this.#options.state.workload(entry.uid) !== undefined) this.#seenUnwanted.add(entry.uid);
    const { id } = entry;
    if (id === undefined || [...this.#entries.values()].some((other) => other.id === id)) return;
    this.#identities.release(id);
  }
}
