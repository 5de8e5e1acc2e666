/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The applications of the lab, in one program that starts in a millisecond. Each prints JSON lines; commands come as
 * lines on stdin. See usage() and test/lab/README.md.
 */
#define _GNU_SOURCE
#include "stream.h"
#include "labapp.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

struct options opt = { .name = "app", .seed = 1, .timeout_ms = 30000, .window = 128 };

static int usage(void)
{
	fprintf(stderr,
		"labapp serve KIND ADDRESS PORT [options]   KIND: sink echo hello http source reply stall\n"
		"labapp send HOST PORT [options]            one connection; prints how it went\n"
		"labapp idle HOST PORT COUNT [options]      opens COUNT and keeps them; stdin: stats, ping, quit\n"
		"labapp loop HOST PORT EVERY_MS [options]   a new connection per request; stdin: stats, stop\n"
		"labapp pipe HOST PORT                      stdin and stdout to a connection\n"
		"labapp pause                               a sandbox: holds its namespaces\n"
		"options: --name S --bytes N --seed N --hex BYTES --bind ADDRESS --half-close --stall --quiet\n"
		"         --delay-ms N --timeout-ms N --window N --head N\n");
	return 2;
}

static uint8_t *from_hex(const char *text, size_t *len)
{
	uint8_t *bytes = malloc(strlen(text) / 2 + 1);

	*len = strlen(text) / 2;
	for (size_t i = 0; i < *len; i++)
		sscanf(text + 2 * i, "%2hhx", &bytes[i]);
	return bytes;
}

static bool flag(const char *word)
{
	if (strcmp(word, "--half-close") == 0)
		opt.half_close = true;
	else if (strcmp(word, "--stall") == 0)
		opt.stall = true;
	else if (strcmp(word, "--quiet") == 0)
		opt.quiet = true;
	else
		return false;
	return true;
}

static bool valued(const char *word, const char *value)
{
	if (strcmp(word, "--name") == 0)
		opt.name = value;
	else if (strcmp(word, "--bytes") == 0)
		opt.bytes = strtoull(value, NULL, 10);
	else if (strcmp(word, "--seed") == 0)
		opt.seed = strtoull(value, NULL, 10);
	else if (strcmp(word, "--hex") == 0)
		opt.first = from_hex(value, &opt.first_len);
	else if (strcmp(word, "--bind") == 0)
		opt.bind = value;
	else if (strcmp(word, "--delay-ms") == 0)
		opt.delay_ms = atoi(value);
	else if (strcmp(word, "--timeout-ms") == 0)
		opt.timeout_ms = atoi(value);
	else if (strcmp(word, "--window") == 0)
		opt.window = atoi(value);
	else if (strcmp(word, "--head") == 0)
		opt.head = strtoull(value, NULL, 10);
	else
		return false;
	return true;
}

/* Takes the options out of argv. @return the number of words left, or -1. */
static int parse(int argc, char **argv)
{
	int left = 0;

	for (int i = 0; i < argc; i++) {
		if (strncmp(argv[i], "--", 2) != 0)
			argv[left++] = argv[i];
		else if (flag(argv[i]))
			continue;
		else if (i + 1 >= argc || !valued(argv[i], argv[i + 1]))
			return -1;
		else
			i++;
	}
	return left;
}

static int copy(int from, int to)
{
	char buffer[65536];
	ssize_t n = read(from, buffer, sizeof(buffer));

	for (ssize_t done = 0, w; done < n; done += w)
		if ((w = write(to, buffer + done, n - done)) < 0)
			return -1;
	return n;
}

static int pipe_mode(const char *host, const char *port)
{
	struct sockaddr_storage to;
	socklen_t len;

	if (parse_address(host, port, &to, &len) < 0)
		return usage();
	int fd = socket(to.ss_family, SOCK_STREAM, 0);

	if (connect(fd, (void *)&to, len) < 0) {
		fprintf(stderr, "connect %s:%s: %s\n", host, port, strerror(errno));
		return 1;
	}
	struct pollfd p[2] = { { .fd = 0, .events = POLLIN }, { .fd = fd, .events = POLLIN } };
	while (poll(p, 2, -1) >= 0) {
		if (p[1].revents && copy(fd, 1) <= 0)
			return 0;
		if (p[0].revents && copy(0, fd) <= 0) {
			shutdown(fd, SHUT_WR);
			p[0].fd = -1;
		}
	}
	return 1;
}

int main(int argc, char **argv)
{
	struct rlimit files;

	if (argc < 2)
		return usage();
	if (strcmp(argv[1], "pause") == 0)
		for (signal(SIGTERM, SIG_DFL);;)
			pause();
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 65536);
	const char *mode = argv[1];

	argv += 2;
	argc = parse(argc - 2, argv);
	if (strcmp(mode, "pipe") == 0 && argc == 2)
		return pipe_mode(argv[0], argv[1]);
	stream_init(opt.seed);
	if (strcmp(mode, "serve") == 0 && argc == 3)
		return serve(argv[0], argv[1], argv[2]);
	if (strcmp(mode, "send") == 0 && argc == 2)
		return client_send(argv[0], argv[1]);
	if (strcmp(mode, "idle") == 0 && argc == 3)
		return client_idle(argv[0], argv[1], atoi(argv[2]));
	if (strcmp(mode, "loop") == 0 && argc == 3)
		return client_loop(argv[0], argv[1], atoi(argv[2]));
	return usage();
}
