/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * All maps. No LRU holds anything that a live connection needs: one pod's flood would push out another pod's
 * entries. Hashes of flows are not preallocated: their size is a bound, not a cost.
 */
#ifndef CULVERT_MAPS_H
#define CULVERT_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "culvert.h"

#define MAX_PODS 4096
#define MAX_FLOWS 262144

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, __u64);
	__type(value, struct culvert_pod);
} pods SEC(".maps");

/* Apart from `pods`: user space rewrites a pod's entry whole, and would lose counts. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, __u64);
	__type(value, struct culvert_pod_count);
} pod_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, __u64);
	__type(value, struct culvert_pod_cgroup);
} pod_cgroups SEC(".maps");

/* A set, not one id: two generations of the daemon overlap during an upgrade. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u8);
} exempt_cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CULVERT_MAX_GENERATIONS);
	__type(key, __u32);
	__type(value, struct culvert_workers);
} workers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct culvert_config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct culvert_exclusion);
	__type(value, __u32);
} exclusions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct culvert_endpoint);
} original_destination SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct culvert_endpoint);
} client_address SEC(".maps");

/* Marks a socket of the kubelet between its connect hook and sockops. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} host_probe SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct culvert_tuple);
	__type(value, struct culvert_endpoint);
} original_by_tuple SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct culvert_tuple);
	__type(value, struct culvert_endpoint);
} client_by_tuple SEC(".maps");

/* IPv6 connections that really start inside the pod they go to. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct culvert_tuple);
	__type(value, __u32);
} self_flows SEC(".maps");

/* Connections of the kubelet out of the host's own namespace. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct culvert_flow);
	__type(value, __u32);
} host_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MAX_PODS);
	__type(key, struct culvert_ip);
	__type(value, struct culvert_local_pod);
} localpods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 65536);
	__type(key, struct culvert_listener);
	__type(value, __u64);
} inl SEC(".maps");

/* Only for people: the one LRU. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PODS);
	__type(key, struct culvert_refusal);
	__type(value, __u64);
} refusals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CULVERT_TOTALS);
	__type(key, __u32);
	__type(value, __u64);
} totals SEC(".maps");

/* Not pinned: each start asks for itself. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct culvert_level);
} level_probe SEC(".maps");

#endif
