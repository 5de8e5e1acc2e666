// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * getpeername() and accept() show whom the app is really talking to: a client the peer it asked for, a server the
 * client that we dialled it for. Our own sockets show their true peer (their records have another side).
 */
#include "common.h"

static __always_inline struct culvert_endpoint *shown_peer(struct bpf_sock_addr *ctx)
{
	struct culvert_endpoint *peer = bpf_sk_storage_get(&original_destination, ctx->sk, 0, 0);

	if (peer && peer->flags == CULVERT_SIDE_CLIENT)
		return peer;
	peer = bpf_sk_storage_get(&client_address, ctx->sk, 0, 0);
	return peer && peer->flags == CULVERT_SIDE_ACCEPTED ? peer : NULL;
}

SEC("cgroup/getpeername4")
int culvert_getpeername4(struct bpf_sock_addr *ctx)
{
	struct culvert_endpoint *peer = shown_peer(ctx);
	struct culvert_ip ip;

	if (!peer)
		return 1;
	__builtin_memcpy(&ip, peer->ip, sizeof(ip));
	/* An IPv6 client can not be written into an IPv4 socket's name: it keeps the true one. */
	if (!is_v4(&ip))
		return 1;
	ctx->user_ip4 = ip.word[3];
	ctx->user_port = bpf_htons(peer->port);
	return 1;
}

SEC("cgroup/getpeername6")
int culvert_getpeername6(struct bpf_sock_addr *ctx)
{
	struct culvert_endpoint *peer = shown_peer(ctx);
	volatile struct bpf_sock_addr *v = ctx;
	struct culvert_ip ip;

	if (!peer)
		return 1;
	__builtin_memcpy(&ip, peer->ip, sizeof(ip));
	v->user_ip6[0] = ip.word[0];
	v->user_ip6[1] = ip.word[1];
	v->user_ip6[2] = ip.word[2];
	v->user_ip6[3] = ip.word[3];
	v->user_port = bpf_htons(peer->port);
	return 1;
}
