/** A lock on a file, held by a child that lets go when its owner does, however that ends. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';

/** Waits for the lock on `path`, which is made. Disposing lets go. @throws Error when flock can't be run. */
export async function lock(path: string): Promise<AsyncDisposable> {
  const child = spawn('flock', ['-x', path, 'sh', '-c', 'echo; exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  });
  const ended = once(child, 'exit');
  child.stdin.on('error', () => undefined);
  await Promise.race([
    once(child.stdout, 'data'),
    ended.then(() => Promise.reject(new Error(`flock could not lock ${path}`))),
  ]);
  return {
    [Symbol.asyncDispose]: async () => {
      child.stdin.end();
      await ended;
    },
  };
}
