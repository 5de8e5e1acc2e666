/** Two system calls that node has no synchronous form of: at start and in preflight, by way of libbpf.ts's ffi. */
import { libc } from './libbpf.ts';

const ENOENT = 2;
const AF_INET = 2;
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
const SOCKADDR_IN_BYTES = 16;
const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const NETLINK_SOCK_DIAG = 4;
const SOCK_DESTROY = 21;
const NLM_F_REQUEST_ACK = 0x1 | 0x4;
const NLMSG_ERROR = 2;
/** struct nlmsghdr and struct inet_diag_req_v2. */
const DESTROY_BYTES = 16 + 56;
const IPPROTO_TCP = 6;

/**
 * Connects a UDP socket of this thread's namespace to an IPv4 address and closes it: sends nothing, but runs the
 * connect hooks. @returns 0 or the errno it was refused with.
 */
export function connectDatagram(ip: Uint8Array, port: number): number {
  const calls = libc();
  const address = Buffer.alloc(SOCKADDR_IN_BYTES);
  address.writeUInt16LE(AF_INET);
  address.writeUInt16BE(port, 2);
  address.set(ip, 4);
  const fd = Number(calls.socket(AF_INET, SOCK_DGRAM_CLOEXEC, 0));
  if (fd < 0) return calls.errno();
  try {
    return Number(calls.connect(fd, address, address.length)) === 0 ? 0 : calls.errno();
  } finally {
    calls.close(fd);
  }
}

/**
 * Whether the kernel can destroy sockets: asks it to destroy one that does not exist. @returns 0, or the errno
 * (EOPNOTSUPP: not in this kernel).
 */
export function hasDiagDestroy(): number {
  const calls = libc();
  const request = Buffer.alloc(DESTROY_BYTES);
  request.writeUInt32LE(DESTROY_BYTES);
  request.writeUInt16LE(SOCK_DESTROY, 4);
  request.writeUInt16LE(NLM_F_REQUEST_ACK, 6);
  request.writeUInt8(AF_INET, 16);
  request.writeUInt8(IPPROTO_TCP, 17);
  const fd = Number(calls.socket(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_SOCK_DIAG));
  if (fd < 0) return calls.errno();
  try {
    const answer = Buffer.alloc(256);
    if (Number(calls.send(fd, request, request.length, 0)) < 0) return calls.errno();
    if (Number(calls.recv(fd, answer, answer.length, 0)) < 0) return calls.errno();
    const errno = answer.readUInt16LE(4) === NLMSG_ERROR ? -answer.readInt32LE(16) : 0;
    return errno === ENOENT ? 0 : errno;
  } finally {
    calls.close(fd);
  }
}
