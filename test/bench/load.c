/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load of make bench: one thread, epoll, and as little CPU as can be, since it shares the cores with the proxies.
 *
 *   load serve ECHO SINK              port ECHO gives back, port SINK compares with the pattern and answers its count
 *   load bulk IP PORT STREAMS MS      sends the pattern for MS, half-closes, reads the counts
 *   load ping IP PORT CONNECTIONS MS  1 KiB there and back on each, again and again
 *   load churn IP PORT SLOTS MS       the same on a new connection each time; SLOTS at once
 *   load pace MS IP:PORT...           a new connection a second for each target: the same exchange, then close
 *   load hold IP PORT                 reads counts: opens connections until so many are held, one exchange each
 *
 * Each client prints {"event":"ready"} when it is connected and warm, starts at the line `go`, prints one result line
 * and stays until stdin ends, so that what it measured can be read off before connections close.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS 65536
#define MAX_TARGETS 4096
#define PING 1024u
#define PATTERN (256u << 10)
#define WARM_PINGS 20
#define WARM_CONNECTIONS 64
/* Beyond its time a client gives up: nothing here waits for ever. */
#define GRACE_NS 30000000000ull
#define HISTOGRAM_US 1000000

enum kind { NONE, STDIN, LISTEN_ECHO, LISTEN_SINK, ECHO, SINK, CLIENT };

struct conn {
	enum kind kind;
	bool connected;
	uint32_t sent, received;
	uint32_t pings;
	uint64_t bytes;
	uint64_t started_ns;
	uint64_t answer;
};

static struct conn conns[MAX_FDS];
/* Sent from the front, compared anywhere: twice, so that any window of PATTERN bytes is in one piece. */
static uint8_t pattern[2 * PATTERN], scratch[PATTERN];
static uint32_t histogram[HISTOGRAM_US + 1];
static int epoll_fd;
static struct sockaddr_in targets[MAX_TARGETS];
static int target_count;

static enum { BULK, PINGS, CHURN, PACE, HOLD } mode;
static uint64_t went_ns, deadline_ns, give_up_ns;
static uint64_t done, failed, mismatched, open_now, answered, warm, wanted;
static int last_errno;
static bool going, ended, ready;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void watch(int fd, uint32_t events, bool add)
{
	struct epoll_event e = { .events = events, .data.fd = fd };

	if (epoll_ctl(epoll_fd, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &e) < 0)
		die("epoll_ctl");
}

static void register_fd(int fd, enum kind kind, uint32_t events)
{
	if (fd >= MAX_FDS) {
		errno = EMFILE;
		die("too many connections");
	}
	conns[fd] = (struct conn){ .kind = kind };
	watch(fd, events, true);
}

static void drop(int fd)
{
	conns[fd].kind = NONE;
	close(fd);
}

static void no_delay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void make_pattern(void)
{
	uint64_t x = 88172645463325252ull;

	for (size_t i = 0; i < PATTERN; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		pattern[i] = pattern[i + PATTERN] = (uint8_t)(x >> 32);
	}
}

/* ---- server ---- */

static void listen_on(int port, enum kind kind)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (void *)&at, sizeof(at)) < 0 || listen(fd, 4096) < 0)
		die("listen");
	register_fd(fd, kind, EPOLLIN);
}

static void accept_all(int listener)
{
	enum kind kind = conns[listener].kind == LISTEN_ECHO ? ECHO : SINK;

	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
			return;
		no_delay(fd);
		register_fd(fd, kind, EPOLLIN);
	}
}

/* What is echoed is at most a ping: it always fits the socket's buffer. */
static void on_echo(int fd)
{
	ssize_t n = read(fd, scratch, sizeof(scratch));

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0 || write(fd, scratch, n) != n)
		drop(fd);
}

static void on_sink(int fd)
{
	struct conn *c = &conns[fd];
	ssize_t n = read(fd, scratch, sizeof(scratch));

	if (n < 0 && errno == EAGAIN)
		return;
	if (n > 0) {
		if (memcmp(scratch, pattern + c->bytes % PATTERN, n) != 0)
			c->answer = UINT64_MAX;
		c->bytes += n;
		return;
	}
	if (n == 0) {
		uint64_t answer = c->answer ? c->answer : c->bytes;

		if (write(fd, &answer, sizeof(answer)) < 0)
			perror("load: answer");
	}
	drop(fd);
}

/* ---- clients ---- */

static void dial(const struct sockaddr_in *to)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	no_delay(fd);
	if (connect(fd, (const void *)to, sizeof(*to)) < 0 && errno != EINPROGRESS) {
		last_errno = errno;
		failed++;
		close(fd);
		return;
	}
	register_fd(fd, CLIENT, EPOLLOUT);
	conns[fd].started_ns = now_ns();
	open_now++;
}

