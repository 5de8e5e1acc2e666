/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Map layouts that the kernel programs, the daemon (daemon/capture/maps.ts) and the addon (native/hot) share.
 * A change of any layout here raises CULVERT_LAYOUT: it is part of the pin path, so that two versions of the
 * daemon never read each other's maps. All ports are host order, all addresses 16 bytes (IPv4 as ::ffff:a.b.c.d).
 */
#ifndef CULVERT_H
#define CULVERT_H

#define CULVERT_LAYOUT 1
#define CULVERT_MAX_WORKERS 16
/* Daemons that can own entries at once; each start takes the next slot (an upgrade overlaps two). */
#define CULVERT_MAX_GENERATIONS 8
/* Deepest cgroup that the level probe looks at. */
#define CULVERT_MAX_LEVELS 32
#define CULVERT_HBONE_PORT 15008
/* Bound of a pod's entries of each kind while it has no entry of its own in `pods`. */
#define CULVERT_DEFAULT_PENDING 16384

/* Roles of our listeners; the numbers are ROLES in daemon/mesh/wiring.ts. */
#define CULVERT_ROLE_OUTBOUND 0
#define CULVERT_ROLE_PLAINTEXT 1
#define CULVERT_ROLE_HBONE 2

/* culvert_endpoint.flags: whose socket holds the record. 0: written by user space, not published yet. */
#define CULVERT_SIDE_CLIENT 1 /* the app's socket that connected: getpeername() shows the record */
#define CULVERT_SIDE_ACCEPTED 2 /* the accepted child: of our listener (original), of the app (client) */

/* culvert_pod.flags */
#define CULVERT_POD_CAPTURE 1 /* outbound connections are captured */
#define CULVERT_POD_NO_GLOBAL_V6 2 /* no global IPv6 address: native IPv6 destinations are left alone */

/* culvert_pod_cgroup.state and .flags */
#define CULVERT_CGROUP_PENDING 1
#define CULVERT_CGROUP_ENROLLED 2
#define CULVERT_CGROUP_ALLOW_NESTED 1

/* culvert_local_pod.flags */
#define CULVERT_LOCAL_LEAVING 1 /* plaintext goes to the app; port 15008 is still ours */

/* Why the kernel refused; with the pod in `refusals`, summed up in `totals`. */
#define CULVERT_REFUSED_PENDING 1
#define CULVERT_REFUSED_PENDING_INBOUND 2
#define CULVERT_REFUSED_NESTED_NETNS 3
#define CULVERT_REFUSED_ENTRY_LIMIT 4
#define CULVERT_REFUSED_NO_WORKER 5
#define CULVERT_REFUSED_NO_STORAGE 6
#define CULVERT_REFUSED_NO_RECORD 7
#define CULVERT_REFUSED_UNKNOWN_ADDRESS 8
#define CULVERT_REFUSED_NO_LISTENER 9
#define CULVERT_LOST_CLIENT_ADDRESS 10
#define CULVERT_LOST_SELF_FLOW 11
#define CULVERT_LOST_HOST_FLOW 12
#define CULVERT_REFUSED_NO_WORKER_INBOUND 13
/* What the kernel did; in `totals` only. */
#define CULVERT_DID_CAPTURE 16
#define CULVERT_DID_STEER_PLAINTEXT 17
#define CULVERT_DID_STEER_HBONE 18
#define CULVERT_DID_PASS_PROBE 19
#define CULVERT_DID_PASS_SELF 20
#define CULVERT_TOTALS 32

/* Value of the SK_STORAGE maps `original_destination` and `client_address`, and of their hand-over maps by tuple. */
struct culvert_endpoint {
	__u8 ip[16];
	__u16 port;
	__u8 family; /* AF_INET or AF_INET6, as the app dialled */
	__u8 flags;
	__u32 reserved;
	__u64 netns; /* cookie of the socket's network namespace */
};

/* Key of `localpods`. Words are in network order, here and in every key below: only alignment asks for words. */
struct culvert_ip {
	__u32 word[4];
};

/* Key of `host_flows`: as the client sees it. */
struct culvert_flow {
	struct culvert_ip src;
	struct culvert_ip dst;
	__u16 sport;
	__u16 dport;
};

/*
 * Key of `original_by_tuple`, `client_by_tuple` and `self_flows`. The destination belongs to it: the kernel gives
 * one local port to several sockets as long as their destinations differ, and ours are spread over 127/8.
 */
struct culvert_tuple {
	__u64 netns;
	struct culvert_flow flow;
	__u32 reserved;
};

/* `pods`: netns cookie -> */
struct culvert_pod {
	__u32 flags;
	__u32 generation; /* index of `workers` */
	__u32 max_pending; /* bound of each field of culvert_pod_count */
	__u32 reserved;
	__u16 ports[CULVERT_MAX_WORKERS]; /* outbound listener of each worker; 0: none */
};

/* `pod_counts`: netns cookie -> how many entries of the pod stand in each hash */
struct culvert_pod_count {
	__s64 original;
	__s64 client;
	__s64 self;
};

/* `pod_cgroups`: cgroup id -> */
struct culvert_pod_cgroup {
	__u64 netns;
	__u32 state;
	__u32 flags;
};

/* `localpods`: culvert_ip -> */
struct culvert_local_pod {
	__u64 netns;
	__u32 flags;
	__u32 generation; /* index of `workers` */
};

/* `workers`: generation -> */
struct culvert_workers {
	__u32 mask; /* bit w: worker w lives */
	__u32 count;
};

/* `config`: 0 -> */
struct culvert_config {
	__u64 host_netns;
	__u64 kubelet_cgroup; /* 0: unknown, nobody's connections are probes */
	__u32 pod_level; /* level of the guaranteed pods' cgroups, K+1; the other classes' are one deeper */
	__u32 generation; /* of the last daemon that started */
};

/* `exclusions` (LPM trie): prefixlen counts the 64 bits of netns too */
struct culvert_exclusion {
	__u32 prefixlen;
	__u32 netns[2];
	struct culvert_ip ip;
};

/* `inl` (SOCKHASH): -> listener; user space reads the socket's cookie, 8 bytes */
struct culvert_listener {
	struct culvert_ip ip;
	__u32 role;
	__u32 worker;
};

/* `refusals`: -> __u64 count. id: netns cookie, or cgroup id while the pod is pending, or 0. */
struct culvert_refusal {
	__u64 id;
	__u32 code;
	__u32 reserved;
};

/* `level_probe`: 0 -> the connect to look for (network order), and the ancestors found at it, root first */
struct culvert_level {
	__u32 ip;
	__u32 port;
	__u64 ancestors[CULVERT_MAX_LEVELS];
};

#endif
