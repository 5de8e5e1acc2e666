/** The published state as an annotation on its pod (DESIGN.md 3a), for clusters that have an API. Pure. */
import { z } from 'zod';
import type { PodUid } from '../mesh/ids.ts';
import type { PodSaying, PublishedState } from '../mesh/model.ts';

export const STATE_ANNOTATION = 'culvert.dev/state';

const schema = z.object({
  uid: z.string().max(64),
  state: z.enum(['joining', 'enrolled', 'leaving', 'unenrollable']),
  since: z.iso.datetime(),
});

/**
 * What `text` says of the pod `uid` that others decide by; undefined when it speaks of another (a template carries the
 * key), promises nothing (pending, opening) or is nonsense. The reason is for people, who read it elsewhere (cli/).
 */
export function readState(text: string, uid: PodUid): PublishedState | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  const read = schema.safeParse(value);
  if (!read.success || read.data.uid !== uid) return undefined;
  return { uid, state: read.data.state, sinceMs: Date.parse(read.data.since) };
}

export function stateText({ uid, state, sinceMs, reason }: PodSaying): string {
  return JSON.stringify({ uid, state, since: new Date(sinceMs).toISOString(), reason });
}
