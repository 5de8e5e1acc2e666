/* SPDX-License-Identifier: Apache-2.0 */
/* The calls made once per connection, and those that make and close descriptors. */
#include "hot.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/types.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../bpf/culvert.h"

#define MAX_FD INT32_MAX

/* A dead peer is found in 20 s (DESIGN.md section 9): silent for 10, then two probes 5 apart. */
#define KEEPALIVE_IDLE_SECONDS 10
#define KEEPALIVE_INTERVAL_SECONDS 5
#define KEEPALIVE_PROBES 2

#define LISTEN_V6ONLY 1
#define LISTEN_LOOPBACK 2

static const uint8_t mapped_prefix[12] = {[10] = 0xff, [11] = 0xff};

void ip16_write(uint8_t out[16], int family, const void *address)
{
	if (family == AF_INET6) {
		memcpy(out, address, 16);
		return;
	}
	memcpy(out, mapped_prefix, sizeof(mapped_prefix));
	memcpy(out + 12, address, 4);
}

bool ip16_is_v4(const uint8_t ip[16])
{
	return memcmp(ip, mapped_prefix, sizeof(mapped_prefix)) == 0;
}

static int bpf(enum bpf_cmd command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr)) < 0 ? -errno : 0;
}

/* Reads or writes the record of a socket: SK_STORAGE maps take the socket's fd as their key. */
static int record(enum bpf_cmd command, int map_fd, int fd, struct culvert_endpoint *endpoint)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (__u32)map_fd;
	attr.key = (__u64)(uintptr_t)&fd;
	attr.value = (__u64)(uintptr_t)endpoint;
	return bpf(command, &attr);
}

/*
 * originalDestination(fd, out): what the app dialled, of an accepted socket. Writes its 16 bytes of address, then
 * 4 or 6, then the record's flags, then two zeros. @returns its port, 0 when the kernel has no record, or -errno.
 */
napi_value js_original_destination(napi_env env, napi_callback_info info)
{
	struct call call;
	struct culvert_endpoint endpoint;
	struct bytes out;
	int fd, error;

	if (!call_begin(env, info, "originalDestination", &call) || !arg_int(&call, 0, 0, MAX_FD, &fd) ||
	    !arg_bytes(&call, 1, 20, &out))
		return NULL;
	error = record(BPF_MAP_LOOKUP_ELEM, call.hot->original_destination_fd, fd, &endpoint);
	if (error < 0)
		return result_int(env, error == -ENOENT ? 0 : error);
	memcpy(out.data, endpoint.ip, 16);
	out.data[16] = endpoint.family == AF_INET6 ? 6 : 4;
	out.data[17] = endpoint.flags;
	out.data[18] = out.data[19] = 0;
	return result_int(env, endpoint.port);
}

static int set_int(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int set_nodelay(int fd)
{
	return set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

/* Dead peers are found. Accepted sockets inherit this, and TCP_NODELAY, from their listener. */
static int set_keepalive(int fd)
{
	int error;

	if ((error = set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1)) < 0 ||
	    (error = set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)) < 0 ||
	    (error = set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)) < 0 ||
	    (error = set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES)) < 0)
		return error;
	return 0;
}

/* Says to the kernel programs whom the app shall see as the peer of this socket. */
static int tag_client(struct hot *hot, int fd, const uint8_t ip[16], int port)
{
	struct culvert_endpoint endpoint;

	memset(&endpoint, 0, sizeof(endpoint));
	memcpy(endpoint.ip, ip, 16);
	endpoint.port = (__u16)port;
	endpoint.family = ip16_is_v4(ip) ? AF_INET : AF_INET6;
	/* endpoint.netns stays 0: sockops knows the socket's namespace by itself, and a look-up here costs a call. */
	return record(BPF_MAP_UPDATE_ELEM, hot->client_address_fd, fd, &endpoint);
}

static int dial(struct hot *hot, int netns_fd, int family, const struct bytes *client, int client_port)
{
	int fd = netns_tcp_socket(hot, netns_fd, family == 6 ? AF_INET6 : AF_INET);
	int error;

	if (fd < 0)
		return fd;
	error = set_nodelay(fd);
	/* A tagged socket goes to an app in its own namespace: neither end can vanish without the kernel's notice. */
	if (error == 0)
		error = client->data != NULL ? tag_client(hot, fd, client->data, client_port) : set_keepalive(fd);
	if (error == 0)
		return fd;
	close(fd);
	return error;
}

/*
 * dial(netnsFd, family, clientIp16 | null, clientPort): an unconnected TCP socket of family 4 or 6 made inside the
 * namespace, tagged with the client when one is given. @returns fd or -errno.
 */
