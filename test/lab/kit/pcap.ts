/** Reads the TCP packets of a pcap file of Ethernet frames. */

export interface TcpPacket {
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly payload: Uint8Array;
}

const FILE_HEADER = 24;
const RECORD_HEADER = 16;
const ETHERNET = 14;
const IPV4 = 0x0800;
const IPV6 = 0x86dd;
const TCP = 6;

/** Every whole TCP packet; other frames, and a last record that is still being written, are passed over. */
export function* packetsOf(file: Buffer): Generator<TcpPacket> {
  let at = FILE_HEADER;
  while (at + RECORD_HEADER <= file.length) {
    const length = file.readUInt32LE(at + 8);
    const frame = file.subarray(at + RECORD_HEADER, at + RECORD_HEADER + length);
    if (frame.length < length) return;
    const packet = tcpOf(frame);
    if (packet !== undefined) yield packet;
    at += RECORD_HEADER + length;
  }
}

function tcpOf(frame: Buffer): TcpPacket | undefined {
  if (frame.length < ETHERNET + 40) return undefined;
  const type = frame.readUInt16BE(12);
  if (type === IPV4) return tcpInIpv4(frame.subarray(ETHERNET));
  if (type === IPV6) return tcpInIpv6(frame.subarray(ETHERNET));
  return undefined;
}

function tcpInIpv4(packet: Buffer): TcpPacket | undefined {
  if (packet.readUInt8(9) !== TCP) return undefined;
  const headerLength = (packet.readUInt8(0) & 0x0f) * 4;
  // Short frames are padded; a length of 0 is a segment that the card would have cut up.
  const total = packet.readUInt16BE(2);
  return segment(packet.subarray(headerLength, total === 0 ? undefined : total));
}

function tcpInIpv6(packet: Buffer): TcpPacket | undefined {
  return packet.readUInt8(6) === TCP ? segment(packet.subarray(40)) : undefined;
}

function segment(tcp: Buffer): TcpPacket | undefined {
  if (tcp.length < 20) return undefined;
  return {
    sourcePort: tcp.readUInt16BE(0),
    destinationPort: tcp.readUInt16BE(2),
    payload: tcp.subarray((tcp.readUInt8(12) >> 4) * 4),
  };
}
