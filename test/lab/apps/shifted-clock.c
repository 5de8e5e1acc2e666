/* SPDX-License-Identifier: Apache-2.0 */
/* LD_PRELOAD: a process whose wall clock is off by what a shared file says, in milliseconds; it may change meanwhile. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t none;
static volatile int64_t *shift_ms = &none;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
	const char *file = getenv("SHIFTED_CLOCK_FILE");
	int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;

	*(void **)&real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
	if (fd < 0)
		return;
	void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);

	close(fd);
	if (page != MAP_FAILED)
		shift_ms = page;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	if (!real_clock_gettime)
		*(void **)&real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
	int result = real_clock_gettime(clock, now);

	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
		int64_t ns = now->tv_nsec + *shift_ms % 1000 * 1000000;

		now->tv_sec += *shift_ms / 1000 + (ns < 0 ? -1 : ns / 1000000000);
		now->tv_nsec = (ns + 1000000000) % 1000000000;
	}
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec at;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &at);
	now->tv_sec = at.tv_sec;
	now->tv_usec = at.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *into)
{
	struct timespec at;

	clock_gettime(CLOCK_REALTIME, &at);
	if (into)
		*into = at.tv_sec;
	return at.tv_sec;
}
