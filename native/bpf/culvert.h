/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Map layouts that the kernel programs, the daemon (daemon/capture/maps.ts) and the addon (native/hot) share.
 * A change of any layout here raises CULVERT_LAYOUT: it is part of the pin path, so that two versions of the
 * daemon never read each other's maps. All ports are host order, all addresses 16 bytes (IPv4 as ::ffff:a.b.c.d).
 */
#ifndef CULVERT_H
#define CULVERT_H

#define CULVERT_LAYOUT 1
#define CULVERT_MAX_WORKERS 16

/* Value of the SK_STORAGE maps `original_destination` and `client_address`, and of their hand-over maps by tuple. */
struct culvert_endpoint {
	__u8 ip[16];
	__u16 port;
	__u8 family; /* AF_INET or AF_INET6, as the app dialled */
	__u8 flags;
	__u32 reserved;
	__u64 netns; /* cookie of the socket's network namespace */
};

#endif
