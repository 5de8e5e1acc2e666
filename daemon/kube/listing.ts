/** A list under way, page by page, and how far apart nodes begin theirs. Pure. */
import { KubeError } from './seams.ts';
import { isTrouble } from './resume.ts';

/** An internal error may be about the token: a server whose versions went back says so of one that is ahead of it. */
const MOST_INTERNAL_ERRORS = 5;
const INTERNAL_ERROR = 500;

/**
 * What is known of a list of which pages are still to come. It outlives one that failed: the pages of one token are of
 * one snapshot, however late they are asked for, and a token that has expired is answered with 410.
 */
export class Listing {
  /** Keys of the objects that were in it; what is not in it at its end has vanished. */
  readonly seen = new Set<string>();
  /** Of the page that is due; '' of the first one. */
  token = '';
  /** That have come. */
  pages = 0;
  /** In a row, of the page that is due. */
  failures = 0;
  #internalErrors = 0;

  /** A page has come and been taken; `next` is the token of the one after it. */
  turn(next: string): void {
    this.token = next;
    this.pages += 1;
    this.failures = 0;
    this.#internalErrors = 0;
  }

  /** The page that is due failed. @returns whether to ask for it again; else the list begins anew. */
  goesOn(error: Error): boolean {
    this.failures += 1;
    if (this.token === '' || !(error instanceof KubeError) || !isTrouble(error)) return false;
    if (error.status === INTERNAL_ERROR) this.#internalErrors += 1;
    return this.#internalErrors < MOST_INTERNAL_ERRORS;
  }
}

/** Of all nodes together: what a few API servers can give in pages of 100 pods. */
const PAGES_PER_SECOND = 1_000;
/** What a node knows must not be older still. */
const MOST_SPREAD_MS = 120_000;

/** Ms over which `nodes` that all need a list of so many pages at once begin theirs: at least `leastMs`. */
export function relistSpread(nodes: number, pages: number, leastMs: number): number {
  return Math.max(leastMs, Math.min(MOST_SPREAD_MS, (nodes * pages * 1_000) / PAGES_PER_SECOND));
}
