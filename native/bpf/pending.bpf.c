// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Inbound of a pending pod: nobody opens a connection to it but itself and the kubelet, until its listeners stand.
 * Attached to that pod's own cgroup, only while it is pending. Data starts at the IP header.
 */
#include "common.h"

#define DROP 0
#define PASS 1
#define LOOPBACK_IFINDEX 1
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define TCP_SYN 0x02
#define TCP_ACK 0x10

struct tcp_start {
	__be16 source;
	__be16 dest;
	__u32 seq;
	__u32 ack;
	__u8 offset;
	__u8 flags;
};

/* Where the TCP header starts; 0 for other protocols, negative when it can not be told. */
static __always_inline int read_v4(struct __sk_buff *skb, struct culvert_flow *flow)
{
	__u8 header[20] __attribute__((aligned(4)));

	if (bpf_skb_load_bytes(skb, 0, header, sizeof(header)))
		return -1;
	if (header[9] != IPPROTO_TCP)
		return 0;
	ip_from_v4(&flow->src, *(__u32 *)(header + 12));
	ip_from_v4(&flow->dst, *(__u32 *)(header + 16));
	return (header[0] & 0x0f) * 4;
}

static __always_inline int read_v6(struct __sk_buff *skb, struct culvert_flow *flow)
{
	__u8 next;

	if (bpf_skb_load_bytes(skb, 6, &next, sizeof(next)) ||
	    bpf_skb_load_bytes(skb, 8, &flow->src, sizeof(flow->src)) ||
	    bpf_skb_load_bytes(skb, 24, &flow->dst, sizeof(flow->dst)))
		return -1;
	switch (next) {
	case IPPROTO_TCP:
		return 40;
	case 0: /* hop-by-hop, routing, fragment, destination options, mobility: a SYN may hide behind them */
	case 43:
	case 44:
	case 60:
	case 135:
		return -1;
	}
	return 0;
}

static __always_inline void note_pod(struct __sk_buff *skb)
{
	struct culvert_config *cfg = read_config();
	__u64 id;

	if (!cfg)
		return;
	id = bpf_skb_ancestor_cgroup_id(skb, cfg->pod_level);
	if (!bpf_map_lookup_elem(&pod_cgroups, &id))
		id = bpf_skb_ancestor_cgroup_id(skb, cfg->pod_level + 1);
	note(id, CULVERT_REFUSED_PENDING_INBOUND);
}

SEC("cgroup_skb/ingress")
int culvert_pending(struct __sk_buff *skb)
{
	struct culvert_flow flow = {};
	struct tcp_start tcp;
	int start;

	if (skb->ifindex == LOOPBACK_IFINDEX)
		return PASS;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		start = read_v4(skb, &flow);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		start = read_v6(skb, &flow);
	else
		return PASS;
	if (!start)
		return PASS;
	/* What can not be read can not be told from a SYN. */
	if (start < 0 || bpf_skb_load_bytes(skb, start, &tcp, sizeof(tcp)))
		goto drop;
	if ((tcp.flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return PASS;
	flow.sport = bpf_ntohs(tcp.source);
	flow.dport = bpf_ntohs(tcp.dest);
	if (bpf_map_lookup_elem(&host_flows, &flow))
		return PASS;
	/* A connection accepted now would be clear text, and older than our listeners. */
drop:
	note_pod(skb);
	return DROP;
}
