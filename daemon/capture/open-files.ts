/** How many files this process may have open. */
import { readFileSync } from 'node:fs';

/** Where /proc does not say. */
const LEAST = 1_024;

/** The soft limit of open files of this process. */
export function openFileLimit(): number {
  const line = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'));
  return line === null ? LEAST : Number(line[1]);
}
