/* SPDX-License-Identifier: Apache-2.0 */
/* Netlink requests on a socket that was made inside a namespace, and the namespace's addresses. */
#include "hot.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define MAX_FD INT32_MAX
#define MAX_ADDRESSES 4096

int netlink_open(struct hot *hot, int netns_fd, int protocol)
{
	/* The kernel answers at once; the time limit is for a kernel that does not. */
	struct timeval timeout = {.tv_sec = 1};
	int fd = netns_socket(hot, netns_fd, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);

	if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

/* One message of an answer. @returns 0 to go on, 1 at the end, or -errno. */
static int take(const struct nlmsghdr *message, netlink_each each, void *context)
{
	int error;

	if (message->nlmsg_flags & NLM_F_DUMP_INTR)
		return -EINTR; /* the list changed while it was read */
	if (message->nlmsg_type == NLMSG_DONE) {
		if (message->nlmsg_len < NLMSG_LENGTH(sizeof(error)))
			return 1;
		memcpy(&error, NLMSG_DATA(message), sizeof(error));
		return error < 0 ? error : 1;
	}
	if (message->nlmsg_type == NLMSG_ERROR) {
		if (message->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr)))
			return -EPROTO;
		error = ((const struct nlmsgerr *)NLMSG_DATA(message))->error;
		return error < 0 ? error : 1;
	}
	return each(message, context);
}

int netlink_request(int fd, struct nlmsghdr *request, netlink_each each, void *context)
{
	_Alignas(struct nlmsghdr) char buffer[32768];

	if (send(fd, request, request->nlmsg_len, 0) < 0)
		return -errno;
	for (;;) {
		ssize_t length = recv(fd, buffer, sizeof(buffer), MSG_TRUNC);
		const struct nlmsghdr *message = (const struct nlmsghdr *)buffer;

		if (length < 0 && errno == EINTR)
			continue;
		if (length <= 0)
			return length < 0 ? -errno : -EPROTO;
		if ((size_t)length > sizeof(buffer))
			return -EMSGSIZE;
		for (; NLMSG_OK(message, length); message = NLMSG_NEXT(message, length)) {
			int result = take(message, each, context);

			if (result != 0)
				return result < 0 ? result : 0;
		}
	}
}

/* @returns a zeroed record, or NULL at the bound or without memory. */
void *records_add(struct records *records)
{
	uint8_t *record;

	if (records->count >= records->max)
		return NULL;
	if (records->count == records->capacity) {
		size_t capacity = records->capacity == 0 ? 64 : records->capacity * 2;
		uint8_t *data = realloc(records->data, capacity * records->size);

		if (data == NULL)
			return NULL;
		records->data = data;
		records->capacity = capacity;
	}
	record = records->data + records->count++ * records->size;
	memset(record, 0, records->size);
	return record;
}

/* One address as index.ts decodes it. */
struct address_record {
	uint8_t ip[16];
	uint8_t family; /* 4 or 6 */
	uint8_t scope;	/* RT_SCOPE_* */
	uint8_t prefix;
	uint8_t reserved;
	uint32_t flags; /* IFA_F_* */
	uint32_t ifindex;
	char ifname[16];
};
_Static_assert(sizeof(struct address_record) == 44, "index.ts reads records of 44 bytes");

static int take_address(const struct nlmsghdr *message, void *context)
{
	const struct ifaddrmsg *body = NLMSG_DATA(message);
	const struct rtattr *attr = IFA_RTA(body);
	int left = (int)IFA_PAYLOAD(message);
	const void *local = NULL, *address = NULL;
	struct address_record *record;
	uint32_t flags = body->ifa_flags;

	if (message->nlmsg_type != RTM_NEWADDR || (body->ifa_family != AF_INET && body->ifa_family != AF_INET6))
		return 0;
	for (; RTA_OK(attr, left); attr = RTA_NEXT(attr, left)) {
		if (attr->rta_type == IFA_LOCAL)
			local = RTA_DATA(attr); /* IFA_ADDRESS is the peer's on a point-to-point link */
		else if (attr->rta_type == IFA_ADDRESS)
			address = RTA_DATA(attr);
		else if (attr->rta_type == IFA_FLAGS)
			memcpy(&flags, RTA_DATA(attr), sizeof(flags));
	}
	if (local == NULL && address == NULL)
		return 0;
	record = records_add(context);
	if (record == NULL)
		return -E2BIG;
	ip16_write(record->ip, body->ifa_family, local != NULL ? local : address);
	record->family = body->ifa_family == AF_INET6 ? 6 : 4;
	record->scope = body->ifa_scope;
	record->prefix = body->ifa_prefixlen;
	record->flags = flags;
	record->ifindex = body->ifa_index;
	return 0;
}

/* The ioctl asks the namespace of its socket, so it can be done from home. */
static void name_interfaces(int fd, struct records *records)
{
	struct address_record *list = (struct address_record *)records->data;

	for (size_t i = 0; i < records->count; i++) {
		struct ifreq request = {.ifr_ifindex = (int)list[i].ifindex};

		if (ioctl(fd, SIOCGIFNAME, &request) == 0)
			memcpy(list[i].ifname, request.ifr_name, sizeof(list[i].ifname));
	}
}

/* addresses(netnsFd): packed address_records, or -errno: EINTR when they changed meanwhile, E2BIG over the bound. */
napi_value js_addresses(napi_env env, napi_callback_info info)
{
	struct {
		struct nlmsghdr header;
		struct ifaddrmsg body;
	} request = {.header = {.nlmsg_len = sizeof(request),
				.nlmsg_type = RTM_GETADDR,
				.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
	struct records records = {.size = sizeof(struct address_record), .max = MAX_ADDRESSES};
	struct call call;
	napi_value result;
	int netns_fd, fd, error;

	if (!call_begin(env, info, "addresses", &call) || !arg_int(&call, 0, 0, MAX_FD, &netns_fd))
		return NULL;
	fd = netlink_open(call.hot, netns_fd, NETLINK_ROUTE);
	if (fd < 0)
		return result_int(env, fd);
	error = netlink_request(fd, &request.header, take_address, &records);
	if (error == 0)
		name_interfaces(fd, &records);
	close(fd);
	result = error < 0 ? result_int(env, error) : result_bytes(env, records.data, records.count * records.size);
	free(records.data);
	return result;
}
