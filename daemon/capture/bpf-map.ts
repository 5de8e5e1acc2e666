/** One BPF map with typed keys and values; the codecs are in maps.ts. */
import { NO_EXIST, deleteElement, lookupElement, nextKey, takeElement, updateElement } from './libbpf.ts';
import type { Codec } from './maps.ts';

/** More keys than any of our maps holds: a walk over a map that changes meanwhile may start again, but ends. */
const MAX_WALK = 524_288;

export class BpfMap<K, V> {
  readonly name: string;
  readonly fd: number;
  readonly #key: Codec<K>;
  readonly #value: Codec<V>;

  /** `fd` is borrowed: whoever opened the map closes it. */
  constructor(name: string, fd: number, key: Codec<K>, value: Codec<V>) {
    this.name = name;
    this.fd = fd;
    this.#key = key;
    this.#value = value;
  }

  /** The value of `key`, or undefined. @throws MeshError BPF_MAP_FAILED, as all below do. */
  get(key: K): V | undefined {
    const value = Buffer.alloc(this.#value.bytes);
    if (!lookupElement(this.name, this.fd, encode(this.#key, key), value)) return undefined;
    return this.#value.decode(viewOf(value));
  }

  set(key: K, value: V): void {
    updateElement(this.name, this.fd, encode(this.#key, key), encode(this.#value, value));
  }

  /** Sets `key` only when it has no value yet. @returns whether it was set. */
  setNew(key: K, value: V): boolean {
    const keyBytes = encode(this.#key, key);
    if (lookupElement(this.name, this.fd, keyBytes, Buffer.alloc(this.#value.bytes))) return false;
    updateElement(this.name, this.fd, keyBytes, encode(this.#value, value), NO_EXIST);
    return true;
  }

  /** @returns whether it was there. */
  delete(key: K): boolean {
    return deleteElement(this.name, this.fd, encode(this.#key, key));
  }

  /** Reads and deletes in one: nothing that is counted meanwhile is lost. @returns undefined when it was not there. */
  take(key: K): V | undefined {
    const value = Buffer.alloc(this.#value.bytes);
    if (!takeElement(this.name, this.fd, encode(this.#key, key), value)) return undefined;
    return this.#value.decode(viewOf(value));
  }

  /** All keys at about this moment. */
  keys(): K[] {
    const found: K[] = [];
    let last: Buffer | undefined;
    while (found.length < MAX_WALK) {
      const next = Buffer.alloc(this.#key.bytes);
      if (!nextKey(this.name, this.fd, last, next)) break;
      found.push(this.#key.decode(viewOf(next)));
      last = next;
    }
    return found;
  }

  /** All entries at about this moment; what is deleted during the walk is left out. */
  entries(): [K, V][] {
    const found: [K, V][] = [];
    for (const key of this.keys()) {
      const value = this.get(key);
      if (value !== undefined) found.push([key, value]);
    }
    return found;
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function encode<T>(codec: Codec<T>, value: T): Buffer {
  const bytes = Buffer.alloc(codec.bytes);
  codec.encode(value, viewOf(bytes));
  return bytes;
}
