// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Hands records from the socket that connects to the socket that is accepted for it, by the connection's tuple:
 * the original destination from an app to our listener's child, the client's address from us to the app's child.
 * The client publishes before its SYN leaves, so there is no race. An entry goes by the move or by the client's
 * close, whichever deletes it first; only that one lowers the pod's count.
 */
#include "flow.h"

/* Leaving and joining pods have no entry in `pods`, but are delivered to all the same. */
static __always_inline __s64 bound_of(__u64 netns)
{
	struct culvert_pod *pod = bpf_map_lookup_elem(&pods, &netns);

	return pod ? pod->max_pending : CULVERT_DEFAULT_PENDING;
}

static __always_inline void publish_original(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
					     struct culvert_tuple *tuple)
{
	struct culvert_endpoint *want = bpf_sk_storage_get(&original_destination, sk, 0, 0);
	struct culvert_pod_count *standing;

	if (!want || want->flags != CULVERT_SIDE_CLIENT)
		return;
	standing = bpf_map_lookup_elem(&pod_counts, &tuple->netns);
	/* Unpublished, it reaches our listener without a record and is refused there. */
	if (!standing || !watch_close(ctx)) {
		note(tuple->netns, CULVERT_REFUSED_NO_RECORD);
		return;
	}
	if (!bpf_map_update_elem(&original_by_tuple, tuple, want, BPF_NOEXIST)) {
		__sync_fetch_and_add(&standing->original, 1);
		return;
	}
	/* Full, or an entry that was left behind: that one must never be taken for ours. */
	if (bpf_map_update_elem(&original_by_tuple, tuple, want, BPF_EXIST))
		note(tuple->netns, CULVERT_REFUSED_NO_RECORD);
}

static __always_inline void publish_client(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
					   struct culvert_tuple *tuple)
{
	struct culvert_endpoint *client = bpf_sk_storage_get(&client_address, sk, 0, 0);
	struct culvert_pod_count *standing;

	if (!client || client->flags)
		return;
	standing = bpf_map_lookup_elem(&pod_counts, &tuple->netns);
	if (!standing || standing->client >= bound_of(tuple->netns) || !watch_close(ctx)) {
		/* The app sees the pod's own address instead of its client's. */
		note(tuple->netns, CULVERT_LOST_CLIENT_ADDRESS);
		return;
	}
	if (!bpf_map_update_elem(&client_by_tuple, tuple, client, BPF_NOEXIST)) {
		__sync_fetch_and_add(&standing->client, 1);
		return;
	}
	if (bpf_map_update_elem(&client_by_tuple, tuple, client, BPF_EXIST))
		note(tuple->netns, CULVERT_LOST_CLIENT_ADDRESS);
}

/* IPv6 takes forged packets with the pod's own source; sk_lookup passes only what is known to start inside. */
static __always_inline void publish_self(struct bpf_sock_ops *ctx, struct culvert_tuple *tuple)
{
	struct culvert_local_pod *src, *dst;
	struct culvert_pod_count *standing;
	__u32 one = 1;

	if (is_v4(&tuple->flow.dst))
		return;
	dst = bpf_map_lookup_elem(&localpods, &tuple->flow.dst);
	if (!dst || dst->netns != tuple->netns)
		return;
	src = bpf_map_lookup_elem(&localpods, &tuple->flow.src);
	if (!src || src->netns != tuple->netns)
		return;
	standing = bpf_map_lookup_elem(&pod_counts, &tuple->netns);
	if (!standing || standing->self >= bound_of(tuple->netns) || !watch_close(ctx)) {
		/* It is steered to our listener and judged there like any client without identity. */
		note(tuple->netns, CULVERT_LOST_SELF_FLOW);
		return;
	}
	if (!bpf_map_update_elem(&self_flows, tuple, &one, BPF_NOEXIST))
		__sync_fetch_and_add(&standing->self, 1);
}

static __always_inline void on_connect(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct culvert_tuple tuple = {};

	tuple.netns = bpf_get_netns_cookie(ctx);
	read_flow(ctx, &tuple.flow);
	publish_original(ctx, sk, &tuple);
	publish_client(ctx, sk, &tuple);
	publish_self(ctx, &tuple);
}

/*
 * Moves an entry to the accepted socket. The copy counts only when the delete is ours: an element that somebody
 * else has deleted may hold another connection's record by now.
 */
static __always_inline bool take(void *by_tuple, void *storage, struct bpf_sock *sk, struct culvert_tuple *tuple)
{
	struct culvert_endpoint *found = bpf_map_lookup_elem(by_tuple, tuple);
	struct culvert_endpoint copy;

	if (!found)
		return false;
	copy = *found;
	copy.flags = CULVERT_SIDE_ACCEPTED;
	if (bpf_map_delete_elem(by_tuple, tuple))
		return false;
	bpf_sk_storage_delete(storage, sk);
	/* When this fails our listener finds no record, and refuses. */
	bpf_sk_storage_get(storage, sk, &copy, BPF_SK_STORAGE_GET_F_CREATE);
	return true;
}

static __always_inline void on_accepted(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct culvert_pod_count *standing;
	struct culvert_tuple tuple = {};

	tuple.netns = bpf_get_netns_cookie(ctx);
	standing = bpf_map_lookup_elem(&pod_counts, &tuple.netns);
	if (!standing)
		return;
	read_accepted_flow(ctx, &tuple.flow);
	if (take(&original_by_tuple, &original_destination, sk, &tuple))
		__sync_fetch_and_add(&standing->original, -1);
	if (take(&client_by_tuple, &client_address, sk, &tuple))
		__sync_fetch_and_add(&standing->client, -1);
}

static __always_inline void on_close(struct bpf_sock_ops *ctx)
{
	struct culvert_pod_count *standing;
	struct culvert_tuple tuple = {};

	tuple.netns = bpf_get_netns_cookie(ctx);
	standing = bpf_map_lookup_elem(&pod_counts, &tuple.netns);
	read_flow(ctx, &tuple.flow);
	if (!bpf_map_delete_elem(&original_by_tuple, &tuple) && standing)
		__sync_fetch_and_add(&standing->original, -1);
	if (!bpf_map_delete_elem(&client_by_tuple, &tuple) && standing)
		__sync_fetch_and_add(&standing->client, -1);
	if (!bpf_map_delete_elem(&self_flows, &tuple) && standing)
		__sync_fetch_and_add(&standing->self, -1);
}

SEC("sockops")
int culvert_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	if (!sk || (ctx->family != AF_INET && ctx->family != AF_INET6))
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_connect(ctx, sk);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_accepted(ctx, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			on_close(ctx);
		break;
	}
	return 1;
}
