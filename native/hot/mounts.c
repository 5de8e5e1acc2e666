/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mount in a mount namespace that is not ours. The kernel takes no thread that shares its root and working folder
 * with others there, as all of node's do: a child goes, does it and ends.
 */
#include "hot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef BPF_FS_MAGIC
#define BPF_FS_MAGIC 0xcafe4a11
#endif

/* Runs in the child of a process with many threads: system calls only. @returns 0 or an errno. */
static int mount_there(int ns, const char *target)
{
	struct statfs fs;

	if (setns(ns, CLONE_NEWNS) < 0 || statfs(target, &fs) < 0)
		return errno;
	/* Somebody else was quicker, or ours only does not show it. */
	if ((unsigned int)fs.f_type == BPF_FS_MAGIC)
		return 0;
	if (mount("bpf", target, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME, "mode=0700") < 0)
		return errno;
	return 0;
}

static int wait_for(pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

/* mountBpf(mountNamespace, target): a BPF file system on `target` as that namespace sees it, unless there is one. */
napi_value js_mount_bpf(napi_env env, napi_callback_info info)
{
	char namespace[PATH_MAX], target[PATH_MAX];
	struct call call;
	pid_t child;
	int ns, result;

	if (!call_begin(env, info, "mountBpf", &call) || !arg_path(&call, 0, namespace, sizeof(namespace)) ||
	    !arg_path(&call, 1, target, sizeof(target)))
		return NULL;
	ns = open(namespace, O_RDONLY | O_CLOEXEC);
	if (ns < 0)
		return result_int(env, -errno);
	child = fork();
	if (child == 0)
		_exit(mount_there(ns, target));
	result = child < 0 ? -errno : wait_for(child);
	close(ns);
	return result_int(env, result);
}
