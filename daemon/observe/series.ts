/** Bounds on what labels can grow to: peers choose how many there are (RELIABILITY.md row 28). */

/** A map that holds at most `limit` entries; the one longest unused makes room, and `onEvict` is told. */
export class LruMap<V> {
  readonly #entries = new Map<string, V>();
  readonly #limit: number;
  readonly #onEvict: (value: V) => void;

  constructor(limit: number, onEvict: (value: V) => void) {
    this.#limit = limit;
    this.#onEvict = onEvict;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** The entry of `key`, made when missing; it is then the one used last. */
  touch(key: string, make: () => V): V {
    const known = this.#entries.get(key);
    if (known !== undefined) this.#entries.delete(key);
    else if (this.#entries.size >= this.#limit) this.#evictFirst();
    const value = known ?? make();
    this.#entries.set(key, value);
    return value;
  }

  delete(key: string): void {
    this.#entries.delete(key);
  }

  entries(): IterableIterator<[string, V]> {
    return this.#entries.entries();
  }

  values(): IterableIterator<V> {
    return this.#entries.values();
  }

  /** A Map keeps its order of insertion. */
  #evictFirst(): void {
    const first = this.#entries.entries().next();
    if (first.done === true) return;
    this.#entries.delete(first.value[0]);
    this.#onEvict(first.value[1]);
  }
}

/** One string that differs whenever the values differ: no label value has a NUL in it. */
export function seriesKey(values: readonly string[]): string {
  return values.join('\u0000');
}