static void count(uint64_t started_ns)
{
	uint64_t us = (now_ns() - started_ns) / 1000;

	histogram[us < HISTOGRAM_US ? us : HISTOGRAM_US]++;
	done++;
}

static uint32_t percentile(double part)
{
	uint64_t seen = 0, rank = (uint64_t)(part * (double)(done > 0 ? done - 1 : 0));

	for (uint32_t us = 0; us <= HISTOGRAM_US; us++)
		if ((seen += histogram[us]) > rank)
			return us;
	return HISTOGRAM_US;
}

static void print_ready(void)
{
	ready = true;
	printf("{\"event\":\"ready\",\"failed\":%" PRIu64 ",\"error\":\"%s\"}\n", failed,
	       last_errno ? strerrorname_np(last_errno) : "");
}

static void print_result(void)
{
	struct rusage use;

	ended = true;
	getrusage(RUSAGE_SELF, &use);
	printf("{\"event\":\"result\",\"done\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"mismatched\":%" PRIu64
	       ",\"seconds\":%.6f,\"p50\":%u,\"p99\":%u,\"open\":%" PRIu64 ",\"error\":\"%s\",\"cpu\":%.3f}\n",
	       done, failed, mismatched, (double)(now_ns() - went_ns) / 1e9, percentile(0.5), percentile(0.99), open_now,
	       last_errno ? strerrorname_np(last_errno) : "",
	       use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6);
}

static void end_client(int fd, int error)
{
	if (error) {
		failed++;
		last_errno = error;
	}
	open_now--;
	drop(fd);
	if (mode == CHURN && !ended && (!going || now_ns() < deadline_ns))
		dial(&targets[0]);
	else if (mode == CHURN && going && !ended)
		print_result();
}

static void send_ping(int fd, struct conn *c)
{
	c->sent = PING;
	c->received = 0;
	if (mode == PINGS)
		c->started_ns = now_ns();
	if (write(fd, pattern, PING) != PING)
		end_client(fd, errno ? errno : EIO);
}

static void pinged(int fd, struct conn *c)
{
	if (mode == CHURN || mode == PACE) {
		if (going && !ended)
			count(c->started_ns);
		else if (++warm == WARM_CONNECTIONS)
			print_ready();
		end_client(fd, 0);
		return;
	}
	if (mode == HOLD) {
		done++;
		return;
	}
	if (going) {
		count(c->started_ns);
		if (now_ns() >= deadline_ns) {
			if (!ended)
				print_result();
			return;
		}
	} else if (++c->pings == WARM_PINGS) {
		if (++warm == wanted)
			print_ready();
		return;
	}
	send_ping(fd, c);
}

static void on_answer(int fd, struct conn *c)
{
	uint64_t answer = 0;
	ssize_t n = read(fd, &answer, sizeof(answer));

	if (n < 0 && errno == EAGAIN)
		return;
	if (n != sizeof(answer))
		failed++, last_errno = n < 0 ? errno : ENODATA;
	else if (answer != c->bytes)
		mismatched++;
	else
		done += c->bytes;
	open_now--;
	drop(fd);
	if (++answered == wanted)
		print_result();
}

static void write_pattern(int fd, struct conn *c)
{
	if (!going) {
		if (!c->pings++ && ++warm == wanted)
			print_ready();
		watch(fd, 0, false);
		return;
	}
	if (now_ns() >= deadline_ns) {
		shutdown(fd, SHUT_WR);
		watch(fd, EPOLLIN, false);
		return;
	}
	ssize_t n = write(fd, pattern + c->bytes % PATTERN, PATTERN);

	if (n > 0)
		c->bytes += n;
	else if (n < 0 && errno != EAGAIN)
		watch(fd, EPOLLIN, false);
}

static void on_client(int fd, uint32_t events)
{
	struct conn *c = &conns[fd];
	int error = 0;
	socklen_t len = sizeof(error);

	if (!c->connected) {
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
		if (error || (events & EPOLLERR))
			return end_client(fd, error ? error : EIO);
		c->connected = true;
		if (mode != BULK) {
			watch(fd, EPOLLIN, false);
			return send_ping(fd, c);
		}
	}
	if (mode == BULK)
		return events & (EPOLLIN | EPOLLERR | EPOLLHUP) ? on_answer(fd, c) : write_pattern(fd, c);
	ssize_t n = read(fd, scratch, sizeof(scratch));

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		return end_client(fd, n < 0 ? errno : ENODATA);
	c->received += n;
	if (c->received == PING)
		pinged(fd, c);
}

static void go(void)
{
	going = true;
	failed = 0, last_errno = 0;
	went_ns = now_ns();
	give_up_ns = went_ns + deadline_ns + GRACE_NS;
	deadline_ns += went_ns;
	for (int fd = 0; fd < MAX_FDS; fd++) {
		if (conns[fd].kind != CLIENT)
			continue;
		conns[fd].started_ns = went_ns;
		if (mode == BULK)
			watch(fd, EPOLLOUT, false);
		if (mode == PINGS)
			send_ping(fd, &conns[fd]);
	}
}

