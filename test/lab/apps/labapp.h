/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LABAPP_H
#define LABAPP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct options {
	const char *name, *bind;
	uint64_t bytes, seed;
	/* Sent first, in one write. */
	uint8_t *first;
	size_t first_len;
	/* How many of the first bytes received are printed. */
	size_t head;
	int delay_ms, timeout_ms;
	/* Connects in flight at once. */
	int window;
	bool half_close, stall, quiet;
};

extern struct options opt;

int serve(const char *kind, const char *address, const char *port);
int client_send(const char *host, const char *port);
int client_idle(const char *host, const char *port, int count);
int client_loop(const char *host, const char *port, int every_ms);
#endif
