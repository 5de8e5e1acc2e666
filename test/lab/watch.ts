/** What lab tests ask of a daemon and its pods: states in their order, reasons, and a CA that can be away. */
import assert from 'node:assert/strict';
import { z } from 'zod';
import { until } from '../support/wait.ts';
import type { Server } from './kit/apps.ts';
import type { LabDaemon, LogRecord } from './kit/daemon.ts';
import type { Inspector } from './kit/inspector.ts';

const Status = z.object({
  pods: z.array(
    z.object({
      uid: z.string(),
      state: z.string(),
      reason: z.string().optional(),
      olderConnections: z.number(),
    }),
  ),
  problems: z.array(z.object({ where: z.string(), line: z.number().nullish(), reason: z.string() })),
});

interface Named {
  readonly uid: string;
}

/** What `culvert status` has: pods and problems with the cluster's objects. */
export async function nodeStatus(daemon: LabDaemon): Promise<z.infer<typeof Status>> {
  return Status.parse(await daemon.admin('/status'));
}

/** One pod's line of it; undefined when it is not ours. */
export async function statusOf(
  daemon: LabDaemon,
  pod: Named,
): Promise<z.infer<typeof Status>['pods'][number] | undefined> {
  return (await nodeStatus(daemon)).pods.find(({ uid }) => uid === pod.uid);
}

/** Waits until the pod's reason begins with `code`, whatever its state. */
export async function waitReason(daemon: LabDaemon, pod: Named, code: string): Promise<string> {
  let last: string | undefined;
  return until(
    `the reason ${code}`,
    async () => {
      last = (await statusOf(daemon, pod))?.reason;
      return last?.startsWith(code) === true ? last : undefined;
    },
    { detail: () => `it is ${last ?? 'none'}\n${daemon.process.tail()}`, timeoutMs: 30_000 },
  );
}

/** The states that the daemon's log says the pod went through, each once in a row. */
export function statesOf(daemon: LabDaemon, pod: Named): string[] {
  const states = daemon
    .logs()
    .filter((record) => record['uid'] === pod.uid && record['msg'] === 'a pod changed its state')
    .map((record) => String(record['state']));
  return states.filter((state, index) => state !== states[index - 1]);
}

/** The record of a connection whose destination is `destination` (`ip:port`), from log line `from` on. */
export function recordTo(
  daemon: LabDaemon,
  direction: 'inbound' | 'outbound',
  destination: string,
  from = 0,
): Promise<LogRecord> {
  return daemon.waitForAccess(
    `the ${direction} record of a connection to ${destination}`,
    (record) => record['dst.addr'] === destination && record['direction'] === direction,
    { from, timeoutMs: 30_000 },
  );
}

/** Runs `attempt`, which must not get a payload byte to the app, and gives what it gave. */
export async function withoutPayload<T>(server: Server, attempt: () => Promise<T>): Promise<T> {
  const before = (await server.stats()).received;
  const result = await attempt();
  assert.equal((await server.stats()).received, before, 'payload reached the app');
  return result;
}

const PRIVATE_KEY =
  "const { generateKeyPairSync: make } = process.getBuiltinModule('node:crypto');" +
  "const proto = Object.getPrototypeOf(make('ec', { namedCurve: 'P-256' }).privateKey);";

/** Makes the node's CA fail, by breaking what only it calls: it gives no private key out any more. */
export async function takeCaAway(inspector: Inspector): Promise<void> {
  const away =
    "globalThis.keptExport ??= proto.export; proto.export = () => { throw new Error('the CA is away'); };";
  await inspector.evaluate(`{ ${PRIVATE_KEY} ${away} } 0`);
}

/** Undoes `takeCaAway`. */
export async function bringCaBack(inspector: Inspector): Promise<void> {
  await inspector.evaluate(
    `{ ${PRIVATE_KEY} if (globalThis.keptExport) proto.export = globalThis.keptExport; } 0`,
  );
}
