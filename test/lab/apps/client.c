/* SPDX-License-Identifier: Apache-2.0 */
/* The clients: one connection looked at closely, many held open, or a new one per request. */
#define _GNU_SOURCE
#include "labapp.h"
#include "stream.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ERRORS 256

static struct sockaddr_storage to;
static socklen_t to_len;
static uint64_t started, succeeded, failed, lost, in_flight, slowest_us, pongs;
/* Failures by errno; 0 counts streams that ended without an answer. */
static uint64_t errors[ERRORS];
static bool stopping;

/* @return a connection under way, or NULL with errno when connect() said no at once. */
static struct conn *dial(void)
{
	struct sockaddr_storage from;
	socklen_t from_len;
	int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return NULL;
	if (opt.bind && (parse_address(opt.bind, "0", &from, &from_len) < 0 || bind(fd, (void *)&from, from_len) < 0))
		goto refused;
	if (connect(fd, (void *)&to, to_len) < 0 && errno != EINPROGRESS)
		goto refused;
	return conn_new(fd, true);
refused:;
	int error = errno;

	close(fd);
	errno = error;
	return NULL;
}

static void no_line(char *line)
{
	(void)line;
}

static void print_result(struct conn *c, int error, const char *end)
{
	char local[80] = "", peer[80] = "";

	if (c) {
		end_name(c->fd, false, local, sizeof(local));
		end_name(c->fd, true, peer, sizeof(peer));
	}
	bool connected = c && c->connected_us;

	printf("{\"event\":\"result\",\"connected\":%s,\"error\":\"%s\",\"end\":\"%s\",\"local\":\"%s\",\"peer\":\"%s\","
	       "\"sent\":%" PRIu64 ",\"received\":%" PRIu64 ",\"sentDigest\":\"%016" PRIx64
	       "\",\"receivedDigest\":\"%016" PRIx64 "\",\"connectUs\":%" PRIu64 ",\"totalUs\":%" PRIu64 ",\"head\":\"",
	       connected ? "true" : "false", errno_name(error), end, local, c && c->owner ? (char *)c->owner : peer,
	       c ? c->sent.length : 0, c ? c->received.length : 0, c ? digest_value(&c->sent) : 0,
	       c ? digest_value(&c->received) : 0, connected ? c->connected_us - c->started_us : 0,
	       c ? now_us() - c->started_us : 0);
	for (size_t i = 0; c && i < c->head_len; i++)
		printf("%02x", c->head[i]);
	printf("\"}\n");
}

static void on_send_end(struct conn *c)
{
	print_result(c, c->error, c->error ? "error" : "eof");
	fflush(stdout);
	_exit(0);
}

static void on_eof_close(struct conn *c)
{
	c->close_when_sent = true;
}

static void stall_line(char *line)
{
	for (struct conn *c = all_conns; c && strcmp(line, "resume") == 0; c = c->next) {
		c->reading = true;
		conn_update(c);
	}
	if (strcmp(line, "stats") == 0 && all_conns)
		printf("{\"event\":\"stats\",\"sent\":%" PRIu64 ",\"received\":%" PRIu64 "}\n", all_conns->sent.length,
		       all_conns->received.length);
}

int client_send(const char *host, const char *port)
{
	if (parse_address(host, port, &to, &to_len) < 0)
		return 2;
	struct conn *c = dial();

	if (!c) {
		print_result(NULL, errno, "refused");
		return 0;
	}
	uint64_t deadline = c->started_us + (uint64_t)opt.timeout_ms * 1000;

	if (opt.first)
		conn_send(c, opt.first, opt.first_len);
	c->pattern_left = opt.bytes;
	c->close_when_sent = opt.half_close;
	c->reading = !opt.stall;
	c->head_max = opt.head;
	c->on_eof = on_eof_close;
	c->on_end = on_send_end;
	for (conn_update(c); now_us() < deadline;) {
		stream_turn((int)((deadline - now_us()) / 1000) + 1, stall_line);
		if (c->connected_us && !c->owner) {
			c->owner = calloc(1, 80);
			end_name(c->fd, true, c->owner, 80);
		}
	}
	print_result(c, ETIMEDOUT, "timeout");
	return 0;
}

static void print_counts(const char *event)
{
	bool first = true;

	printf("{\"event\":\"%s\",\"started\":%" PRIu64 ",\"ok\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"lost\":%" PRIu64
	       ",\"inFlight\":%" PRIu64 ",\"slowestMs\":%.1f,\"errors\":{",
	       event, started, succeeded, failed, lost, in_flight, slowest_us / 1000.0);
	for (int i = 0; i < ERRORS; i++)
		if (errors[i]) {
			printf("%s\"%s\":%" PRIu64, first ? "" : ",", i ? errno_name(i) : "NO_ANSWER", errors[i]);
			first = false;
		}
	printf("}}\n");
}

