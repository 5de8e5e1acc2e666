/**
 * libbpf and the few system calls around it, through ffi-napi: the only module that imports it. For the life cycle
 * (open, load, attach, pin, update), never per connection (CAPTURE.md, from Node). All calls are synchronous.
 */
import { createRequire } from 'node:module';
import { getSystemErrorMessage, getSystemErrorName } from 'node:util';
import { MeshError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';

/** An address in this process, as a number: Linux user space ends below 2^53 on amd64 and arm64. 0 is NULL. */
type Pointer = number;
type CValue = number | string | Uint8Array | null;
type CFunction = (...args: CValue[]) => unknown;
type Signatures = Readonly<Record<string, readonly [string, readonly string[]]>>;

/** The soname: without the -dev package there is no plain libbpf.so. */
const LIBBPF = 'libbpf.so.1';

const LIBBPF_CALLS = {
  libbpf_major_version: ['uint32', []],
  libbpf_minor_version: ['uint32', []],
  libbpf_set_print: ['uint64', ['pointer']],
  bpf_object__open_mem: ['uint64', ['pointer', 'size_t', 'pointer']],
  bpf_object__load: ['int', ['uint64']],
  bpf_object__close: ['void', ['uint64']],
  bpf_object__find_program_by_name: ['uint64', ['uint64', 'string']],
  bpf_object__find_map_by_name: ['uint64', ['uint64', 'string']],
  bpf_program__fd: ['int', ['uint64']],
  bpf_program__expected_attach_type: ['int', ['uint64']],
  bpf_program__set_log_buf: ['int', ['uint64', 'pointer', 'size_t']],
  bpf_map__fd: ['int', ['uint64']],
  bpf_map__set_pin_path: ['int', ['uint64', 'string']],
  bpf_link_create: ['int', ['int', 'int', 'int', 'pointer']],
  bpf_link_update: ['int', ['int', 'int', 'pointer']],
  bpf_link_detach: ['int', ['int']],
  bpf_obj_pin: ['int', ['int', 'string']],
  bpf_obj_get: ['int', ['string']],
  bpf_obj_get_info_by_fd: ['int', ['int', 'pointer', 'pointer']],
  bpf_map_create: ['int', ['int', 'string', 'uint32', 'uint32', 'uint32', 'pointer']],
  bpf_map_update_elem: ['int', ['int', 'pointer', 'pointer', 'uint64']],
  bpf_map_lookup_elem: ['int', ['int', 'pointer', 'pointer']],
  bpf_map_delete_elem: ['int', ['int', 'pointer']],
  bpf_map_lookup_and_delete_elem: ['int', ['int', 'pointer', 'pointer']],
  bpf_map_get_next_key: ['int', ['int', 'pointer', 'pointer']],
} as const satisfies Signatures;

const LIBC_CALLS = {
  dlopen: ['uint64', ['string', 'int']],
  socket: ['int', ['int', 'int', 'int']],
  connect: ['int', ['int', 'pointer', 'uint32']],
  close: ['int', ['int']],
  send: ['int64', ['int', 'pointer', 'size_t', 'int']],
  recv: ['int64', ['int', 'pointer', 'size_t', 'int']],
} as const satisfies Signatures;

type Calls<S extends Signatures> = { readonly [N in keyof S]: CFunction };
interface Ffi {
  readonly Library: (file: string | null, signatures: Signatures) => unknown;
  readonly errno: () => number;
}

const ENOENT = 2;
/**
 * A thread that ends unloads its addons, and only then runs the closing callback that ffi-napi left behind: the
 * process would crash (Node 26). So the addons stay mapped.
 */
const RTLD_LAZY = 0x0001;
const RTLD_NODELETE = 0x1000;
/** The verifier's report of one program; libbpf truncates what is longer. */
const LOG_BYTES = 65_536;
/** Lines of the verifier's report that go into an error: the last ones say what was wrong. */
const LOG_LINES = 12;
/** Update flag of bpf(2): only a key that is not there yet. */
export const NO_EXIST = 1;

let loaded: { bpf: Calls<typeof LIBBPF_CALLS>; libc: Calls<typeof LIBC_CALLS>; ffi: Ffi } | undefined;

/** Loads libbpf, once. @throws MeshError PREFLIGHT_FAILED when it or ffi-napi is not there. */
function native(): NonNullable<typeof loaded> {
  if (loaded !== undefined) return loaded;
  try {
    const load = createRequire(import.meta.url);
    const ffi: unknown = load('ffi-napi');
    if (!isFfi(ffi)) throw new TypeError('ffi-napi does not export Library and errno');
    const bpf = bind(ffi, LIBBPF, LIBBPF_CALLS);
    const libc = bind(ffi, null, LIBC_CALLS);
    for (const file of Object.keys(load.cache))
      if (file.endsWith('.node')) libc.dlopen(file, RTLD_LAZY | RTLD_NODELETE);
    // Its messages go to stderr by a va_list callback, which JavaScript can not read: errors say the same.
    bpf.libbpf_set_print(null);
    loaded = { bpf, libc, ffi };
    return loaded;
  } catch (cause) {
    throw new MeshError('PREFLIGHT_FAILED', `${LIBBPF} (Debian package libbpf1) could not be loaded`, {
      cause,
    });
  }
}

function isFfi(value: unknown): value is Ffi {
  return typeof value === 'object' && value !== null && 'Library' in value && 'errno' in value;
}

function bind<S extends Signatures>(ffi: Ffi, file: string | null, signatures: S): Calls<S> {
  const library: unknown = ffi.Library(file, signatures);
  if (!hasCalls(library, signatures)) throw new TypeError(`${file ?? 'libc'} lacks a function`);
  return library;
}

function hasCalls<S extends Signatures>(library: unknown, signatures: S): library is Calls<S> {
  if (typeof library !== 'object' || library === null) return false;
  return Object.keys(signatures).every((name) => name in library);
}

/** Numbers of libbpf's own version. @throws MeshError PREFLIGHT_FAILED when it can't be loaded. */
export function libbpfVersion(): { major: number; minor: number } {
  const { bpf } = native();
  return { major: Number(bpf.libbpf_major_version()), minor: Number(bpf.libbpf_minor_version()) };
}

/** The C library's calls for syscalls.ts, which says why they are here; `errno` right after a call that failed. */
export function libc(): Calls<typeof LIBC_CALLS> & { readonly errno: () => number } {
  const { libc: calls, ffi } = native();
  return { ...calls, errno: ffi.errno };
}

/** The errno of a call that returns -errno (libbpf 1.x), or 0. */
function errnoOf(result: unknown): number {
  const value = Number(result);
  return value < 0 ? -value : 0;
}

/** `ENOENT (no such file or directory)`. */
export function describeErrno(errno: number): string {
  if (errno <= 0) return 'unknown error';
  return `${getSystemErrorName(-errno)} (${getSystemErrorMessage(-errno)})`;
}

function check(code: ErrorCode, call: string, on: string, result: unknown, hint = ''): number {
  const errno = errnoOf(result);
  if (errno !== 0) throw new MeshError(code, `${call} failed on ${on}: ${describeErrno(errno)}${hint}`);
  return Number(result);
}

/** Closes a descriptor that one of these functions returned. */
export function closeFd(fd: number): void {
  native().libc.close(fd);
}

// === Objects ===

/** A loaded BPF object: programs and maps stay in the kernel while this, a link or a pin holds them. */
export class BpfObject {
  #pointer: Pointer;
  readonly #logs: ReadonlyMap<string, Buffer>;

  private constructor(pointer: Pointer, logs: ReadonlyMap<string, Buffer>) {
    this.#pointer = pointer;
    this.#logs = logs;
  }

  /**
   * Opens and loads an object. Maps named in `pins` are taken from their pin when it is there, else pinned.
   * @throws MeshError BPF_LOAD_FAILED with the end of the verifier's report.
   */
  static load(
    name: string,
    bytes: Uint8Array,
    programs: readonly string[],
    pins: ReadonlyMap<string, string>,
  ): BpfObject {
    const { bpf, ffi } = native();
    const pointer = Number(bpf.bpf_object__open_mem(bytes, bytes.length, null));
    if (pointer === 0)
      throw new MeshError(
        'BPF_LOAD_FAILED',
        `bpf_object__open_mem failed on ${name}: ${describeErrno(ffi.errno())}`,
      );
    const object = new BpfObject(
      pointer,
      new Map(programs.map((program) => [program, Buffer.alloc(LOG_BYTES)])),
    );
    try {
      object.#load(name, pins);
      return object;
    } catch (error) {
      object.close();
      throw error;
    }
  }

  #load(name: string, pins: ReadonlyMap<string, string>): void {
    const { bpf } = native();
    for (const [program, log] of this.#logs)
      check(
        'BPF_LOAD_FAILED',
        'bpf_program__set_log_buf',
        program,
        bpf.bpf_program__set_log_buf(this.#program(program), log, log.length),
      );
    for (const [map, path] of pins)
      check('BPF_LOAD_FAILED', 'bpf_map__set_pin_path', map, bpf.bpf_map__set_pin_path(this.#map(map), path));
    const result = bpf.bpf_object__load(this.#pointer);
    check('BPF_LOAD_FAILED', 'bpf_object__load', name, result, this.#report());
  }

  /** The end of the first program's report that has a complaint in it. */
  #report(): string {
    for (const [program, log] of this.#logs) {
      const text = log.toString('latin1', 0, log.indexOf(0));
      if (text === '') continue;
      return `; the verifier on ${program}:\n${text.trimEnd().split('\n').slice(-LOG_LINES).join('\n')}`;
    }
    return '; is a pinned map of another layout in the way, or a capability missing?';
  }

  #program(name: string): Pointer {
    const found = Number(native().bpf.bpf_object__find_program_by_name(this.#pointer, name));
    if (found === 0) throw new MeshError('BPF_LOAD_FAILED', `the BPF object has no program ${name}`);
    return found;
  }

  #map(name: string): Pointer {
    const found = Number(native().bpf.bpf_object__find_map_by_name(this.#pointer, name));
    if (found === 0) throw new MeshError('BPF_LOAD_FAILED', `the BPF object has no map ${name}`);
    return found;
  }

  /** Descriptor and attach type of a program; the descriptor lives as long as this object. */
  program(name: string): { readonly fd: number; readonly attachType: number } {
    const { bpf } = native();
    const pointer = this.#program(name);
    return {
      fd: check('BPF_LOAD_FAILED', 'bpf_program__fd', name, bpf.bpf_program__fd(pointer)),
      attachType: Number(bpf.bpf_program__expected_attach_type(pointer)),
    };
  }

  /** Descriptor of a map; lives as long as this object. */
  mapFd(name: string): number {
    return check('BPF_LOAD_FAILED', 'bpf_map__fd', name, native().bpf.bpf_map__fd(this.#map(name)));
  }

  /** Frees everything that no link and no pin holds. A second time does nothing. */
  close(): void {
    // libbpf would free twice; NULL is nothing to it.
    native().bpf.bpf_object__close(this.#pointer);
    this.#pointer = 0;
  }
}

// === Links ===

/** What the kernel says of a link; `target` is a cgroup id or a netns inode number, 0n when that is gone. */
export interface LinkInfo {
  readonly programId: number;
  readonly target: bigint;
}

/** Attaches a program to a cgroup or netns by descriptor. @returns the link's descriptor. @throws BPF_ATTACH_FAILED */
export function createLink(what: string, programFd: number, targetFd: number, attachType: number): number {
  const result = native().bpf.bpf_link_create(programFd, targetFd, attachType, null);
  return check('BPF_ATTACH_FAILED', 'bpf_link_create', what, result);
}

/** Swaps the link's program, atomically. @throws MeshError BPF_ATTACH_FAILED */
export function updateLink(what: string, linkFd: number, programFd: number): void {
  check('BPF_ATTACH_FAILED', 'bpf_link_update', what, native().bpf.bpf_link_update(linkFd, programFd, null));
}

/** Cuts the link from its target at once, whoever else still holds it; a target that is gone is no error. */
export function detachLink(what: string, linkFd: number): void {
  const result = native().bpf.bpf_link_detach(linkFd);
  if (errnoOf(result) !== ENOENT) check('BPF_ATTACH_FAILED', 'bpf_link_detach', what, result);
}

/** @throws MeshError BPF_ATTACH_FAILED */
export function linkInfo(what: string, linkFd: number): LinkInfo {
  const info = Buffer.alloc(256);
  const size = Buffer.alloc(4);
  size.writeUInt32LE(info.length);
  check(
    'BPF_ATTACH_FAILED',
    'bpf_obj_get_info_by_fd',
    what,
    native().bpf.bpf_obj_get_info_by_fd(linkFd, info, size),
  );
  // struct bpf_link_info: type, id, prog_id, padding, then cgroup {u64 id} or netns {u32 ino, u32 attach_type}.
  const isNetns = info.readUInt32LE(0) === LINK_TYPE_NETNS;
  return {
    programId: info.readUInt32LE(8),
    target: isNetns ? BigInt(info.readUInt32LE(16)) : info.readBigUInt64LE(16),
  };
}
const LINK_TYPE_NETNS = 5;

// === Pins ===

/** Pins a link's or map's descriptor. @throws MeshError PIN_FAILED */
export function pin(fd: number, path: string): void {
  check('PIN_FAILED', 'bpf_obj_pin', path, native().bpf.bpf_obj_pin(fd, path));
}

/** Opens what is pinned at `path`, or undefined when nothing is. @throws MeshError PIN_FAILED */
export function openPin(path: string): number | undefined {
  const result = native().bpf.bpf_obj_get(path);
  if (errnoOf(result) === ENOENT) return undefined;
  return check('PIN_FAILED', 'bpf_obj_get', path, result);
}

// === Map elements ===

/** A map of BPF type `type` with 4-byte values: only to see whether the kernel lets us. @returns its descriptor or -errno. */
export function tryCreateMap(type: number, keyBytes: number, valueBytes: number): number {
  return Number(native().bpf.bpf_map_create(type, null, keyBytes, valueBytes, 1, null));
}

/** @throws MeshError BPF_MAP_FAILED */
export function updateElement(map: string, fd: number, key: Uint8Array, value: Uint8Array, flags = 0): void {
  check(
    'BPF_MAP_FAILED',
    'bpf_map_update_elem',
    map,
    native().bpf.bpf_map_update_elem(fd, key, value, flags),
  );
}

/** Reads into `value`. @returns false when the key is not there. @throws MeshError BPF_MAP_FAILED */
export function lookupElement(map: string, fd: number, key: Uint8Array, value: Uint8Array): boolean {
  const result = native().bpf.bpf_map_lookup_elem(fd, key, value);
  if (errnoOf(result) === ENOENT) return false;
  check('BPF_MAP_FAILED', 'bpf_map_lookup_elem', map, result);
  return true;
}

/** Reads into `value` and deletes. @returns false when the key is not there. @throws MeshError BPF_MAP_FAILED */
export function takeElement(map: string, fd: number, key: Uint8Array, value: Uint8Array): boolean {
  const result = native().bpf.bpf_map_lookup_and_delete_elem(fd, key, value);
  if (errnoOf(result) === ENOENT) return false;
  check('BPF_MAP_FAILED', 'bpf_map_lookup_and_delete_elem', map, result);
  return true;
}

/** @returns false when the key was not there. @throws MeshError BPF_MAP_FAILED */
export function deleteElement(map: string, fd: number, key: Uint8Array): boolean {
  const result = native().bpf.bpf_map_delete_elem(fd, key);
  if (errnoOf(result) === ENOENT) return false;
  check('BPF_MAP_FAILED', 'bpf_map_delete_elem', map, result);
  return true;
}

/** Reads the key after `key` (undefined: the first) into `next`. @returns false at the end. @throws BPF_MAP_FAILED */
export function nextKey(map: string, fd: number, key: Uint8Array | undefined, next: Uint8Array): boolean {
  const result = native().bpf.bpf_map_get_next_key(fd, key ?? null, next);
  if (errnoOf(result) === ENOENT) return false;
  check('BPF_MAP_FAILED', 'bpf_map_get_next_key', map, result);
  return true;
}
