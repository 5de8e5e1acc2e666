/** The enrolment thread as the main thread sees it. */
import { MessageChannel, Worker } from 'node:worker_threads';
import type { Transferable } from 'node:worker_threads';
import type { Config } from '../config.ts';
import type { Delta, MeshSettings } from '../mesh/model.ts';
import type { EnrolmentToMain, MainToEnrolment } from '../mesh/wiring.ts';
import type { EnrolmentData } from './thread.ts';

export interface EnrolmentClient {
  post(message: MainToEnrolment, transfer?: Transferable[]): void;
  /** Changes of the cluster: it is told of those that its own watch does not have and that it needs. */
  tell(deltas: readonly Delta[]): void;
  /** Ends the thread where it stands; what is pinned stays. */
  terminate(): Promise<void>;
}

/**
 * Starts the thread; `onMessage` also gets `fatal` when it dies. It is not started again in this process: a daemon
 * without it could not guard a starting pod, so the process ends and its successor takes the pins over.
 */
export function startEnrolment(
  config: Config,
  settings: MeshSettings,
  onMessage: (message: EnrolmentToMain) => void,
): EnrolmentClient {
  const { port1, port2 } = new MessageChannel();
  const data: EnrolmentData = { config, settings, workers: config.workers, main: port2 };
  const worker = new Worker(new URL('./thread.ts', import.meta.url), {
    workerData: data,
    transferList: [port2],
    name: 'enrolment',
  });
  port1.on('message', onMessage);
  worker.on('error', (error) =>
    onMessage({ type: 'fatal', code: 'INTERNAL', message: `the enrolment thread died: ${String(error)}` }),
  );
  const post: EnrolmentClient['post'] = (message, transfer = []) => port1.postMessage(message, transfer);
  return {
    post,
    tell: (all) => {
      const deltas = all.filter(({ kind }) => kind === 'peer-authentication');
      if (deltas.length > 0) post({ type: 'modes', deltas });
    },
    terminate: async () => {
      port1.close();
      await worker.terminate();
    },
  };
}
