/**
 * The BPF maps as typed values: each codec is one struct of native/bpf/culvert.h, and a test holds sizes and offsets
 * against the compiled header. Little endian, as both architectures are; addresses are bytes in network order.
 */
import type { Ip } from '../mesh/ids.ts';
import { ipFromBytes, ipToBytes } from '../mesh/ids.ts';

/** CULVERT_LAYOUT: part of the pin path. */
export const LAYOUT = 1;
export const MAX_WORKERS = 16;
export const MAX_GENERATIONS = 8;
export const MAX_LEVELS = 32;

export const POD_FLAGS = { capture: 1, noGlobalV6: 2 } as const;
export const CGROUP_STATES = { pending: 1, enrolled: 2 } as const;
export type CgroupState = keyof typeof CGROUP_STATES;
export const CGROUP_ALLOW_NESTED = 1;
export const LOCAL_LEAVING = 1;

/** How one struct (or number) is written; `fields` are its byte offsets, for the test against the header. */
export interface Codec<T> {
  readonly bytes: number;
  readonly fields: Readonly<Record<string, number>>;
  encode(value: T, view: DataView): void;
  decode(view: DataView): T;
}

export const u32: Codec<number> = {
  bytes: 4,
  fields: {},
  encode: (value, view) => view.setUint32(0, value, true),
  decode: (view) => view.getUint32(0, true),
};

export const u64: Codec<bigint> = {
  bytes: 8,
  fields: {},
  encode: (value, view) => view.setBigUint64(0, value, true),
  decode: (view) => view.getBigUint64(0, true),
};

export const u8: Codec<number> = {
  bytes: 1,
  fields: {},
  encode: (value, view) => view.setUint8(0, value),
  decode: (view) => view.getUint8(0),
};

