// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Outbound capture: every TCP connect of an enrolled pod is rewritten to our listener inside its namespace.
 * The order of the checks is CAPTURE.md's; each refusal (EPERM) says why it is one.
 */
#include "common.h"

#define REFUSE 0
#define ALLOW 1
#define CAPTURE 2

/* 127.64.0.0/24: one loopback address has only 28,232 ephemeral ports. Listeners are bound to all addresses. */
#define SPREAD_BASE 0x7f400000U
#define SPREAD_MASK 0xffU

/* The checks by cgroup: they hold before the pod's namespace is known, and in namespaces nested in it. */
static __always_inline int judge_cgroup(struct culvert_endpoint *want, bool local)
{
	struct culvert_config *cfg = read_config();
	struct culvert_pod_cgroup *pod = NULL;
	__u64 id = 0;

	if (!cfg || !cfg->pod_level)
		return CAPTURE;
	id = bpf_get_current_ancestor_cgroup_id(cfg->pod_level);
	if (id)
		pod = bpf_map_lookup_elem(&pod_cgroups, &id);
	if (!pod) {
		id = bpf_get_current_ancestor_cgroup_id(cfg->pod_level + 1);
		if (id)
			pod = bpf_map_lookup_elem(&pod_cgroups, &id);
	}
	if (!pod || local)
		return CAPTURE;
	if (pod->state == CULVERT_CGROUP_PENDING) {
		/* Its listeners do not stand yet: letting it go would be clear text. */
		note(id, CULVERT_REFUSED_PENDING);
		return REFUSE;
	}
	if (pod->netns == want->netns || (pod->flags & CULVERT_CGROUP_ALLOW_NESTED))
		return CAPTURE;
	/* A namespace nested in the pod leaves through the pod's address, around our capture. */
	note(pod->netns, CULVERT_REFUSED_NESTED_NETNS);
	return REFUSE;
}

static __always_inline bool is_excluded(__u64 netns, const struct culvert_ip *ip)
{
	struct culvert_exclusion key = {
		.prefixlen = 192,
		.netns = { (__u32)netns, (__u32)(netns >> 32) },
		.ip = *ip,
	};

	return bpf_map_lookup_elem(&exclusions, &key);
}

/* Destinations that stay as they are: the pod itself, what it asked to leave out, IPv6 that it can not reach. */
static __always_inline bool left_alone(struct culvert_pod *pod, __u64 netns, const struct culvert_ip *ip)
{
	struct culvert_local_pod *local = bpf_map_lookup_elem(&localpods, ip);
	bool link_local = (ip->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);

	if (local && local->netns == netns)
		return true;
	/* The kernel's own ENETUNREACH makes happy eyeballs move on. A link-local peer would be reached. */
	if ((pod->flags & CULVERT_POD_NO_GLOBAL_V6) && !is_v4(ip) && !link_local)
		return true;
	return is_excluded(netns, ip);
}

/* CAPTURE: `want` is saved on the socket and `port` is the listener to go to. */
static __always_inline int judge(struct bpf_sock_addr *ctx, struct culvert_endpoint *want,
				 const struct culvert_ip *ip, __u16 *port)
{
	__u64 self = bpf_get_current_cgroup_id();
	bool local = is_loopback(ip) || is_unspecified(ip);
	struct culvert_pod_count *standing;
	struct culvert_pod *pod;
	int worker;

	/* A socket that is used again through AF_UNSPEC must not keep its old peer. */
	bpf_sk_storage_delete(&original_destination, ctx->sk);
	if (bpf_map_lookup_elem(&exempt_cgroups, &self))
		return ALLOW;
	want->netns = bpf_get_netns_cookie(ctx);
	if (judge_cgroup(want, local) == REFUSE)
		return REFUSE;
	pod = bpf_map_lookup_elem(&pods, &want->netns);
	if (!pod || !(pod->flags & CULVERT_POD_CAPTURE) || local || left_alone(pod, want->netns, ip))
		return ALLOW;

	standing = bpf_map_lookup_elem(&pod_counts, &want->netns);
	if (!standing || standing->original >= pod->max_pending) {
		/* Over its bound: it would take the room of other pods. */
		note(want->netns, CULVERT_REFUSED_ENTRY_LIMIT);
		return REFUSE;
	}
	worker = pick_worker(pod->generation, bpf_get_prandom_u32());
	if (worker < 0 || !pod->ports[worker & (CULVERT_MAX_WORKERS - 1)]) {
		/* Nobody would carry it; left alone it would go in the clear. */
		note(want->netns, CULVERT_REFUSED_NO_WORKER);
		return REFUSE;
	}
	*port = pod->ports[worker & (CULVERT_MAX_WORKERS - 1)];
	__builtin_memcpy(want->ip, ip, sizeof(want->ip));
	want->flags = CULVERT_SIDE_CLIENT;
	if (!bpf_sk_storage_get(&original_destination, ctx->sk, want, BPF_SK_STORAGE_GET_F_CREATE)) {
		/* We would not know where it wanted to go. */
		note(want->netns, CULVERT_REFUSED_NO_STORAGE);
		return REFUSE;
	}
	count(CULVERT_DID_CAPTURE);
	return CAPTURE;
}

static __always_inline __u32 spread_address(void)
{
	return bpf_htonl(SPREAD_BASE | (bpf_get_prandom_u32() & SPREAD_MASK));
}

SEC("cgroup/connect4")
int culvert_connect4(struct bpf_sock_addr *ctx)
{
	struct culvert_endpoint want = {};
	struct culvert_ip ip;
	__u16 port = 0;
	int verdict;

	if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return ALLOW;
	ip_from_v4(&ip, ctx->user_ip4);
	want.port = bpf_ntohs((__u16)ctx->user_port);
	want.family = AF_INET;
	verdict = judge(ctx, &want, &ip, &port);
	if (verdict != CAPTURE)
		return verdict;
	ctx->user_ip4 = spread_address();
	ctx->user_port = bpf_htons(port);
	return ALLOW;
}

SEC("cgroup/connect6")
int culvert_connect6(struct bpf_sock_addr *ctx)
{
	/* Through volatile, or clang folds the reads into 'dereference of modified ctx ptr'. */
	volatile struct bpf_sock_addr *v = ctx;
	struct culvert_endpoint want = {};
	struct culvert_ip ip;
	__u16 port = 0;
	int verdict;

	if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return ALLOW;
	ip.word[0] = v->user_ip6[0];
	ip.word[1] = v->user_ip6[1];
	ip.word[2] = v->user_ip6[2];
	ip.word[3] = v->user_ip6[3];
	want.port = bpf_ntohs((__u16)ctx->user_port);
	want.family = AF_INET6;
	verdict = judge(ctx, &want, &ip, &port);
	if (verdict != CAPTURE)
		return verdict;
	if (is_v4(&ip)) {
		v->user_ip6[3] = spread_address();
	} else {
		v->user_ip6[0] = 0;
		v->user_ip6[1] = 0;
		v->user_ip6[2] = 0;
		v->user_ip6[3] = bpf_htonl(1);
	}
	v->user_port = bpf_htons(port);
	return ALLOW;
}
