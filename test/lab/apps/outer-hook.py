"""Keeps outer-hook.bpf.o attached to a cgroup while it runs: OBJECT CGROUP normal|preorder.

A line `service IP PORT IP PORT` adds a translation, `seen` prints what the hook has seen. The links end with it.
"""
import ctypes
import ipaddress
import json
import os
import struct
import sys

BPF_CGROUP_INET4_CONNECT = 10
BPF_CGROUP_INET6_CONNECT = 11
BPF_F_PREORDER = 1 << 6
KINDS = ["service", "loopback", "other"]


class LinkOptions(ctypes.Structure):
    _fields_ = [("sz", ctypes.c_size_t), ("flags", ctypes.c_uint32)]


bpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
for function in (bpf.bpf_object__open_file, bpf.bpf_object__find_program_by_name, bpf.bpf_object__find_map_by_name):
    function.restype = ctypes.c_void_p


def check(what, result):
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def address(ip, port):
    parsed = ipaddress.ip_address(ip)
    packed = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
    return packed + struct.pack("!H", int(port)) + bytes(2)


def main():
    path, cgroup, order = sys.argv[1:]
    loaded = ctypes.c_void_p(bpf.bpf_object__open_file(path.encode(), None))
    check("load", bpf.bpf_object__load(loaded))
    flags = BPF_F_PREORDER if order == "preorder" else 0
    options = LinkOptions(ctypes.sizeof(LinkOptions), flags)
    where = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    for name, kind in (("outer_connect4", BPF_CGROUP_INET4_CONNECT), ("outer_connect6", BPF_CGROUP_INET6_CONNECT)):
        program = bpf.bpf_program__fd(ctypes.c_void_p(bpf.bpf_object__find_program_by_name(loaded, name.encode())))
        check(f"attach {order}", bpf.bpf_link_create(program, where, kind, ctypes.byref(options)))
    maps = {
        name: bpf.bpf_map__fd(ctypes.c_void_p(bpf.bpf_object__find_map_by_name(loaded, name.encode())))
        for name in ("services", "counts")
    }
    print("ready", flush=True)
    for line in sys.stdin:
        match line.split():
            case ["service", *words]:
                entry = (address(*words[:2]), address(*words[2:]))
                check("service", bpf.bpf_map_update_elem(maps["services"], *entry, ctypes.c_uint64(0)))
                print("added", flush=True)
            case ["seen"]:
                values = {}
                for index, name in enumerate(KINDS):
                    value = ctypes.c_uint64()
                    key = ctypes.byref(ctypes.c_uint32(index))
                    check("seen", bpf.bpf_map_lookup_elem(maps["counts"], key, ctypes.byref(value)))
                    values[name] = value.value
                print(json.dumps(values), flush=True)


main()
