/**
 * A namespace is labelled and unlabelled again and again, while every request is a new connection, and the two nodes
 * learn of each change at different times, in either order: no request is lost (issue 6, 'Time'; DESIGN.md 3a).
 *
 * joinWait and leaveWait must be longer than the nodes can lag behind one another, plus what a node needs to act: so
 * long does a joining or leaving pod take both ways of being dialled. leaveWait + leaveGrace is how long a peer that
 * still believes in the label finds port 15008. The defaults (5 s, 5 s, 30 s) are for lags of seconds.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Loop } from './kit/apps.ts';
import type { LabDaemon } from './kit/daemon.ts';
import { IS_LONG, openShop } from './shop.ts';
import type { Shop } from './shop.ts';

export interface Course {
  readonly mode: 'permissive' | 'strict';
  readonly cycles: number;
  /** How far apart the nodes are told, at most. */
  readonly lagMs: number;
  readonly waitMs: number;
}

/** Short forms, or the full figure of `make soak`. A file for each mode, since that takes half an hour. */
export function coursesOf(mode: Course['mode']): readonly Course[] {
  if (IS_LONG) return [{ mode, cycles: 100, lagMs: 2_000, waitMs: 4_000 }];
  return [
    { mode, cycles: 10, lagMs: 100, waitMs: 500 },
    { mode, cycles: 2, lagMs: 2_000, waitMs: 4_000 },
  ];
}

export function titleOf({ cycles, lagMs, waitMs }: Course): string {
  return `${cycles} times, nodes told 0 to ${lagMs} ms apart, waits of ${waitMs} ms: no request lost`;
}

/** @returns how it went, in words, when no request was lost. */
export async function runCourse(course: Course): Promise<string> {
  const wait = `${course.waitMs}ms`;
  const waits = ['--join-wait', wait, '--leave-wait', wait, '--leave-grace', wait];
  const shop = await openShop({
    lab: { views: 'perNode' },
    daemon: { flags: [...waits, '--default-mode', course.mode] },
    labelled: false,
  });
  await using lab = shop.lab;
  await shop.server.serve('http', 8080, { quiet: true });
  await shop.client.serve('http', 8080, { quiet: true });
  const loops = await startLoops(shop);
  for (let cycle = 0; cycle < course.cycles; cycle++) await oneCycle(shop, course, cycle, loops);
  const counts = await Promise.all(loops.map((loop) => loop.stop()));
  for (const count of counts) {
    assert.equal(count.failed, 0, JSON.stringify(count));
    assert.ok(count.ok > course.cycles * 5);
  }
  assert.equal(lab.nodes.length, 2);
  const requests = counts.reduce((sum, { ok }) => sum + ok, 0);
  const slowestMs = Math.round(Math.max(...counts.map((count) => count.slowestMs)));
  return `${course.mode}, ${course.cycles} cycles: ${requests} of ${requests} requests answered, the slowest in ${slowestMs} ms`;
}

/** To the Service, to the pod over IPv6, and back from node 2. */
function startLoops({ client, server, web }: Shop): Promise<Loop[]> {
  return Promise.all([
    client.loop(web.ip, 80, { everyMs: 50 }),
    client.loop(server.ip6, 8080, { everyMs: 50 }),
    server.loop(client.ip, 8080, { everyMs: 50 }),
  ]);
}

/** On and off; in every third cycle the label comes off while pods are still joining. */
async function oneCycle(
  shop: Shop,
  { lagMs, waitMs }: Course,
  cycle: number,
  loops: readonly Loop[],
): Promise<void> {
  const { lab, client, server, daemon1, daemon2 } = shop;
  const isImpatient = cycle % 3 === 2;
  const lag = cycle < 2 ? lagMs : Math.round(Math.random() * lagMs);
  const later = { lagMs: { [cycle % 2 === 0 ? 'node-1' : 'node-2']: lag } };
  for (const [value, state] of [
    ['enabled', 'enrolled'],
    [undefined, 'none'],
  ] as const) {
    await lab.cluster.label('shop', value, later);
    if (isImpatient && state === 'enrolled') await sleep(Math.random() * 2 * waitMs);
    else await Promise.all([daemon1.waitState(client, state), daemon2.waitState(server, state)]);
    const counts = await Promise.all(loops.map((loop) => loop.stats()));
    const failed = counts.filter((count) => count.failed > 0);
    const where = `cycle ${cycle}, ${state}, ${Object.keys(later.lagMs).join('')} ${lag} ms later`;
    assert.deepEqual(failed, [], `${where}\n${[daemon1, daemon2].map(refusals).join('\n')}`);
    if (state === 'enrolled' && !isImpatient) await isTunnelled(shop);
  }
}

/** It would prove nothing if no request ever crossed as mTLS. */
async function isTunnelled({ daemon1, client }: Shop): Promise<void> {
  const from = daemon1.process.lines.length;
  await daemon1.waitForAccess(
    'a request over mTLS',
    (record) => record['security'] === 'mutual_tls' && record['src.workload'] === client.name,
    { from },
  );
}

/** What a daemon has to say of connections that went wrong, and of its pods. */
function refusals(daemon: LabDaemon): string {
  const lines = daemon.logs().filter(({ reason, state }) => {
    const isFine = typeof reason !== 'string' || /^(OK|PLAINTEXT|PASSTHROUGH)/.test(reason);
    return !isFine || state !== undefined;
  });
  return lines
    .slice(-12)
    .map((line) => JSON.stringify(line))
    .join('\n');
}
