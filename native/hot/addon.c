/* SPDX-License-Identifier: Apache-2.0 */
/* The module: one instance per thread of node, its arguments and results. */
#include "hot.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FD INT32_MAX

__attribute__((format(printf, 2, 3))) static bool refuse(struct call *call, const char *format, ...)
{
	char text[128];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	napi_throw_type_error(call->env, NULL, text);
	return false;
}

bool call_begin(napi_env env, napi_callback_info info, const char *name, struct call *call)
{
	size_t argc = MAX_ARGS; /* arguments that were not given are filled with undefined */
	void *data = NULL;

	call->env = env;
	call->name = name;
	if (napi_get_cb_info(env, info, &argc, call->argv, NULL, &data) != napi_ok || data == NULL)
		return refuse(call, "%s: no call", name);
	call->hot = data;
	return true;
}

bool arg_int(struct call *call, int index, int64_t min, int64_t max, int *out)
{
	double value;

	/* Not napi_get_value_int32: it wraps 2**32 + 5 to 5 and NaN to 0, and a fd of 0 is somebody's. */
	if (napi_get_value_double(call->env, call->argv[index], &value) != napi_ok || !(value >= (double)min) ||
	    !(value <= (double)max) || value != trunc(value))
		return refuse(call, "%s: argument %d must be an integer from %lld to %lld", call->name, index + 1,
			      (long long)min, (long long)max);
	*out = (int)value;
	return true;
}

bool arg_bytes(struct call *call, int index, size_t min_length, struct bytes *out)
{
	napi_typedarray_type type;
	bool is_array = false;
	void *data = NULL;

	if (napi_is_typedarray(call->env, call->argv[index], &is_array) != napi_ok || !is_array ||
	    napi_get_typedarray_info(call->env, call->argv[index], &type, &out->length, &data, NULL, NULL) !=
		    napi_ok ||
	    type != napi_uint8_array || out->length < min_length || data == NULL)
		return refuse(call, "%s: argument %d must be a Uint8Array of at least %zu bytes", call->name,
			      index + 1, min_length);
	out->data = data;
	return true;
}

bool arg_optional_bytes(struct call *call, int index, size_t min_length, struct bytes *out)
{
	napi_valuetype type;

	if (napi_typeof(call->env, call->argv[index], &type) == napi_ok && type == napi_null) {
		*out = (struct bytes){NULL, 0};
		return true;
	}
	return arg_bytes(call, index, min_length, out);
}

bool arg_path(struct call *call, int index, char *out, size_t size)
{
	size_t length = 0, written = 0;

	if (napi_get_value_string_utf8(call->env, call->argv[index], NULL, 0, &length) != napi_ok || length == 0 ||
	    length >= size ||
	    napi_get_value_string_utf8(call->env, call->argv[index], out, size, &written) != napi_ok ||
	    strlen(out) != written)
		return refuse(call, "%s: argument %d must be a path of 1 to %zu bytes", call->name, index + 1,
			      size - 1);
	return true;
}

napi_value result_int(napi_env env, int value)
{
	napi_value result = NULL;

	napi_create_int32(env, value, &result);
	return result;
}

napi_value result_u64(napi_env env, uint64_t value)
{
	napi_value result = NULL;

	napi_create_bigint_uint64(env, value, &result);
	return result;
}

napi_value result_bytes(napi_env env, const void *data, size_t length)
{
	napi_value buffer = NULL, result = NULL;
	void *copy = NULL;

	if (napi_create_arraybuffer(env, length, &copy, &buffer) != napi_ok)
		return result_int(env, -ENOMEM);
	if (length > 0)
		memcpy(copy, data, length);
	napi_create_typedarray(env, napi_uint8_array, length, buffer, 0, &result);
	return result;
}

/* init(originalDestinationFd, clientAddressFd): which maps this thread's calls use from now on. */
static napi_value js_init(napi_env env, napi_callback_info info)
{
	struct call call;
	int original_destination, client_address;

	if (!call_begin(env, info, "init", &call) || !arg_int(&call, 0, 0, MAX_FD, &original_destination) ||
	    !arg_int(&call, 1, 0, MAX_FD, &client_address))
		return NULL;
	call.hot->original_destination_fd = original_destination;
	call.hot->client_address_fd = client_address;
	return result_int(env, 0);
}

/* noop(): the cost of the crossing itself, for the benchmark. */
static napi_value js_noop(napi_env env, napi_callback_info info)
{
	struct call call;

	if (!call_begin(env, info, "noop", &call))
		return NULL;
	return result_int(env, 0);
}

static const struct {
	const char *name;
	napi_callback function;
} calls[] = {
	{"init", js_init},
	{"noop", js_noop},
	{"openNetns", js_open_netns},
	{"sameNetns", js_same_netns},
	{"netnsCookie", js_netns_cookie},
	{"localPortRange", js_local_port_range},
	{"originalDestination", js_original_destination},
	{"dial", js_dial},
	{"sweepSockets", js_sweep_sockets},
	{"listen", js_listen},
	{"socketCookie", js_socket_cookie},
	{"dupFd", js_dup_fd},
	{"closeFd", js_close_fd},
	{"addresses", js_addresses},
	{"tcpSockets", js_tcp_sockets},
	{"destroySocket", js_destroy_socket},
	{"mountBpf", js_mount_bpf},
};

static void hot_free(napi_env env, void *data, void *hint)
{
	struct hot *hot = data;

	(void)env;
	(void)hint;
	netns_sweep(hot, true);
	if (hot->home_fd >= 0)
		close(hot->home_fd);
	free(hot);
}

NAPI_MODULE_INIT()
{
	struct hot *hot = calloc(1, sizeof(*hot));
	napi_value function;
	int error;

	if (hot == NULL || (error = netns_home(hot)) < 0) {
		free(hot);
		napi_throw_error(env, NULL, "native/hot: this thread's network namespace can't be opened; is /proc mounted?");
		return NULL;
	}
	hot->original_destination_fd = hot->client_address_fd = -1;
	if (napi_set_instance_data(env, hot, hot_free, NULL) != napi_ok) {
		hot_free(env, hot, NULL);
		napi_throw_error(env, NULL, "native/hot: no memory");
		return NULL;
	}
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (napi_create_function(env, calls[i].name, NAPI_AUTO_LENGTH, calls[i].function, hot, &function) !=
			    napi_ok ||
		    napi_set_named_property(env, exports, calls[i].name, function) != napi_ok)
			return NULL;
	}
	return exports;
}
