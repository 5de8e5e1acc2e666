/** What is wrong in any of the policy objects: zod's findings, selectors. */
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

/** Labels that no workload can have: a selector is literal, so it selects nothing with one (SEMANTICS.md 1.4). */
export function selectorProblems(labels: Readonly<Record<string, string>>): PolicyProblem[] {
  const path = ['spec', 'selector', 'matchLabels'];
  return Object.entries(labels).flatMap(([key, value]) =>
    key === '' || `${key}${value}`.includes('*')
      ? [
          {
            path,
            reason: `"${key}: ${value}" selects nothing: no wildcards, no empty key`,
            severity: 'error',
          },
        ]
      : [],
  );
}
