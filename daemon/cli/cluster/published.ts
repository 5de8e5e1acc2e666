/** What daemons publish on pods (DESIGN.md 3a), as a reader that trusts nobody reads it. */
import { z } from 'zod';
import { annotationsOf } from './objects.ts';
import type { PodObject } from './objects.ts';

export const STATE_ANNOTATION = 'culvert.dev/state';
export const NODE_ANNOTATION = 'culvert.dev/node';
export const RENEW_ANNOTATION = 'culvert.dev/renew';

/** Whoever may write a pod's annotations may write this one. */
const MAX_REASON = 300;

const stateSchema = z.looseObject({
  uid: z.string(),
  state: z.enum(['pending', 'opening', 'joining', 'enrolled', 'leaving', 'unenrollable']),
  since: z.string().optional(),
  reason: z
    .string()
    .transform((text) => text.slice(0, MAX_REASON))
    .optional(),
});

const certificateSchema = z.looseObject({
  id: z.string(),
  serial: z.string().nullish(),
  notBefore: z.string().nullish(),
  notAfter: z.string().nullish(),
  source: z.string().nullish(),
  state: z.string(),
  nextRenewal: z.string().nullish(),
  error: z.string().nullish(),
});

const nodeSchema = z.looseObject({
  version: z.string(),
  bundle: z.string().nullish(),
  pods: z.record(z.string(), z.number()).nullish(),
  certificates: z.array(certificateSchema).nullish(),
  /** Certificates that did not fit. */
  more: z.number().nullish(),
  left: z.boolean().nullish(),
});

export type PublishedPod = z.infer<typeof stateSchema>;
export type PublishedNode = z.infer<typeof nodeSchema>;
export type PublishedCertificate = z.infer<typeof certificateSchema>;

/** The pod's published state; undefined when there is none, it is broken, or it is about another pod of that name. */
export function publishedState(pod: PodObject): PublishedPod | undefined {
  const state = parsed(annotationsOf(pod)[STATE_ANNOTATION], stateSchema);
  return state?.uid === pod.metadata.uid ? state : undefined;
}

/** What a daemon says of itself on its own pod. */
export function publishedNode(daemonPod: PodObject): PublishedNode | undefined {
  return parsed(annotationsOf(daemonPod)[NODE_ANNOTATION], nodeSchema);
}

function parsed<T>(text: string | undefined, schema: z.ZodType<T>): T | undefined {
  if (text === undefined) return undefined;
  try {
    const result = schema.safeParse(JSON.parse(text));
    return result.success ? result.data : undefined;
  } catch {
    return undefined;
  }
}
