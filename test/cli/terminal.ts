/** Runs the command line inside the test, against an admin API over real HTTP. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startAdmin } from '../../daemon/admin/server.ts';
import { entryPoints } from '../../daemon/cli/entry-points.ts';
import { run } from '../../daemon/cli/program.ts';
import type { EntryPoints, Io } from '../../daemon/cli/io.ts';
import { createLog } from '../../daemon/observe/log.ts';
import { FakeBackend } from '../admin/backend.ts';

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

const unwanted = (): never => assert.fail('this command starts no part of the daemon');

export const NOW = 87_000_000;

/** `culvert ARGS`, at a fixed time, with no environment and no terminal. */
export async function culvert(
  args: readonly string[],
  changes: Partial<Io> = {},
  parts: Partial<EntryPoints> = {},
): Promise<Ran> {
  let out = '';
  let err = '';
  const code = await run(args, {
    out: (text) => (out += text),
    err: (text) => (err += text),
    stdin: () => assert.fail('this command reads no standard input'),
    env: {},
    colour: false,
    now: () => NOW,
    sleep: () => Promise.resolve(),
    version: '0.1.0',
    entryPoints: {
      startDaemon: unwanted,
      startCa: unwanted,
      preflight: unwanted,
      cleanupNode: unwanted,
      connectCluster: unwanted,
      // What only reads is the real thing.
      readManifests: (paths, stdin) => entryPoints.readManifests(paths, stdin),
      readObject: () => entryPoints.readObject(),
      verifyPeer: (chainPem, options) => entryPoints.verifyPeer(chainPem, options),
      ...parts,
    },
    ...changes,
  });
  return { code, out, err };
}

export interface Api extends AsyncDisposable {
  readonly backend: FakeBackend;
  readonly address: string;
}

/** An admin API on a free port. */
export async function startApi(): Promise<Api> {
  const backend = new FakeBackend();
  let port = 0;
  const running = await startAdmin({
    ports: { admin: 0, metrics: 0, health: 0 },
    log: createLog({ thread: 'test', level: 'error', destination: { write: () => undefined } }),
    backend,
    dead: () => [],
    notReady: () => [],
    metrics: { text: () => Promise.resolve(''), contentType: 'text/plain' },
    onListening: (ports) => (port = ports.admin),
  });
  return {
    backend,
    address: `127.0.0.1:${port}`,
    [Symbol.asyncDispose]: () => Promise.resolve(running[Symbol.asyncDispose]()),
  };
}

/** Compares with `golden/NAME.txt`; UPDATE_GOLDEN=1 writes it. */
export function assertGolden(name: string, text: string): void {
  const file = join(import.meta.dirname, 'golden', `${name}.txt`);
  if (process.env['UPDATE_GOLDEN'] === '1') writeFileSync(file, text);
  assert.equal(text, readFileSync(file, 'utf8'));
}