static void count_error(int error)
{
	failed++;
	errors[error < ERRORS ? error : EIO]++;
}

/* A held connection: counted as ok once it has had its answer (or, with nothing to send, once connected). */
static void on_idle_data(struct conn *c, const uint8_t *bytes, size_t len)
{
	(void)bytes;
	pongs += len;
	if (c->owner)
		return;
	c->owner = &started;
	succeeded++, in_flight--;
}

static void on_idle_end(struct conn *c)
{
	if (c->owner) {
		lost++;
		return;
	}
	in_flight--;
	count_error(c->error);
}

static void idle_line(char *line)
{
	if (strcmp(line, "quit") == 0)
		_exit(0);
	if (strcmp(line, "stats") == 0)
		print_counts("stats");
	if (strcmp(line, "ping") != 0)
		return;
	pongs = 0;
	for (struct conn *c = all_conns; c; c = c->next) {
		conn_send(c, "p", 1);
		conn_update(c);
	}
	for (uint64_t end = now_us() + (uint64_t)opt.timeout_ms * 1000; pongs < succeeded - lost && now_us() < end;)
		stream_turn(100, no_line);
	printf("{\"event\":\"pinged\",\"ok\":%" PRIu64 ",\"open\":%" PRIu64 "}\n", pongs, succeeded - lost);
}

static void idle_more(int count)
{
	while (started < (uint64_t)count && in_flight < (uint64_t)opt.window) {
		struct conn *c = dial();

		started++;
		if (!c) {
			count_error(errno);
			continue;
		}
		in_flight++;
		conn_send(c, "h", 1);
		c->on_data = on_idle_data;
		c->on_eof = on_eof_close;
		c->on_end = on_idle_end;
		conn_update(c);
	}
}

int client_idle(const char *host, const char *port, int count)
{
	bool told = false;

	if (parse_address(host, port, &to, &to_len) < 0)
		return 2;
	for (;;) {
		idle_more(count);
		if (!told && started == (uint64_t)count && in_flight == 0) {
			print_counts("opened");
			told = true;
		}
		stream_turn(started < (uint64_t)count && in_flight < (uint64_t)opt.window ? 0 : 1000, idle_line);
	}
}

/* Good means: an answer, and a clean end. */
static void on_loop_end(struct conn *c)
{
	uint64_t took = now_us() - c->started_us;

	in_flight--;
	if (took > slowest_us)
		slowest_us = took;
	if (c->error == 0 && c->received.length > 0)
		succeeded++;
	else
		count_error(c->error);
	if (!opt.quiet && !(c->error == 0 && c->received.length > 0))
		printf("{\"event\":\"failed\",\"error\":\"%s\",\"connected\":%s,\"ms\":%.1f,\"received\":%" PRIu64 "}\n",
		       errno_name(c->error), c->connected_us ? "true" : "false", took / 1000.0, c->received.length);
}

static void loop_line(char *line)
{
	if (strcmp(line, "stats") == 0)
		print_counts("stats");
	if (strcmp(line, "stop") == 0)
		stopping = true;
}

static void loop_once(void)
{
	struct conn *c = dial();

	started++;
	if (!c) {
		count_error(errno);
		if (!opt.quiet)
			printf("{\"event\":\"failed\",\"error\":\"%s\",\"connected\":false,\"ms\":0,\"received\":0}\n",
			       errno_name(errno));
		return;
	}
	in_flight++;
	conn_send(c, opt.first ? opt.first : (uint8_t *)"x", opt.first ? opt.first_len : 1);
	c->close_when_sent = opt.half_close;
	c->on_eof = on_eof_close;
	c->on_end = on_loop_end;
	conn_update(c);
}

static void expire(void)
{
	for (struct conn *c = all_conns; c; c = c->next)
		if (!c->ended && now_us() - c->started_us > (uint64_t)opt.timeout_ms * 1000)
			conn_end(c, ETIMEDOUT);
}

int client_loop(const char *host, const char *port, int every_ms)
{
	uint64_t next = now_us();

	if (parse_address(host, port, &to, &to_len) < 0)
		return 2;
	while (!stopping || in_flight > 0) {
		/* A slow answer never delays the next request; what the machine could not send in time is not made up. */
		if (!stopping && now_us() >= next) {
			loop_once();
			next = now_us() + (uint64_t)every_ms * 1000;
		}
		int64_t wait = stopping ? 50 : (int64_t)(next - now_us()) / 1000;

		stream_turn(wait < 0 ? 0 : wait > 50 ? 50 : (int)wait, loop_line);
		expire();
	}
	print_counts("stopped");
	return 0;
}