/* hold: opens in small steps, so that no queue overflows. */
static void hold_more(void)
{
	static uint64_t asked;

	if (mode != HOLD || wanted == 0)
		return;
	for (; asked < wanted && asked < done + failed + 128; asked++)
		dial(&targets[0]);
	if (done + failed < wanted)
		return;
	printf("{\"event\":\"held\",\"open\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"error\":\"%s\"}\n", open_now, failed,
	       last_errno ? strerrorname_np(last_errno) : "");
	wanted = 0;
}

/* pace: the targets' turns are spread over the second. */
static void pace(void)
{
	static uint64_t turns;

	if (mode != PACE || !going || ended)
		return;
	uint64_t now = now_ns();

	if (now >= deadline_ns)
		return print_result();
	for (; turns * 1000000000ull < (now - went_ns) * target_count; turns++)
		dial(&targets[turns % target_count]);
}

static void on_stdin(void)
{
	static char line[4096];
	static size_t have;
	ssize_t n = read(0, line + have, sizeof(line) - 1 - have);

	if (n <= 0)
		exit(0);
	have += n;
	line[have] = '\0';
	for (char *end; (end = strchr(line, '\n'));) {
		*end = '\0';
		if (strcmp(line, "go") == 0)
			go();
		else
			wanted = strtoull(line, NULL, 10);
		have -= end + 1 - line;
		memmove(line, end + 1, have + 1);
	}
}

static void turn(int wait_ms)
{
	struct epoll_event events[256];
	int n = epoll_wait(epoll_fd, events, 256, wait_ms);

	for (int i = 0; i < n; i++) {
		int fd = events[i].data.fd;

		switch (conns[fd].kind) {
		case STDIN: on_stdin(); break;
		case LISTEN_ECHO:
		case LISTEN_SINK: accept_all(fd); break;
		case ECHO: on_echo(fd); break;
		case SINK: on_sink(fd); break;
		case CLIENT: on_client(fd, events[i].events); break;
		case NONE: break;
		}
	}
}

static void add_target(const char *ip, int port)
{
	struct sockaddr_in *to = &targets[target_count++];

	*to = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port) };
	if (target_count == MAX_TARGETS || inet_pton(AF_INET, ip, &to->sin_addr) != 1) {
		fprintf(stderr, "load: bad target %s\n", ip);
		exit(2);
	}
}

static _Noreturn void serve(int echo, int sink)
{
	listen_on(echo, LISTEN_ECHO);
	listen_on(sink, LISTEN_SINK);
	printf("{\"event\":\"listening\"}\n");
	for (;;)
		turn(-1);
}

static _Noreturn void client(void)
{
	for (uint64_t i = 0; mode != PACE && mode != HOLD && i < wanted; i++)
		dial(&targets[0]);
	if (mode == PACE)
		print_ready();
	for (;;) {
		turn(mode == PACE ? 1 : 100);
		pace();
		hold_more();
		if (!going && !ready && failed > 1000)
			print_ready();
		if (going && !ended && now_ns() > give_up_ns) {
			last_errno = ETIMEDOUT;
			print_result();
		}
		/* After its end a ping client reads on and sends no more. */
	}
}

static int usage(void)
{
	fprintf(stderr, "load serve ECHO SINK | bulk|ping|churn IP PORT COUNT MS | pace MS IP:PORT... | hold IP PORT\n");
	return 2;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	make_pattern();
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (argc == 4 && strcmp(argv[1], "serve") == 0)
		serve(atoi(argv[2]), atoi(argv[3]));
	register_fd(0, STDIN, EPOLLIN);
	if (argc > 3 && strcmp(argv[1], "pace") == 0) {
		mode = PACE;
		deadline_ns = strtoull(argv[2], NULL, 10) * 1000000;
		for (int i = 3; i < argc; i++) {
			char *colon = strchr(argv[i], ':');

			if (!colon)
				return usage();
			*colon = '\0';
			add_target(argv[i], atoi(colon + 1));
		}
		client();
	}
	if (argc < 4)
		return usage();
	add_target(argv[2], atoi(argv[3]));
	if (strcmp(argv[1], "hold") == 0) {
		mode = HOLD;
		client();
	}
	if (argc != 6)
		return usage();
	mode = strcmp(argv[1], "bulk") == 0 ? BULK : strcmp(argv[1], "ping") == 0 ? PINGS : CHURN;
	wanted = strtoull(argv[4], NULL, 10);
	deadline_ns = strtoull(argv[5], NULL, 10) * 1000000;
	client();
}
