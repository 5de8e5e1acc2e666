"""A process of a test pod: runs socket calls on request. One JSON object a line on stdin, one answer on stdout."""
import errno
import json
import socket
import sys

sockets = {}
served = {}
LIMIT = 5.0


def make(family, proto=0):
    sock = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_STREAM, proto)
    sock.settimeout(LIMIT)
    return sock


def name(address):
    return [address[0], address[1]]


def do_listen(c):
    sock = make(c["family"])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if c["family"] == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((c["host"], c["port"]))
    sock.listen(128)
    sockets[c["id"]] = sock
    return {}


def do_accept(c):
    listener = sockets[c["id"]]
    listener.settimeout(c.get("timeout", LIMIT))
    sock, peer = listener.accept()
    sock.settimeout(LIMIT)
    sockets[c["keep"]] = sock
    return {"peer": name(peer), "getpeername": name(sock.getpeername()), "local": name(sock.getsockname())}


def do_connect(c):
    sock = sockets.pop(c["reuse"]) if "reuse" in c else make(c["family"], c.get("proto", 0))
    if "bind" in c:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((c["bind"], c.get("sport", 0)))
    sock.settimeout(c.get("timeout", LIMIT))
    if c.get("fastopen"):
        sock.setblocking(True)  # else it says EINPROGRESS
        sock.sendto(b"hello", socket.MSG_FASTOPEN, (c["host"], c["port"]))
    elif c.get("nonblocking"):
        import select
        sock.setblocking(False)
        sock.connect_ex((c["host"], c["port"]))
        select.select([], [sock], [], LIMIT)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        sock.settimeout(LIMIT)
        if error:
            raise OSError(error, "connect")
    else:
        sock.connect((c["host"], c["port"]))
    sockets[c["keep"]] = sock
    return {"peer": name(sock.getpeername()), "local": name(sock.getsockname())}


def do_disconnect(c):
    """connect() to AF_UNSPEC, which python's socket can not say."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sockets[c["id"]].fileno(), bytes(16), 16) != 0:
        raise OSError(ctypes.get_errno(), "disconnect")
    return {}


def do_flood(c):
    """Connects that are closed at once; counts what they met."""
    seen = {}
    for _ in range(c["count"]):
        sock = make(c["family"])
        try:
            sock.connect((c["host"], c["port"]))
            what = "OK"
        except OSError as error:
            what = errno.errorcode.get(error.errno, str(error))
        sock.close()
        seen[what] = seen.get(what, 0) + 1
    return {"seen": seen}


def do_serve(c):
    """Takes and closes connections for ever, in the background; do_served says how many."""
    import threading
    do_listen(c)
    listener = sockets[c["id"]]
    listener.settimeout(None)
    served[c["id"]] = 0

    def serve():
        while True:
            listener.accept()[0].close()
            served[c["id"]] += 1

    threading.Thread(target=serve, daemon=True).start()
    return {}


def do_served(c):
    return {"count": served[c["id"]]}


def do_start(c):
    """Starts a connect and does not wait; the socket stays."""
    sock = make(c["family"])
    sock.setblocking(False)
    if "bind" in c:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((c["bind"], c["sport"]))
    sockets[c["keep"]] = sock
    result = sock.connect_ex((c["host"], c["port"]))
    return {"result": errno.errorcode.get(result, "OK")}


def do_send(c):
    sockets[c["id"]].sendall(c["text"].encode())
    return {}


def do_recv(c):
    return {"text": sockets[c["id"]].recv(65536).decode()}


def do_close(c):
    sockets.pop(c["id"]).close()
    return {}


def do_forge(c):
    """A SYN over IPv6 whose source is its own destination, as a raw frame."""
    import struct
    address = socket.inet_pton(socket.AF_INET6, c["host"])
    tcp = struct.pack("!HHIIBBHHH", 4444, c["port"], 1, 0, 5 << 4, 2, 65535, 0, 0)
    pseudo = address + address + struct.pack("!IHBB", len(tcp), 0, 0, 6) + tcp
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    tcp = tcp[:16] + struct.pack("!H", checksum) + tcp[18:]
    header = struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + address + address
    frame = bytes.fromhex(c["mac"].replace(":", "")) + bytes([2, 0, 0, 0, 0, 1]) + b"\x86\xdd" + header + tcp
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind(("eth0", 0))
    raw.send(frame)
    return {}


def do_udp(c):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((c["host"], c["port"]))
    return {"peer": name(sock.getpeername())}


def main():
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"ok": True, **globals()["do_" + command["do"]](command)}
        except socket.timeout:
            answer = {"ok": False, "error": "TIMEOUT"}
        except OSError as error:
            answer = {"ok": False, "error": errno.errorcode.get(error.errno, str(error))}
        print(json.dumps(answer), flush=True)


main()
