/**
 * The enrolment thread: joins its own small watch of this node's pods, the kernel and the reconcile loop, so that a
 * busy main thread never lets a starting pod go unguarded (DESIGN.md section 3).
 */
import { watch } from 'node:fs';
import type { FSWatcher } from 'node:fs';
import { flushCompileCache } from 'node:module';
import path from 'node:path';
import { workerData } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { loadHot, must } from '../../native/hot/index.ts';
import type { Config } from '../config.ts';
import { openNodeSource } from '../cluster/node-source.ts';
import type { NodeSource } from '../cluster/node-source.ts';
import { MeshError } from '../errors.ts';
import { connectKube } from '../kube/client.ts';
import type { MeshSettings } from '../mesh/model.ts';
import { MeshState } from '../mesh/state.ts';
import type { EnrolmentToMain, MainToEnrolment } from '../mesh/wiring.ts';
import { createLog } from '../observe/log.ts';
import { VERSION } from '../version.ts';
import { ensureBpffs } from './bpffs.ts';
import { Enrolment } from './enrolment.ts';
import { Fleet } from './fleet.ts';
import { KubeletFinder } from './kubelet.ts';
import { cgroupIdOrZero, findKubepods, listPodCgroups } from './kubepods.ts';
import type { Kubepods } from './kubepods.ts';
import { Owner } from './owner.ts';
import { KernelState } from './programs.ts';
import { attributeRefusals } from './refusals.ts';
import { within } from './within.ts';

/** How often kernel counters are read and the kubelet is looked for again. */
const SURVEY_MS = 1_000;
/** Leaving every pod may take so much longer than its phases do: nobody comes after us, and the pods would stay closed. */
const LEAVE_SLACK_MS = 60_000;
/** How long the last word on what we published may take before we say that all has left. */
const LAST_WRITE_MS = 5_000;

/** What main passes as `workerData`. */
export interface EnrolmentData {
  readonly config: Config;
  readonly settings: MeshSettings;
  readonly workers: number;
  readonly main: MessagePort;
}

class EnrolmentThread {
  readonly #data: EnrolmentData;
  readonly #config: Config;
  readonly #log;
  readonly #hot = loadHot();
  readonly #kubepods: Kubepods;
  readonly #hostNetnsFd: number;
  readonly #owner: Owner;
  readonly #kernel: KernelState;
  readonly #fleet: Fleet;
  readonly #enrolment: Enrolment;
  readonly #state: MeshState;
  readonly #cluster: NodeSource;
  readonly #watchers: FSWatcher[] = [];
  /** How often workers were found standing still. */
  #standstills = 0;
  #survey: NodeJS.Timeout | undefined;
  readonly #kubelet: KubeletFinder;
  #hasLeft = false;
  /** Cgroups of daemons: ours, and in a rolling upgrade the one that drains. */
  #exempt: ReadonlySet<bigint> = new Set();

  /** @throws MeshError when the node belongs to another daemon or the kernel refuses. */
  static async start(data: EnrolmentData): Promise<void> {
    const started: { thread?: EnrolmentThread } = {};
    // Before the kernel is touched: the old daemon has stopped changing it when this resolves.
    const owner = await Owner.take(data.config.stateDir, {
      onYield: () => started.thread?.pause(),
      onReturned: () => started.thread?.resume(),
      onOrphaned: () => started.thread?.hurry(),
    });
    const thread = new EnrolmentThread(data, owner);
    started.thread = thread;
    if (owner.hasYielded) thread.pause();
    await thread.#run();
  }

