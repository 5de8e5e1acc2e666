/**
 * Equal values kept once. Of 10,000 pods most have the node, the account, the owner and all labels of some other, and each
 * comes from the API as a copy of its own. Invisible but for the memory: what is kept must never be changed.
 */

/** Distinct values remembered; beyond, all are forgotten, and what is in use by then is only not shared any more. */
const MAX = 20_000;
/** Longer ones are rarely equal, and dear to compare. */
const MAX_CHARS = 1_024;

/** One for each type of value. */
export class Shared<T> {
  readonly #known = new Map<string, T>();
  readonly #keyOf: (value: T) => string;

  /** `keyOf`: the same for equal values only. */
  constructor(keyOf: (value: T) => string) {
    this.#keyOf = keyOf;
  }

  /** An equal value: the first that was met. */
  of(value: T): T {
    const key = this.#keyOf(value);
    if (key.length > MAX_CHARS) return value;
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    if (this.#known.size >= MAX) this.#known.clear();
    this.#known.set(key, value);
    return value;
  }
}
