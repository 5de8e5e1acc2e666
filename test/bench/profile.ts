/** CPU profiles of our daemons' data threads, by V8's own profiler in the thread: one file a thread and figure. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LabDaemon } from '../lab/kit/daemon.ts';

const START = `(() => new Promise((resolve, reject) => {
  const { Session } = require('node:inspector');
  const session = globalThis.benchProfile = new Session();
  session.connect();
  session.post('Profiler.enable');
  session.post('Profiler.setSamplingInterval', { interval: 250 });
  session.post('Profiler.start', (error) => error ? reject(error) : resolve(0));
}))()`;
const STOP = `(() => new Promise((resolve, reject) => {
  globalThis.benchProfile.post('Profiler.stop', (error, { profile }) => {
    globalThis.benchProfile.disconnect();
    if (error) reject(error); else resolve(JSON.stringify(profile));
  });
}))()`;

/** Runs `work` with the first worker of each daemon profiled into `folder`. */
export async function profiled<T>(
  folder: string,
  label: string,
  daemons: readonly LabDaemon[],
  work: () => Promise<T>,
): Promise<T> {
  mkdirSync(folder, { recursive: true });
  const stops: (() => Promise<void>)[] = [];
  for (const [index, daemon] of daemons.entries()) {
    const inspector = await daemon.inspect();
    const worker = await inspector.worker('proxy/worker');
    await inspector.evaluate(START, worker);
    stops.push(async () => {
      const profile = await inspector.evaluate(STOP, worker);
      writeFileSync(join(folder, `${label}-${index === 0 ? 'near' : 'far'}.cpuprofile`), String(profile));
      await inspector[Symbol.asyncDispose]();
    });
  }
  const result = await work();
  for (const stop of stops) await stop();
  return result;
}
