/** How fast requests are taken, so that one node, or a stranger, can not have the signer for itself. Pure but for state. */

export interface PaceOptions {
  /** Requests of one source that are taken at once. */
  readonly burst: number;
  /** Further ones a second. */
  readonly perSecond: number;
  /** Sources that are remembered. */
  readonly maxSources: number;
  /** Turns that are given out for longer ahead: none. */
  readonly maxWaitMs: number;
}

/** Accounts on one node rarely pass a hundred; a renewal of all of them passes at once. */
export const DEFAULT_PACE: PaceOptions = {
  burst: 128,
  perSecond: 2,
  maxSources: 10_000,
  maxWaitMs: 600_000,
};

interface Bucket {
  /** Below zero: so many turns are given out ahead. */
  tokens: number;
  atMs: number;
}

/** A turn: after `waitMs`, or, when it is not `isReserved`, one has to ask again then. */
export interface Turn {
  readonly waitMs: number;
  readonly isReserved: boolean;
}

/** A token bucket for each source. When too many sources are known, the one heard of longest ago is forgotten. */
export class Pace {
  readonly #options: PaceOptions;
  readonly #buckets = new Map<string, Bucket>();

  constructor(options: PaceOptions = DEFAULT_PACE) {
    this.#options = options;
  }

  /** Sources remembered. */
  get size(): number {
    return this.#buckets.size;
  }

  /** `source`'s next turn. */
  take(source: string, nowMs: number): Turn {
    const { burst, perSecond, maxSources, maxWaitMs } = this.#options;
    const known = this.#buckets.get(source);
    const gained = known === undefined ? 0 : (Math.max(0, nowMs - known.atMs) * perSecond) / 1_000;
    const tokens = known === undefined ? burst : Math.min(burst, known.tokens + gained);
    const waitMs = Math.max(0, Math.ceil(((1 - tokens) * 1_000) / perSecond));
    const isReserved = waitMs <= maxWaitMs;
    this.#buckets.delete(source);
    const [oldest] = this.#buckets.keys();
    if (this.#buckets.size >= maxSources && oldest !== undefined) this.#buckets.delete(oldest);
    this.#buckets.set(source, { tokens: isReserved ? tokens - 1 : tokens, atMs: nowMs });
    return { waitMs: Math.min(waitMs, maxWaitMs), isReserved };
  }
}

/** Names in lines, one line a source; the lines take turns. A name stands once. */
export class Turns {
  readonly #lines = new Map<string, Set<string>>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  add(source: string, name: string): void {
    const line = this.#lines.get(source) ?? new Set();
    if (line.has(name)) return;
    this.#lines.set(source, line.add(name));
    this.#size++;
  }

  /** The next name; its source stands behind all others then. */
  next(): string | undefined {
    const [first] = this.#lines;
    if (first === undefined) return undefined;
    const [source, line] = first;
    const [name] = line;
    this.#lines.delete(source);
    if (name === undefined) return this.next();
    line.delete(name);
    this.#size--;
    if (line.size > 0) this.#lines.set(source, line);
    return name;
  }
}
