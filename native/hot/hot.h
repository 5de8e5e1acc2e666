/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the addon share. Every call is synchronous and returns -errno on failure; only an argument of
 * a wrong type throws (a TypeError: a defect of the caller). One instance of the addon exists per thread of node.
 */
#ifndef CULVERT_HOT_H
#define CULVERT_HOT_H

#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Sockets made ahead in one namespace: going there and back costs more than the socket. Only while connections keep
 * coming, and for a fraction of a second: a socket keeps its namespace, also one whose pod has gone.
 */
#define STOCKS 8
#define STOCK_SOCKETS 7
struct stock {
	dev_t dev;
	ino_t ino;
	int domain; /* 0: the place is free */
	bool used;  /* since the last sweep */
	int count;
	int fds[STOCK_SOCKETS];
};

/* What one thread keeps: the namespace that it lives in, and its copies of the numbers of the two BPF maps. */
struct hot {
	int home_fd;
	dev_t home_dev;
	ino_t home_ino;
	int original_destination_fd;
	int client_address_fd;
	bool sweeps; /* somebody sweeps: sockets may be made ahead */
	struct stock stocks[STOCKS];
};

/* A byte view of an argument; valid until the call returns to JavaScript. */
struct bytes {
	uint8_t *data;
	size_t length;
};

#define MAX_ARGS 5

/* A call being served: its arguments, and the thread's state. */
struct call {
	napi_env env;
	const char *name;
	struct hot *hot;
	napi_value argv[MAX_ARGS];
};

/* addon.c: arguments. Each returns false after having thrown a TypeError. */
bool call_begin(napi_env env, napi_callback_info info, const char *name, struct call *call);
bool arg_int(struct call *call, int index, int64_t min, int64_t max, int *out);
bool arg_bytes(struct call *call, int index, size_t min_length, struct bytes *out);
bool arg_optional_bytes(struct call *call, int index, size_t min_length, struct bytes *out);
bool arg_path(struct call *call, int index, char *out, size_t size);

/* addon.c: results. */
napi_value result_int(napi_env env, int value);
napi_value result_u64(napi_env env, uint64_t value);
napi_value result_bytes(napi_env env, const void *data, size_t length);

/* netns.c: `socket()` inside a network namespace; the thread is home again on return. @returns fd or -errno. */
int netns_socket(struct hot *hot, int netns_fd, int domain, int type, int protocol);
/* netns.c: the same for a TCP socket, not blocking, from the stock when there is one. */
int netns_tcp_socket(struct hot *hot, int netns_fd, int domain);
/* netns.c: closes the stocks that were not used since the last call, or all. @returns how many sockets are left. */
int netns_sweep(struct hot *hot, bool all);
int netns_home(struct hot *hot);

napi_value js_open_netns(napi_env env, napi_callback_info info);
napi_value js_same_netns(napi_env env, napi_callback_info info);
napi_value js_netns_cookie(napi_env env, napi_callback_info info);
napi_value js_local_port_range(napi_env env, napi_callback_info info);

/* sockets.c */
napi_value js_original_destination(napi_env env, napi_callback_info info);
napi_value js_sweep_sockets(napi_env env, napi_callback_info info);
napi_value js_dial(napi_env env, napi_callback_info info);
napi_value js_listen(napi_env env, napi_callback_info info);
napi_value js_socket_cookie(napi_env env, napi_callback_info info);
napi_value js_dup_fd(napi_env env, napi_callback_info info);
napi_value js_close_fd(napi_env env, napi_callback_info info);

/* netlink.c: one request, its answers handed to `each`, which returns 0 to go on, > 0 to stop, or -errno. */
struct nlmsghdr;
typedef int (*netlink_each)(const struct nlmsghdr *message, void *context);
int netlink_open(struct hot *hot, int netns_fd, int protocol);
int netlink_request(int fd, struct nlmsghdr *request, netlink_each each, void *context);

/* netlink.c: a list of packed records that grows up to `max`. */
struct records {
	uint8_t *data;
	size_t size; /* of one record */
	size_t count, capacity, max;
};
void *records_add(struct records *records);
napi_value js_addresses(napi_env env, napi_callback_info info);

/* diag.c */
napi_value js_tcp_sockets(napi_env env, napi_callback_info info);
napi_value js_destroy_socket(napi_env env, napi_callback_info info);

/* mounts.c */
napi_value js_mount_bpf(napi_env env, napi_callback_info info);

/* Writes an address as 16 bytes, IPv4 as ::ffff:a.b.c.d. */
void ip16_write(uint8_t out[16], int family, const void *address);
bool ip16_is_v4(const uint8_t ip[16]);

#endif
