/** How long to leave an API server alone. Pure: randomness comes in as a number from 0 to 1. */
import { KubeError } from './seams.ts';

/** Ms after the `failures`th failure in a row, from 0: `firstMs`, doubling up to `mostMs`, less up to a half. */
export function backoffMs(failures: number, firstMs: number, mostMs: number, random: number): number {
  return Math.min(mostMs, firstMs * 2 ** Math.min(failures - 1, 30)) * (0.5 + random / 2);
}

/** Ms for which the server asked to be left alone, and up to half as long again: it asks that of many at once. */
export function askedMs(error: unknown, random: number): number {
  return error instanceof KubeError ? (error.retryAfterMs ?? 0) * (1 + random / 2) : 0;
}