function bytesOf(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** struct culvert_ip */
export const ipCodec: Codec<Ip> = {
  bytes: 16,
  fields: { word: 0 },
  encode: (ip, view) => ipToBytes(ip, bytesOf(view)),
  decode: (view) => ipFromBytes(bytesOf(view)),
};

/** struct culvert_endpoint */
export interface EndpointRecord {
  readonly ip: Ip;
  readonly port: number;
  readonly family: number;
  readonly flags: number;
  readonly netns: bigint;
}
export const endpointCodec: Codec<EndpointRecord> = {
  bytes: 32,
  fields: { ip: 0, port: 16, family: 18, flags: 19, netns: 24 },
  encode(value, view) {
    ipToBytes(value.ip, bytesOf(view));
    view.setUint16(16, value.port, true);
    view.setUint8(18, value.family);
    view.setUint8(19, value.flags);
    view.setBigUint64(24, value.netns, true);
  },
  decode: (view) => ({
    ip: ipFromBytes(bytesOf(view)),
    port: view.getUint16(16, true),
    family: view.getUint8(18),
    flags: view.getUint8(19),
    netns: view.getBigUint64(24, true),
  }),
};

/** struct culvert_flow */
export interface Flow {
  readonly src: Ip;
  readonly dst: Ip;
  readonly sport: number;
  readonly dport: number;
}
export const flowCodec: Codec<Flow> = {
  bytes: 36,
  fields: { src: 0, dst: 16, sport: 32, dport: 34 },
  encode(value, view) {
    ipToBytes(value.src, bytesOf(view));
    ipToBytes(value.dst, bytesOf(view), 16);
    view.setUint16(32, value.sport, true);
    view.setUint16(34, value.dport, true);
  },
  decode: (view) => ({
    src: ipFromBytes(bytesOf(view)),
    dst: ipFromBytes(bytesOf(view), 16),
    sport: view.getUint16(32, true),
    dport: view.getUint16(34, true),
  }),
};

/** struct culvert_tuple */
export interface Tuple {
  readonly netns: bigint;
  readonly flow: Flow;
}
export const tupleCodec: Codec<Tuple> = {
  bytes: 48,
  fields: { netns: 0, flow: 8 },
  encode(value, view) {
    view.setBigUint64(0, value.netns, true);
    flowCodec.encode(value.flow, part(view, 8, flowCodec.bytes));
  },
  decode: (view) => ({
    netns: view.getBigUint64(0, true),
    flow: flowCodec.decode(part(view, 8, flowCodec.bytes)),
  }),
};

function part(view: DataView, offset: number, bytes: number): DataView {
  return new DataView(view.buffer, view.byteOffset + offset, bytes);
}

/** struct culvert_pod; `ports` has one outbound listener port per worker, 0 for none. */
export interface PodEntry {
  readonly flags: number;
  readonly generation: number;
  readonly maxPending: number;
  readonly ports: readonly number[];
}
export const podCodec: Codec<PodEntry> = {
  bytes: 48,
  fields: { flags: 0, generation: 4, max_pending: 8, ports: 16 },
  encode(value, view) {
    view.setUint32(0, value.flags, true);
    view.setUint32(4, value.generation, true);
    view.setUint32(8, value.maxPending, true);
    for (let i = 0; i < MAX_WORKERS; i++) view.setUint16(16 + 2 * i, value.ports[i] ?? 0, true);
  },
  decode: (view) => ({
    flags: view.getUint32(0, true),
    generation: view.getUint32(4, true),
    maxPending: view.getUint32(8, true),
    ports: Array.from({ length: MAX_WORKERS }, (_, i) => view.getUint16(16 + 2 * i, true)),
  }),
};

/** struct culvert_pod_count */
export interface PodCount {
  readonly original: bigint;
  readonly client: bigint;
  readonly self: bigint;
}
export const podCountCodec: Codec<PodCount> = {
  bytes: 24,
  fields: { original: 0, client: 8, self: 16 },
  encode(value, view) {
    view.setBigInt64(0, value.original, true);
    view.setBigInt64(8, value.client, true);
    view.setBigInt64(16, value.self, true);
  },
  decode: (view) => ({
    original: view.getBigInt64(0, true),
    client: view.getBigInt64(8, true),
    self: view.getBigInt64(16, true),
  }),
};

/** struct culvert_pod_cgroup */
export interface PodCgroupEntry {
  readonly netns: bigint;
  readonly state: number;
  readonly flags: number;
}
export const podCgroupCodec: Codec<PodCgroupEntry> = {
  bytes: 16,
  fields: { netns: 0, state: 8, flags: 12 },
  encode(value, view) {
    view.setBigUint64(0, value.netns, true);
    view.setUint32(8, value.state, true);
    view.setUint32(12, value.flags, true);
  },
  decode: (view) => ({
    netns: view.getBigUint64(0, true),
    state: view.getUint32(8, true),
    flags: view.getUint32(12, true),
  }),
};

/** struct culvert_local_pod */
export interface LocalPodEntry {
  readonly netns: bigint;
  readonly flags: number;
  readonly generation: number;
}
export const localPodCodec: Codec<LocalPodEntry> = {
  bytes: 16,
  fields: { netns: 0, flags: 8, generation: 12 },
  encode(value, view) {
    view.setBigUint64(0, value.netns, true);
    view.setUint32(8, value.flags, true);
    view.setUint32(12, value.generation, true);
  },
  decode: (view) => ({
    netns: view.getBigUint64(0, true),
    flags: view.getUint32(8, true),
    generation: view.getUint32(12, true),
  }),
};

/** struct culvert_workers: bit w of `mask` says that worker w lives. */
export interface Workers {
  readonly mask: number;
  readonly count: number;
}
export const workersCodec: Codec<Workers> = {
  bytes: 8,
  fields: { mask: 0, count: 4 },
  encode(value, view) {
    view.setUint32(0, value.mask, true);
    view.setUint32(4, value.count, true);
  },
  decode: (view) => ({ mask: view.getUint32(0, true), count: view.getUint32(4, true) }),
};

/** struct culvert_config */
export interface KernelConfig {
  readonly hostNetns: bigint;
  readonly kubeletCgroup: bigint;
  readonly podLevel: number;
  readonly generation: number;
}
export const configCodec: Codec<KernelConfig> = {
  bytes: 24,
  fields: { host_netns: 0, kubelet_cgroup: 8, pod_level: 16, generation: 20 },
  encode(value, view) {
    view.setBigUint64(0, value.hostNetns, true);
    view.setBigUint64(8, value.kubeletCgroup, true);
    view.setUint32(16, value.podLevel, true);
    view.setUint32(20, value.generation, true);
  },
  decode: (view) => ({
    hostNetns: view.getBigUint64(0, true),
    kubeletCgroup: view.getBigUint64(8, true),
    podLevel: view.getUint32(16, true),
    generation: view.getUint32(20, true),
  }),
};

/** struct culvert_exclusion; `length` counts the address's own bits in its 16-byte form. */
export interface Exclusion {
  readonly netns: bigint;
  readonly ip: Ip;
  readonly length: number;
}
const NETNS_BITS = 64;
export const exclusionCodec: Codec<Exclusion> = {
  bytes: 28,
  fields: { prefixlen: 0, netns: 4, ip: 12 },
  encode(value, view) {
    view.setUint32(0, value.length + NETNS_BITS, true);
    view.setBigUint64(4, value.netns, true);
    ipToBytes(value.ip, bytesOf(view), 12);
  },
  decode: (view) => ({
    length: view.getUint32(0, true) - NETNS_BITS,
    netns: view.getBigUint64(4, true),
    ip: ipFromBytes(bytesOf(view), 12),
  }),
};

/** struct culvert_listener */
export interface ListenerKey {
  readonly ip: Ip;
  readonly role: number;
  readonly worker: number;
}
export const listenerCodec: Codec<ListenerKey> = {
  bytes: 24,
  fields: { ip: 0, role: 16, worker: 20 },
  encode(value, view) {
    ipToBytes(value.ip, bytesOf(view));
    view.setUint32(16, value.role, true);
    view.setUint32(20, value.worker, true);
  },
  decode: (view) => ({
    ip: ipFromBytes(bytesOf(view)),
    role: view.getUint32(16, true),
    worker: view.getUint32(20, true),
  }),
};

/** struct culvert_refusal */
export interface RefusalKey {
  readonly id: bigint;
  readonly code: number;
}
export const refusalCodec: Codec<RefusalKey> = {
  bytes: 16,
  fields: { id: 0, code: 8 },
  encode(value, view) {
    view.setBigUint64(0, value.id, true);
    view.setUint32(8, value.code, true);
  },
  decode: (view) => ({ id: view.getBigUint64(0, true), code: view.getUint32(8, true) }),
};

/** struct culvert_level: `ancestors` from the kernel's root down, 0n below the last. */
export interface LevelProbe {
  readonly ip: Uint8Array;
  readonly port: number;
  readonly ancestors: readonly bigint[];
}
export const levelCodec: Codec<LevelProbe> = {
  bytes: 8 + 8 * MAX_LEVELS,
  fields: { ip: 0, port: 4, ancestors: 8 },
  encode(value, view) {
    bytesOf(view).set(value.ip);
    // The program compares with user_port: network order in the first two bytes.
    view.setUint16(4, value.port);
    value.ancestors.forEach((id, i) => view.setBigUint64(8 + 8 * i, id, true));
  },
  decode: (view) => ({
    ip: bytesOf(view).slice(0, 4),
    port: view.getUint16(4),
    ancestors: Array.from({ length: MAX_LEVELS }, (_, i) => view.getBigUint64(8 + 8 * i, true)),
  }),
};
