/** The data plane's threads as the main thread sees them: started, told, replaced when one dies. */
import { flushCompileCache } from 'node:module';
import { setFlagsFromString } from 'node:v8';
import { MessageChannel, Worker } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';
import type { Config } from '../config.ts';
import type { MeshSettings } from '../mesh/model.ts';
import type {
  ConnectionRecord,
  MainToWorker,
  OpenConnection,
  WorkerGauges,
  WorkerToMain,
} from '../mesh/wiring.ts';
import type { Log } from '../observe/log.ts';
import type { WorkerData } from './worker.ts';

/** A worker that dies at once again and again is started at most this often. */
const RESTART_MIN_MS = 100;
const RESTART_MAX_MS = 5_000;
/** A worker that lived this long did not die at once. */
const HEALTHY_MS = 30_000;
const LIST_TIMEOUT_MS = 2_000;
/** How long after the end of the drain time a worker may still take to say that it is done. */
const DRAIN_GRACE_MS = 2_000;
/** The most young-generation memory of a worker: bulk streams make garbage fast, and more of it means fewer pauses. */
const YOUNG_GENERATION_MB = 32;
/** What the command line says of it is for the other threads (daemon/cli/culvert), and would hold for ours too. */
const OWN_YOUNG_GENERATION = '--max-semi-space-size=0';
/**
 * V8 starts a full collection for every 64 MB of buffers, dead or not: its helper threads took a third of a bulk
 * stream's CPU. Counted into the heap's own limit, young buffers die in scavenges, and memory stays as it was.
 */
const GARBAGE_FLAGS = [
  '--external-memory-accounted-in-global-limit',
  '--external-memory-max-growing-factor=4',
];

export interface WorkersEvents {
  /** Everything a new worker must know, before any connection reaches it. */
  onStarted(send: (message: MainToWorker) => void): void;
  /** Its own channel to enrolment. */
  onChannel(index: number, port: MessagePort): void;
  onClosed(records: readonly ConnectionRecord[]): void;
  onOpened(connections: readonly OpenConnection[]): void;
  onGauges(index: number, gauges: WorkerGauges): void;
  onLost(index: number): void;
}

interface Slot {
  readonly worker: Worker;
  readonly port: MessagePort;
  readonly startedMs: number;
  /** Long connections that it told of: lost with it. */
  readonly open: Map<string, OpenConnection>;
}

export class Workers {
  readonly count: number;
  readonly #slots = new Map<number, Slot>();
  readonly #config: Config;
  readonly #settings: MeshSettings;
  readonly #events: WorkersEvents;
  readonly #log: Log;
  readonly #lists = new Map<number, (index: number, list: readonly OpenConnection[]) => void>();
  readonly #drains = new Map<number, (cut: number) => void>();
  #nextRequest = 1;
  #stopping = false;
  #restartMs = RESTART_MIN_MS;

  constructor(options: {
    count: number;
    config: Config;
    settings: MeshSettings;
    events: WorkersEvents;
    log: Log;
  }) {
    this.count = options.count;
    this.#config = options.config;
    this.#settings = options.settings;
    this.#events = options.events;
    this.#log = options.log;
    for (const flag of [OWN_YOUNG_GENERATION, ...GARBAGE_FLAGS]) setFlagsFromString(flag);
    for (let index = 0; index < this.count; index++) this.#start(index);
  }

  get live(): number {
    return this.#slots.size;
  }

  broadcast(message: MainToWorker): void {
    for (const slot of this.#slots.values()) slot.port.postMessage(message);
  }

  /** All open connections; workers that don't answer in time are left out. */
  async connections(): Promise<readonly OpenConnection[]> {
    const request = this.#nextRequest++;
    const found: OpenConnection[] = [];
    await new Promise<void>((resolve) => {
      const waiting = new Set(this.#slots.keys());
      const done = (): void => {
        clearTimeout(timer);
        this.#lists.delete(request);
        resolve();
      };
      const timer = setTimeout(done, LIST_TIMEOUT_MS);
      this.#lists.set(request, (index, list) => {
        found.push(...list);
        waiting.delete(index);
        if (waiting.size === 0) done();
      });
      if (waiting.size === 0) done();
      this.broadcast({ type: 'list-connections', request });
    });
    return found;
  }

