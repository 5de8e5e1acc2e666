/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What several programs do: addresses, counters, the choice of a worker. */
#ifndef CULVERT_COMMON_H
#define CULVERT_COMMON_H

#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include "maps.h"

/* linux/in.h, linux/socket.h and friends do not go together with the BPF target; these never change. */
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define IPPROTO_TCP 6

static __always_inline void ip_from_v4(struct culvert_ip *ip, __u32 v4)
{
	ip->word[0] = 0;
	ip->word[1] = 0;
	ip->word[2] = bpf_htonl(0xffff);
	ip->word[3] = v4;
}

static __always_inline bool is_v4(const struct culvert_ip *ip)
{
	return !ip->word[0] && !ip->word[1] && ip->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool same_ip(const struct culvert_ip *a, const struct culvert_ip *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

static __always_inline bool is_loopback(const struct culvert_ip *ip)
{
	if (is_v4(ip))
		return (ip->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !ip->word[0] && !ip->word[1] && !ip->word[2] && ip->word[3] == bpf_htonl(1);
}

/* connect() to 0.0.0.0 or :: means loopback. */
static __always_inline bool is_unspecified(const struct culvert_ip *ip)
{
	return !ip->word[0] && !ip->word[1] && !ip->word[3] && (!ip->word[2] || is_v4(ip));
}

static __always_inline struct culvert_config *read_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline void count(__u32 what)
{
	__u64 *total = bpf_map_lookup_elem(&totals, &what);

	if (total)
		__sync_fetch_and_add(total, 1);
}

/* Counts a refusal of the pod `id`, so that a person can see why (`culvert status`). */
static __always_inline void note(__u64 id, __u32 code)
{
	struct culvert_refusal key = { .id = id, .code = code };
	__u64 first = 1, *seen = bpf_map_lookup_elem(&refusals, &key);

	if (seen)
		__sync_fetch_and_add(seen, 1);
	else
		bpf_map_update_elem(&refusals, &key, &first, BPF_ANY);
	count(code);
}

/*
 * The worker that `hash` falls to, or the next one that lives: a death moves only its own share.
 * Negative when none lives: the caller refuses (nobody would answer).
 */
static __always_inline int pick_worker(__u32 generation, __u32 hash)
{
	struct culvert_workers *all = bpf_map_lookup_elem(&workers, &generation);
	__u32 worker, tries;

	if (!all || !all->count || all->count > CULVERT_MAX_WORKERS)
		return -1;
	worker = hash % all->count;
	for (tries = 0; tries < CULVERT_MAX_WORKERS; tries++) {
		worker &= CULVERT_MAX_WORKERS - 1;
		if (all->mask & (1U << worker))
			return worker;
		worker = worker + 1 < all->count ? worker + 1 : 0;
	}
	return -1;
}

#endif
