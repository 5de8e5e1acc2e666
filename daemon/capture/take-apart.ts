/** The end of a pod in the kernel, which must come: what is left there would stay for ever. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Log } from '../observe/log.ts';
import type { CapturedPod } from './captured-pod.ts';

export interface TakeApartOptions {
  readonly reason: 'POD_GONE' | 'POLICY_CHANGED';
  /** See CapturedPod.dismantle. */
  readonly isGuarded: boolean;
  /** Whether another daemon has the node: then nothing is changed. */
  readonly isPaused: () => boolean;
  readonly retryMs: number;
  readonly log: Log;
}

/** Dismantles the pod, again and again until it has worked: maybe there is no descriptor left just now. */
export async function takeApart(captured: CapturedPod, options: TakeApartOptions): Promise<void> {
  for (;;) {
    try {
      if (!options.isPaused()) {
        await captured.dismantle(options.reason, options.isGuarded);
        return;
      }
    } catch (error) {
      options.log.error(
        { pod: captured.uid, err: error },
        'a pod could not be taken out of the kernel; it is tried again',
      );
    }
    await sleep(options.retryMs);
  }
}
