/** What zod finds wrong, as problems of a policy object. */
import type { z } from 'zod';
import type { PolicyProblem } from './model.ts';

/** zod's issues, their paths below `path`. */
export function zodProblems(error: z.ZodError, path: readonly (string | number)[]): PolicyProblem[] {
  return error.issues.map((issue) => ({
    path: [...path, ...issue.path.map((step) => (typeof step === 'symbol' ? String(step) : step))],
    reason: issue.message,
    severity: 'error' as const,
  }));
}
