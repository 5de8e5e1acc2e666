/**
 * One data-plane thread: joins the mesh state, the certificates, the pods' listeners and the data plane. It learns
 * everything by messages; a connection never waits for another thread.
 */
import { flushCompileCache } from 'node:module';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Socket } from 'node:net';
import { workerData } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import { loadHot, podSockets } from '../../native/hot/index.ts';
import type { Config } from '../config.ts';
import { IdentityStore } from '../identity/contexts.ts';
import type { PodUid } from '../mesh/ids.ts';
import { MeshState } from '../mesh/state.ts';
import { BEAT_MS } from '../mesh/wiring.ts';
import type {
  ConnectionRecord,
  EnrolmentToWorker,
  LocalPod,
  MainToWorker,
  Role,
  WorkerStart,
  WorkerToEnrolment,
  WorkerToMain,
} from '../mesh/wiring.ts';
import { createLog } from '../observe/log.ts';
import { Connections } from './connections.ts';
import { Decisions } from './decisions.ts';
import { Descriptors, shareOf } from './descriptors.ts';
import { Drain } from './drain.ts';
import { createTunnelServer } from './hbone/server.ts';
import { createTunnels } from './hbone/pool.ts';
import { Holding } from './holding.ts';
import { handleInbound } from './inbound.ts';
import { Listeners } from './listener.ts';
import { handleOutbound } from './outbound.ts';
import { handlePlaintext } from './plaintext.ts';
import type { DataPlane } from './plane.ts';
import { Rejudging } from './rejudging.ts';

/** Closed connections travel in batches: one message for many records. */
const BATCH_MS = 100;
const BATCH_RECORDS = 256;
const GAUGES_MS = 2_000;
/** The most connections that one answer of /connections lists, per worker. */
const LIST_MAX = 20_000;

const HANDLERS: Readonly<Record<Role, (plane: DataPlane, uid: PodUid, socket: Socket) => void>> = {
  outbound: handleOutbound,
  plaintext: handlePlaintext,
  hbone: handleInbound,
};

class Worker {
  readonly #start: WorkerStart;
  readonly #main: MessagePort;
  readonly #enrolment: MessagePort;
  readonly #plane: DataPlane;
  readonly #rejudging: Rejudging;
  readonly #pods = new Map<PodUid, LocalPod>();
  readonly #identities: IdentityStore;
  readonly #listeners: Listeners;
  readonly #drain: Drain;
  readonly #loopDelay: ReturnType<typeof monitorEventLoopDelay>;
  readonly #hot = loadHot();
  readonly #log;
  #opened = 0;
  #closed: ConnectionRecord[] = [];

