/* SPDX-License-Identifier: Apache-2.0 */
/* The servers: what each does with a connection, and the count of what they saw. */
#define _GNU_SOURCE
#include "labapp.h"
#include "stream.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REQUEST_MAX (2u << 20)

static const char *kind;
static uint64_t count_accepted, count_open, total_received, total_sent;
/* The one connection that `reply` answers late: when, in now_us(). */
struct late {
	struct conn *conn;
	uint64_t at_us;
	struct late *next;
};
static struct late *late;

static void on_end(struct conn *c)
{
	char peer[80], local[80];

	count_open--;
	total_sent += c->sent.length;
	if (opt.quiet)
		return;
	end_name(c->fd, true, peer, sizeof(peer));
	end_name(c->fd, false, local, sizeof(local));
	printf("{\"event\":\"closed\",\"peer\":\"%s\",\"local\":\"%s\",\"received\":%" PRIu64 ",\"sent\":%" PRIu64
	       ",\"receivedDigest\":\"%016" PRIx64 "\",\"sentDigest\":\"%016" PRIx64 "\",\"error\":\"%s\"}\n",
	       c->owner ? (char *)c->owner : peer, local, c->received.length, c->sent.length, digest_value(&c->received),
	       digest_value(&c->sent), errno_name(c->error));
	free(c->owner);
}

static void count(struct conn *c, const uint8_t *bytes, size_t len)
{
	(void)c, (void)bytes;
	total_received += len;
}

static void reply_now(struct conn *c)
{
	c->pattern_left = opt.bytes;
	c->close_when_sent = true;
	conn_update(c);
}

static void reply_late(struct conn *c)
{
	struct late *l = malloc(sizeof(*l));

	*l = (struct late){ c, now_us() + (uint64_t)opt.delay_ms * 1000, late };
	late = l;
}

static void answer(struct conn *c, const uint8_t *body, size_t len, bool closing)
{
	char peer[80], local[80], line[512], head[256];

	end_name(c->fd, true, peer, sizeof(peer));
	end_name(c->fd, false, local, sizeof(local));
	int text = snprintf(line, sizeof(line), "name=%s peer=%s local=%s\n", opt.name, peer, local);
	int headers = snprintf(head, sizeof(head),
			       "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: %s\r\n\r\n",
			       text + len, closing ? "close" : "keep-alive");
	uint8_t *whole = malloc(headers + text + len);

	memcpy(whole, head, headers);
	memcpy(whole + headers, line, text);
	memcpy(whole + headers + text, body, len);
	conn_send(c, whole, headers + text + len);
	free(whole);
	if (closing)
		c->close_when_sent = true;
}

/* One request at a time; a body is echoed after the line that says who asked. */
static void on_http(struct conn *c, const uint8_t *bytes, size_t len)
{
	count(c, bytes, len);
	uint8_t *end = c->head ? memmem(c->head, c->head_len, "\r\n\r\n", 4) : NULL;

	if (!end)
		return;
	*end = '\0';
	char *length = strcasestr((char *)c->head, "\r\ncontent-length:");
	size_t body = length ? strtoul(length + 17, NULL, 10) : 0;
	size_t have = c->head_len - (end + 4 - c->head);
	bool closing = strcasestr((char *)c->head, "\r\nconnection: close") || strstr((char *)c->head, " HTTP/1.0");

	*end = '\r';
	if (have < body)
		return;
	answer(c, end + 4, body, closing);
	c->head_len = 0;
}

static void on_eof_close(struct conn *c)
{
	c->close_when_sent = true;
}

static void on_accept(int fd)
{
	struct conn *c = conn_new(fd, false);
	char greeting[128], peer[80];

	count_accepted++, count_open++;
	/* Asked now: after a reset a socket has no peer. */
	end_name(fd, true, peer, sizeof(peer));
	c->owner = opt.quiet ? NULL : strdup(peer);
	c->on_data = count;
	c->on_eof = on_eof_close;
	c->on_end = on_end;
	if (strcmp(kind, "echo") == 0 || strcmp(kind, "hello") == 0)
		c->echoing = true;
	if (strcmp(kind, "hello") == 0)
		conn_send(c, greeting, snprintf(greeting, sizeof(greeting), "hello from %s\n", opt.name));
	if (strcmp(kind, "http") == 0)
		c->on_data = on_http, c->head_max = REQUEST_MAX;
	if (strcmp(kind, "source") == 0)
		c->pattern_left = opt.bytes, c->close_when_sent = true;
	if (strcmp(kind, "reply") == 0)
		c->on_eof = opt.delay_ms > 0 ? reply_late : reply_now;
	if (strcmp(kind, "stall") == 0)
		c->reading = false;
	conn_update(c);
}

static void on_line(char *line)
{
	if (strcmp(line, "stats") == 0)
		printf("{\"event\":\"stats\",\"accepted\":%" PRIu64 ",\"open\":%" PRIu64 ",\"received\":%" PRIu64
		       ",\"sent\":%" PRIu64 "}\n",
		       count_accepted, count_open, total_received, total_sent);
	for (struct conn *c = all_conns; c && strcmp(line, "resume") == 0; c = c->next) {
		c->reading = true;
		conn_update(c);
	}
}

/* @return milliseconds until the next late reply, or -1. */
static int send_late(void)
{
	struct late **at = &late;
	int wait = -1;

	while (*at) {
		struct late *l = *at;
		int64_t left = (int64_t)(l->at_us - now_us()) / 1000;

		if (left > 0) {
			wait = wait < 0 || left < wait ? left : wait;
			at = &l->next;
			continue;
		}
		*at = l->next;
		if (!l->conn->ended)
			reply_now(l->conn);
		free(l);
	}
	return wait;
}

static int listen_on(const char *address, const char *port)
{
	struct sockaddr_storage at;
	socklen_t len;
	int one = 1, zero = 0;

	if (parse_address(address, port, &at, &len) < 0)
		return -1;
	int fd = socket(at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (at.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, (void *)&at, len) < 0 || listen(fd, 4096) < 0)
		return -1;
	return fd;
}

int serve(const char *what, const char *address, const char *port)
{
	int fd = listen_on(address, port);

	if (fd < 0) {
		fprintf(stderr, "labapp: listen on %s port %s: %s\n", address, port, strerror(errno));
		return 1;
	}
	kind = what;
	stream_listen(fd, on_accept);
	printf("{\"event\":\"listening\",\"port\":%s}\n", port);
	for (;;)
		stream_turn(send_late(), on_line);
}
