// SPDX-License-Identifier: GPL-2.0
// A connect hook such as Cilium's and Calico's kube-proxy replacements have on a cgroup above the pods': a Service's
// address becomes an endpoint's in connect() itself. It counts what it saw, and what it changed.
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct address {
	__u32 ip[4]; // network order, v4 mapped
	__u32 port;  // network order in the low half, as ctx->user_port has it
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, struct address);
	__type(value, struct address);
} services SEC(".maps");

enum seen { SEEN_SERVICE, SEEN_LOOPBACK, SEEN_OTHER, SEEN_KINDS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SEEN_KINDS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static void count(__u32 kind)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &kind);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static const struct address *find(const struct address *asked, int is_loopback)
{
	const struct address *endpoint = bpf_map_lookup_elem(&services, asked);

	count(endpoint ? SEEN_SERVICE : is_loopback ? SEEN_LOOPBACK : SEEN_OTHER);
	return endpoint;
}

SEC("cgroup/connect4")
int outer_connect4(volatile struct bpf_sock_addr *ctx)
{
	struct address asked = {};
	const struct address *endpoint;

	if (ctx->protocol != IPPROTO_TCP)
		return 1;
	asked.ip[2] = bpf_htonl(0xffff);
	asked.ip[3] = ctx->user_ip4;
	asked.port = ctx->user_port;
	endpoint = find(&asked, (asked.ip[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000));
	if (endpoint) {
		ctx->user_ip4 = endpoint->ip[3];
		ctx->user_port = endpoint->port;
	}
	return 1;
}

SEC("cgroup/connect6")
int outer_connect6(volatile struct bpf_sock_addr *ctx)
{
	struct address asked = {};
	const struct address *endpoint;

	if (ctx->protocol != IPPROTO_TCP)
		return 1;
	asked.ip[0] = ctx->user_ip6[0];
	asked.ip[1] = ctx->user_ip6[1];
	asked.ip[2] = ctx->user_ip6[2];
	asked.ip[3] = ctx->user_ip6[3];
	asked.port = ctx->user_port;
	endpoint = find(&asked, !asked.ip[0] && !asked.ip[1] && !asked.ip[2] && asked.ip[3] == bpf_htonl(1));
	if (endpoint) {
		ctx->user_ip6[0] = endpoint->ip[0];
		ctx->user_ip6[1] = endpoint->ip[1];
		ctx->user_ip6[2] = endpoint->ip[2];
		ctx->user_ip6[3] = endpoint->ip[3];
		ctx->user_port = endpoint->port;
	}
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
