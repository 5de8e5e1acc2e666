/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the lab needs of the kernel in one process start each:
 *
 *   labtool net                      a new network namespace, held until the process dies
 *   labtool node CGROUP              a node: pid, mount, network, UTS and cgroup namespaces of its own; this is its pid 1
 *   labtool run [options] -- ARGV    a process in a node and a cgroup; exits as it exits, passes signals on
 *     --node PID      join the pid, mount and cgroup namespaces of PID (a node's pid 1)
 *     --net PATH      join this network namespace; --new-net makes one
 *     --cgroup DIR    be born in this cgroup; --own-cgroupns makes it the root of a cgroup namespace
 *
 * `run` forks after it has joined the pid namespace and only the child enters the cgroup: nothing foreign to the
 * node ever shows in a cgroup.procs there. File descriptor 3, when open, gets `PID\n` as this machine sees it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what, const char *on)
{
	fprintf(stderr, "labtool: %s %s: %s\n", what, on, strerror(errno));
	_exit(125);
}

static void put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		die("write", path);
	close(fd);
}

/* Congestion control: a new namespace inherits the machine's, and bbr makes a veth pair four times slower. */
static void set_up_netns(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) < 0)
		die("bring up", "lo");
	close(fd);
	put("/proc/sys/net/ipv4/tcp_congestion_control", "reno");
	if (access("/proc/sys/net/ipv6", F_OK) == 0) {
		/* An address is usable at once, not after duplicate address detection. */
		put("/proc/sys/net/ipv6/conf/all/accept_dad", "0");
		put("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
		put("/proc/sys/net/ipv6/conf/default/accept_ra", "0");
	}
}

static void be_router(void)
{
	put("/proc/sys/net/ipv4/ip_forward", "1");
	if (access("/proc/sys/net/ipv6", F_OK) == 0)
		put("/proc/sys/net/ipv6/conf/all/forwarding", "1");
}

static void report_pid(pid_t pid)
{
	/* No reader, no report. */
	if (fcntl(3, F_GETFD) >= 0) {
		dprintf(3, "%d\n", pid);
		close(3);
	}
}

static void hold_netns(void)
{
	if (unshare(CLONE_NEWNET) < 0)
		die("unshare", "net");
	set_up_netns();
	be_router();
	printf("ready\n");
	fflush(stdout);
	for (;;)
		pause();
}

static void mount_at(const char *type, const char *at)
{
	if (mount(type, at, type, 0, NULL) < 0)
		die("mount", at);
}

/* The views that a node's processes have: its processes, its cgroups from its own root, its pins, its /run. */
static void mount_views(void)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		die("make private", "/");
	mount_at("proc", "/proc");
	/* With all that is mounted below it: a mount that is only hidden would still be listed in /proc/mounts. */
	umount2("/sys", MNT_DETACH);
	mount_at("sysfs", "/sys");
	mount_at("cgroup2", "/sys/fs/cgroup");
	mount_at("bpf", "/sys/fs/bpf");
	mount_at("tmpfs", "/run");
}

static void end(int sig)
{
	_exit(128 + sig);
}

static void be_init(const char *cgroup)
{
	char procs[4096];

	snprintf(procs, sizeof(procs), "%s/cgroup.procs", cgroup);
	put(procs, "0");
	/* Only now: the root of a cgroup namespace is where its maker is. */
	if (unshare(CLONE_NEWCGROUP) < 0)
		die("unshare", "cgroup");
	mount_views();
	if (mkdir("/sys/fs/cgroup/system.slice", 0755) < 0 && errno != EEXIST)
		die("mkdir", "system.slice");
	put("/sys/fs/cgroup/system.slice/cgroup.procs", "0");
	set_up_netns();
	be_router();
	/* A pid 1 gets no signal without a handler. */
	signal(SIGTERM, end);
	printf("ready\n");
	fflush(stdout);
	for (;;)
		if (wait(NULL) < 0)
			pause();
}

static pid_t child;

static void pass_on(int sig)
{
	kill(child, sig);
}

static int wait_as_child(void)
{
	static const int passed[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCONT, SIGTSTP };
	int status;

	for (unsigned i = 0; i < sizeof(passed) / sizeof(*passed); i++)
		signal(passed[i], pass_on);
	report_pid(child);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			die("wait for", "the child");
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	signal(WTERMSIG(status), SIG_DFL);
	kill(getpid(), WTERMSIG(status));
	return 128 + WTERMSIG(status);
}

