/* SPDX-License-Identifier: Apache-2.0 */
/* One TCP connection of labapp: what it sends, what it received, and how it ended. Single thread, epoll. */
#ifndef STREAM_H
#define STREAM_H
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* A 64-bit digest of a stream that depends on the order of every byte, not on how it was cut up. */
struct digest {
	uint64_t hash, word;
	unsigned int held;
	uint64_t length;
};

struct conn {
	int fd;
	bool connecting, reading, echoing, close_when_sent, shut, eof, ended;
	/* Sent first, in one write; owned. */
	uint8_t *first;
	size_t first_len, first_sent;
	/* Then this much of the pattern. */
	uint64_t pattern_left, pattern_at;
	/* Then what is to be echoed. */
	uint8_t *echo;
	size_t echo_len, echo_sent;
	/* The first bytes received, up to head_max. */
	uint8_t *head;
	size_t head_len, head_max;
	struct digest sent, received;
	uint64_t started_us, connected_us;
	/* errno that ended it, or 0. */
	int error;
	uint32_t interest;
	void (*on_data)(struct conn *, const uint8_t *, size_t);
	void (*on_eof)(struct conn *);
	/* Called once; the connection is closed and freed afterwards. */
	void (*on_end)(struct conn *);
	void *owner;
	struct conn *next, *prev;
};

extern int epoll_fd;
extern struct conn *all_conns;

void stream_init(uint64_t seed);
struct conn *conn_new(int fd, bool connecting);
/* Recomputes what the connection waits for; to be called after its fields changed. */
void conn_update(struct conn *c);
void conn_end(struct conn *c, int error);
/* Replaces what is sent first: a copy of `len` bytes. */
void conn_send(struct conn *c, const void *bytes, size_t len);
/* One turn of the loop: connections, then stdin lines to `on_line`. @timeout_ms -1: no limit. */
void stream_turn(int timeout_ms, void (*on_line)(char *line));
/* Also watch this listening socket: `on_accept` gets each new descriptor. */
void stream_listen(int fd, void (*on_accept)(int fd));

uint64_t digest_value(const struct digest *d);
uint64_t now_us(void);
const char *errno_name(int error);
/* "ip:port" or "[ip]:port" of a socket's own or peer end, mapped IPv4 as IPv4; "" when it has none. */
void end_name(int fd, bool peer, char *into, size_t size);
int parse_address(const char *host, const char *port, struct sockaddr_storage *into, socklen_t *len);
#endif
