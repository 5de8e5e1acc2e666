/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Reads a sockops context; shared by sockops.bpf.c and probes.bpf.c. */
#ifndef CULVERT_FLOW_H
#define CULVERT_FLOW_H

#include "common.h"

/*
 * Contexts are read through volatile, and IPv4 through barrier_var: else clang merges the last loads of two branches
 * into one at a computed offset, which the verifier refuses ('dereference of modified ctx ptr').
 */

static __always_inline void read_local(struct bpf_sock_ops *ctx, struct culvert_ip *ip, __u16 *port)
{
	volatile struct bpf_sock_ops *v = ctx;

	*port = v->local_port;
	if (v->family == AF_INET) {
		__u32 v4 = v->local_ip4;

		barrier_var(v4);
		ip_from_v4(ip, v4);
		return;
	}
	ip->word[0] = v->local_ip6[0];
	ip->word[1] = v->local_ip6[1];
	ip->word[2] = v->local_ip6[2];
	ip->word[3] = v->local_ip6[3];
}

static __always_inline void read_remote(struct bpf_sock_ops *ctx, struct culvert_ip *ip, __u16 *port)
{
	volatile struct bpf_sock_ops *v = ctx;

	/* The port stands in the upper half, in network order. */
	*port = bpf_ntohl(v->remote_port);
	if (v->family == AF_INET) {
		__u32 v4 = v->remote_ip4;

		barrier_var(v4);
		ip_from_v4(ip, v4);
		return;
	}
	ip->word[0] = v->remote_ip6[0];
	ip->word[1] = v->remote_ip6[1];
	ip->word[2] = v->remote_ip6[2];
	ip->word[3] = v->remote_ip6[3];
}

/* The flow as its client sees it, on the client's own socket. */
static __always_inline void read_flow(struct bpf_sock_ops *ctx, struct culvert_flow *flow)
{
	read_local(ctx, &flow->src, &flow->sport);
	read_remote(ctx, &flow->dst, &flow->dport);
}

/* The same flow, seen on the socket that was accepted for it. */
static __always_inline void read_accepted_flow(struct bpf_sock_ops *ctx, struct culvert_flow *flow)
{
	read_remote(ctx, &flow->src, &flow->sport);
	read_local(ctx, &flow->dst, &flow->dport);
}

/* Asks for the callback at close; without it an entry would stay for ever, so nothing may be published. */
static __always_inline bool watch_close(struct bpf_sock_ops *ctx)
{
	return !bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

#endif
