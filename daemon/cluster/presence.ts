/**
 * What a daemon is to a cluster that has an API: a pod of a DaemonSet that says how its node is, and writes Events.
 * Where the cluster is a folder it is nothing.
 */
import type { Config } from '../config.ts';
import type { KubeApi } from '../kube/seams.ts';
import type { SpiffeId } from '../mesh/ids.ts';
import type { Log } from '../observe/log.ts';
import type { PodEvent } from '../observe/pod-events.ts';
import { DaemonSet } from './daemon-set.ts';
import { OwnPod } from './own-pod.ts';
import { PodEvents } from './pod-events.ts';

export interface PresenceOptions {
  readonly api: KubeApi | undefined;
  readonly config: Pick<Config, 'nodeName' | 'podName' | 'podNamespace' | 'podUid' | 'daemonSet'>;
  /** What to say of the node now. */
  readonly summary: () => string;
  readonly onRenew: (what: SpiffeId | '*') => void;
  readonly onProblem: (part: string, reason: string) => void;
}

/** Counts of Events that are due are written so often. */
const EVENTS_MS = 10_000;
/** The last word on our pod must not hold up the end. */
const LAST_WORD_MS = 5_000;

export class Presence implements AsyncDisposable {
  readonly #events: PodEvents | undefined;
  readonly #pod: OwnPod | undefined;
  readonly #daemonSet: DaemonSet | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor({ api, config, summary, onRenew, onProblem }: PresenceOptions) {
    const { podName: name, podNamespace: namespace, podUid: uid } = config;
    if (api === undefined) return;
    this.#events = new PodEvents({
      api,
      controller: 'culvert.dev/daemon',
      instance: config.nodeName,
      nowMs: () => Date.now(),
      onDropped: (why) => onProblem('events', why),
    });
    // A daemon that a person runs by hand is no pod of any DaemonSet.
    if (name === '') return;
    const onPodProblem = (reason: string): void => onProblem('own pod', reason);
    const pod = { api, namespace, name, uid, startedMs: Date.now(), onRenew, onProblem: onPodProblem };
    this.#pod = new OwnPod(pod, summary);
    const onSetProblem = (reason: string): void => onProblem('daemon set', reason);
    this.#daemonSet = new DaemonSet({ api, namespace, name: config.daemonSet, onProblem: onSetProblem });
  }

  start(): void {
    this.#pod?.start();
    this.#daemonSet?.start();
    this.#timer = setInterval(() => this.#events?.flush(), EVENTS_MS);
  }

  /** An Event on a pod. Returns at once. */
  note(event: PodEvent): void {
    this.#events?.note(event);
  }

  /** Whether the DaemonSet that we are a pod of goes: then we take what is ours with us. Says what it goes by. */
  async isUninstalled(log: Log): Promise<boolean> {
    if (this.#daemonSet === undefined) return false;
    const { fate, why } = await this.#daemonSet.fate();
    if (fate === 'goes')
      log.info({ why }, 'uninstalled: every pod leaves, and then our programs and pins go');
    else if (fate === 'stays') log.info({ why }, 'restarted or upgraded: what is pinned stays');
    else log.warn({ why }, 'it can not be told whether this is an uninstall: what is pinned stays');
    return fate === 'goes';
  }

  /** Says how the node is now, if that can be done soon. */
  async tell(): Promise<void> {
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, LAST_WORD_MS);
    await Promise.race([this.#pod?.tell(), late.promise]);
    clearTimeout(timer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#pod?.[Symbol.asyncDispose]();
    await this.#daemonSet?.[Symbol.asyncDispose]();
  }
}
