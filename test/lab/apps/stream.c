/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "stream.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define BLOCK (1u << 20)
#define ECHO_SIZE 65536u

int epoll_fd;
struct conn *all_conns;
static uint8_t pattern[2 * BLOCK];
static uint8_t scratch[262144];
static int listen_fd = -1;
static void (*accepted)(int fd);

void stream_init(uint64_t seed)
{
	uint64_t x = seed * 2685821657736338717ull + 88172645463325252ull;

	for (size_t i = 0; i < BLOCK; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		pattern[i] = pattern[i + BLOCK] = (uint8_t)(x >> 32);
	}
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event in = { .events = EPOLLIN, .data.ptr = &epoll_fd };
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &in); /* refused for a plain file or /dev/null: then no commands */
}

static void mix(struct digest *d, uint64_t word)
{
	d->hash ^= word;
	d->hash = (d->hash << 29 | d->hash >> 35) * 0x9e3779b97f4a7c15ull;
}

static void digest_add(struct digest *d, const uint8_t *bytes, size_t len)
{
	d->length += len;
	while (len > 0 && d->held != 0) {
		d->word |= (uint64_t)*bytes++ << (8 * d->held);
		len--;
		d->held = (d->held + 1) % 8;
		if (d->held == 0)
			mix(d, d->word), d->word = 0;
	}
	for (; len >= 8; len -= 8, bytes += 8) {
		uint64_t word;

		memcpy(&word, bytes, 8);
		mix(d, word);
	}
	for (; len > 0; len--)
		d->word |= (uint64_t)*bytes++ << (8 * d->held++);
}

uint64_t digest_value(const struct digest *d)
{
	struct digest last = *d;

	mix(&last, last.word);
	mix(&last, last.length);
	return last.hash;
}

uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

const char *errno_name(int error)
{
	const char *name = error ? strerrorname_np(error) : "";

	return name ? name : "EUNKNOWN";
}

static void format_end(const struct sockaddr_storage *a, char *into, size_t size)
{
	char ip[INET6_ADDRSTRLEN];

	if (a->ss_family == AF_INET) {
		const struct sockaddr_in *v4 = (const void *)a;

		inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof(ip));
		snprintf(into, size, "%s:%d", ip, ntohs(v4->sin_port));
		return;
	}
	const struct sockaddr_in6 *v6 = (const void *)a;
	bool mapped = IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr);

	inet_ntop(mapped ? AF_INET : AF_INET6, v6->sin6_addr.s6_addr + (mapped ? 12 : 0), ip, sizeof(ip));
	snprintf(into, size, mapped ? "%s:%d" : "[%s]:%d", ip, ntohs(v6->sin6_port));
}

void end_name(int fd, bool peer, char *into, size_t size)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);
	int error = peer ? getpeername(fd, (void *)&a, &len) : getsockname(fd, (void *)&a, &len);

	into[0] = '\0';
	if (error == 0)
		format_end(&a, into, size);
}

int parse_address(const char *host, const char *port, struct sockaddr_storage *into, socklen_t *len)
{
	struct sockaddr_in *v4 = (void *)into;
	struct sockaddr_in6 *v6 = (void *)into;

	memset(into, 0, sizeof(*into));
	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(atoi(port));
		*len = sizeof(*v4);
		return 0;
	}
	if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
		return -1;
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(atoi(port));
	*len = sizeof(*v6);
	return 0;
}

struct conn *conn_new(int fd, bool connecting)
{
	struct conn *c = calloc(1, sizeof(*c));
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c->fd = fd;
	c->connecting = connecting;
	c->reading = true;
	c->started_us = now_us();
	c->next = all_conns;
	if (all_conns)
		all_conns->prev = c;
	all_conns = c;
	return c;
}

static bool to_send(const struct conn *c)
{
	return c->first_sent < c->first_len || c->pattern_left > 0 || c->echo_sent < c->echo_len;
}

void conn_update(struct conn *c)
{
	struct epoll_event e = { .data.ptr = c };

	if (c->ended)
		return;
	if (!c->connecting && c->close_when_sent && !c->shut && !to_send(c) && (!c->echoing || c->eof)) {
		shutdown(c->fd, SHUT_WR);
		c->shut = true;
	}
	if (c->shut && c->eof) {
		conn_end(c, 0);
		return;
	}
	bool reading = c->reading && !c->eof && !(c->echoing && c->echo_sent < c->echo_len);
	e.events = (reading && !c->connecting ? EPOLLIN : 0) | (c->connecting || to_send(c) ? EPOLLOUT : 0);
	if (c->interest == (e.events | EPOLLERR))
		return;
	epoll_ctl(epoll_fd, c->interest ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e);
	c->interest = e.events | EPOLLERR;
}

void conn_send(struct conn *c, const void *bytes, size_t len)
{
	free(c->first);
	c->first = malloc(len);
	memcpy(c->first, bytes, len);
	c->first_len = len;
	c->first_sent = 0;
}

