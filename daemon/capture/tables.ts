/** Our maps by name: which are pinned, and what is in each (native/bpf/maps.h). */
import type { Ip } from '../mesh/ids.ts';
import { BpfMap } from './bpf-map.ts';
import * as codecs from './maps.ts';

/** All but `level_probe`: each start asks for itself. */
export const PINNED_MAPS = [
  'pods',
  'pod_counts',
  'pod_cgroups',
  'exempt_cgroups',
  'workers',
  'config',
  'exclusions',
  'original_destination',
  'client_address',
  'host_probe',
  'original_by_tuple',
  'client_by_tuple',
  'self_flows',
  'host_flows',
  'localpods',
  'inl',
  'refusals',
  'totals',
] as const;

export interface Tables {
  readonly pods: BpfMap<bigint, codecs.PodEntry>;
  readonly podCounts: BpfMap<bigint, codecs.PodCount>;
  readonly podCgroups: BpfMap<bigint, codecs.PodCgroupEntry>;
  readonly exempt: BpfMap<bigint, number>;
  readonly workers: BpfMap<number, codecs.Workers>;
  readonly config: BpfMap<number, codecs.KernelConfig>;
  readonly exclusions: BpfMap<codecs.Exclusion, number>;
  readonly localPods: BpfMap<Ip, codecs.LocalPodEntry>;
  /** Written with a descriptor, read back as the socket's cookie. */
  readonly listeners: BpfMap<codecs.ListenerKey, bigint>;
  readonly refusals: BpfMap<codecs.RefusalKey, bigint>;
  readonly totals: BpfMap<number, bigint>;
  readonly levelProbe: BpfMap<number, codecs.LevelProbe>;
}

/** Tables over the descriptors that `fdOf` gives; they stay its owner's. */
export function openTables(fdOf: (name: string) => number): Tables {
  const { u8, u32, u64 } = codecs;
  const map = <K, V>(name: string, key: codecs.Codec<K>, value: codecs.Codec<V>): BpfMap<K, V> =>
    new BpfMap(name, fdOf(name), key, value);
  return {
    pods: map('pods', u64, codecs.podCodec),
    podCounts: map('pod_counts', u64, codecs.podCountCodec),
    podCgroups: map('pod_cgroups', u64, codecs.podCgroupCodec),
    exempt: map('exempt_cgroups', u64, u8),
    workers: map('workers', u32, codecs.workersCodec),
    config: map('config', u32, codecs.configCodec),
    exclusions: map('exclusions', codecs.exclusionCodec, u32),
    localPods: map('localpods', codecs.ipCodec, codecs.localPodCodec),
    listeners: map('inl', codecs.listenerCodec, u64),
    refusals: map('refusals', codecs.refusalCodec, u64),
    totals: map('totals', u32, u64),
    levelProbe: map('level_probe', u32, codecs.levelCodec),
  };
}
