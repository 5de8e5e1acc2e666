/** The packed records of the addon's lists: `struct address_record` (netlink.c) and `struct socket_record` (diag.c). */
import type { Ip } from '../../daemon/mesh/ids.ts';
import { ipFromBytes, ipToBytes } from '../../daemon/mesh/ids.ts';

/** sizeof(struct address_record). */
export const ADDRESS_BYTES = 44;
/** sizeof(struct socket_record). */
export const SOCKET_BYTES = 64;

/** An address of a namespace. */
export interface NetnsAddress {
  readonly ip: Ip;
  readonly family: 4 | 6;
  readonly prefixLength: number;
  readonly scope: 'global' | 'site' | 'link' | 'host' | 'other';
  /** IFA_F_* of linux/if_addr.h. */
  readonly flags: number;
  readonly ifindex: number;
  /** Empty when the interface went away meanwhile. */
  readonly ifname: string;
}

/** TCP_* of the kernel, by number. */
const TCP_STATES = [
  'OTHER',
  'ESTABLISHED',
  'SYN_SENT',
  'SYN_RECV',
  'FIN_WAIT1',
  'FIN_WAIT2',
  'TIME_WAIT',
  'CLOSE',
  'CLOSE_WAIT',
  'LAST_ACK',
  'LISTEN',
  'CLOSING',
] as const;
export type TcpState = (typeof TCP_STATES)[number];

/** A TCP socket of a namespace. */
export interface TcpSocket {
  /** Of the socket itself: 6 for a dual-stack one, whose addresses may be IPv4. */
  readonly family: 4 | 6;
  readonly state: TcpState;
  readonly source: Ip;
  readonly sourcePort: number;
  readonly destination: Ip;
  readonly destinationPort: number;
  /** As `Hot.socketCookie` has it. */
  readonly cookie: bigint;
  /** Of the cgroup that it was made in (cgroup v2); 0 when the kernel does not say. */
  readonly cgroupId: bigint;
  /** 0 when no process holds it any more. */
  readonly inode: number;
  /** The interface that it is bound to, or 0. */
  readonly ifindex: number;
}

/** One `struct address_record`. */
export function decodeAddress(record: Uint8Array): NetnsAddress {
  const view = viewOf(record);
  const name = record.subarray(28, 44);
  const end = name.indexOf(0);
  return {
    ip: ipFromBytes(record),
    family: view.getUint8(16) === 6 ? 6 : 4,
    scope: scopeName(view.getUint8(17)),
    prefixLength: view.getUint8(18),
    flags: view.getUint32(20, true),
    ifindex: view.getUint32(24, true),
    ifname: new TextDecoder().decode(end === -1 ? name : name.subarray(0, end)),
  };
}

/** RT_SCOPE_* of linux/rtnetlink.h. */
function scopeName(scope: number): NetnsAddress['scope'] {
  if (scope === 0) return 'global';
  if (scope === 200) return 'site';
  if (scope === 253) return 'link';
  return scope === 254 ? 'host' : 'other';
}

/** One `struct socket_record`. */
export function decodeSocket(record: Uint8Array): TcpSocket {
  const view = viewOf(record);
  return {
    family: view.getUint8(0) === 6 ? 6 : 4,
    state: TCP_STATES[view.getUint8(1)] ?? 'OTHER',
    sourcePort: view.getUint16(2, true),
    destinationPort: view.getUint16(4, true),
    source: ipFromBytes(record, 8),
    destination: ipFromBytes(record, 24),
    cookie: view.getBigUint64(40, true),
    cgroupId: view.getBigUint64(48, true),
    inode: view.getUint32(56, true),
    ifindex: view.getUint32(60, true),
  };
}

/** The `struct socket_record` of a socket, as `destroySocket` takes it; its state does not count. */
export function encodeSocket(socket: TcpSocket): Uint8Array {
  const record = new Uint8Array(SOCKET_BYTES);
  const view = viewOf(record);
  view.setUint8(0, socket.family);
  view.setUint16(2, socket.sourcePort, true);
  view.setUint16(4, socket.destinationPort, true);
  ipToBytes(socket.source, record, 8);
  ipToBytes(socket.destination, record, 24);
  view.setBigUint64(40, socket.cookie, true);
  view.setBigUint64(48, socket.cgroupId, true);
  view.setUint32(56, socket.inode, true);
  view.setUint32(60, socket.ifindex, true);
  return record;
}

/** Little-endian is right: both architectures that we ship for are. */
function viewOf(record: Uint8Array): DataView {
  return new DataView(record.buffer, record.byteOffset, record.byteLength);
}