/* Ended connections are freed at the end of the turn: the same batch of events may name one again. */
void conn_end(struct conn *c, int error)
{
	if (c->ended)
		return;
	c->ended = true;
	c->error = error;
	if (c->on_end)
		c->on_end(c);
	close(c->fd);
}

static void bury(void)
{
	for (struct conn *c = all_conns, *next; c; c = next) {
		next = c->next;
		if (!c->ended)
			continue;
		*(c->prev ? &c->prev->next : &all_conns) = c->next;
		if (c->next)
			c->next->prev = c->prev;
		free(c->first), free(c->echo), free(c->head), free(c);
	}
}

/* @return what was written, or -1 when the socket is full or broken. */
static ssize_t push(struct conn *c, const uint8_t *bytes, size_t len)
{
	ssize_t n = send(c->fd, bytes, len, MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		conn_end(c, errno);
	if (n > 0)
		digest_add(&c->sent, bytes, n);
	return n;
}

static void write_some(struct conn *c)
{
	ssize_t n = 1;

	while (n > 0 && c->first_sent < c->first_len)
		if ((n = push(c, c->first + c->first_sent, c->first_len - c->first_sent)) > 0)
			c->first_sent += n;
	for (int i = 0; i < 16 && n > 0 && c->pattern_left > 0; i++) {
		/* Each MiB starts elsewhere in the block: two that change places are noticed. */
		size_t at = (c->pattern_at + (c->pattern_at >> 20) * 4099) % BLOCK;
		size_t len = BLOCK - c->pattern_at % BLOCK;

		if (len > c->pattern_left)
			len = c->pattern_left;
		if ((n = push(c, pattern + at, len)) > 0)
			c->pattern_at += n, c->pattern_left -= n;
	}
	while (n > 0 && c->echo_sent < c->echo_len)
		if ((n = push(c, c->echo + c->echo_sent, c->echo_len - c->echo_sent)) > 0)
			c->echo_sent += n;
}

static void take(struct conn *c, const uint8_t *bytes, size_t len)
{
	digest_add(&c->received, bytes, len);
	size_t keep = c->head_max - c->head_len < len ? c->head_max - c->head_len : len;

	if (keep > 0) {
		if (!c->head)
			c->head = malloc(c->head_max);
		memcpy(c->head + c->head_len, bytes, keep);
		c->head_len += keep;
	}
	if (c->echoing) {
		if (!c->echo)
			c->echo = malloc(ECHO_SIZE);
		memcpy(c->echo, bytes, len);
		c->echo_len = len;
		c->echo_sent = 0;
	}
	if (c->on_data)
		c->on_data(c, bytes, len);
}

static void read_some(struct conn *c)
{
	ssize_t n = recv(c->fd, scratch, c->echoing ? ECHO_SIZE : sizeof(scratch), 0);

	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			conn_end(c, errno);
		return;
	}
	if (n == 0) {
		c->eof = true;
		if (c->on_eof)
			c->on_eof(c);
		return;
	}
	take(c, scratch, n);
}

static void on_event(struct conn *c, uint32_t events)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (c->ended)
		return;
	if (events & EPOLLERR) {
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
		conn_end(c, error ? error : ECONNRESET);
		return;
	}
	if (c->connecting && (events & EPOLLOUT)) {
		c->connecting = false;
		c->connected_us = now_us();
	}
	if (events & EPOLLIN)
		read_some(c);
	if (!c->ended && !c->connecting)
		write_some(c);
	if (!c->ended && (events & EPOLLHUP) && !(events & EPOLLIN) && !to_send(c) && c->shut)
		conn_end(c, 0);
	conn_update(c);
}

static void accept_some(void)
{
	for (int i = 0; i < 256; i++) {
		int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return;
		accepted(fd);
	}
}

static void read_stdin(void (*on_line)(char *line))
{
	static char line[4096];
	static size_t held;
	ssize_t n = read(0, line + held, sizeof(line) - 1 - held);

	if (n <= 0) {
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, 0, NULL);
		return;
	}
	held += n;
	line[held] = '\0';
	for (char *end; (end = strchr(line, '\n')); held -= end + 1 - line, memmove(line, end + 1, held + 1)) {
		*end = '\0';
		on_line(line);
	}
}

void stream_listen(int fd, void (*on_accept)(int fd))
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = &listen_fd };

	listen_fd = fd;
	accepted = on_accept;
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
}

void stream_turn(int timeout_ms, void (*on_line)(char *line))
{
	struct epoll_event events[128];
	int n = epoll_wait(epoll_fd, events, 128, timeout_ms);

	for (int i = 0; i < n; i++) {
		if (events[i].data.ptr == &epoll_fd)
			read_stdin(on_line);
		else if (events[i].data.ptr == &listen_fd)
			accept_some();
		else
			on_event(events[i].data.ptr, events[i].events);
	}
	bury();
}
