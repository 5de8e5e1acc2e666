/** Conditions of request objects, as the CA writes them. Pure. */
import { z } from 'zod';

const schema = z.looseObject({
  status: z.looseObject({ conditions: z.array(z.unknown()).nullish() }).nullish(),
});

/** The object with one more condition, that is true since `now` (RFC 3339). @throws ZodError when it is no object. */
export function withCondition(
  object: unknown,
  type: 'Approved' | 'Denied' | 'Failed',
  reason: string,
  message: string,
  now: string,
): unknown {
  const whole = schema.parse(object);
  const condition = { type, status: 'True', reason, message, lastUpdateTime: now, lastTransitionTime: now };
  const conditions = [...(whole.status?.conditions ?? []), condition];
  return { ...whole, status: { ...whole.status, conditions } };
}

/** Wall clock ms as the API writes a time: whole seconds. */
export function nowIso(nowMs: number): string {
  return new Date(Math.floor(nowMs / 1_000) * 1_000).toISOString().replace('.000', '');
}
