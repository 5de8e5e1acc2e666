/** Network namespaces for the tests of the addon: real ones, gone when the test ends. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdirSync, readlinkSync } from 'node:fs';
import type { TestContext } from 'node:test';
import type { Hot } from '../../native/hot/index.ts';
import { must } from '../../native/hot/index.ts';

/** A new namespace with its loopback up. */
export interface Namespace {
  readonly name: string;
  readonly path: string;
  readonly fd: number;
}

/** Makes a namespace that ends with the test. */
export function namespace(t: TestContext, hot: Hot): Namespace {
  const name = `hot-${randomBytes(6).toString('hex')}`;
  const path = `/run/netns/${name}`;
  run('ip', 'netns', 'add', name);
  t.after(() => run('ip', 'netns', 'del', name));
  run('ip', '-n', name, 'link', 'set', 'lo', 'up');
  const fd = must(hot.openNetns(path), `open ${path}`);
  t.after(() => hot.closeFd(fd));
  return { name, path, fd };
}

/** Runs a command to its end and gives what it printed. */
export function run(command: string, ...args: string[]): string {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** The namespace that this thread is in, by its inode. */
export function ownNetns(): string {
  return readlinkSync('/proc/thread-self/ns/net');
}

export function openFds(): number {
  return readdirSync('/proc/self/fd').length;
}