static int start_node(const char *cgroup, const char *name)
{
	child = syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0);
	if (child < 0)
		die("clone", "node");
	if (child == 0) {
		if (fcntl(3, F_GETFD) >= 0)
			close(3);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (sethostname(name, strlen(name)) < 0)
			die("sethostname", name);
		be_init(cgroup);
	}
	printf("init %d\n", child);
	fflush(stdout);
	return wait_as_child();
}

struct place {
	int pid, mnt, uts, cgroupns, net, cgroup;
	int new_net, own_cgroupns;
};

static int open_or_die(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		die("open", path);
	return fd;
}

static int open_ns(const char *pid, const char *kind)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/ns/%s", pid, kind);
	return open_or_die(path, O_RDONLY);
}

static void join_node(struct place *p, const char *pid)
{
	p->pid = open_ns(pid, "pid");
	p->mnt = open_ns(pid, "mnt");
	p->uts = open_ns(pid, "uts");
	p->cgroupns = open_ns(pid, "cgroup");
}

static void enter(int fd, int kind, const char *name)
{
	if (fd >= 0 && setns(fd, kind) < 0)
		die("setns", name);
}

static void become(const struct place *p, char **argv)
{
	/* The child dies with its parent: SIGKILL can not be passed on. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Before the cgroup: what shows in a pod's cgroup is in the pod's namespace already. */
	enter(p->net, CLONE_NEWNET, "net");
	if (p->new_net) {
		if (unshare(CLONE_NEWNET) < 0)
			die("unshare", "net");
		set_up_netns();
	}
	if (p->cgroup >= 0 && write(p->cgroup, "0", 1) < 0)
		die("enter", "the cgroup");
	enter(p->uts, CLONE_NEWUTS, "uts");
	enter(p->cgroupns, CLONE_NEWCGROUP, "cgroup");
	if (p->own_cgroupns && unshare(CLONE_NEWCGROUP) < 0)
		die("unshare", "cgroup");
	char *cwd = get_current_dir_name();
	enter(p->mnt, CLONE_NEWNS, "mnt");
	if (cwd && chdir(cwd) < 0)
		die("chdir", cwd);
	if (fcntl(3, F_GETFD) >= 0)
		close(3);
	execvp(argv[0], argv);
	fprintf(stderr, "labtool: exec %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static int run(char **argv)
{
	struct place p = { -1, -1, -1, -1, -1, -1, 0, 0 };
	char path[4096];
	int started[2];

	for (; *argv && strcmp(*argv, "--") != 0; argv++) {
		if (strcmp(*argv, "--new-net") == 0)
			p.new_net = 1;
		else if (strcmp(*argv, "--own-cgroupns") == 0)
			p.own_cgroupns = 1;
		else if (strcmp(*argv, "--node") == 0)
			join_node(&p, *++argv);
		else if (strcmp(*argv, "--net") == 0)
			p.net = open_or_die(*++argv, O_RDONLY);
		else if (strcmp(*argv, "--cgroup") == 0) {
			snprintf(path, sizeof(path), "%s/cgroup.procs", *++argv);
			p.cgroup = open_or_die(path, O_WRONLY);
		} else {
			fprintf(stderr, "labtool: unknown option %s\n", *argv);
			return 2;
		}
	}
	if (!*argv || !argv[1]) {
		fprintf(stderr, "labtool: nothing to run\n");
		return 2;
	}
	enter(p.pid, CLONE_NEWPID, "pid");
	if (pipe2(started, O_CLOEXEC) < 0)
		die("make", "a pipe");
	child = fork();
	if (child < 0)
		die("fork", argv[1]);
	if (child == 0)
		become(&p, argv + 1);
	/* Ends when the child has executed its program: whoever hears of its pid finds it in its namespaces. */
	close(started[1]);
	while (read(started[0], path, 1) < 0 && errno == EINTR)
		;
	return wait_as_child();
}

int main(int argc, char **argv)
{
	if (argc >= 2 && strcmp(argv[1], "net") == 0)
		hold_netns();
	if (argc == 4 && strcmp(argv[1], "node") == 0)
		return start_node(argv[2], argv[3]);
	if (argc >= 3 && strcmp(argv[1], "run") == 0)
		return run(argv + 2);
	fprintf(stderr, "usage: labtool net | node CGROUP NAME | run [options] -- ARGV\n");
	return 2;
}
