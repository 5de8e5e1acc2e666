import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as maps from '../../daemon/capture/maps.ts';
import { parseIp } from '../../daemon/mesh/ids.ts';
import type { Ip } from '../../daemon/mesh/ids.ts';

function ip(text: string): Ip {
  return parseIp(text) ?? assert.fail(text);
}

function roundTrip<T>(codec: maps.Codec<T>, value: T): T {
  // At an offset, as map entries may lie in a larger buffer.
  const buffer = new ArrayBuffer(codec.bytes + 3);
  const view = new DataView(buffer, 3, codec.bytes);
  codec.encode(value, view);
  return codec.decode(view);
}

const BIG = 0xfedc_ba98_7654_3210n;

describe('map codecs', () => {
  it('give back what they were given', () => {
    const flow = { src: ip('10.0.0.1'), dst: ip('2001:db8::1'), sport: 65_535, dport: 15_008 };
    const same = <T>(codec: maps.Codec<T>, value: T): void =>
      assert.deepEqual(roundTrip(codec, value), value);
    same(maps.u8, 255);
    same(maps.u32, 4_294_967_295);
    same(maps.u64, BIG);
    same(maps.ipCodec, ip('192.0.2.7'));
    same(maps.endpointCodec, { ip: ip('fd00::7'), port: 443, family: 10, flags: 2, netns: BIG });
    same(maps.flowCodec, flow);
    same(maps.tupleCodec, { netns: BIG, flow });
    const ports = Array.from({ length: 16 }, (_, i) => 61_001 + i);
    same(maps.podCodec, { flags: 3, generation: 7, maxPending: 16_384, ports });
    same(maps.podCountCodec, { original: 5n, client: -1n, self: 0n });
    same(maps.podCgroupCodec, { netns: BIG, state: 2, flags: 1 });
    same(maps.localPodCodec, { netns: BIG, flags: 1, generation: 3 });
    same(maps.workersCodec, { mask: 0xffff, count: 16 });
    same(maps.configCodec, { hostNetns: 1n, kubeletCgroup: BIG, podLevel: 5, generation: 2 });
    same(maps.exclusionCodec, { netns: BIG, ip: ip('10.96.0.0'), length: 108 });
    same(maps.listenerCodec, { ip: ip('10.0.0.9'), role: 2, worker: 15 });
    same(maps.refusalCodec, { id: BIG, code: 12 });
    const ancestors = Array.from({ length: 32 }, (_, i) => BigInt(i));
    same(maps.levelCodec, { ip: Uint8Array.of(198, 18, 1, 2), port: 4_000, ancestors });
  });

  it('fill the ports of workers that are not there with 0', () => {
    const { ports } = roundTrip(maps.podCodec, { flags: 0, generation: 0, maxPending: 1, ports: [61_001] });
    assert.deepEqual(ports, [61_001, ...new Array<number>(15).fill(0)]);
  });

  it('write IPv4 as mapped IPv6, in network order', () => {
    const view = new DataView(new ArrayBuffer(16));
    maps.ipCodec.encode(ip('1.2.3.4'), view);
    assert.equal(Buffer.from(view.buffer).toString('hex'), '00000000000000000000ffff01020304');
  });
});
