/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network namespaces. A thread is in a foreign namespace for one system call at most: a socket keeps the namespace
 * that it was made in, so all else (bind, listen, netlink) is done from home.
 */
#include "hot.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71 /* asm-generic/socket.h, Linux 5.14 */
#endif

#define MAX_FD INT32_MAX

int netns_home(struct hot *hot)
{
	struct stat st;

	hot->home_fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (hot->home_fd < 0)
		return -errno;
	if (fstat(hot->home_fd, &st) < 0) {
		int error = -errno;

		close(hot->home_fd);
		return error;
	}
	hot->home_dev = st.st_dev;
	hot->home_ino = st.st_ino;
	return 0;
}

static bool is_home(const struct hot *hot, const struct stat *st)
{
	return st->st_ino == hot->home_ino && st->st_dev == hot->home_dev;
}

/* @returns 1 when inside, 0 when the namespace is the thread's own (nothing to leave), or -errno. */
static int enter(struct hot *hot, int netns_fd)
{
	struct stat st;

	/* By number each time: the caller may have closed the fd and got the same number for another namespace. */
	if (fstat(netns_fd, &st) < 0)
		return -errno;
	if (is_home(hot, &st))
		return 0;
	return setns(netns_fd, CLONE_NEWNET) < 0 ? -errno : 1;
}

/* A thread left in a pod's namespace would send the next pod's traffic as this one: no going on from there. */
static void leave(struct hot *hot, int entered)
{
	if (entered == 0 || setns(hot->home_fd, CLONE_NEWNET) == 0)
		return;
	fprintf(stderr, "native/hot: can't return from a pod's network namespace: %s; aborting\n", strerror(errno));
	abort();
}

int netns_socket(struct hot *hot, int netns_fd, int domain, int type, int protocol)
{
	int entered = enter(hot, netns_fd);
	int fd;

	if (entered < 0)
		return entered;
	fd = socket(domain, type, protocol);
	if (fd < 0)
		fd = -errno;
	leave(hot, entered);
	return fd;
}

static bool is_stock_of(const struct stock *stock, const struct stat *st, int domain)
{
	return stock->domain == domain && stock->ino == st->st_ino && stock->dev == st->st_dev;
}

/* The stock of a namespace; one that has none gets an empty one, if a place is free, and NULL this time. */
static struct stock *stock_of(struct hot *hot, const struct stat *st, int domain)
{
	struct stock *free_place = NULL;

	if (!hot->sweeps || is_home(hot, st))
		return NULL;
	for (struct stock *stock = hot->stocks; stock < hot->stocks + STOCKS; stock++) {
		if (is_stock_of(stock, st, domain)) {
			stock->used = true;
			return stock;
		}
		if (stock->domain == 0)
			free_place = stock;
	}
	if (free_place != NULL)
		*free_place = (struct stock){.dev = st->st_dev, .ino = st->st_ino, .domain = domain, .used = true};
	return NULL;
}

int netns_tcp_socket(struct hot *hot, int netns_fd, int domain)
{
	const int type = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
	struct stock *stock;
	struct stat st;
	int fd, extra;

	/* Each time, as in enter(). A stock's own sockets keep its namespace, so its number can't be another's by now. */
	if (fstat(netns_fd, &st) < 0)
		return -errno;
	stock = stock_of(hot, &st, domain);
	if (stock == NULL)
		return netns_socket(hot, netns_fd, domain, type, IPPROTO_TCP);
	if (stock->count > 0)
		return stock->fds[--stock->count];
	if (setns(netns_fd, CLONE_NEWNET) < 0)
		return -errno;
	fd = socket(domain, type, IPPROTO_TCP);
	if (fd < 0)
		fd = -errno;
	while (fd >= 0 && stock->count < STOCK_SOCKETS && (extra = socket(domain, type, IPPROTO_TCP)) >= 0)
		stock->fds[stock->count++] = extra;
	leave(hot, 1);
	return fd;
}