  constructor(start: WorkerStart, config: Config, main: MessagePort, enrolment: MessagePort) {
    this.#start = start;
    this.#main = main;
    this.#enrolment = enrolment;
    this.#log = createLog({ level: config.logLevel, thread: `worker-${start.index}` });
    this.#identities = new IdentityStore({ trustDomain: config.trustDomain });
    this.#plane = this.#makePlane(config);
    this.#rejudging = new Rejudging(this.#plane);
    this.#drain = new Drain(this.#plane);
    this.#identities.onChange((id) => {
      this.#plane.tunnelServer.judgeAgain(id);
      this.#plane.holding.wake();
    });
    this.#listeners = new Listeners(
      (uid, role, socket) => HANDLERS[role](this.#plane, uid, socket),
      (uid, role, error) => this.#log.error({ pod: uid, role, err: error }, 'a listener failed'),
    );
    this.#loopDelay = monitorEventLoopDelay({ resolution: 20 });
    this.#loopDelay.enable();
    main.on('message', (message: MainToWorker) => this.#fromMain(message));
    enrolment.on('message', (message: EnrolmentToWorker) => this.#fromEnrolment(message));
    setInterval(() => {
      this.#hot.sweepSockets(0);
      this.#flush();
    }, BATCH_MS);
    setInterval(() => this.#sendGauges(), GAUGES_MS);
    setInterval(() => this.#toEnrolment({ type: 'beat' }), BEAT_MS);
    // Now, not at the end: a killed thread would leave nothing, and later it would be a pause in the traffic.
    flushCompileCache();
    this.#toMain({ type: 'ready' });
  }

  #makePlane(config: Config): DataPlane {
    const tunnels = createTunnels({ config, identities: this.#identities });
    const tunnelServer = createTunnelServer(config, this.#identities);
    const descriptors = new Descriptors(
      shareOf({ perPod: config.maxConnectionsPerPod, total: config.maxConnections }, config.workers),
      // Ours first: we know that we can open them again.
      (uid) => tunnels.closeIdle(uid) || tunnelServer.closeIdle(uid),
    );
    const connections = new Connections(
      `${this.#start.settings.nodeName}-${this.#start.index}-${Date.now().toString(36)}`,
      descriptors,
      { onOpen: () => void (this.#opened += 1), onClosed: (record) => this.#record(record) },
    );
    return {
      config,
      state: new MeshState(this.#start.settings),
      identities: this.#identities,
      sockets: podSockets(this.#hot),
      tunnels,
      tunnelServer,
      connections,
      descriptors,
      decisions: new Decisions(),
      holding: new Holding(config.maxHeld, config.holdTimeout),
      pods: this.#pods,
      synced: false,
    };
  }

  #fromMain(message: MainToWorker): void {
    switch (message.type) {
      case 'deltas':
        this.#plane.state.apply(message.deltas);
        this.#rejudging.deltas(message.deltas);
        break;
      case 'synced':
        this.#plane.synced = true;
        break;
      case 'certificate':
        this.#identities.set(message.certificate);
        break;
      case 'certificate-failed':
        this.#identities.fail(message.id, message.reason);
        break;
      case 'certificate-released':
        this.#identities.remove(message.id);
        break;
      case 'drain':
        void this.#end(message.deadlineMs);
        break;
      case 'list-connections':
        this.#toMain({
          type: 'connections',
          request: message.request,
          list: this.#plane.connections.list(LIST_MAX),
        });
        return;
    }
    this.#plane.holding.wake();
  }

  #fromEnrolment(message: EnrolmentToWorker): void {
    switch (message.type) {
      case 'kernel':
        this.#hot.init(message);
        break;
      case 'pod':
        this.#pods.set(message.pod.uid, message.pod);
        this.#rejudging.pod(message.pod.uid);
        break;
      case 'listener':
        this.#listeners.open(message.uid, message.role, message.fd, () =>
          this.#toEnrolment({ type: 'listening', uid: message.uid, role: message.role }),
        );
        break;
      case 'pod-gone':
        this.#forget(message.uid, message.reason);
        break;
      case 'no-successor':
        this.#drain.hurry();
        break;
    }
    this.#plane.holding.wake();
  }

  #forget(uid: PodUid, reason: ConnectionRecord['reason']): void {
    this.#pods.delete(uid);
    this.#rejudging.pod(uid);
    this.#listeners.close(uid, ['outbound', 'plaintext', 'hbone']);
    this.#plane.connections.cut((connection) => connection.podUid === uid, reason);
    this.#plane.tunnels.closePod(uid, true);
    this.#plane.tunnelServer.closePod(uid, true);
    this.#hot.sweepSockets(1);
    this.#toEnrolment({ type: 'pod-closed', uid });
  }

  async #end(deadlineMs: number): Promise<void> {
    const cut = await this.#drain.run(() => this.#listeners.closeAll(), deadlineMs);
    this.#flush();
    this.#sendGauges();
    this.#toMain({ type: 'drained', cut });
  }

  #record(record: ConnectionRecord): void {
    this.#closed.push(record);
    if (this.#closed.length >= BATCH_RECORDS) this.#sendClosed();
  }

  #flush(): void {
    const connections = this.#plane.connections.takeOpened();
    if (this.#opened > 0 || connections.length > 0) {
      this.#toMain({ type: 'opened', count: this.#opened, connections });
      this.#opened = 0;
    }
    this.#sendClosed();
  }

  #sendClosed(): void {
    if (this.#closed.length === 0) return;
    this.#toMain({ type: 'closed', records: this.#closed });
    this.#closed = [];
  }

  #sendGauges(): void {
    const { connections, holding, tunnels, tunnelServer } = this.#plane;
    this.#toMain({
      type: 'gauges',
      gauges: {
        connections: connections.size,
        held: holding.size,
        tunnelsOut: tunnels.size,
        tunnelsIn: tunnelServer.size,
        handshakes: tunnelServer.handshakes,
        listeners: this.#listeners.size,
        loopLagP99Ms: this.#loopDelay.percentile(99) / 1e6,
        decisions: this.#plane.decisions.take(),
      },
    });
    this.#loopDelay.reset();
  }

  #toMain(message: WorkerToMain): void {
    this.#main.postMessage(message);
  }

  #toEnrolment(message: WorkerToEnrolment): void {
    this.#enrolment.postMessage(message);
  }
}

/** What main.ts passes as `workerData`. */
export interface WorkerData {
  readonly start: WorkerStart;
  readonly config: Config;
  readonly main: MessagePort;
  readonly enrolment: MessagePort;
}

const data = workerData as WorkerData;
new Worker(data.start, data.config, data.main, data.enrolment);
