/**
 * Whether a watch that ended can be resumed where it was, or the collection must be listed anew. Pure.
 *
 * A server whose versions went back (its etcd was restored) opens a watch from ours and says nothing, for hours: no
 * event, no bookmark, no 410. Others refuse such a version with a 400, or in the watch itself.
 */
import { GONE } from './objects.ts';
import { KubeError } from './seams.ts';

/** Of a watch that is taken for dead. */
export const SILENT = 'Silent';

/** One silence may be a connection that died; so much of it is two, or the sum of many watches that are cut short. */
const MOST_SILENCES = 1.5;
/** Answers in a row that no server in mere trouble gives. */
const MOST_REFUSALS = 3;

export class Resume {
  readonly #mostQuietMs: number;
  #quietMs = 0;
  #refusals = 0;

  /** `silenceMs`: after which a watch is taken for dead; longer than between two bookmarks. */
  constructor(silenceMs: number) {
    this.#mostQuietMs = MOST_SILENCES * silenceMs;
  }

  /** Something came: an event, a bookmark, a list. What was before it counts no more. */
  heard(): void {
    this.#quietMs = 0;
    this.#refusals = 0;
  }

  /**
   * A watch ended: as agreed, or with `error`. `quietMs`: for how long it had said nothing, if it was opened at all.
   * @returns whether to go on from where it was.
   */
  goesOn(error: Error | undefined, quietMs: number | undefined): boolean {
    // What is not a KubeError is nonsense in the stream: from there on nothing is sure.
    if (error !== undefined && !(error instanceof KubeError)) return false;
    if (error?.status === GONE) return false;
    this.#quietMs += quietMs ?? 0;
    if (this.#quietMs >= this.#mostQuietMs) return false;
    if (error === undefined || error.reason === SILENT) this.#refusals = 0;
    else if (error.status !== 0 && (quietMs !== undefined || !isTrouble(error))) this.#refusals += 1;
    return this.#refusals < MOST_REFUSALS;
  }
}

/** A failure that says nothing of what was asked for: no answer, no rights (yet), too busy, broken. */
export function isTrouble(error: KubeError): boolean {
  if (error.status === 0) return !hasTooMuch(error);
  return [401, 403, 429].includes(error.status) || error.status >= 500;
}

/** What is too much came from a server that answers. */
export function hasNoAnswer(error: Error): boolean {
  return error instanceof KubeError && error.status === 0 && !hasTooMuch(error);
}

function hasTooMuch({ reason }: KubeError): boolean {
  return reason === 'TooLarge' || reason === 'TooMany';
}
