/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kubetool door PID PORT: lets this network namespace reach 127.0.0.1:PORT of the namespace of process PID.
 *
 * Listens on a free port of 127.0.0.1 here, prints `door PORT\n`, moves over to PID's namespace (a socket stays where
 * it was made) and relays every connection byte for byte, each in a process of its own.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void die(const char *what)
{
	fprintf(stderr, "kubetool: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static struct sockaddr_in loopback(int port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_port = htons(port),
				     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static int open_door(void)
{
	struct sockaddr_in at = loopback(0);
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (void *)&at, len) < 0 || listen(fd, 1024) < 0)
		die("listen");
	if (getsockname(fd, (void *)&at, &len) < 0)
		die("getsockname");
	printf("door %d\n", ntohs(at.sin_port));
	fflush(stdout);
	return fd;
}

static void move_to(const char *pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/ns/net", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
		die(path);
	close(fd);
}

/* @return false when this direction has ended; its end is passed on. */
static int pass(int from, int to)
{
	static char buffer[1 << 16];
	ssize_t got = read(from, buffer, sizeof(buffer));

	if (got < 0)
		_exit(0);
	for (ssize_t sent = 0; sent < got;) {
		ssize_t n = write(to, buffer + sent, got - sent);

		if (n < 0)
			_exit(0);
		sent += n;
	}
	if (got == 0)
		shutdown(to, SHUT_WR);
	return got > 0;
}

static void relay(int near, int port)
{
	struct sockaddr_in at = loopback(port);
	int far = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	struct linger reset = { .l_onoff = 1 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (connect(far, (void *)&at, sizeof(at)) < 0) {
		/* Nobody there: the nearest to a refusal is a reset. */
		setsockopt(near, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		_exit(0);
	}
	setsockopt(near, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(far, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	struct pollfd ends[2] = { { .fd = near, .events = POLLIN }, { .fd = far, .events = POLLIN } };

	while (ends[0].fd >= 0 || ends[1].fd >= 0) {
		if (poll(ends, 2, -1) < 0)
			_exit(0);
		if (ends[0].revents && !pass(near, far))
			ends[0].fd = -1;
		if (ends[1].revents && !pass(far, near))
			ends[1].fd = -1;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	if (argc != 4 || strcmp(argv[1], "door") != 0) {
		fprintf(stderr, "usage: kubetool door PID PORT\n");
		return 2;
	}
	int door = open_door();

	move_to(argv[2]);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int near = accept4(door, NULL, NULL, SOCK_CLOEXEC);

		if (near >= 0 && fork() == 0)
			relay(near, atoi(argv[3]));
		if (near >= 0)
			close(near);
	}
}
