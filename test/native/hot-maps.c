/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maps for hot-records.test.ts, made without libbpf and read without the addon.
 *
 *   hot-maps run COMMAND...   runs COMMAND with two SK_STORAGE maps as fds 10 and 11, and as fd 12 a socket whose
 *                             record in map 10 is 2001:db8::7 port 8443, flags 5
 *   hot-maps read MAP SOCKET  prints the record of a socket in hex; fds are inherited
 */
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/types.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../native/bpf/culvert.h"

static int bpf(int command, union bpf_attr *attr)
{
	int result = (int)syscall(SYS_bpf, command, attr, sizeof(*attr));

	if (result < 0) {
		perror("bpf");
		exit(1);
	}
	return result;
}

/* SK_STORAGE maps must say their types: an int, and an array of eight. */
static int load_btf(void)
{
	static const struct {
		struct btf_header header;
		struct btf_type int_type;
		__u32 int_encoding;
		struct btf_type array_type;
		struct btf_array array;
		char strings[8];
	} blob = {
		.header = {.magic = BTF_MAGIC, .version = BTF_VERSION, .hdr_len = sizeof(struct btf_header),
			   .type_len = 2 * sizeof(struct btf_type) + 4 + sizeof(struct btf_array),
			   .str_off = 2 * sizeof(struct btf_type) + 4 + sizeof(struct btf_array), .str_len = 8},
		.int_type = {.name_off = 1, .info = BTF_KIND_INT << 24, .size = 4},
		.int_encoding = BTF_INT_SIGNED << 24 | 32,
		.array_type = {.info = BTF_KIND_ARRAY << 24},
		.array = {.type = 1, .index_type = 1, .nelems = sizeof(struct culvert_endpoint) / 4},
		.strings = "\0int",
	};
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.btf = (uintptr_t)&blob;
	attr.btf_size = sizeof(blob);
	return bpf(BPF_BTF_LOAD, &attr);
}

static void create_map(int btf, int as_fd)
{
	union bpf_attr attr;
	int fd;

	memset(&attr, 0, sizeof(attr));
	attr.map_type = BPF_MAP_TYPE_SK_STORAGE;
	attr.key_size = sizeof(int);
	attr.value_size = sizeof(struct culvert_endpoint);
	attr.map_flags = BPF_F_NO_PREALLOC;
	attr.btf_fd = (__u32)btf;
	attr.btf_key_type_id = 1;
	attr.btf_value_type_id = 2;
	fd = bpf(BPF_MAP_CREATE, &attr);
	dup2(fd, as_fd);
	close(fd);
}

static void element(int command, int map, int socket, struct culvert_endpoint *endpoint)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = (__u32)map;
	attr.key = (uintptr_t)&socket;
	attr.value = (uintptr_t)endpoint;
	bpf(command, &attr);
}

static void seed(int map, int as_fd)
{
	struct culvert_endpoint endpoint = {.ip = {0x20, 0x01, 0x0d, 0xb8, [15] = 7}, .port = 8443,
					    .family = AF_INET6, .flags = 5, .netns = 77};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	dup2(fd, as_fd);
	close(fd);
	element(BPF_MAP_UPDATE_ELEM, map, as_fd, &endpoint);
}

int main(int argc, char **argv)
{
	struct culvert_endpoint endpoint;
	int btf;

	if (argc == 4 && strcmp(argv[1], "read") == 0) {
		element(BPF_MAP_LOOKUP_ELEM, atoi(argv[2]), atoi(argv[3]), &endpoint);
		for (size_t i = 0; i < sizeof(endpoint); i++)
			printf("%02x", ((unsigned char *)&endpoint)[i]);
		return 0;
	}
	if (argc < 3 || strcmp(argv[1], "run") != 0)
		return 2;
	btf = load_btf();
	create_map(btf, 10);
	create_map(btf, 11);
	seed(10, 12);
	close(btf);
	execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 1;
}
