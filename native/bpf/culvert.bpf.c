// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* All programs in one object, so that they share their maps. Each file is one idea. */
#include "maps.h"

#include "connect.bpf.c"
#include "peername.bpf.c"
#include "sockops.bpf.c"
#include "lookup.bpf.c"
#include "pending.bpf.c"
#include "probes.bpf.c"
#include "level.bpf.c"

/* Some helpers are only for programs under the GPL; the source may be used under Apache-2.0 as well. */
char _license[] SEC("license") = "GPL";
