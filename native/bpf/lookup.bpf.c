// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Inbound: a connection that reaches a pod from outside goes to our listeners inside the pod, whatever its port.
 * Runs only when a listener is looked up. ingress_ifindex is of no use here: kernels below 5.17 do not show it, and
 * for a connection inside the namespace to the pod's own address it names eth0.
 */
#include "common.h"

static __always_inline void read_lookup(struct bpf_sk_lookup *ctx, struct culvert_flow *flow)
{
	volatile struct bpf_sk_lookup *v = ctx;

	flow->sport = bpf_ntohs((__u16)v->remote_port);
	flow->dport = v->local_port;
	if (v->family == AF_INET) {
		__u32 src = v->remote_ip4, dst = v->local_ip4;

		barrier_var(dst); /* see flow.h */
		ip_from_v4(&flow->src, src);
		ip_from_v4(&flow->dst, dst);
		return;
	}
	flow->src.word[0] = v->remote_ip6[0];
	flow->src.word[1] = v->remote_ip6[1];
	flow->src.word[2] = v->remote_ip6[2];
	flow->src.word[3] = v->remote_ip6[3];
	flow->dst.word[0] = v->local_ip6[0];
	flow->dst.word[1] = v->local_ip6[1];
	flow->dst.word[2] = v->local_ip6[2];
	flow->dst.word[3] = v->local_ip6[3];
}

/* Of the tuple alone: the ACK that answers a SYN cookie is looked up again and must come to the same worker. */
static __always_inline __u32 hash_flow(const struct culvert_flow *flow)
{
	__u32 hash = flow->src.word[0] ^ flow->src.word[1] ^ flow->src.word[2] ^ flow->src.word[3];

	hash = (hash ^ flow->dport) * 0x9e3779b1U;
	hash = (hash ^ (hash >> 15) ^ flow->sport) * 0x85ebca6bU;
	return hash ^ (hash >> 13);
}

/*
 * Started inside the pod. The kernel drops IPv4 packets from outside that carry a source of ours, and IPv6 packets
 * with ::1; any other IPv6 source can be forged, so only flows that sockops saw start inside count.
 */
static __always_inline bool is_self(struct culvert_tuple *tuple)
{
	struct culvert_local_pod *src;

	if (!is_v4(&tuple->flow.dst))
		return bpf_map_lookup_elem(&self_flows, tuple);
	if (same_ip(&tuple->flow.src, &tuple->flow.dst))
		return true;
	src = bpf_map_lookup_elem(&localpods, &tuple->flow.src);
	return src && src->netns == tuple->netns;
}

static __always_inline int steer(struct bpf_sk_lookup *ctx, struct culvert_local_pod *pod,
				 const struct culvert_flow *flow, __u32 role)
{
	struct culvert_listener key = { .ip = flow->dst, .role = role };
	int worker = pick_worker(pod->generation, hash_flow(flow));
	struct bpf_sock *sk;
	long err;

	if (worker < 0) {
		/* Nobody would answer; passing it on would reach the app in the clear. */
		note(pod->netns, CULVERT_REFUSED_NO_WORKER_INBOUND);
		return SK_DROP;
	}
	key.worker = worker;
	sk = bpf_map_lookup_elem(&inl, &key);
	if (!sk) {
		/* The daemon is dead or the listener not up yet: closed, not open. */
		note(pod->netns, CULVERT_REFUSED_NO_LISTENER);
		return SK_DROP;
	}
	err = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_NO_REUSEPORT);
	bpf_sk_release(sk);
	if (err) {
		/* Not ours to take (another program chose a socket, or a family it can not serve). */
		note(pod->netns, CULVERT_REFUSED_NO_LISTENER);
		return SK_DROP;
	}
	count(role == CULVERT_ROLE_HBONE ? CULVERT_DID_STEER_HBONE : CULVERT_DID_STEER_PLAINTEXT);
	return SK_PASS;
}

SEC("sk_lookup")
int culvert_lookup(struct bpf_sk_lookup *ctx)
{
	struct culvert_tuple tuple = {};
	struct culvert_local_pod *pod;
	__u32 role;

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	read_lookup(ctx, &tuple.flow);
	/* Only lo carries these (the kernel drops them elsewhere): among them what the connect hook captured. */
	if (is_loopback(&tuple.flow.src) || is_loopback(&tuple.flow.dst))
		return SK_PASS;
	pod = bpf_map_lookup_elem(&localpods, &tuple.flow.dst);
	if (!pod) {
		/* An address that nobody told us of: who may reach it can not be decided. */
		note(0, CULVERT_REFUSED_UNKNOWN_ADDRESS);
		return SK_DROP;
	}
	tuple.netns = pod->netns;
	if (is_self(&tuple)) {
		count(CULVERT_DID_PASS_SELF);
		return SK_PASS;
	}
	if (bpf_map_lookup_elem(&host_flows, &tuple.flow)) {
		count(CULVERT_DID_PASS_PROBE);
		return SK_PASS;
	}
	role = tuple.flow.dport == CULVERT_HBONE_PORT ? CULVERT_ROLE_HBONE : CULVERT_ROLE_PLAINTEXT;
	if (role == CULVERT_ROLE_PLAINTEXT && (pod->flags & CULVERT_LOCAL_LEAVING))
		return SK_PASS;
	return steer(ctx, pod, &tuple.flow, role);
}