int netns_sweep(struct hot *hot, bool all)
{
	int left = 0;

	for (struct stock *stock = hot->stocks; stock < hot->stocks + STOCKS; stock++) {
		if (!all && stock->used) {
			stock->used = false;
			left += stock->count;
			continue;
		}
		while (stock->count > 0)
			close(stock->fds[--stock->count]);
		stock->domain = 0;
	}
	return left;
}

/* openNetns(path): fd or -errno; EINVAL when the path is no network namespace. */
napi_value js_open_netns(napi_env env, napi_callback_info info)
{
	struct call call;
	char path[4096];
	int fd;

	if (!call_begin(env, info, "openNetns", &call) || !arg_path(&call, 0, path, sizeof(path)))
		return NULL;
	/* Not blocking: the path may be a fifo. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return result_int(env, -errno);
	if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET) {
		close(fd);
		return result_int(env, -EINVAL);
	}
	return result_int(env, fd);
}

/* sameNetns(a, b): 1 when both are one namespace, 0 when not, or -errno. */
napi_value js_same_netns(napi_env env, napi_callback_info info)
{
	struct call call;
	struct stat sta, stb;
	int a, b;

	if (!call_begin(env, info, "sameNetns", &call) || !arg_int(&call, 0, 0, MAX_FD, &a) ||
	    !arg_int(&call, 1, 0, MAX_FD, &b))
		return NULL;
	if (fstat(a, &sta) < 0 || fstat(b, &stb) < 0)
		return result_int(env, -errno);
	return result_int(env, sta.st_dev == stb.st_dev && sta.st_ino == stb.st_ino);
}

/* netnsCookie(netnsFd): the kernel's number of the namespace, as BPF programs see it; a bigint, or -errno. */
napi_value js_netns_cookie(napi_env env, napi_callback_info info)
{
	struct call call;
	uint64_t cookie = 0;
	socklen_t length = sizeof(cookie);
	int netns_fd, fd, error;

	if (!call_begin(env, info, "netnsCookie", &call) || !arg_int(&call, 0, 0, MAX_FD, &netns_fd))
		return NULL;
	/* A unix socket: it exists in every kernel and namespace, also where IPv4 or IPv6 are off. */
	fd = netns_socket(call.hot, netns_fd, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return result_int(env, fd);
	error = getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) < 0 ? -errno : 0;
	close(fd);
	return error < 0 ? result_int(env, error) : result_u64(env, cookie);
}

/* Reads the sysctl of the namespace that the thread is in. @returns bytes read or -errno. */
static ssize_t read_port_range(char *text, size_t size)
{
	ssize_t length;
	int fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	length = read(fd, text, size);
	if (length < 0)
		length = -errno;
	close(fd);
	return length;
}

/* localPortRange(netnsFd, out): the ephemeral ports; writes low and high as native u16 at 0 and 2. 0 or -errno. */
napi_value js_local_port_range(napi_env env, napi_callback_info info)
{
	struct call call;
	struct bytes out;
	char text[64];
	unsigned int low, high;
	uint16_t range[2];
	int netns_fd, entered;
	ssize_t length;

	if (!call_begin(env, info, "localPortRange", &call) || !arg_int(&call, 0, 0, MAX_FD, &netns_fd) ||
	    !arg_bytes(&call, 1, sizeof(range), &out))
		return NULL;
	entered = enter(call.hot, netns_fd);
	if (entered < 0)
		return result_int(env, entered);
	/* A sysctl is that of its reader's namespace, so the file is opened and read inside. */
	length = read_port_range(text, sizeof(text) - 1);
	leave(call.hot, entered);
	if (length < 0)
		return result_int(env, (int)length);
	text[length] = '\0';
	if (sscanf(text, "%u %u", &low, &high) != 2 || low > 65535 || high > 65535)
		return result_int(env, -EPROTO);
	range[0] = (uint16_t)low;
	range[1] = (uint16_t)high;
	memcpy(out.data, range, sizeof(range));
	return result_int(env, 0);
}
