// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Proves host probes: connections that the kubelet itself opens in the host's namespace. Attached to the parent of
 * the kubelet's cgroup, which outlives its restarts. sk_lookup and the pending guard pass what is listed here, so
 * probes need no daemon, and traffic that was masqueraded with the node's address is not taken for one.
 */
#include "flow.h"

static __always_inline int mark(struct bpf_sock_addr *ctx)
{
	struct culvert_config *cfg = read_config();
	__u32 one = 1;

	if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return 1;
	bpf_sk_storage_delete(&host_probe, ctx->sk);
	if (!cfg || !cfg->kubelet_cgroup || bpf_get_current_cgroup_id() != cfg->kubelet_cgroup)
		return 1;
	if (bpf_get_netns_cookie(ctx) != cfg->host_netns)
		return 1;
	/* When this fails the probe is judged like any plaintext: closed, not open. */
	if (!bpf_sk_storage_get(&host_probe, ctx->sk, &one, BPF_SK_STORAGE_GET_F_CREATE))
		note(cfg->host_netns, CULVERT_LOST_HOST_FLOW);
	return 1;
}

SEC("cgroup/connect4")
int culvert_probe4(struct bpf_sock_addr *ctx)
{
	return mark(ctx);
}

SEC("cgroup/connect6")
int culvert_probe6(struct bpf_sock_addr *ctx)
{
	return mark(ctx);
}

/* The entry stays until the socket closes, not until its first use: a SYN is sent again. */
SEC("sockops")
int culvert_probe_flows(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct culvert_flow flow = {};
	__u32 one = 1;

	if (!sk || (ctx->family != AF_INET && ctx->family != AF_INET6))
		return 1;
	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB &&
	    !(ctx->op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] == BPF_TCP_CLOSE))
		return 1;
	if (!bpf_sk_storage_get(&host_probe, sk, 0, 0))
		return 1;
	read_flow(ctx, &flow);
	if (ctx->op == BPF_SOCK_OPS_STATE_CB)
		bpf_map_delete_elem(&host_flows, &flow);
	else if (!watch_close(ctx) || bpf_map_update_elem(&host_flows, &flow, &one, BPF_ANY))
		note(bpf_get_netns_cookie(ctx), CULVERT_LOST_HOST_FLOW);
	return 1;
}