  /** No new connections; resolves when all have ended or were cut at `deadlineMs`. @returns how many were cut. */
  async drain(deadlineMs: number): Promise<number> {
    this.#stopping = true;
    const cuts = [...this.#slots.keys()].map(
      (index) => new Promise<number>((resolve) => this.#drains.set(index, resolve)),
    );
    this.broadcast({ type: 'drain', deadlineMs });
    // A worker that stands still would never say that it has.
    const timer = setTimeout(
      () => this.#giveUpDrains(),
      Math.max(0, deadlineMs - Date.now()) + DRAIN_GRACE_MS,
    );
    const all = await Promise.all(cuts);
    clearTimeout(timer);
    return all.reduce((sum, cut) => sum + cut, 0);
  }

  #giveUpDrains(): void {
    for (const [index, done] of this.#drains) done(this.#slots.get(index)?.open.size ?? 0);
  }

  /** Ends all threads where they stand. */
  async terminate(): Promise<void> {
    this.#stopping = true;
    await Promise.all([...this.#slots.values()].map((slot) => slot.worker.terminate()));
  }

  #start(index: number): void {
    const main = new MessageChannel();
    const enrolment = new MessageChannel();
    const data: WorkerData = {
      start: { index, settings: this.#settings },
      config: this.#config,
      main: main.port2,
      enrolment: enrolment.port2,
    };
    const worker = new Worker(new URL('./worker.ts', import.meta.url), {
      workerData: data,
      transferList: [main.port2, enrolment.port2],
      name: `worker-${index}`,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB },
    });
    const slot: Slot = { worker, port: main.port1, startedMs: performance.now(), open: new Map() };
    this.#slots.set(index, slot);
    worker.on('error', (error) => this.#log.error({ worker: index, err: error }, 'a worker died'));
    worker.on('exit', () => this.#lost(index, slot));
    main.port1.on('message', (message: WorkerToMain) => this.#receive(index, slot, message));
    this.#events.onStarted((message) => main.port1.postMessage(message));
    this.#events.onChannel(index, enrolment.port1);
  }

  #receive(index: number, slot: Slot, message: WorkerToMain): void {
    switch (message.type) {
      case 'ready':
        // Main has imported all that it needs by now.
        flushCompileCache();
        return;
      case 'opened':
        for (const connection of message.connections ?? []) slot.open.set(connection.connId, connection);
        this.#events.onOpened(message.connections ?? []);
        return;
      case 'closed':
        for (const record of message.records)
          if (record.reportedOpen === true) slot.open.delete(record.connId);
        this.#events.onClosed(message.records);
        return;
      case 'connections':
        this.#lists.get(message.request)?.(index, message.list);
        return;
      case 'gauges':
        this.#events.onGauges(index, message.gauges);
        return;
      case 'drained':
        this.#drains.get(index)?.(message.cut);
        return;
    }
  }

  #lost(index: number, slot: Slot): void {
    this.#slots.delete(index);
    this.#drains.get(index)?.(slot.open.size);
    this.#events.onClosed([...slot.open.values()].map(lostRecord));
    if (this.#stopping) return;
    this.#events.onLost(index);
    const livedMs = performance.now() - slot.startedMs;
    this.#restartMs = livedMs > HEALTHY_MS ? RESTART_MIN_MS : Math.min(2 * this.#restartMs, RESTART_MAX_MS);
    setTimeout(() => {
      if (!this.#stopping) this.#start(index);
    }, this.#restartMs);
  }
}

/** The record of a connection whose worker could not write one. Its byte counts died with it. */
function lostRecord(connection: OpenConnection): ConnectionRecord {
  return {
    ...connection,
    durationMs: Math.max(0, Date.now() - connection.startMs),
    reason: 'WORKER_LOST',
    detail: undefined,
    reportedOpen: true,
  };
}
