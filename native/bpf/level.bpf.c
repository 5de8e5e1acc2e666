// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Tells the daemon the ids of all its ancestor cgroups, seen from the real root: a private cgroup namespace hides
 * them from /proc. The daemon connects to an address made up for it; that connect is refused, so nothing is sent.
 */
#include "common.h"

SEC("cgroup/connect4")
int culvert_level(struct bpf_sock_addr *ctx)
{
	__u32 zero = 0, level;
	struct culvert_level *probe = bpf_map_lookup_elem(&level_probe, &zero);

	if (!probe || ctx->user_ip4 != probe->ip || ctx->user_port != probe->port)
		return 1;
	for (level = 0; level < CULVERT_MAX_LEVELS; level++)
		probe->ancestors[level] = bpf_get_current_ancestor_cgroup_id(level);
	return 0;
}