napi_value js_dial(napi_env env, napi_callback_info info)
{
	struct call call;
	struct bytes client;
	int netns_fd, family, port;

	if (!call_begin(env, info, "dial", &call) || !arg_int(&call, 0, 0, MAX_FD, &netns_fd) ||
	    !arg_int(&call, 1, 4, 6, &family) || !arg_optional_bytes(&call, 2, 16, &client) ||
	    !arg_int(&call, 3, 0, 65535, &port))
		return NULL;
	if (family == 5)
		return result_int(env, -EAFNOSUPPORT);
	return result_int(env, dial(call.hot, netns_fd, family, &client, port));
}

static int bind_listener(int fd, int family, int port, int flags)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	bool loopback = (flags & LISTEN_LOOPBACK) != 0;
	int error;

	if (family == 4) {
		in.sin_addr.s_addr = htonl(loopback ? INADDR_LOOPBACK : INADDR_ANY);
		return bind(fd, (struct sockaddr *)&in, sizeof(in)) < 0 ? -errno : 0;
	}
	/* Said both ways: the default is a sysctl of the pod's (net.ipv6.bindv6only). */
	error = set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, (flags & LISTEN_V6ONLY) != 0);
	if (error < 0)
		return error;
	in6.sin6_addr = loopback ? in6addr_loopback : in6addr_any;
	return bind(fd, (struct sockaddr *)&in6, sizeof(in6)) < 0 ? -errno : 0;
}

/*
 * sweepSockets(all): closes the sockets made ahead in namespaces that nobody dialled in since the last call (1: in all).
 * The first call is the caller's promise of more: sockets are made ahead from then on. @returns how many are left.
 */
napi_value js_sweep_sockets(napi_env env, napi_callback_info info)
{
	struct call call;
	int all;

	if (!call_begin(env, info, "sweepSockets", &call) || !arg_int(&call, 0, 0, 1, &all))
		return NULL;
	call.hot->sweeps = true;
	return result_int(env, netns_sweep(call.hot, all == 1));
}

/*
 * listen(netnsFd, family, port, backlog, flags): a listener on every address (flag 2: on loopback); family 6 takes
 * IPv4 too (flag 1: it does not). No SO_REUSEADDR, so that a port somebody uses is EADDRINUSE. @returns fd or -errno.
 */
napi_value js_listen(napi_env env, napi_callback_info info)
{
	struct call call;
	int netns_fd, family, port, backlog, flags, fd, error;

	if (!call_begin(env, info, "listen", &call) || !arg_int(&call, 0, 0, MAX_FD, &netns_fd) ||
	    !arg_int(&call, 1, 4, 6, &family) || !arg_int(&call, 2, 0, 65535, &port) ||
	    !arg_int(&call, 3, 1, 65535, &backlog) || !arg_int(&call, 4, 0, LISTEN_V6ONLY | LISTEN_LOOPBACK, &flags))
		return NULL;
	if (family == 5)
		return result_int(env, -EAFNOSUPPORT);
	fd = netns_socket(call.hot, netns_fd, family == 6 ? AF_INET6 : AF_INET,
			  SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
	if (fd < 0)
		return result_int(env, fd);
	error = set_nodelay(fd);
	if (error == 0)
		error = set_keepalive(fd);
	if (error == 0)
		error = bind_listener(fd, family, port, flags);
	if (error == 0 && listen(fd, backlog) < 0)
		error = -errno;
	if (error == 0)
		return result_int(env, fd);
	close(fd);
	return result_int(env, error);
}

/* socketCookie(fd): the kernel's number of the socket, as BPF programs and SOCKHASH reads see it; or -errno. */
napi_value js_socket_cookie(napi_env env, napi_callback_info info)
{
	struct call call;
	uint64_t cookie = 0;
	socklen_t length = sizeof(cookie);
	int fd;

	if (!call_begin(env, info, "socketCookie", &call) || !arg_int(&call, 0, 0, MAX_FD, &fd))
		return NULL;
	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) < 0)
		return result_int(env, -errno);
	return result_u64(env, cookie);
}

/* dupFd(fd): another number for the same open file, not inherited by children; or -errno. */
napi_value js_dup_fd(napi_env env, napi_callback_info info)
{
	struct call call;
	int fd, copy;

	if (!call_begin(env, info, "dupFd", &call) || !arg_int(&call, 0, 0, MAX_FD, &fd))
		return NULL;
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return result_int(env, copy < 0 ? -errno : copy);
}

/* closeFd(fd): 0 or -errno. Standard input, output and error are refused. */
napi_value js_close_fd(napi_env env, napi_callback_info info)
{
	struct call call;
	int fd;

	if (!call_begin(env, info, "closeFd", &call) || !arg_int(&call, 0, 3, MAX_FD, &fd))
		return NULL;
	return result_int(env, close(fd) < 0 ? -errno : 0);
}
