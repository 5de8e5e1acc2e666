/** From the label on a namespace to all of its pods enrolled: many pods of one node at once. */
import { watch } from 'node:fs';
import { Lab } from '../lab/kit/lab.ts';
import { until } from '../support/wait.ts';
import type { Figures } from './figures.ts';

/** `joinWait` is 0: it is a wait on purpose, the same for one pod and for a hundred. */
const FLAGS = ['--workers', '1', '--join-wait', '0ms'];

/** @throws Error when they are not enrolled within two minutes. */
export async function enrol(pods: number): Promise<Figures> {
  await using lab = await Lab.create();
  const made = [];
  for (let index = 0; index < pods; index++)
    made.push(await lab.pod({ name: `app-${index}`, namespace: 'bench-enrol', node: 1 }));
  await lab.startDaemon(1, { flags: FLAGS });
  let firstMs = Number.NaN;
  const began = performance.now();
  const isEnrolled = (): boolean => {
    const text = Object.values(lab.cluster.published()).join('');
    const count = text.match(/state: enrolled/g)?.length ?? 0;
    if (count > 0 && Number.isNaN(firstMs)) firstMs = performance.now() - began;
    return count >= made.length;
  };
  // Read only when something was written: asking all the time would take the daemon's core.
  let hasChanged = true;
  const watcher = watch(lab.cluster.statusFolder, () => (hasChanged = true));
  try {
    await lab.cluster.label('bench-enrol', 'enabled');
    const check = (): boolean => {
      const changed = hasChanged;
      hasChanged = false;
      return changed && isEnrolled();
    };
    await until('all pods to be enrolled', check, { timeoutMs: 120_000, everyMs: 5 });
  } finally {
    watcher.close();
  }
  const allMs = performance.now() - began;
  return {
    enrolPods: pods,
    enrolFirstMs: firstMs,
    enrolAllMs: allMs,
    enrolPerPodMs: allMs / pods,
  };
}