  private constructor(data: EnrolmentData, owner: Owner) {
    const { config } = data;
    this.#data = data;
    this.#config = config;
    this.#owner = owner;
    this.#log = createLog({ level: config.logLevel, thread: 'enrolment' });
    this.#kubepods = findKubepods(config);
    this.#hostNetnsFd = must(
      this.#hot.openNetns(path.join(config.procRoot, '1/ns/net')),
      `open the node's own network namespace (${config.procRoot}/1/ns/net; is hostPID set?)`,
      'NETNS_FAILED',
    );
    this.#kubelet = new KubeletFinder({
      hot: this.#hot,
      hostNetnsFd: this.#hostNetnsFd,
      cgroupRoot: this.#kubepods.cgroupRoot,
      kubepods: this.#kubepods.path,
      now: () => performance.now(),
    });
    this.#state = new MeshState(data.settings);
    const hostNetnsCookie = must(this.#hot.netnsCookie(this.#hostNetnsFd), "read the node's netns cookie");
    if (ensureBpffs(this.#hot, config))
      this.#log.info({ bpffs: config.bpffs }, 'mounted on the node, which had none');
    this.#kernel = KernelState.open({ bpffs: config.bpffs, kubepods: this.#kubepods.path, hostNetnsCookie });
    this.#cluster = this.#openCluster();
    this.#fleet = this.#makeFleet();
    this.#enrolment = this.#makeEnrolment();
  }

  pause(): void {
    this.#enrolment.pause();
    this.#log.info('another daemon takes this node over');
  }

  resume(): void {
    this.#enrolment.resume();
    this.#log.warn('the daemon that took this node over is gone: it is ours again');
  }

  hurry(): void {
    this.#log.warn('no other daemon has this node, and none can start before this one has ended');
    this.#fleet.hurry();
  }

  async #run(): Promise<void> {
    const adopted = this.#kernel.inventory();
    this.#data.main.on('message', (message: MainToEnrolment) => this.#receive(message));
    const { source } = this.#cluster;
    source.start((deltas) => {
      this.#state.apply(deltas);
      this.#enrolment.poke();
    });
    await source.synced;
    // Uninstalled before we knew any pod: now it can be taken from each that it is enrolled.
    if (this.#hasLeft) {
      this.#published(this.#cluster.publisher.retry());
      return;
    }
    this.#watchCgroups();
    this.#lookAround();
    this.#enrolment.start(adopted);
    this.#cluster.guarded(() => this.#log.info('this node takes pods now: its startup taint is removed'));
    // Now, not at the end: a daemon that is killed has no orderly one.
    flushCompileCache();
    this.#tell({ type: 'started' });
  }

  #openCluster(): NodeSource {
    const { config } = this.#data;
    const userAgent = `culvert/${VERSION} enrolment`;
    const api =
      config.clusterDir === '' ? connectKube(config.kubeconfig, process.env, { userAgent }) : undefined;
    return openNodeSource(config, api, (part, why) =>
      this.#log.info({ source: part, why }, 'a watch of the API was interrupted'),
    );
  }

  #makeFleet(): Fleet {
    const fds = this.#kernel.mapFds();
    return new Fleet(this.#data.workers, {
      onMask: (mask) => {
        // After an uninstall there is no map to write to.
        if (!this.#hasLeft) this.#kernel.setWorkers(mask, this.#data.workers);
      },
      onStill: (indexes) => {
        this.#log.warn({ workers: indexes }, 'workers that stand still: new connections go to the others');
        if (indexes.length > 0) this.#standstills += 1;
      },
      onChange: () => this.#enrolment.poke(),
      onEmpty: (index) => {
        this.#fleet.send(index, { type: 'kernel', ...fds });
        this.#enrolment.equip(index);
      },
      onOrphans: (listeners) => {
        // A number that means another socket by now was taken after all.
        for (const { fd, cookie } of listeners)
          if (this.#hot.socketCookie(fd) === cookie) this.#hot.closeFd(fd);
      },
    });
  }

  #makeEnrolment(): Enrolment {
    const { config, settings } = this.#data;
    return new Enrolment({
      context: {
        hot: this.#hot,
        kernel: this.#kernel,
        fleet: this.#fleet,
        ports: { min: config.listenerPortMin, max: config.listenerPortMax },
        maxPending: config.maxPendingPerPod,
        isOwnCgroup: (id) => this.#exempt.has(id),
      },
      state: this.#state,
      settings,
      timing: config,
      kubepods: this.#kubepods.path,
      procRoot: config.procRoot,
      hostNetnsFd: this.#hostNetnsFd,
      events: {
        wantIdentity: (id, urgent) => this.#tell({ type: 'want-identity', id, urgent }),
        releaseIdentity: (id) => this.#tell({ type: 'release-identity', id }),
        pods: (pods) => this.#tell({ type: 'pods', pods }),
        unguarded: (uid, connections) => this.#tell({ type: 'unguarded', uid, connections }),
        publish: (states) => this.#published(this.#cluster.publisher.publish(states)),
      },
      log: this.#log,
    });
  }

  #receive(message: MainToEnrolment): void {
    switch (message.type) {
      case 'worker':
        this.#fleet.add(message.index, message.port);
        return;
      case 'identity-ready':
        this.#enrolment.identityReady(message.id, message.notAfterMs);
        return;
      case 'identity-failed':
        this.#enrolment.identityFailed(message.id, message.reason);
        return;
      case 'modes':
        this.#state.apply(message.deltas);
        this.#enrolment.poke();
        return;
      case 'leave-all':
        void this.#leaveAll();
        return;
      case 'stop':
        this.#stop();
        return;
    }
  }

  async #leaveAll(): Promise<void> {
    if (this.#owner.hasYielded) {
      this.#tell({ type: 'left', yielded: true });
      return;
    }
    const { leaveWait, leaveGrace } = this.#config;
    const isInOrder = await within(leaveWait + leaveGrace + LEAVE_SLACK_MS, this.#enrolment.leaveAll());
    if (!isInOrder) this.#log.error('not every pod could be left in time: what is pinned goes all the same');
    this.#enrolment.pause();
    clearInterval(this.#survey);
    this.#hasLeft = true;
    this.#kernel.removeAll();
    await within(LAST_WRITE_MS, this.#cluster.publisher.publish([])).catch(() => undefined);
    this.#tell({ type: 'left' });
  }

  #stop(): void {
    this.#enrolment.pause();
    clearInterval(this.#survey);
    for (const watcher of this.#watchers) watcher.close();
    void this.#cluster[Symbol.asyncDispose]();
    this.#enrolment.closeListeners();
    if (!this.#owner.hasYielded) this.hurry();
    this.#owner.release();
    this.#tell({ type: 'stopped' });
  }

  /** inotify on kubepods and its classes: a hint, never the truth (DESIGN.md 3a). */
  #watchCgroups(): void {
    for (const directory of this.#kubepods.classes) {
      try {
        const watcher = watch(directory, () => this.#enrolment.poke());
        watcher.on('error', (error) =>
          this.#log.warn({ directory, err: error }, 'a cgroup is not watched any more'),
        );
        this.#watchers.push(watcher);
      } catch (error) {
        this.#log.warn(
          { directory, err: error },
          'a cgroup could not be watched; pods in it are found by rescans',
        );
      }
    }
    this.#survey = setInterval(() => this.#lookAgain(), SURVEY_MS);
  }

  #lookAgain(): void {
    try {
      this.#fleet.look();
      this.#lookAround();
      this.#tellRefusals();
      this.#kernel.forgetGone();
      // Peers must hear it sooner or later; only from the node's owner.
      if (!this.#owner.hasYielded) this.#published(this.#cluster.publisher.retry());
    } catch (error) {
      this.#log.error({ err: error }, 'the node could not be looked at; it is tried again');
    }
  }

  #published(done: Promise<void>): void {
    done.catch((error: unknown) =>
      this.#log.error({ err: error }, 'the published state could not be written; it is tried again'),
    );
  }

  #lookAround(): void {
    this.#exempt = new Set(this.#kernel.exempt());
    if (!this.#owner.hasYielded) this.#findKubelet();
    this.#tell({
      type: 'kernel-counters',
      counters: { ...this.#kernel.counters(), workers_stood_still: this.#standstills },
    });
  }

  /** A connection that the kernel refused needs its record too. */
  #tellRefusals(): void {
    let pods;
    try {
      pods = listPodCgroups(this.#kubepods.path);
    } catch {
      return; // reconciling says so; what was refused stays counted in the kernel
    }
    const cgroups = new Map(pods.map((pod) => [cgroupIdOrZero(pod.path), pod.uid]));
    const refusals = attributeRefusals(this.#kernel.takeRefusals(), {
      byCgroup: (id) => cgroups.get(id),
      byNetns: (cookie) => this.#enrolment.podOfNetns(cookie),
    });
    if (refusals.length > 0) this.#tell({ type: 'kernel-refusals', refusals });
  }

  /** The kubelet may have restarted into another cgroup: probes are told apart by it (CAPTURE.md, host probes). */
  #findKubelet(): void {
    this.#kubelet.look(this.#state.node(this.#config.nodeName)?.kubeletPort, (found) => {
      this.#kernel.attachKubelet(path.dirname(found.path));
      this.#kernel.setKubelet(found.id);
      this.#log.info({ cgroup: found.path }, 'the kubelet was found; its probes pass in the kernel');
    });
  }

  #tell(message: EnrolmentToMain): void {
    this.#data.main.postMessage(message);
  }
}

const data = workerData as EnrolmentData;
try {
  await EnrolmentThread.start(data);
} catch (error) {
  const code = error instanceof MeshError ? error.code : 'INTERNAL';
  data.main.postMessage({
    type: 'fatal',
    code,
    message: error instanceof Error ? error.message : String(error),
  });
}
