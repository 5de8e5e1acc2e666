/** Maps that the indexes of the state are made of. */

/** Sets or deletes, and gives what was there. */
export function put<K, V>(map: Map<K, V>, key: K, value: V | undefined): V | undefined {
  const old = map.get(key);
  if (value === undefined) map.delete(key);
  else map.set(key, value);
  return old;
}

const NOTHING: ReadonlySet<never> = new Set<never>();

/** Key → the names that have it. Empty sets are not kept. */
export class Index<K, N> {
  readonly #sets = new Map<K, Set<N>>();

  get(key: K): ReadonlySet<N> {
    return this.#sets.get(key) ?? NOTHING;
  }

  has(key: K): boolean {
    return this.#sets.has(key);
  }

  keys(): Iterable<K> {
    return this.#sets.keys();
  }

  add(key: K, name: N): void {
    const set = this.#sets.get(key);
    if (set === undefined) this.#sets.set(key, new Set([name]));
    else set.add(name);
  }

  delete(key: K, name: N): void {
    const set = this.#sets.get(key);
    if (set?.delete(name) === true && set.size === 0) this.#sets.delete(key);
  }
}
