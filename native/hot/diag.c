/* SPDX-License-Identifier: Apache-2.0 */
/* sock_diag(7): which TCP sockets a namespace has, and an end to one of them. */
#include "hot.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_FD INT32_MAX
#define MAX_SOCKETS (1 << 20)

/* All but CLOSE and TIME_WAIT, which carry nothing any more. SYN_RECV: a half-open one would still become a stream. */
#define STATES                                                                                                  \
	((1 << TCP_ESTABLISHED) | (1 << TCP_SYN_SENT) | (1 << TCP_SYN_RECV) | (1 << TCP_FIN_WAIT1) |            \
	 (1 << TCP_FIN_WAIT2) | (1 << TCP_CLOSE_WAIT) | (1 << TCP_LAST_ACK) | (1 << TCP_CLOSING) |               \
	 (1 << TCP_LISTEN))

/* One socket as index.ts decodes and encodes it. Ports in host order. */
struct socket_record {
	uint8_t family; /* of the socket, 4 or 6: a dual-stack one is 6 with mapped addresses */
	uint8_t state;	/* TCP_* */
	uint16_t source_port;
	uint16_t destination_port;
	uint16_t reserved;
	uint8_t source[16];
	uint8_t destination[16];
	uint64_t cookie;
	uint64_t cgroup_id; /* 0 when the kernel does not say */
	uint32_t inode;	    /* 0 when no process holds it */
	uint32_t ifindex;   /* bound to this interface */
};
_Static_assert(sizeof(struct socket_record) == 64, "index.ts reads records of 64 bytes");

struct diag_request {
	struct nlmsghdr header;
	struct inet_diag_req_v2 body;
};

static uint64_t read_cgroup_id(const struct nlmsghdr *message, const struct inet_diag_msg *body)
{
	const struct rtattr *attr = (const struct rtattr *)(body + 1);
	int left = (int)(message->nlmsg_len - NLMSG_LENGTH(sizeof(*body)));
	uint64_t id = 0;

	for (; RTA_OK(attr, left); attr = RTA_NEXT(attr, left))
		if (attr->rta_type == INET_DIAG_CGROUP_ID && RTA_PAYLOAD(attr) >= sizeof(id))
			memcpy(&id, RTA_DATA(attr), sizeof(id));
	return id;
}

static int take_socket(const struct nlmsghdr *message, void *context)
{
	const struct inet_diag_msg *body = NLMSG_DATA(message);
	struct records *records = context;
	struct socket_record *record;

	if (message->nlmsg_type != SOCK_DIAG_BY_FAMILY || message->nlmsg_len < NLMSG_LENGTH(sizeof(*body)))
		return 0;
	record = records_add(records);
	if (record == NULL)
		return records->count >= records->max ? 1 : -ENOMEM;
	record->family = body->idiag_family == AF_INET6 ? 6 : 4;
	record->state = body->idiag_state;
	record->source_port = ntohs(body->id.idiag_sport);
	record->destination_port = ntohs(body->id.idiag_dport);
	ip16_write(record->source, body->idiag_family, body->id.idiag_src);
	ip16_write(record->destination, body->idiag_family, body->id.idiag_dst);
	record->cookie = (uint64_t)body->id.idiag_cookie[1] << 32 | body->id.idiag_cookie[0];
	record->cgroup_id = read_cgroup_id(message, body);
	record->inode = body->idiag_inode;
	record->ifindex = body->id.idiag_if;
	return 0;
}

/* A socket of its own per family: a dump that stopped at the bound leaves answers behind. */
static int dump(struct hot *hot, int netns_fd, int family, struct records *records)
{
	struct diag_request request = {
		.header = {.nlmsg_len = sizeof(request),
			   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		.body = {.sdiag_family = (uint8_t)family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = STATES},
	};
	int fd = netlink_open(hot, netns_fd, NETLINK_SOCK_DIAG);
	int error;

	if (fd < 0)
		return fd;
	error = netlink_request(fd, &request.header, take_socket, records);
	close(fd);
	return error;
}

/* tcpSockets(netnsFd, maxEntries): packed socket_records, IPv4 sockets first; one over the bound says there are more. */
napi_value js_tcp_sockets(napi_env env, napi_callback_info info)
{
	struct records records = {.size = sizeof(struct socket_record)};
	struct call call;
	napi_value result;
	int netns_fd, max, error;

	if (!call_begin(env, info, "tcpSockets", &call) || !arg_int(&call, 0, 0, MAX_FD, &netns_fd) ||
	    !arg_int(&call, 1, 1, MAX_SOCKETS, &max))
		return NULL;
	records.max = (size_t)max + 1;
	error = dump(call.hot, netns_fd, AF_INET, &records);
	if (error == 0)
		error = dump(call.hot, netns_fd, AF_INET6, &records);
	result = error < 0 ? result_int(env, error) : result_bytes(env, records.data, records.count * records.size);
	free(records.data);
	return result;
}

static void fill_address(__be32 out[4], int family, const uint8_t ip[16])
{
	if (family == AF_INET6)
		memcpy(out, ip, 16);
	else
		memcpy(out, ip + 12, 4);
}

static int ignore(const struct nlmsghdr *message, void *context)
{
	(void)message;
	(void)context;
	return 0;
}

static int destroy(struct hot *hot, int netns_fd, const struct socket_record *record)
{
	struct diag_request request = {
		/* With an acknowledgement: success has no other answer. */
		.header = {.nlmsg_len = sizeof(request),
			   .nlmsg_type = SOCK_DESTROY,
			   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
		.body = {.sdiag_family = record->family == 6 ? AF_INET6 : AF_INET,
			 .sdiag_protocol = IPPROTO_TCP,
			 .idiag_states = STATES,
			 .id = {.idiag_sport = htons(record->source_port),
				.idiag_dport = htons(record->destination_port),
				.idiag_if = record->ifindex,
				.idiag_cookie = {(uint32_t)record->cookie, (uint32_t)(record->cookie >> 32)}}},
	};
	int fd = netlink_open(hot, netns_fd, NETLINK_SOCK_DIAG);
	int error;

	if (fd < 0)
		return fd;
	fill_address(request.body.id.idiag_src, request.body.sdiag_family, record->source);
	fill_address(request.body.id.idiag_dst, request.body.sdiag_family, record->destination);
	error = netlink_request(fd, &request.header, ignore, NULL);
	close(fd);
	return error;
}

/*
 * destroySocket(netnsFd, record): ends the socket of a record of tcpSockets, both sides with a reset; the cookie makes
 * sure that it is still the same one. 0 or -errno: ENOENT when it is gone, EOPNOTSUPP when the kernel can't.
 */
napi_value js_destroy_socket(napi_env env, napi_callback_info info)
{
	struct call call;
	struct bytes bytes;
	struct socket_record record;
	int netns_fd;

	if (!call_begin(env, info, "destroySocket", &call) || !arg_int(&call, 0, 0, MAX_FD, &netns_fd) ||
	    !arg_bytes(&call, 1, sizeof(record), &bytes))
		return NULL;
	memcpy(&record, bytes.data, sizeof(record));
	return result_int(env, destroy(call.hot, netns_fd, &record));
}
